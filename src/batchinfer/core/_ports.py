"""The ports: what an engine, a model and a results store must do for a run. Adapters live beside `core`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchinfer.core._results import Lineage
from batchinfer.core._units import Partition, StagedPart, UnitReport, WorkUnit

_Task = TypeVar("_Task")
_Outcome = TypeVar("_Outcome")

BlockMap = Callable[[Callable[[_Task], _Outcome], Iterable[_Task]], Iterable[_Outcome]]
"""Applies a function to each block of a batch, in order, perhaps on many threads. `map` is one."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a row gets no score. `expectations` names those that it failed; empty where the model refused it."""

    text: str
    expectations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusals:
    """Rows of a batch that get no score: their indices (int64, ascending, each once), and why.

    `codes` (int32, one a row) are places in `reasons`, which names each reason once.
    """

    rows: npt.NDArray[np.int64]
    codes: npt.NDArray[np.int32]
    reasons: tuple[Reason, ...]

    @classmethod
    def none(cls) -> Self:
        """No row is refused."""
        return cls(np.empty(0, np.int64), np.empty(0, np.int32), ())

    def __len__(self) -> int:
        return len(self.rows)

    def reason(self, place: int) -> Reason:
        """Why the row at `rows[place]` is refused."""
        return self.reasons[int(self.codes[place])]

    def counts(self) -> dict[str, int]:
        """How many rows are refused, by the reason's text."""
        counts: dict[str, int] = {}
        for reason, count in zip(
            self.reasons, np.bincount(self.codes, minlength=len(self.reasons)), strict=True
        ):
            if count:
                counts[reason.text] = counts.get(reason.text, 0) + int(count)
        return counts

    def of(self, rows: npt.NDArray[np.int64]) -> Refusals:
        """The same refusals, of rows that are numbered otherwise: row i is now `rows[i]`."""
        return Refusals(rows[self.rows], self.codes, self.reasons)

    def others(self, batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
        """The places of the batch's rows that are not refused."""
        others = np.ones(batch.num_rows, np.bool_)
        others[self.rows] = False
        return np.flatnonzero(others)

    def joined(self, other: Refusals) -> Refusals:
        """Both; no row may be in each."""
        if not len(other) or not len(self):
            return self if len(self) else other
        rows = np.concatenate([self.rows, other.rows])
        codes = np.concatenate([self.codes, other.codes + np.int32(len(self.reasons))])
        order = np.argsort(rows)
        return Refusals(rows[order], codes[order], self.reasons + other.reasons)


class Tally(Protocol):
    """What was counted over some rows. Merging is associative and commutative, bit for bit.

    So it does not matter in which order units end, nor whether a unit was done now or by an earlier attempt.
    """

    def merge(self, other: Self) -> Self:
        """Over the rows of both."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for the receipt. Who made the tally reads it back."""


class Checks(Protocol):
    """What the rows of an input must be, measured batch by batch. Pure and thread-safe."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The input columns that the checks read."""

    def check(self, batch: pa.RecordBatch, lineage: Lineage) -> tuple[Refusals, Tally]:
        """The rows that must not be scored, and the tally of all rows of the batch."""

    def tally(self, value: dict[str, Any]) -> Tally:
        """Read back what a tally's `to_dict` gave."""


class Profiler(Protocol):
    """Takes profiles of what was scored, and of the scores. Pure and thread-safe."""

    def profile(self, features: pa.RecordBatch, predictions: pa.RecordBatch) -> Tally:
        """The profile of these rows: as many features as predictions."""

    def tally(self, value: dict[str, Any]) -> Tally:
        """Read back what a tally's `to_dict` gave."""


class Model(Protocol):
    """A loaded model: pure, thread-safe, and bit-exact under the rule that its certificate states."""

    @property
    def identity(self) -> str:
        """`name@version`, as the lineage column carries it."""

    @property
    def output_schema(self) -> pa.Schema:
        """The result columns, in order."""

    def score_rows(
        self, features: pa.RecordBatch, blocks: BlockMap[Any, Any] = map
    ) -> tuple[pa.RecordBatch, Refusals]:
        """Score the rows that can be scored: result columns of those rows in order, and the others."""


class Work(Protocol):
    """What an engine does to each unit. It pickles, where the engine has other processes."""

    def __call__(self, unit: WorkUnit, device: str | None = None, /) -> UnitReport:
        """Work on a unit, on the device that the engine assigned, or on the CPU."""


class Engine(Protocol):
    """Where units are worked on. One verb; placement, retries and devices are the engine's own affair."""

    @property
    def blocks(self) -> BlockMap[Any, Any] | None:
        """Shares the blocks of a batch out over this process' threads; None where others do the work."""

    @property
    def same_machine(self) -> bool:
        """Whether the workers see this machine's local files."""

    def map(self, work: Work, units: Sequence[WorkUnit]) -> Iterator[UnitReport]:
        """Yield each unit's report as it is done, in any order.

        What fails with a Transient error is attempted again, a few times. The first other error, or the last
        of these, ends the iteration, and no unit is begun after it.
        """


@dataclass(frozen=True, slots=True)
class StagingArea:
    """Where a worker puts parts and receipts of one run. Plain strings: it travels to the workers.

    A part lies at `parts/<partition path>/<name>`, a receipt at `receipts/<unit>.json`.
    """

    parts: str
    receipts: str


@dataclass(frozen=True, slots=True)
class Fence:
    """What the store held for a run's partitions when the run began; a commit on anything else is refused."""

    tokens: dict[Partition, str]


@dataclass(frozen=True, slots=True)
class CommitInfo:
    """What a commit says of itself: kept in the table's own log, so that the table explains its rows."""

    run_id: str
    pipeline: str
    report: dict[str, Any]


class Store(Protocol):
    """A results table that replaces partitions in one atomic step."""

    def begin(self, run_id: str, schema: pa.Schema, partitions: Sequence[Partition]) -> Fence:
        """Check that the table takes rows of `schema` and can be written to, and read the fence.

        Raises:
            StoreError: another schema, other partition columns, or no permission.
        """

    def staging(self, run_id: str) -> StagingArea:
        """Where the run's workers stage."""

    def commit(self, fence: Fence, parts: Sequence[tuple[Partition, StagedPart]], info: CommitInfo) -> int:
        """Replace the fence's partitions by the parts, atomically; returns the new table version.

        Raises:
            CommitRefused: a partition was replaced since `begin`. Nothing has changed.
            StoreError: the table cannot be written, or a staged part is gone. Nothing has changed.
            CommitUnknown: the outcome could not be learnt. Nothing may be deleted.
            Transient: others commit to the table without a pause. Nothing has changed.
        """


class StoreHistory(Protocol):
    """What a results table remembers. `results` commands and recovery ask it."""

    def committed(self, run_id: str, partitions: Sequence[Partition]) -> tuple[int, CommitInfo] | None:
        """The version and info of a run whose rows are what readers of the partitions see now, else None."""

    def history(self, limit: int) -> list[dict[str, Any]]:
        """The latest commits, newest first: version, timestamp_ms, run_id, pipeline, operation, report."""

    def sweep(self, older_than_seconds: float, *, dry_run: bool) -> list[str]:
        """Delete staged files of at least that age which no commit refers to; returns their paths."""
