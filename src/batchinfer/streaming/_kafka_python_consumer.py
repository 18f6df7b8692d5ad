"""A member of a group on kafka-python.

kafka-python calls a listener on its I/O thread, where nothing may wait. Ours asks brokers and commits, in the thread
that polls: so polls run in a thread of their own, the listener only hands over what happened and lets the I/O thread
go on with other things, and the caller of `poll` serves it while it waits. As with librdkafka, the group does not go
on before the listener has returned.
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import kafka
from kafka import errors as ke
from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
from kafka.future import Future as LoopFuture
from kafka.structs import OffsetAndMetadata

from batchinfer.errors import BrokerRefused, GroupFenced
from batchinfer.streaming._kafka_python_errors import translated
from batchinfer.streaming._ports import Listener
from batchinfer.streaming._records import Offsets, Records, TopicPartition

_log = logging.getLogger("batchinfer.kafka")
_Found = TypeVar("_Found")

_PATIENCE_MS = 30_000
_POSITION_MS = 100
_LEAVE_MS = 10_000


@dataclass(frozen=True, slots=True)
class _Event:
    """A rebalance that waits for the polling thread; `served` lets the group go on."""

    kind: str
    partitions: list[TopicPartition]
    served: LoopFuture


class KafkaPythonConsumer:
    """See `batchinfer.streaming.Consumer`."""

    def __init__(self, consumer: kafka.KafkaConsumer, address: str) -> None:
        self._consumer = consumer
        self._address = address
        self._polling = ThreadPoolExecutor(1, thread_name_prefix="kafka-poll")
        self._told: queue.SimpleQueue[_Event | None] = queue.SimpleQueue()
        """What the poll's caller has to serve; None wakes it when the poll is over."""
        self._listener: Listener | None = None

    def subscribe(self, topics: Sequence[str], listener: Listener) -> None:
        """See `Consumer.subscribe`."""
        self._listener = listener
        self._called(
            lambda: self._consumer.subscribe(list(topics), listener=_Handover(self._told.put)),
            f"the topics {', '.join(topics)}",
        )

    def poll(self, max_records: int, timeout_s: float) -> Records:
        """See `Consumer.poll`."""
        found = self._served(lambda: self._consumer.poll(timeout_s * 1e3, max_records), "polling")
        return (
            _records([record for records in found.values() for record in records])
            if found
            else Records.none()
        )

    def _served(self, call: Callable[[], _Found], what: str) -> _Found:
        """Call it in the polling thread, and serve the listener meanwhile."""
        done: Future[_Found] = self._polling.submit(call)
        done.add_done_callback(lambda _: self._told.put(None))
        failure: BaseException | None = None
        while (event := self._told.get()) is not None:
            try:
                if failure is None:
                    self._serve(event)
            except BaseException as e:  # the group has to go on, to be left in order
                failure = e
            finally:
                served = event.served
                self._consumer._net.call_soon_threadsafe(lambda served=served: served.success(None))
        if failure is not None:
            raise failure
        return self._called(done.result, what)

    def _serve(self, event: _Event) -> None:
        assert self._listener is not None
        if event.kind == "assigned":
            self.seek(self._listener.assigned(event.partitions))
        elif event.kind == "revoked":
            self._listener.revoked(event.partitions)
        else:
            self._listener.lost(event.partitions)

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        """See `Consumer.pause`."""
        self._consumer.pause(*map(_theirs, partitions))

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        """See `Consumer.resume`."""
        self._consumer.resume(*map(_theirs, partitions))

    def seek(self, offsets: Offsets) -> None:
        """See `Consumer.seek`."""
        for partition, offset in offsets.items():
            self._consumer.seek(_theirs(partition), offset)

    def assignment(self) -> list[TopicPartition]:
        """See `Consumer.assignment`."""
        return sorted(map(_ours, self._consumer.assignment() or ()))

    def committed(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """See `Consumer.committed`."""
        found = {
            p: self._called(
                lambda p=p: self._consumer.committed(_theirs(p), timeout_ms=_PATIENCE_MS),  # type: ignore[misc]
                "the group's progress",
            )
            for p in partitions
        }
        return {p: offset for p, offset in found.items() if offset is not None and offset >= 0}

    def positions(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """See `Consumer.positions`."""
        ours = set(self.assignment())
        found = {
            p: self._called(
                lambda p=p: self._consumer.position(_theirs(p), timeout_ms=_POSITION_MS),  # type: ignore[misc]
                f"the position in {p}",
            )
            for p in partitions
            if p in ours
        }
        return {p: offset for p, offset in found.items() if offset is not None}

    def begin_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """See `Consumer.begin_offsets`."""
        return self._ends(self._consumer.beginning_offsets, partitions)

    def end_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """See `Consumer.end_offsets`."""
        return self._ends(self._consumer.end_offsets, partitions)

    def _ends(
        self, ask: Callable[..., Any], partitions: Sequence[TopicPartition]
    ) -> dict[TopicPartition, int]:
        if not partitions:
            return {}
        theirs = list(map(_theirs, partitions))
        found = self._called(
            lambda: ask(theirs, timeout_ms=_PATIENCE_MS), f"the ends of {', '.join(map(str, partitions))}"
        )
        return {_ours(p): int(offset) for p, offset in found.items()}

    def commit(self, offsets: Offsets) -> None:
        """See `Consumer.commit`."""
        if offsets:
            told = {_theirs(p): OffsetAndMetadata(offset, "", -1) for p, offset in offsets.items()}
            self._called(lambda: self._consumer.commit(told, timeout_ms=_PATIENCE_MS), "committing offsets")

    def group(self) -> object:
        """See `Consumer.group`."""
        group = self._consumer.group_metadata()
        if group.generation_id < 0 or not group.member_id:  # brokers let what names no member through
            raise GroupFenced("this member is not in the group any more")
        return group

    def close(self) -> None:
        """See `Consumer.close`."""
        try:
            self._served(lambda: self._consumer.close(autocommit=False, timeout_ms=_LEAVE_MS), "leaving")
        finally:
            self._polling.shutdown()

    def _called(self, call: Callable[[], _Found], what: str) -> _Found:
        try:
            return call()
        except ke.FencedInstanceIdError as e:
            raise BrokerRefused(
                f"{what}: another member has the same group.instance.id",
                next_step="give each stream its own stream.instance_id",
            ) from e
        except ke.KafkaError as e:
            raise translated(e, what, self._address) from e


class _Handover(AsyncConsumerRebalanceListener):  # type: ignore[misc]
    """On the I/O thread: says what happened, and waits without holding it up."""

    def __init__(self, tell: Callable[[_Event], None]) -> None:
        self._tell = tell

    async def on_partitions_assigned(self, assigned: Any) -> None:
        await self._hand_over("assigned", assigned)

    async def on_partitions_revoked(self, revoked: Any) -> None:
        await self._hand_over("revoked", revoked)

    async def on_partitions_lost(self, lost: Any) -> None:
        await self._hand_over("lost", lost)

    async def _hand_over(self, kind: str, partitions: Any) -> None:
        served = LoopFuture()
        self._tell(_Event(kind, sorted(map(_ours, partitions)), served))
        await served


def _records(found: list[Any]) -> Records:
    known = {p: TopicPartition(*p) for p in {(r.topic, r.partition) for r in found}}
    headers = [record.headers for record in found]
    return Records.of(
        values=[record.value for record in found],
        keys=[record.key for record in found],
        headers=headers if any(headers) else None,
        timestamps=[record.timestamp if record.timestamp >= 0 else None for record in found],
        partitions=[known[record.topic, record.partition] for record in found],
        offsets=[record.offset for record in found],
    )


def _ours(partition: Any) -> TopicPartition:
    return TopicPartition(partition.topic, partition.partition)


def _theirs(partition: TopicPartition) -> Any:
    return kafka.TopicPartition(partition.topic, partition.partition)
