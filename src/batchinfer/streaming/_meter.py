"""What a stream has done so far: counted by its threads, read by the live line, the report and Prometheus."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from batchinfer.core import arrays
from batchinfer.streaming._ports import MicroBatch
from batchinfer.streaming._records import TopicPartition

EDGES_MS = np.array(
    [1, 2, 5, 10, 20, 30, 40, 50, 75, 100, 150, 200, 300, 500, 1e3, 2e3, 5e3, 1e4, 3e4, 6e4, 1e6]
)
"""Upper edges of the latencies' bins, in milliseconds; a last bin is open."""
_RECENT_SECONDS = 10.0
_MOST_REASONS = 100
_OTHERS = "other reasons"
"""What further reasons count as: some hold what a message says, as the id of a schema."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The counts at a moment.

    Attributes:
        messages: committed, as prediction or dead letter.
        rows: result rows committed.
        dead_letters: by reason; beyond a hundred different ones together.
        expectations: rows' failures by expectation, of dead letters.
        batches: micro-batches committed; `commits` transactions, or their like.
        aborted: commits that had to be done again.
        rebalances: assignments, revocations and losses of partitions.
        models: messages by the model that scored them.
        latency_counts: by the bins of `EDGES_MS`, messages by milliseconds from their timestamp to the commit.
        latency_sum_ms: the sum of these.
        recent: messages and latency counts of the last seconds, and how many seconds.
        lag: by partition, messages that are not committed yet.
        seconds: since the start; `busy_seconds` from the first message's poll to the last commit.
    """

    messages: int
    rows: int
    dead_letters: Mapping[str, int]
    expectations: Mapping[str, int]
    batches: int
    commits: int
    aborted: int
    rebalances: int
    models: Mapping[str, int]
    latency_counts: npt.NDArray[np.int64]
    latency_sum_ms: float
    recent: tuple[int, npt.NDArray[np.int64], float]
    lag: Mapping[TopicPartition, int]
    seconds: float
    busy_seconds: float

    def quantile_ms(self, share: float, *, recent: bool = False) -> float | None:
        """The latency below which this share of the messages is, to the edge of its bin; None without any."""
        return quantile_ms(self.recent[1] if recent else self.latency_counts, share)


def quantile_ms(counts: npt.NDArray[np.int64], share: float) -> float | None:
    """A quantile of counts by `EDGES_MS`, evenly spread within a bin."""
    total = int(counts.sum())
    if not total:
        return None
    ends = np.cumsum(counts)
    place = int(np.searchsorted(ends, share * total))
    if place >= len(EDGES_MS):
        return float(EDGES_MS[-1])
    low = float(EDGES_MS[place - 1]) if place else 0.0
    before = int(ends[place - 1]) if place else 0
    return low + (float(EDGES_MS[place]) - low) * (share * total - before) / max(1, int(counts[place]))


@dataclass(slots=True)
class _Sums:
    messages: int = 0
    rows: int = 0
    batches: int = 0
    commits: int = 0
    aborted: int = 0
    rebalances: int = 0
    latency_sum_ms: float = 0.0
    first_at: float | None = None
    last_at: float = 0.0
    dead_letters: Counter[str] = field(default_factory=Counter)
    expectations: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)


class Meter:
    """Counts; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums = _Sums()
        self._latencies = np.zeros(len(EDGES_MS) + 1, np.int64)
        self._recent: deque[tuple[float, int, npt.NDArray[np.int64]]] = deque()
        self._lag: dict[TopicPartition, int] = {}
        self._started = time.monotonic()

    def committed(self, batches: Sequence[MicroBatch]) -> None:
        """These are durable as of now."""
        now_ms, now = time.time() * 1e3, time.monotonic()
        counts = np.zeros(len(EDGES_MS) + 1, np.int64)
        total_ms, messages = 0.0, 0
        for batch in batches:
            stamps, known = arrays.to_numpy(batch.records.timestamps)
            ages = now_ms - (stamps if known is None else stamps[known])
            counts += np.bincount(np.searchsorted(EDGES_MS, ages), minlength=len(counts))
            total_ms += float(ages.sum())
            messages += len(batch.records)
        with self._lock:
            sums = self._sums
            sums.first_at = batches[0].polled_at if sums.first_at is None else sums.first_at
            sums.last_at = now
            sums.messages += messages
            sums.rows += sum(batch.results.num_rows for batch in batches)
            sums.batches += len(batches)
            sums.commits += 1
            sums.latency_sum_ms += total_ms
            for batch in batches:
                for reason, count in Counter(batch.refused.reasons).items():
                    told = reason in sums.dead_letters or len(sums.dead_letters) < _MOST_REASONS
                    sums.dead_letters[reason if told else _OTHERS] += count
                sums.expectations.update(name for names in batch.refused.expectations for name in names)
                sums.models[batch.model] += len(batch.records)
            self._latencies += counts
            self._recent.append((now, messages, counts))
            while self._recent and self._recent[0][0] < now - _RECENT_SECONDS:
                self._recent.popleft()

    def aborted(self) -> None:
        """A commit has to be done again."""
        with self._lock:
            self._sums.aborted += 1

    def rebalanced(self) -> None:
        """Partitions came or went."""
        with self._lock:
            self._sums.rebalances += 1

    def lagging(self, lag: Mapping[TopicPartition, int]) -> None:
        """How far behind the assigned partitions are."""
        with self._lock:
            self._lag = dict(lag)

    def read(self) -> Reading:
        """The counts now."""
        now = time.monotonic()
        with self._lock:
            sums = self._sums
            fresh = [entry for entry in self._recent if entry[0] >= now - _RECENT_SECONDS]
            recent = np.sum([e[2] for e in fresh], axis=0) if fresh else np.zeros_like(self._latencies)
            seconds = max(1e-3, min(_RECENT_SECONDS, now - self._started))
            return Reading(
                messages=sums.messages,
                rows=sums.rows,
                dead_letters=dict(sums.dead_letters),
                expectations=dict(sums.expectations),
                batches=sums.batches,
                commits=sums.commits,
                aborted=sums.aborted,
                rebalances=sums.rebalances,
                models=dict(sums.models),
                latency_counts=self._latencies.copy(),
                latency_sum_ms=sums.latency_sum_ms,
                recent=(sum(e[1] for e in fresh), recent, seconds),
                lag=dict(self._lag),
                seconds=now - self._started,
                busy_seconds=0.0 if sums.first_at is None else sums.last_at - sums.first_at,
            )
