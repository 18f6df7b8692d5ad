"""Quix Streams with the same model, exactly once: messages/s from the first to the last commit.

python peer_quix.py SERVERS MODEL.onnx RECORDS each|batched FEATURE… — `each` calls the model for each message, as its
users do; `batched` gathers a window of messages by count and calls it once.  Needs quixstreams and onnxruntime.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import onnxruntime as ort
from quixstreams import Application

_BATCH = 1000


def main() -> None:
    servers, graph, records, form, *features = sys.argv[1:]
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    seen: dict[str, Any] = {"count": 0, "first": None, "last": 0.0}

    def noted(rows: int) -> None:
        now = time.perf_counter()
        seen["first"] = seen["first"] or now
        seen["last"], seen["count"] = now, seen["count"] + rows

    def score(row: dict[str, Any]) -> dict[str, Any]:
        tensor = np.array([[row[name] for name in features]], np.float32)
        noted(1)
        return {"id": row["id"], "score": float(session.run(["score"], {"input": tensor})[0][0, 0])}

    def score_many(window: dict[str, Any]) -> list[dict[str, Any]]:
        rows = window["value"]
        tensor = np.array([[row[name] for name in features] for row in rows], np.float32)
        noted(len(rows))
        scores = session.run(["score"], {"input": tensor})[0][:, 0].tolist()
        return [{"id": row["id"], "score": score} for row, score in zip(rows, scores, strict=True)]

    application = Application(
        broker_address=servers,
        consumer_group="quix",
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once",
        loglevel="ERROR",
    )
    frame = application.dataframe(application.topic("in", value_deserializer="json"))
    if form == "batched":
        frame = frame.tumbling_count_window(_BATCH).collect().final().apply(score_many, expand=True)
    else:
        frame = frame.apply(score)
    frame.to_topic(application.topic("out", value_serializer="json"))
    application.run(count=int(records), timeout=120)
    rate = seen["count"] / max(1e-9, seen["last"] - seen["first"])
    print(json.dumps({"records_per_second": rate, "records": seen["count"]}))


if __name__ == "__main__":
    main()
