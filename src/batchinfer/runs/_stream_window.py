"""A window of a topic: which offsets of which partitions, and the messages in it, read beside the stream."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Literal, Self

import numpy as np

from batchinfer.core import arrays
from batchinfer.errors import BrokerRefused, Transient, UsageError
from batchinfer.streaming import Client, Consumer, Listener, Offsets, Records, TopicPartition

_MOST = 10_000
_PATIENCE_SECONDS = 60.0
_OFFSETS = re.compile(r"\d+:\d+(,\d+:\d+)*")

Bound = Literal["begin", "end"] | int | dict[int, int]
"""Where a window begins or ends: of all partitions, at a time (milliseconds since 1970), or by partition an offset."""
Window = dict[TopicPartition, tuple[int, int]]
"""By partition, the first offset and the one after the last."""


def parse_bound(text: str, option: str) -> Bound:
    """Read `begin`, `end`, `PARTITION:OFFSET,…` or a time as ISO 8601 has it (UTC where it names no zone).

    Raises:
        UsageError: it is none of them.
    """
    if text in {"begin", "end"}:
        return "begin" if text == "begin" else "end"
    if _OFFSETS.fullmatch(text):
        return {int(number): int(offset) for number, offset in (p.split(":") for p in text.split(","))}
    try:
        when = datetime.fromisoformat(text)
    except ValueError as e:
        raise UsageError(
            f"{option} {text}: expected begin, end, PARTITION:OFFSET[,PARTITION:OFFSET…] or a time as 2013-01-31T12:00",
            option=option,
            found=text,
        ) from e
    return int((when if when.tzinfo is not None else when.replace(tzinfo=UTC)).timestamp() * 1000)


class TopicReader:
    """Reads committed messages of a topic in a group of its own, which commits nothing. See `reading`."""

    def __init__(self, consumer: Consumer, topic: str, partitions: int) -> None:
        self._consumer = consumer
        self.partitions = [TopicPartition(topic, number) for number in range(partitions)]
        self.begins = consumer.begin_offsets(self.partitions)
        self.ends = consumer.end_offsets(self.partitions)
        consumer.subscribe([topic], Listener(lambda _: self.ends, lambda _: None, lambda _: None))
        until = time.monotonic() + _PATIENCE_SECONDS
        while len(consumer.assignment()) < partitions:
            consumer.poll(1, 0.1)
            if time.monotonic() > until:
                raise Transient(f"{topic}: its partitions were not assigned to a reader in time", topic=topic)
        consumer.pause(self.partitions)

    @classmethod
    @contextmanager
    def reading(cls, client: Client, topic: str) -> Iterator[Self]:
        """A reader, until the block ends.

        Raises:
            BrokerRefused: there is no such topic. Transient: no broker answers.
        """
        partitions = client.partitions(topic)
        if partitions is None:
            raise BrokerRefused(f"there is no topic '{topic}'", topic=topic)
        consumer = client.consumer(f"batchinfer-window-{uuid.uuid4().hex}")
        try:
            yield cls(consumer, topic, partitions)
        finally:
            consumer.close()

    def window(self, low: Bound, high: Bound, reached: Offsets) -> Window:
        """The offsets between two bounds, as far as `reached`: where a sink has come.

        A bound that names partitions leaves the others out.

        Raises:
            UsageError: a partition or its offsets are not there, no sink has come so far, or nothing is between them.
        """
        named = {*(low if isinstance(low, dict) else ()), *(high if isinstance(high, dict) else ())}
        if unknown := sorted(named - {p.partition for p in self.partitions}):
            raise UsageError(f"there is no partition {unknown[0]}: the topic has {len(self.partitions)}")
        chosen = [p for p in self.partitions if not named or p.partition in named]
        window = {}
        for partition in chosen:
            end = reached.get(partition, 0)
            first = self._at(partition, low, end)
            last = self._at(partition, high, end)
            if first < self.begins[partition] and first < last:
                raise UsageError(
                    f"{partition}: the messages before offset {self.begins[partition]} are gone",
                    next_step=f"begin there: --from {partition.partition}:{self.begins[partition]}",
                )
            if last > end:
                raise UsageError(
                    f"{partition}: the stream has come to offset {end}, and the window ends at {last}",
                    next_step="wait until it has, or end the window there",
                )
            if first > last and isinstance(low, dict) and isinstance(high, dict):
                raise UsageError(
                    f"{partition}: the window begins at offset {first}, and ends before it, at {last}",
                    next_step="state each partition in both --from and --to, the lower offset in --from",
                )
            if first < last:
                window[partition] = (first, last)
        if not window:
            raise UsageError(
                "the window holds no offset that the stream has come to",
                next_step="see --from and --to, and that stream.group is the stream's",
            )
        return window

    def _at(self, partition: TopicPartition, bound: Bound, end: int) -> int:
        if bound == "begin":
            return self.begins[partition]
        if bound == "end":
            return end
        if isinstance(bound, dict):
            return bound.get(partition.partition, self.begins[partition])
        assert isinstance(bound, int)
        return min(end, self._first_since(partition, bound))

    def _first_since(self, partition: TopicPartition, timestamp_ms: int) -> int:
        """The first offset whose message is of that time or later, by halves: as good as timestamps are in order."""
        low, high = self.begins[partition], self.ends[partition]
        self._consumer.resume([partition])
        while low < high:
            middle = (low + high) // 2
            found = self._next_at(partition, middle)
            if found is None or found[1] >= timestamp_ms:
                high = middle
            else:
                low = found[0] + 1
        self._consumer.pause([partition])
        return low

    def _next_at(self, partition: TopicPartition, offset: int) -> tuple[int, int] | None:
        """Offset and timestamp of the first message from there on; None at the end."""
        self._consumer.seek({partition: offset})
        until = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < until:
            records = self._consumer.poll(1, 0.1)
            if len(records) and (found := int(records.offsets[0].as_py())) >= offset:
                return found, int(records.timestamps[0].as_py() or 0)
            if self._consumer.positions([partition]).get(partition, 0) >= self.ends[partition]:
                return None
        raise Transient(f"{partition}: nothing came from offset {offset} on", partition=str(partition))

    def read(self, window: Mapping[TopicPartition, tuple[int, int]]) -> Iterator[Records]:
        """The messages of a window, each partition's in order.

        Raises:
            Transient: the broker does not send them.
        """
        left = {p: high for p, (low, high) in window.items() if low < high}
        self._consumer.seek({p: window[p][0] for p in left})
        self._consumer.resume(list(left))
        until = time.monotonic() + _PATIENCE_SECONDS
        while left:
            records = self._consumer.poll(_MOST, 0.2)
            if len(records):
                until = time.monotonic() + _PATIENCE_SECONDS
                if len(inside := _inside(records, window)):
                    yield inside
            positions = self._consumer.positions(list(left))
            done = [p for p, high in left.items() if positions.get(p, 0) >= high]
            self._consumer.pause(done)
            for partition in done:
                del left[partition]
            if time.monotonic() > until:
                raise Transient(f"{', '.join(map(str, left))}: the messages of the window do not come")

    def all(self) -> Iterator[Records]:
        """All messages up to where the topic ended when the reader began."""
        return self.read({p: (self.begins[p], self.ends[p]) for p in self.partitions})


def _inside(records: Records, window: Mapping[TopicPartition, tuple[int, int]]) -> Records:
    codes, partitions = records.partition_codes()
    bounds = np.array([window.get(p, (0, 0)) for p in partitions], np.int64)[codes]
    offsets, _ = arrays.to_numpy(records.offsets)
    keep = (offsets >= bounds[:, 0]) & (offsets < bounds[:, 1])
    return records if keep.all() else records.take(np.flatnonzero(keep))


def told(window: Window) -> dict[str, list[int]]:
    """A window as reports have it."""
    return {str(partition): list(bounds) for partition, bounds in sorted(window.items())}


def by_source(window: Window) -> dict[str, tuple[int, int]]:
    """A window as tables have it."""
    return {str(partition): bounds for partition, bounds in window.items()}


def sources(partitions: Sequence[TopicPartition]) -> dict[str, TopicPartition]:
    """Partitions by what `_source` says of them."""
    return {str(partition): partition for partition in partitions}
