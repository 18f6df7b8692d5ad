"""Daft in a process of its own: `peers.py` starts it with the peers' interpreter.

    python -m benchmarks.peer_daft FLIGHTS MODEL RESULTS '{"tuned": false, "batch_size": 131072}'

A class that holds an ONNX Runtime session, called with batches: Daft's own way for models.
Options: `tuned` (pack tensors in blocks that stay in cache), `batch_size` (null for Daft's choice),
`use_process`, `max_concurrency`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

started = time.perf_counter()

import daft  # noqa: E402

from .data import FEATURES, KEY, Floats  # noqa: E402
from .scoring import block, score, score_plainly, session  # noqa: E402

Method = TypeVar("Method", bound=Callable[..., Any])


def scorer(model: Path, options: dict[str, Any]) -> Any:
    batch: Callable[..., Callable[[Method], Method]] = daft.method.batch

    @daft.cls(use_process=options.get("use_process"), max_concurrency=options.get("max_concurrency"))
    class Scorer:
        def __init__(self) -> None:
            self.session = session(model)

        @batch(return_dtype=daft.DataType.float32(), batch_size=options.get("batch_size"))
        def score(self, *series: daft.Series) -> Floats:
            columns = [one.to_arrow().to_numpy() for one in series]
            if options["tuned"]:
                return score(self.session, columns, block())
            return score_plainly(self.session, columns)

    return Scorer()


def main() -> None:
    flights, model, results, options = sys.argv[1:]
    chosen = json.loads(options)
    daft.set_runner_native()
    ready = time.perf_counter()
    frame = daft.read_parquet(f"{flights}/*.parquet")
    scored = scorer(Path(model), chosen).score(*(daft.col(name) for name in FEATURES))
    frame.select(daft.col(KEY), scored.alias("score")).write_parquet(results)
    done = time.perf_counter()
    print(json.dumps({"import_s": ready - started, "job_s": done - ready}))


if __name__ == "__main__":
    main()
