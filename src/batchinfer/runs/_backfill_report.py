"""What a backfill did: each day's outcome, and the exit code that follows from all of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, astuple, dataclass, field, replace
from typing import Any, Literal, Self, get_args

from batchinfer.core import RowCounts
from batchinfer.errors import BatchinferError, Interrupted, RunFailed, Transient
from batchinfer.runs._report import RunReport

DayStatus = Literal["done", "skipped", "no input", "failed", "stopped"]
_WORST_FIRST: tuple[DayStatus, ...] = ("failed", "no input", "done", "skipped")


@dataclass(frozen=True, slots=True)
class DayReport:
    """What became of a day.

    Attributes:
        day: as 2013-01-31.
        status: done now; skipped, for its work was done before; no input; failed; or stopped before its end,
            perhaps before its beginning.
        exit_code: what `batchinfer run` would have ended with.
        attempts: how often the day was run; 0 where that was not needed, or not possible.
        run_id: the run's id; None where there was no plan.
        rows: read = scored + quarantined + skipped.
        drift_alarm: None where drift is not measured.
        table_version: the results table's version with these rows; None where they are not committed.
        seconds: wall time, all attempts together.
        error: what went wrong.
    """

    day: str
    status: DayStatus
    exit_code: int = 0
    attempts: int = 0
    run_id: str | None = None
    rows: RowCounts = field(default_factory=RowCounts)
    drift_alarm: bool | None = None
    table_version: int | None = None
    seconds: float = 0.0
    error: str | None = None

    @classmethod
    def stopped(cls, day: str) -> Self:
        """A day that the end of the backfill came before."""
        return cls(day, "stopped", exit_code=Interrupted.exit_code)

    @classmethod
    def of_run(cls, day: str, status: DayStatus, report: RunReport) -> Self:
        """A day, from what its run says."""
        return cls(
            day=day,
            status=status,
            run_id=report.run_id,
            rows=report.rows,
            drift_alarm=report.drift.get("alarm"),
            table_version=report.table_version,
        )

    @classmethod
    def of_error(cls, day: str, status: DayStatus, error: Exception) -> Self:
        """A day, from what it ended with. What is no error of ours is a defect, and terminal."""
        fields, exit_code = {}, RunFailed.exit_code
        if isinstance(error, BatchinferError):
            fields, exit_code = error.fields, error.exit_code
        report = fields.get("report")
        told = cls(day, status) if report is None else cls.of_run(day, status, report)
        return replace(told, exit_code=exit_code, error=f"{type(error).__name__}: {error}")


@dataclass(frozen=True, slots=True)
class BackfillReport:
    """What `batchinfer.runs.backfill` returns and `--json` prints.

    Attributes:
        pipeline: the spec's name.
        parameters: those that all days share.
        parameter: the one that takes the day.
        days: each day's outcome, in order.
        seconds: wall time.
        error: what kept the backfill as a whole from its end.
    """

    pipeline: str
    parameters: dict[str, str]
    parameter: str
    days: tuple[DayReport, ...]
    seconds: float = 0.0
    error: str | None = None

    @property
    def status(self) -> Literal["done", "failed", "interrupted"]:
        """Done where each day is, and its drift no reason to fail."""
        if self.exit_code == Interrupted.exit_code:
            return "interrupted"
        return "failed" if self.exit_code else "done"

    @property
    def exit_code(self) -> int:
        """0 where all is well, 130 after an interrupt, else the worst day's.

        What is terminal is worse than what may be tried again; a failure is worse than a day without input,
        and that worse than a drift that fails a day whose results stand. Of equals it is the first day's.
        """
        if any(day.status == "stopped" for day in self.days):
            return Interrupted.exit_code
        bad = [day for day in self.days if day.exit_code]
        worst = min(
            bad,
            key=lambda day: (day.exit_code == Transient.exit_code, _WORST_FIRST.index(day.status)),
            default=None,
        )
        return 0 if worst is None else worst.exit_code

    @property
    def counts(self) -> dict[str, int]:
        """How many days have each status."""
        found = Counter(day.status for day in self.days)
        return {status: found[status] for status in get_args(DayStatus)}

    @property
    def rows(self) -> RowCounts:
        """The rows that readers see, of all days."""
        standing = [day.rows for day in self.days if day.status in {"done", "skipped"}]
        return RowCounts(*(sum(part) for part in zip(*(astuple(rows) for rows in standing), strict=True)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "status": self.status,
            "exit_code": self.exit_code,
            "pipeline": self.pipeline,
            "parameters": self.parameters,
            "parameter": self.parameter,
            "counts": self.counts,
            "rows": asdict(self.rows),
            "seconds": self.seconds,
            "error": self.error,
            "days": [asdict(day) for day in self.days],
        }
