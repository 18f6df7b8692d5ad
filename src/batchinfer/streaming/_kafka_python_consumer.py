"""A member of a group on kafka-python.

kafka-python calls a listener on its I/O thread, where nothing may wait. Ours asks brokers and commits, in the thread
that polls: so kafka-python works in a thread of its own, the listener only hands over what happened and lets the I/O
thread go on with other things, and the caller of `poll` serves it while it waits. As with librdkafka, the group does
not go on before the listener has returned.

kafka-python 3.0 forgets in some ways what a group agreed on. A poll that ends before the group has agreed drops what
it agrees on next: so joining goes on between polls. A member that is thrown out while it joins comes back under
another name, and is told of no loss: so the name is looked at. And it claims what it owned before, which is another
member's by then: so it claims nothing. Nor does it always take up what was paused: see `_take_up`.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import kafka
from kafka import errors as ke
from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.base import MemberState
from kafka.future import Future as LoopFuture
from kafka.structs import OffsetAndMetadata

from batchinfer.errors import BrokerRefused, GroupFenced
from batchinfer.streaming._kafka_python_errors import translated
from batchinfer.streaming._ports import Listener
from batchinfer.streaming._records import Offsets, Records, TopicPartition

_Found = TypeVar("_Found")

_PATIENCE_MS = 30_000
_POSITION_MS = 100
_LEAVE_MS = 10_000
_JOIN_MS = 500
_SILENT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Event:
    """A rebalance that waits for the polling thread; `served` lets the group go on."""

    kind: str
    partitions: list[TopicPartition]
    served: LoopFuture


class Assignor(CooperativeStickyAssignor):  # type: ignore[misc]
    """The cooperative sticky assignor, which claims what it was assigned only as the member that it was then."""

    def __init__(self) -> None:
        super().__init__()
        self.name_now: Callable[[], str] = str
        self._name_then = ""

    def on_assignment(self, assignment: Any, generation: int) -> None:
        super().on_assignment(assignment, generation)
        self._name_then = self.name_now()

    def metadata(self, topics: Any) -> Any:
        if self.name_now() != self._name_then:
            self.member_assignment = None
        return super().metadata(topics)


class KafkaPythonConsumer:
    """See `batchinfer.streaming.Consumer`. While the group agrees on who has what, polls bring nothing."""

    def __init__(self, consumer: kafka.KafkaConsumer, assignor: Assignor, address: str) -> None:
        self._consumer = consumer
        self._coordinator = consumer._coordinator
        self._address = address
        assignor.name_now = lambda: str(consumer.group_metadata().member_id)
        self._name_now = assignor.name_now
        self._working = ThreadPoolExecutor(1, thread_name_prefix="kafka-poll")
        self._joining: Future[None] | None = None
        self._told: queue.SimpleQueue[_Event | None] = queue.SimpleQueue()
        """What the caller of `poll` has to serve; None only wakes it."""
        self._listener: Listener | None = None
        self._owned: set[TopicPartition] = set()
        """What the listener knows of, as the member of the name."""
        self._name = ""
        self._silent_since: float | None = None
        self._closing = False

    def subscribe(self, topics: Sequence[str], listener: Listener) -> None:
        """See `Consumer.subscribe`."""
        self._listener = listener
        self._called(lambda: self._subscribe(topics), f"the topics {', '.join(topics)}")

    def _subscribe(self, topics: Sequence[str]) -> None:
        self._consumer.subscribe(list(topics), listener=_Handover(self._told.put))
        for topic in topics:  # whom the group chooses to divide them has to know them
            self._consumer.partitions_for_topic(topic)

    def poll(self, max_records: int, timeout_s: float) -> Records:
        """See `Consumer.poll`."""
        until = time.monotonic() + timeout_s
        while self._joining is not None or self._coordinator.need_rejoin():
            joining = self._joining = self._joining or self._submit(self._join)
            if not self._serve_until(joining, until):
                return Records.none()
            self._joining = None
            self._called(joining.result, "joining the group")
        self._reconcile()
        self._take_up()
        left_ms = max(0.0, until - time.monotonic()) * 1e3
        polled = self._submit(lambda: self._consumer.poll(left_ms, max_records))
        self._serve_until(polled, None)
        found = self._called(polled.result, "polling")
        self._see_that_it_is_heard()
        if anew := self._reconcile():
            found = {p: records for p, records in found.items() if _ours(p) not in anew}
        return (
            _records([record for records in found.values() for record in records])
            if found
            else Records.none()
        )

    def _take_up(self) -> None:
        """What was fetched before a pause is put back in line after it only where no partition stands there, and one
        that has given all it had stands there until another comes."""
        fetcher = self._consumer._fetcher
        if not fetcher._next_partition_records:
            fetcher._next_partition_records = None

    def _join(self) -> None:
        while not self._coordinator.poll(timeout_ms=_JOIN_MS) and not self._closing:
            pass

    def _submit(self, call: Callable[[], _Found]) -> Future[_Found]:
        done = self._working.submit(call)
        done.add_done_callback(lambda _: self._told.put(None))
        return done

    def _serve_until(self, done: Future[Any], until: float | None) -> bool:
        """Serve the listener until it is done, or the time has come; returns whether it is done."""
        while not (done.done() and self._told.empty()):
            try:
                event = self._told.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
            except queue.Empty:
                return False
            if event is not None:
                try:
                    self._serve(event)
                finally:
                    served = event.served
                    self._consumer._net.call_soon_threadsafe(lambda served=served: served.success(None))
        return True

    def _serve(self, event: _Event) -> None:
        self._notice_the_loss()
        if event.kind == "assigned":
            self._assign(event.partitions)
        elif going := [p for p in event.partitions if p in self._owned]:
            assert self._listener is not None
            (self._listener.revoked if event.kind == "revoked" else self._listener.lost)(going)
            self._owned.difference_update(going)

    def _assign(self, partitions: list[TopicPartition]) -> Offsets:
        assert self._listener is not None
        self._name = self._name_now()
        self._owned.update(partitions)
        starts = self._listener.assigned(partitions)
        self.seek(starts)
        return starts

    def _notice_the_loss(self) -> None:
        """As a member of another name, all that there was is lost."""
        if self._owned and self._name_now() != self._name:
            assert self._listener is not None
            lost = sorted(self._owned)
            self._owned.clear()
            self._listener.lost(lost)

    def _reconcile(self) -> set[TopicPartition]:
        """Assign anew what a member of another name has kept; returns it."""
        self._notice_the_loss()
        kept = [p for p in self.assignment() if p not in self._owned]
        if kept:
            starts = dict(self._assign(kept))
            starts |= self.committed([p for p in kept if p not in starts])
            self.seek(self.begin_offsets([p for p in kept if p not in starts]) | starts)
        return set(kept)

    def _see_that_it_is_heard(self) -> None:
        """kafka-python falls silent where another member has taken its group.instance.id, and goes on reading."""
        silent = self._coordinator.state is MemberState.STABLE and not self._coordinator._heartbeat_enabled
        if not silent:
            self._silent_since = None
            return
        self._silent_since = self._silent_since or time.monotonic()
        if time.monotonic() - self._silent_since > _SILENT_SECONDS:
            raise BrokerRefused(
                "polling: another member has the same group.instance.id",
                next_step="give each stream its own stream.instance_id",
            )

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        """See `Consumer.pause`."""
        for partition in partitions:
            self._unless_gone(partition, self._consumer.pause)

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        """See `Consumer.resume`."""
        for partition in partitions:
            self._unless_gone(partition, self._consumer.resume)

    def seek(self, offsets: Offsets) -> None:
        """See `Consumer.seek`."""
        for partition, offset in offsets.items():
            self._unless_gone(partition, self._consumer.seek, offset)

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
        found = {
            p: self._called(
                lambda p=p: self._unless_gone(p, self._consumer.position, timeout_ms=_POSITION_MS),  # type: ignore[misc]
                f"the position in {p}",
            )
            for p in partitions
        }
        return {p: offset for p, offset in found.items() if offset is not None}

    def begin_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """See `Consumer.begin_offsets`."""
        return self._ends(self._consumer.beginning_offsets, partitions)

    def end_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """See `Consumer.end_offsets`."""
        return self._ends(self._consumer.end_offsets, partitions)

    def known_ends(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """See `Consumer.known_ends`. What is under way in transactions counts too."""
        found = {p: self._unless_gone(p, self._consumer.highwater) for p in partitions}
        return {p: int(end) for p, end in found.items() if end is not None}

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
        # Brokers let what names no member through, and what was read under another name may be another member's.
        if group.generation_id < 0 or not group.member_id or group.member_id != self._name:
            raise GroupFenced("this member is not in the group any more")
        return group

    def close(self) -> None:
        """See `Consumer.close`."""
        if self._closing:
            return
        self._closing = True
        left = self._submit(lambda: self._consumer.close(autocommit=False, timeout_ms=_LEAVE_MS))
        try:
            self._serve_until(left, None)
            self._called(left.result, "leaving")
        finally:
            self._working.shutdown(wait=left.done())

    def _unless_gone(
        self, partition: TopicPartition, call: Callable[..., _Found], *more: Any, **options: Any
    ) -> _Found | None:
        """A partition may go at any time, on the I/O thread, and the listener hears of it in the next poll."""
        try:
            return call(_theirs(partition), *more, **options)
        except (KeyError, ValueError, ke.IllegalStateError):
            if partition in self.assignment():
                raise
            return None

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
