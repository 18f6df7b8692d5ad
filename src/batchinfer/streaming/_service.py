"""The stream service: a poll thread, scoring threads and a commit thread, and what keeps them exactly once.

1 poll · 2 decode · 3 check · 4 transform and score (`_score`) · 5 begin a transaction, produce predictions and dead
letters · 6 send the offsets into it · 7 commit (`_topic_sink`) · 8 tell what was committed: metrics, budget, drift.

The poll thread alone talks to the consumer, the commit thread alone to the sinks, under one lock that rebalances take
too: no partition goes while a transaction with it is under way. What cannot be committed is dropped as a whole: the
epoch moves on, works of an older one are not delivered, and the partitions are read again from where all sinks are.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from batchinfer.errors import Transient
from batchinfer.streaming._flight import Flight, Score, Work
from batchinfer.streaming._meter import Meter
from batchinfer.streaming._ports import Consumer, Listener, MicroBatch, Sink
from batchinfer.streaming._records import Offsets, Records, TopicPartition

_log = logging.getLogger("batchinfer.stream")

_TICK_SECONDS = 0.1
_GATHER_SECONDS = 0.004
"""How long messages gather in the client before they are polled, where there is time: a poll has its price."""
_STALL_SECONDS = 1.0
"""After so long without room the partitions are paused. Shorter waits are not worth what the client drops then."""
_SETTLED_SECONDS = 5.0
_LAG_SECONDS = 1.0
_PROGRESS_SECONDS = 0.1
"""How often progress is committed, without transactions: a commit keeps the poll thread waiting for the broker."""
_BACKOFF_SECONDS = (0.05, 5.0)


@dataclass(frozen=True, slots=True)
class Flow:
    """How much at a time. Commits gather up to `max_commit` messages that are scored already."""

    max_batch: int
    max_latency_s: float
    max_bytes: int
    threads: int
    drain_s: float

    @property
    def max_works(self) -> int:
        """Micro-batches in flight."""
        return 4 * self.threads + 4

    @property
    def max_work_bytes(self) -> int:
        """Bytes of a micro-batch, but for what its last poll brought."""
        return self.max_bytes // 4

    @property
    def max_commit(self) -> int:
        """Messages of one commit."""
        return 8 * self.max_batch


class Watcher(Protocol):
    """Told in the commit thread."""

    def committed(self, batches: Sequence[MicroBatch]) -> None:
        """These are committed. What it raises stops the stream."""


class StreamService:
    """Moves messages from a topic through the scorer into the sinks until it is told to stop.

    Args:
        consumer: not subscribed yet.
        topic: what to read.
        sinks: the topic sink first.
        score: the function that scores now; asked for each micro-batch.
        flow: the bounds.
        meter: counts.
        watcher: told of what was committed.
        commits_offsets: whether progress is committed by the service, as without transactions.
    """

    def __init__(
        self,
        *,
        consumer: Consumer,
        topic: str,
        sinks: Sequence[Sink],
        score: Callable[[], Score],
        flow: Flow,
        meter: Meter,
        watcher: Watcher,
        commits_offsets: bool,
    ) -> None:
        self._consumer, self._topic, self._sinks = consumer, topic, sinks
        self._score, self._flow, self._meter, self._watcher = score, flow, meter, watcher
        self._commits_offsets = commits_offsets
        self._flight = Flight(flow.threads, flow.max_works, flow.max_bytes)
        self._lock = threading.Lock()
        """Held while sinks deliver, and while partitions come and go."""
        self._epoch = 0
        self._broken = False
        """Set where a delivery failed: nothing is delivered until the poll thread has rewound."""
        self._closing = threading.Event()
        self._failure: BaseException | None = None
        self._gathered: list[Records] = []
        self._gathered_count = self._gathered_bytes = 0
        self._gathered_at = 0.0
        self._message_bytes = flow.max_work_bytes
        """Of a message on average, as the last poll brought them; polls are bounded by bytes, too."""
        self._more = False
        """Whether the last poll brought all that it might."""
        self._durable: dict[TopicPartition, int] = {}
        self._to_commit: dict[TopicPartition, int] = {}
        self._progress_at = 0.0
        self._assigned_once = False
        self._rebalanced_at = 0.0
        self._rewinds = 0
        self._rewind_at = 0.0
        self._paused = False
        self._stalled_since: float | None = None
        self._lag_at = 0.0
        self.drained = True
        """False where the drain's time was over before all that was polled was committed."""

    @property
    def ready(self) -> bool:
        """Whether partitions are assigned, or it is known that there are none for this member."""
        return self._assigned_once and self._failure is None and not self._closing.is_set()

    def run(self, stop: threading.Event, ends: Offsets | None = None) -> None:
        """Work until `stop` is set, or all assigned partitions are committed up to `ends`; then drain.

        Raises:
            BatchinferError: what stopped it. All that was committed stands.
        """
        committing = threading.Thread(target=self._commit_loop, name="commit", daemon=True)
        committing.start()
        try:
            listener = Listener(self._assigned, self._revoked, self._lost)
            self._consumer.subscribe([self._topic], listener)
            while not stop.is_set() and self._failure is None:
                self._step(stop)
                if ends is not None and self._reached(ends):
                    break
            self._drain()
        finally:
            self._closing.set()
            committing.join()
            self._flight.close()
            try:
                self._consumer.close()
            finally:
                for sink in self._sinks:
                    sink.close()
        if self._failure is not None:
            raise self._failure

    # The poll thread ---------------------------------------------------------------------------------------------

    def _step(self, stop: threading.Event) -> None:
        if self._broken:
            self._rewind()
        now = time.monotonic()
        if now >= self._progress_at:
            self._progress_at = now + _PROGRESS_SECONDS
            self._commit_offsets()
        if self._flight.has_room():
            self._resume()
            self._poll(stop)
        else:
            self._wait_for_room()
        now = time.monotonic()
        if self._is_due(now):
            self._submit()
        if now >= self._lag_at:
            self._lag_at = now + _LAG_SECONDS
            self._measure_lag()

    def _poll(self, stop: threading.Event) -> None:
        timeout = _TICK_SECONDS
        if self._gathered:
            left = self._gathered_at + self._flow.max_latency_s - time.monotonic()
            if left > 0 and not self._more:
                stop.wait(min(_GATHER_SECONDS, left))
            timeout = 0.0
        room = max(0, self._flow.max_work_bytes - self._gathered_bytes) // self._message_bytes + 1
        asked = min(self._flow.max_batch - self._gathered_count, room)
        try:
            records = self._consumer.poll(asked, timeout)  # 1
        except Transient as e:
            _log.warning("%s; polling again", e)
            stop.wait(_TICK_SECONDS)
            return
        self._more = len(records) == asked
        if len(records):
            if not self._gathered:
                self._gathered_at = time.monotonic()
            self._gathered.append(records)
            self._gathered_count += len(records)
            size = records.nbytes
            self._gathered_bytes += size
            self._message_bytes = -(-size // len(records))

    def _is_due(self, now: float) -> bool:
        """Whether what was gathered goes on: there is enough, it waited long enough, or nothing else is under way."""
        return bool(self._gathered) and (
            self._gathered_count >= self._flow.max_batch
            or self._gathered_bytes >= self._flow.max_work_bytes
            or now - self._gathered_at >= self._flow.max_latency_s
            or (self._flight.empty and not self._more)
        )

    def _submit(self) -> None:
        if self._gathered:
            self._flight.add(Records.joined(self._gathered), time.monotonic(), self._epoch, self._score())
            self._forget_gathered()

    def _forget_gathered(self) -> None:
        self._gathered, self._gathered_count, self._gathered_bytes = [], 0, 0

    def _wait_for_room(self) -> None:
        """Without room nothing is polled for a moment; when that gets long, the group is served all the same."""
        now = time.monotonic()
        self._stalled_since = self._stalled_since or now
        if now - self._stalled_since < _STALL_SECONDS:
            self._flight.wait_for_room(0.02)
            return
        if not self._paused:
            self._consumer.pause(self._consumer.assignment())
            self._paused = True
        records = self._consumer.poll(1, 0.0)
        assert not len(records), "a paused partition sends nothing"
        self._flight.wait_for_room(0.02)

    def _resume(self) -> None:
        self._stalled_since = None
        if self._paused:
            self._consumer.resume(self._consumer.assignment())
            self._paused = False

    def _commit_offsets(self) -> None:
        if self._to_commit:
            with self._lock:
                offsets, self._to_commit = self._to_commit, {}
            try:
                self._consumer.commit(offsets)
            except Transient as e:
                _log.warning("progress was not committed, and will be with the next: %s", e)
                with self._lock:
                    self._to_commit = {**offsets, **self._to_commit}

    def _measure_lag(self) -> None:
        partitions = self._consumer.assignment()
        ends, positions = self._consumer.known_ends(partitions), self._consumer.positions(partitions)
        # With nothing in flight, a position may have passed what holds no message, as the marks of transactions.
        idle = self._flight.empty and not self._gathered
        at = {p: positions.get(p, 0) if idle else self._durable.get(p, 0) for p in partitions}
        self._meter.lagging({p: max(0, end - at[p]) for p, end in ends.items()})

    def _reached(self, ends: Offsets) -> bool:
        if not self._assigned_once or self._gathered or not self._flight.empty or self._broken:
            return False
        ours = self._consumer.assignment()
        if not ours:  # others have them all, or a rebalance is under way that will give some
            return time.monotonic() - self._rebalanced_at > _SETTLED_SECONDS
        positions = self._consumer.positions(ours)
        return all(positions.get(p, -1) >= ends[p] for p in ours if p in ends)

    def _drain(self) -> None:
        """Finish what was polled."""
        until = time.monotonic() + self._flow.drain_s
        if self._failure is None and not self._broken:
            self._submit()
        done = self._flight.wait_until_empty(max(0.0, until - time.monotonic()), self._is_stopped)
        with self._lock:
            if not done or self._broken:
                self.drained = False
                self._epoch += 1
            self._flush()
        self._commit_offsets()

    def _flush(self) -> None:
        try:
            for sink in self._sinks:
                self._note(sink, sink.flush())
        except Transient as e:
            self.drained = False
            self._broken = True
            _log.warning("what the sinks had gathered was not committed, and will be read again: %s", e)

    def _is_stopped(self) -> bool:
        return self._broken or self._failure is not None

    # Rebalances, in the poll thread, within polls ----------------------------------------------------------------

    def _assigned(self, partitions: Sequence[TopicPartition]) -> Offsets:
        self._meter.rebalanced()
        self._assigned_once = True
        self._rebalanced_at = time.monotonic()
        _log.info("assigned: %s", _said(partitions))
        starts: dict[TopicPartition, int] = {}
        try:
            with self._lock:
                starts = self._starts(partitions)
        except Transient as e:
            _log.warning("where to begin is not known yet: %s", e)
            self._broken = True  # nothing is delivered before all partitions were sought in
        if self._paused:  # what came is not paused with the rest
            self._paused = False
            self._stalled_since = None
        return starts

    def _revoked(self, partitions: Sequence[TopicPartition]) -> None:
        """Finish what is in flight, so that the next owner begins where this one ended, or let it go."""
        self._meter.rebalanced()
        _log.info("revoked: %s", _said(partitions))
        if not self._closing.is_set():
            if not self._is_stopped():
                self._submit()
            self._flight.wait_until_empty(self._flow.drain_s, self._is_stopped)
        with self._lock:
            self._flush()
            if not self._flight.empty:
                self._broken = True  # the partitions that stay are read again
                self._epoch += 1
            self._let_go(partitions)
        self._commit_offsets()

    def _lost(self, partitions: Sequence[TopicPartition]) -> None:
        self._meter.rebalanced()
        _log.warning("lost: %s", _said(partitions))
        with self._lock:
            self._broken = True
            self._epoch += 1
            self._let_go(partitions)
            for partition in partitions:
                self._to_commit.pop(partition, None)

    def _let_go(self, partitions: Sequence[TopicPartition]) -> None:
        for sink in self._sinks:
            sink.revoked(partitions)
        for partition in partitions:
            self._durable.pop(partition, None)

    def _starts(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Where to read on: from the sink that is least far."""
        starts: dict[TopicPartition, int] = {}
        for sink in self._sinks:
            for partition, offset in sink.assigned(partitions).items():
                starts[partition] = min(offset, starts.get(partition, offset))
        return starts

    def _rewind(self) -> None:
        """Drop all that is in flight, and read on from what is committed."""
        now = time.monotonic()
        if now < self._rewind_at:
            return
        least, most = _BACKOFF_SECONDS
        if now > self._rewind_at + most:
            self._rewinds = 0
        self._rewinds += 1
        self._rewind_at = now + min(most, least * 2**self._rewinds)
        partitions = self._consumer.assignment()
        try:
            with self._lock:
                self._epoch += 1
                self._forget_gathered()
                starts = self._starts(partitions)
                unknown = [partition for partition in partitions if partition not in starts]
                starts |= self._consumer.begin_offsets(unknown)
                self._consumer.seek(starts)
                self._durable.update(starts)
                self._broken = False
        except Transient as e:
            _log.warning("cannot read on yet: %s", e)
        else:
            _log.info("reading again from what is committed: %s", _said(partitions))

    # The commit thread -------------------------------------------------------------------------------------------

    def _commit_loop(self) -> None:
        try:
            while not self._closing.is_set():
                works = self._flight.take(self._flow.max_commit, _TICK_SECONDS)
                try:
                    self._commit(works)
                finally:
                    self._flight.landed(works)
        except BaseException as e:
            self._failure = e

    def _commit(self, works: Sequence[Work]) -> None:
        with self._lock:
            current = [work for work in works if work.epoch == self._epoch]
            if self._broken:
                return
            try:
                batches = [work.scored.result() for work in current]
                for sink in self._sinks:
                    self._note(sink, sink.deliver(batches) if batches else sink.tick())
            except Transient as e:
                _log.warning("%s; doing it again", e.message)
                self._meter.aborted()
                self._broken = True
                return
        if batches:
            self._meter.committed(batches)  # 8
            self._watcher.committed(batches)

    def _note(self, sink: Sink, durable: Offsets) -> None:
        if sink is self._sinks[0]:  # the group's progress is that of the topic sink
            self._durable.update(durable)
            if self._commits_offsets:
                self._to_commit.update(durable)


def _said(partitions: Sequence[TopicPartition]) -> str:
    return ", ".join(map(str, partitions)) or "nothing"
