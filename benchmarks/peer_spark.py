"""Spark's own `predict_batch_udf` in a process of its own; `engines.py` starts it and reads its last line.

python -m benchmarks.peer_spark FLIGHTS MODEL RESULTS '{"batch_size": 32768}'
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .clusters import spark_session
from .data import FEATURES, KEY


def predictor(model: str) -> Callable[[], Callable[..., Any]]:
    """As Spark's guide has it: called once a Python worker, it loads the model and returns what predicts."""

    def make() -> Callable[..., Any]:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

        def score(*columns: Any) -> Any:
            (found,) = session.run(["score"], {"input": np.column_stack(columns)})
            return found[:, 0]

        # It counts the function's parameters: one for each column, or the columns must be packed into an array.
        names = ", ".join(FEATURES)
        predict: Callable[..., Any] = eval(f"lambda {names}: score({names})", {"score": score})
        return predict

    return make


def main() -> None:
    from pyspark.ml.functions import predict_batch_udf
    from pyspark.sql.types import FloatType

    flights, model, results, options = sys.argv[1:]
    batch_rows = json.loads(options)["batch_size"]
    with spark_session() as session:
        score = predict_batch_udf(predictor(str(Path(model))), return_type=FloatType(), batch_size=batch_rows)
        started = time.perf_counter()
        rows = session.read.parquet(flights)
        rows.select(KEY, score(*FEATURES).alias("score")).write.parquet(results)
        job_s = time.perf_counter() - started
    print(json.dumps({"job_s": job_s}))


if __name__ == "__main__":
    main()
