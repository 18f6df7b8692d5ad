"""The service's flow, with a consumer and a sink that do nothing but count."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest

from batchinfer.streaming import (
    Consumer,
    Flow,
    Listener,
    Meter,
    MicroBatch,
    Offsets,
    Records,
    Refused,
    Sink,
    StreamService,
    TopicPartition,
)

PARTITION = TopicPartition("in", 0)


class Backlog:
    """Of one partition, so many messages of a size; each poll brings as many as it asks for."""

    def __init__(self, messages: int, size: int) -> None:
        self.end, self._size = messages, size
        self.at = 0
        self.brought: list[int] = []
        self._listener: Listener | None = None

    def subscribe(self, _topics: Sequence[str], listener: Listener) -> None:
        self._listener = listener

    def poll(self, most: int, _timeout_s: float) -> Records:
        if self._listener is not None:
            self._listener.assigned([PARTITION])
            self._listener = None
        offsets = range(self.at, min(self.at + most, self.end))
        self.brought += [len(offsets)] if offsets else []
        self.at += len(offsets)
        return Records.of(
            values=[b"x" * self._size] * len(offsets),
            keys=[None] * len(offsets),
            headers=None,
            timestamps=list(offsets),
            partitions=[PARTITION] * len(offsets),
            offsets=list(offsets),
        )

    def assignment(self) -> list[TopicPartition]:
        return [PARTITION]

    def positions(self, _partitions: Sequence[TopicPartition]) -> Offsets:
        return {PARTITION: self.at}

    def known_ends(self, _partitions: Sequence[TopicPartition]) -> Offsets:
        return {PARTITION: self.end}

    def close(self) -> None:
        pass


class Nowhere:
    """A sink that is durable at once."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.bytes: list[int] = []

    def assigned(self, _partitions: Sequence[TopicPartition]) -> Offsets:
        return {PARTITION: 0}

    def deliver(self, batches: Sequence[MicroBatch]) -> Offsets:
        self.sizes += [len(batch.records) for batch in batches]
        self.bytes += [batch.records.nbytes for batch in batches]
        return batches[-1].next_offsets

    def tick(self) -> Offsets:
        return {}

    flush = tick

    def close(self) -> None:
        pass


class Nobody:
    def committed(self, _batches: Sequence[MicroBatch]) -> None:
        pass


def _scored(records: Records, polled_at: float) -> MicroBatch:
    return MicroBatch(
        records=records,
        next_offsets=records.next_offsets(),
        results=pa.RecordBatch.from_pylist([], schema=pa.schema([])),
        rows=np.empty(0, np.int64),
        refused=Refused(np.empty(0, np.int64), [], []),
        model="m@1",
        profile=None,
        polled_at=polled_at,
    )


def streamed(backlog: Backlog, **flow: Any) -> Nowhere:
    sink = Nowhere()
    bounds = {
        "max_batch": 16_384,
        "max_latency_s": 0.05,
        "max_bytes": 8_000_000,
        "threads": 2,
        "drain_s": 5.0,
    }
    service = StreamService(
        consumer=cast(Consumer, backlog),
        topic="in",
        sinks=[cast(Sink, sink)],
        score=lambda: _scored,
        flow=Flow(**(bounds | flow)),
        meter=Meter(),
        watcher=Nobody(),
        commits_offsets=False,
    )
    service.run(threading.Event(), {PARTITION: backlog.end})
    assert sum(sink.sizes) == backlog.end
    return sink


@pytest.mark.parametrize("size", [1, 100, 20_000, 1_000_000])
def test_a_micro_batch_is_bounded_by_messages_and_by_bytes(size: int) -> None:
    messages = min(50_000, 60_000_000 // size)
    sink = streamed(Backlog(messages, size))
    assert max(sink.sizes) <= 16_384
    assert max(sink.bytes) <= 8_000_000 / 4 + 2 * (size + 60)


def test_a_poll_takes_what_a_micro_batch_does() -> None:
    backlog = Backlog(40_000, 10)
    sink = streamed(backlog, max_batch=1_000, max_latency_s=60.0)
    assert backlog.brought == [2, 998, *[1_000] * 39]
    assert sink.sizes == [1_000] * 40
