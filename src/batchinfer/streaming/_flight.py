"""Micro-batches in flight: in the order of their polls, scored on many threads, and bounded in number and bytes."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from batchinfer.streaming._ports import MicroBatch
from batchinfer.streaming._records import Records

Score = Callable[[Records, float], MicroBatch]


@dataclass(frozen=True, slots=True)
class Work:
    """A micro-batch under way. `epoch` says between which rewinds it was polled."""

    epoch: int
    messages: int
    nbytes: int
    scored: Future[MicroBatch]


class Flight:
    """A queue between the poll thread, which adds, the scorers, and the commit thread, which takes and lands."""

    def __init__(self, threads: int, max_works: int, max_bytes: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="score")
        self._changed = threading.Condition()
        self._waiting: deque[Work] = deque()
        self._works = self._bytes = 0
        self._max_works, self._max_bytes = max_works, max_bytes

    def add(self, records: Records, polled_at: float, epoch: int, score: Score) -> None:
        """Begin to score messages; never waits."""
        work = Work(epoch, len(records), records.nbytes, self._pool.submit(score, records, polled_at))
        with self._changed:
            self._waiting.append(work)
            self._works += 1
            self._bytes += work.nbytes
            self._changed.notify_all()
        work.scored.add_done_callback(self._notify)

    def has_room(self) -> bool:
        """Whether more may be polled."""
        with self._changed:
            return self._works < self._max_works and self._bytes < self._max_bytes

    def wait_for_room(self, timeout_s: float) -> bool:
        """Wait until there is room, at most so long."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._works < self._max_works and self._bytes < self._max_bytes, timeout_s
            )

    def wait_until_empty(self, timeout_s: float, broken: Callable[[], bool]) -> bool:
        """Wait until all has landed, at most so long, and no longer once something is `broken`."""
        until = time.monotonic() + timeout_s
        with self._changed:
            while self._works and not broken() and (left := until - time.monotonic()) > 0:
                self._changed.wait(min(left, 0.05))
            return not self._works

    @property
    def empty(self) -> bool:
        """Whether all has landed."""
        with self._changed:
            return not self._works

    def take(self, most_messages: int, timeout_s: float) -> list[Work]:
        """The next works that are scored, in order, of so many messages; empty if the next is not scored in time."""
        until = time.monotonic() + timeout_s
        with self._changed:
            while not (self._waiting and self._waiting[0].scored.done()):
                left = until - time.monotonic()
                if left <= 0:
                    return []
                self._changed.wait(left)
            taken: list[Work] = []
            messages = 0
            while (
                self._waiting and self._waiting[0].scored.done() and (not taken or messages < most_messages)
            ):
                taken.append(self._waiting.popleft())
                messages += taken[-1].messages
            return taken

    def landed(self, works: Sequence[Work]) -> None:
        """These are committed, or dropped."""
        with self._changed:
            self._works -= len(works)
            self._bytes -= sum(work.nbytes for work in works)
            self._changed.notify_all()

    def close(self) -> None:
        """Drop what is not begun."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _notify(self, _scored: Future[MicroBatch]) -> None:
        with self._changed:
            self._changed.notify_all()
