"""Quix Streams with the same model, exactly once: messages/s from the first to the last.

python peer_quix.py SERVERS MODEL.onnx RECORDS FEATURE… — the model is called for each message, as its users do. It has
no batched form for this: its windows gather messages of one key. Needs quixstreams and onnxruntime.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import onnxruntime as ort
from quixstreams import Application


def main() -> None:
    servers, graph, records, *features = sys.argv[1:]
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    seen: dict[str, Any] = {"count": 0, "first": None, "last": 0.0}

    def score(row: dict[str, Any]) -> dict[str, Any]:
        tensor = np.array([[row[name] for name in features]], np.float32)
        seen["last"] = time.perf_counter()
        seen["first"] = seen["first"] or seen["last"]
        seen["count"] += 1
        return {"id": row["id"], "score": float(session.run(["score"], {"input": tensor})[0][0, 0])}

    application = Application(
        broker_address=servers,
        consumer_group="quix",
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once",
        loglevel="ERROR",
    )
    frame = application.dataframe(application.topic("in", value_deserializer="json"))
    frame = frame.apply(score)
    frame.to_topic(application.topic("out", value_serializer="json"))
    application.run(count=int(records), timeout=120)
    rate = seen["count"] / max(1e-9, seen["last"] - seen["first"])
    print(json.dumps({"records_per_second": rate, "records": seen["count"]}))


if __name__ == "__main__":
    main()
