"""A bare relay: sends each message of the topic `in` on to `out`, with the client that the stream has by default.

    python -m benchmarks.relay BOOTSTRAP_SERVERS exactly-once|at-least-once

It decodes, checks and scores nothing. What it needs from a message's timestamp to the commit is what broker, client and
machine need; SIGTERM ends it, and it prints p50 and p99 as JSON.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time

import numpy as np

from batchinfer.spec import StreamSpec
from batchinfer.streaming import Listener, Outgoing, Records, open_client


def main() -> None:
    servers, delivery = sys.argv[1:]
    exactly_once = delivery == "exactly-once"
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    client = open_client(StreamSpec(bootstrap_servers=servers, input_topic="in", output_topic="out"))
    consumer = client.consumer("relay")
    producer = client.producer("relay" if exactly_once else None)
    consumer.subscribe(["in"], Listener(consumer.begin_offsets, lambda _: None, lambda _: None))
    ages: list[np.ndarray[tuple[int], np.dtype[np.float64]]] = []
    while not stop.is_set():
        records: Records = consumer.poll(4096, 0.1)
        if not len(records):
            continue
        producer.begin()
        producer.produce_batch(
            Outgoing("out", records.values, records.keys, records.headers, records.timestamps)
        )
        if exactly_once:
            producer.send_offsets(records.next_offsets(), consumer.group())
        producer.commit()
        ages.append(time.time() * 1e3 - np.asarray(records.timestamps.to_pylist(), np.float64))
    consumer.close()
    producer.close()
    p50, p99 = np.percentile(np.concatenate(ages), [50, 99]).tolist()
    print(json.dumps({"p50": p50, "p99": p99}))


if __name__ == "__main__":
    main()
