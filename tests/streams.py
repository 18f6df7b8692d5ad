"""What the tests of the stream share: messages in, committed messages out, and a pipeline of the small linear model."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from batchinfer.spec import PipelineSpec
from tests.kafka import Broker

FIRST_TIMESTAMP = (int(time.time()) // 3600 - 1) * 3_600_000
"""Of the first message, ms: of a producer whose last message is older than a day, a broker that comes back knows
nothing, and takes again what it has."""
COLUMNS = {"id": "int64", "note": "string", "x0": "float32", "x1": "float32", "x2": "float32"}


@dataclass(frozen=True)
class Topics:
    """The topics of one test."""

    input: str
    output: str
    letters: str

    @classmethod
    def of(cls, broker: Broker, partitions: int = 3, **config: str) -> Topics:
        return cls(
            broker.topic("in", partitions, max_message_bytes="5000000", **config),
            broker.topic("out", partitions),
            broker.topic("dead", partitions, max_message_bytes="5000000"),
        )


def section(broker: Broker, topics: Topics, **more: Any) -> dict[str, Any]:
    """The spec's `stream:`."""
    return {
        "bootstrap_servers": broker.bootstrap_servers,
        "input_topic": topics.input,
        "output_topic": topics.output,
        "dead_letter_topic": topics.letters,
        "group": f"g-{topics.input}",
        "columns": COLUMNS,
        "max_batch": 500,
        "max_latency_ms": 20,
        "refresh_seconds": 0,
        "consumer_settings": {"session.timeout.ms": 6000, "heartbeat.interval.ms": 500},
        **more,
    }


def message(number: int) -> bytes:
    """A message whose score is known: `score(number)`."""
    return json.dumps(
        {"id": number, "note": f"n{number % 7}", "x0": number % 97, "x1": number % 31, "x2": number % 5}
    ).encode()


def score(number: int) -> float:
    return float(number % 97 + 2 * (number % 31) - number % 5)


def produce(broker: Broker, topic: str, values: Iterable[bytes | None], **options: Any) -> int:
    """Send messages, spread over the partitions; each has its number as key and header."""
    settings = {"bootstrap.servers": broker.bootstrap_servers, "message.max.bytes": 5_000_000}
    producer = Producer({**settings, "enable.idempotence": broker.real})
    count = 0
    for number, value in enumerate(values):
        while True:
            try:
                producer.produce(
                    topic,
                    value,
                    str(number),
                    headers=[("n", str(number))],
                    timestamp=FIRST_TIMESTAMP + number,
                )
                break
            except BufferError:
                producer.poll(0.1)
        count += 1
    assert producer.flush(30) == 0
    return count


def committed(broker: Broker, *topics: str, patience_s: float = 30) -> list[Any]:
    """All messages that a reader of committed messages sees, up to where the topics end now."""
    reader = Consumer(
        {
            "bootstrap.servers": broker.bootstrap_servers,
            "group.id": "reader",
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 20,
        }
    )
    partitions = [
        TopicPartition(topic, number, 0)
        for topic in topics
        for number in reader.list_topics(topic, 10).topics[topic].partitions
    ]
    reader.assign(partitions)
    found: list[Any] = []
    ended: set[tuple[str, int]] = set()
    until = time.monotonic() + patience_s
    while len(ended) < len(partitions):
        assert time.monotonic() < until, "the topics do not come to their end: a transaction is open"
        for got in reader.consume(5000, 0.1):
            if got.error() is None:
                found.append(got)
            elif got.error().code() == KafkaError._PARTITION_EOF:
                ended.add((got.topic(), got.partition()))
    reader.close()
    return found


def ids(messages: Sequence[Any]) -> Counter[int]:
    """How often each input number is among predictions and dead letters, by their keys."""
    return Counter(int(each.key()) for each in messages)


def headers(message: Any) -> dict[str, bytes]:
    return dict(message.headers() or ())


def with_stream(pipeline: Any, broker: Broker, topics: Topics, **more: Any) -> PipelineSpec:
    """The spec of the small pipeline with a stream; `spec__…` overrides its other sections."""
    rest = {key.removeprefix("spec__"): value for key, value in more.items() if key.startswith("spec__")}
    own = {key: value for key, value in more.items() if not key.startswith("spec__")}
    from batchinfer.spec import load_spec

    file = pipeline.write_spec(stream=section(broker, topics, **own), **rest)
    return load_spec(file)
