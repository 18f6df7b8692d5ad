"""Members of a group and messages in miniature: what the client suite polls, sends and waits for."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from batchinfer.streaming import (
    Client,
    Consumer,
    Listener,
    Offsets,
    Outgoing,
    Producer,
    TopicPartition,
    header_array,
)

_PATIENCE_SECONDS = 30.0


class BrokerUnderTest(Protocol):
    """A running broker. `real` is whether it is Apache Kafka, with all that it promises."""

    bootstrap_servers: str
    real: bool

    def topic(self, name: str, partitions: int = 1, **config: str) -> str:
        """A new topic whose name begins so; settings as `max_message_bytes="…"`."""


class Member:
    """A member of a group that notes what it is told, and checks what it is sent.

    `told` are the rebalances in order; `owned` what it has by them. No record may come of a partition that is not
    owned.
    """

    def __init__(self, client: Client, group: str, topic: str, starts: Offsets | None = None) -> None:
        self.consumer: Consumer = client.consumer(group)
        self.told: list[tuple[str, list[TopicPartition]]] = []
        self.owned: set[TopicPartition] = set()
        self.records: list[dict[str, Any]] = []
        self.on_revoked: Callable[[Sequence[TopicPartition]], None] = lambda _: None
        self._starts = starts or {}
        self.consumer.subscribe([topic], Listener(self._assigned, self._revoked, self._lost))

    def poll(self, timeout_s: float = 0.02, most: int = 10_000) -> int:
        """Poll once; returns how many messages came."""
        found = self.consumer.poll(most, timeout_s)
        assert len(found) <= most
        for record in found.batch.to_pylist():
            assert TopicPartition(record["topic"], record["partition"]) in self.owned, "it is not ours"
            self.records.append(record)
        return len(found)

    def until(self, count: int) -> list[dict[str, Any]]:
        """Poll until so many messages have come in all; they are there, in the order in which they came."""
        until(lambda: len(self.records) >= count, self)
        return self.records

    def offsets(self, partition: TopicPartition) -> list[int]:
        """Those of the messages that came of a partition."""
        place = (partition.topic, partition.partition)
        return [r["offset"] for r in self.records if (r["topic"], r["partition"]) == place]

    def _assigned(self, partitions: Sequence[TopicPartition]) -> Offsets:
        if partitions:
            assert not self.owned & set(partitions), "only what comes in addition is told"
            self.told.append(("assigned", sorted(partitions)))
            self.owned |= set(partitions)
        return {p: self._starts[p] for p in partitions if p in self._starts}

    def _revoked(self, partitions: Sequence[TopicPartition]) -> None:
        assert set(partitions) <= self.owned
        self.told.append(("revoked", sorted(partitions)))
        self.on_revoked(partitions)
        self.owned -= set(partitions)

    def _lost(self, partitions: Sequence[TopicPartition]) -> None:
        assert set(partitions) <= self.owned
        self.told.append(("lost", sorted(partitions)))
        self.owned -= set(partitions)


def until(holds: Callable[[], bool], *members: Member) -> None:
    """Poll the members in turn until it holds."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < end, [member.told for member in members]
        for member in members:
            member.poll()


def messages(
    topic: str,
    values: Iterable[bytes | None],
    *,
    keys: Sequence[bytes | None] | None = None,
    headers: Sequence[Sequence[tuple[str, bytes | None]] | None] | None = None,
    timestamps: Sequence[int | None] | None = None,
) -> Outgoing:
    """Messages to be sent."""
    told = list(values)
    nothing: list[None] = [None] * len(told)
    return Outgoing(
        topic,
        pa.array(told, pa.large_binary()),
        pa.array(keys or nothing, pa.large_binary()),
        header_array(headers, len(told)),
        pa.array(timestamps or nothing, pa.int64()),
    )


def send(producer: Producer, outgoing: Outgoing) -> None:
    """Send messages in one transaction, where there are any."""
    producer.begin()
    producer.produce_batch(outgoing)
    producer.commit()


def numbered(count: int, start: int = 0) -> list[bytes | None]:
    """Values that say which they are."""
    return [b"%d" % number for number in range(start, start + count)]


def partitions_of(topic: str, count: int) -> list[TopicPartition]:
    """The topic's partitions."""
    return [TopicPartition(topic, number) for number in range(count)]


def new_name(word: str) -> str:
    """A name that nobody else has."""
    return f"{word}-{uuid.uuid4().hex[:10]}"


def murmur2_partition(key: bytes, partitions: int) -> int:
    """The partition that Apache Kafka's own producer chooses for a key."""
    mask = 0xFFFFFFFF
    value = (0x9747B28C ^ len(key)) & mask
    whole = len(key) - len(key) % 4
    for word in np.frombuffer(key[:whole], "<u4").tolist():
        mixed = (word * 0x5BD1E995) & mask
        mixed = ((mixed ^ (mixed >> 24)) * 0x5BD1E995) & mask
        value = ((value * 0x5BD1E995) & mask) ^ mixed
    if rest := key[whole:]:
        value = ((value ^ int.from_bytes(rest, "little")) * 0x5BD1E995) & mask
    value = ((value ^ (value >> 13)) * 0x5BD1E995) & mask
    return ((value ^ (value >> 15)) & 0x7FFFFFFF) % partitions
