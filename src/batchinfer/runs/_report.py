"""The run report: what a run did, as one value that text, JSON and the run's record are written from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self

from batchinfer.core import RowCounts

Status = Literal["running", "done", "failed", "unknown", "interrupted"]


@dataclass(frozen=True, slots=True)
class RunReport:
    """What `batchinfer.run` returns and `--json` prints.

    Attributes:
        run_id: derived from the work itself: the same work has the same id.
        status: done, failed or unknown; running while it runs, interrupted after Ctrl-C.
        pipeline: the spec's name.
        parameters: the run's parameters.
        model: name, version and digest of the bundle that scored.
        rows: read = scored + quarantined + skipped.
        units: total, and how many of them an earlier attempt had done already.
        seconds: wall time of this attempt, from the plan to the commit.
        rows_per_second: rows read in that time; 0 where an earlier attempt had done all units.
        table_version: the results table's version with these rows; None before a commit.
        quality: the suite's verdict, rows quarantined by reason, NaN and infinite scores by column.
        drift: alarm, share of drifted columns, and each column's figures; empty where drift is not measured.
        model_loads: how many sessions were opened, over all workers.
        devices: what scored, each once: its name, how many units, and on a GPU the rows of a call; notes say
            what was unlike planned, as a batch that was halved for want of memory.
        started_at: when this attempt began; UTC, ISO 8601.
        error: what went wrong, where the status is not done.
        alerts: what became of the alert that the run gave rise to, receiver by receiver.
        timings: where the time went, in seconds: `stages` of the run's wall time (plan, tell, begin, score,
            judge, commit, finish), and `workers`, of all threads and machines together (read, score, write).
        telemetry: what became of metrics and lineage, receiver by receiver.
    """

    run_id: str
    status: Status
    pipeline: str
    parameters: dict[str, str]
    model: dict[str, str]
    rows: RowCounts = field(default_factory=RowCounts)
    units: dict[str, int] = field(default_factory=lambda: {"total": 0, "reused": 0})
    seconds: float = 0.0
    rows_per_second: int = 0
    table_version: int | None = None
    quality: dict[str, Any] = field(default_factory=dict)
    drift: dict[str, Any] = field(default_factory=dict)
    model_loads: int = 0
    devices: list[dict[str, Any]] = field(default_factory=list)
    started_at: str = ""
    error: str | None = None
    alerts: list[dict[str, Any]] = field(default_factory=list)
    timings: dict[str, dict[str, float]] = field(default_factory=dict)
    telemetry: list[dict[str, Any]] = field(default_factory=list)

    def with_(self, **changes: Any) -> RunReport:
        """A copy with other values."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, in the order of the fields."""
        return asdict(self)

    def to_json(self) -> str:
        """One line."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """Read a report back.

        Raises:
            KeyError, TypeError: it is not one.
        """
        return cls(**{**value, "rows": RowCounts(**value["rows"])})
