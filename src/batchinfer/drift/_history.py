"""The history of drift: one row for each run and column, and what a person wants to know of many."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal

import pyarrow as pa
import pyarrow.json as pa_json

HISTORY = pa.schema(
    [
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("pipeline", pa.string(), nullable=False),
        pa.field("parameters", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("table_version", pa.int64()),
        pa.field("committed_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("column", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("psi", pa.float64()),
        pa.field("js", pa.float64()),
        pa.field("limit", pa.float64()),
        pa.field("drifted", pa.bool_(), nullable=False),
        pa.field("null_rate", pa.float64()),
        pa.field("reference_null_rate", pa.float64()),
        pa.field("unseen", pa.float64()),
        pa.field("mean", pa.float64()),
        pa.field("reference_mean", pa.float64()),
        pa.field("min", pa.float64()),
        pa.field("max", pa.float64()),
        pa.field("alarm", pa.bool_(), nullable=False),
        pa.field("drifted_columns", pa.float64(), nullable=False),
    ]
)
"""A row is a run and a column. `parameters` is JSON text; `rows`, `alarm` and `drifted_columns` are the run's.

Null where there is nothing to say: the mean of text, the PSI of a column without a value, `table_version` of a store
that has none. `limit` is the PSI above which the column counts as drifted.
"""

_BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """Which run a drift report is of. `model` is name@version; `committed_at` bears a time zone."""

    run_id: str
    pipeline: str
    parameters: Mapping[str, str]
    model: str
    table_version: int | None
    committed_at: datetime


def history_rows(run: MeasuredRun, report: Mapping[str, Any]) -> pa.Table:
    """The rows that a run adds to the history, in the order of the report's columns.

    Args:
        run: whose drift it is.
        report: `DriftReport.to_dict()`.

    Raises:
        KeyError: the report lacks a figure.
    """
    of_run = {
        "run_id": run.run_id,
        "pipeline": run.pipeline,
        "parameters": json.dumps(dict(run.parameters)),
        "model": run.model,
        "table_version": run.table_version,
        "committed_at": run.committed_at,
        "rows": report["rows"],
        "alarm": report["alarm"],
        "drifted_columns": report["drifted_columns"],
    }
    figures = ("kind", *(f.name for f in fields(Point)))
    rows = [
        {**of_run, "column": name, **{figure: measured[figure] for figure in figures}}
        for name, measured in report["columns"].items()
    ]
    if not rows:
        return HISTORY.empty_table()
    # Read as JSON: `Table.from_pylist` would import pandas, in every run that measures drift.
    lines = "\n".join(json.dumps(row, default=str) for row in rows).encode()
    options = pa_json.ParseOptions(explicit_schema=HISTORY, unexpected_field_behavior="error")
    return (
        pa_json.read_json(pa.BufferReader(lines), parse_options=options).select(HISTORY.names).cast(HISTORY)
    )


@dataclass(frozen=True, slots=True)
class Point:
    """A column in one run; see `HISTORY` for each field."""

    psi: float | None
    js: float | None
    limit: float | None
    drifted: bool
    null_rate: float | None
    reference_null_rate: float | None
    unseen: float | None
    mean: float | None
    reference_mean: float | None
    min: float | None
    max: float | None


@dataclass(frozen=True, slots=True)
class RunDrift:
    """One run. `drifted` names its drifted columns, the most drifted first. A window has no `table_version`."""

    run_id: str
    parameters: dict[str, str]
    model: str
    table_version: int | None
    committed_at: datetime
    rows: int
    drifted_columns: float
    alarm: bool
    drifted: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ColumnHistory:
    """One column over all runs: a point for each, None where a run did not measure it."""

    column: str
    kind: Literal["prediction", "feature"]
    points: tuple[Point | None, ...]

    @property
    def latest(self) -> Point | None:
        """Its point in the latest run that measured it."""
        return next((point for point in reversed(self.points) if point is not None), None)

    @property
    def drifted_runs(self) -> int:
        """In how many runs it drifted."""
        return sum(point is not None and point.drifted for point in self.points)

    @property
    def sparkline(self) -> str:
        """PSI in a character a run, the newest right. A full bar is the largest of PSI and limit."""
        values = [point.psi if point is not None else None for point in self.points]
        known = [value for value in values if value is not None]
        limits = [point.limit for point in self.points if point is not None and point.limit is not None]
        top = max([*known, *limits], default=0.0)
        return "".join(
            "·" if value is None else _BARS[round(value / top * (len(_BARS) - 1)) if top > 0 else 0]
            for value in values
        )


@dataclass(frozen=True, slots=True)
class DriftHistory:
    """Runs from the oldest to the newest; columns with predictions first, then the most drifted."""

    pipeline: str
    runs: tuple[RunDrift, ...]
    columns: tuple[ColumnHistory, ...]

    def last(self, runs: int) -> DriftHistory:
        """The newest runs only, with the columns that they measured, ordered by them."""
        if runs >= len(self.runs):
            return self
        cut = [ColumnHistory(c.column, c.kind, c.points[-runs:]) for c in self.columns]
        return DriftHistory(self.pipeline, self.runs[-runs:], _ordered([c for c in cut if any(c.points)]))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values. A column's `psi` is its latest; its `history` has a value for each of the runs."""
        return {
            "pipeline": self.pipeline,
            "runs": [
                {
                    "run_id": run.run_id,
                    "parameters": run.parameters,
                    "model": run.model,
                    "committed_at": run.committed_at.isoformat(),
                    "rows": run.rows,
                    "drifted_columns": run.drifted_columns,
                    "alarm": run.alarm,
                    "drifted": list(run.drifted),
                }
                for run in self.runs
            ],
            "columns": [
                {
                    "column": column.column,
                    "kind": column.kind,
                    "drifted_runs": column.drifted_runs,
                    **(
                        {f.name: getattr(column.latest, f.name) for f in fields(Point)}
                        if column.latest
                        else {}
                    ),
                    "history": [point.psi if point is not None else None for point in column.points],
                }
                for column in self.columns
            ],
        }


def summarise(history: pa.Table) -> DriftHistory:
    """Runs and columns of one pipeline's history, in the order of the commits. Pure.

    Args:
        history: rows of `HISTORY`, in any order; not of several pipelines.
    """
    rows = history.sort_by(
        [("committed_at", "ascending"), ("run_id", "ascending"), ("column", "ascending")]
    ).to_pylist()
    places = {run_id: place for place, run_id in enumerate(dict.fromkeys(row["run_id"] for row in rows))}
    by_run: list[list[dict[str, Any]]] = [[] for _ in places]
    kinds: dict[str, Literal["prediction", "feature"]] = {}
    points: dict[str, list[Point | None]] = {}
    for row in rows:
        place, column = places[row["run_id"]], row["column"]
        by_run[place].append(row)
        kinds[column] = row["kind"]
        points.setdefault(column, [None] * len(places))[place] = Point(
            **{f.name: row[f.name] for f in fields(Point)}
        )
    columns = [ColumnHistory(name, kinds[name], tuple(points[name])) for name in kinds]
    return DriftHistory(
        pipeline=rows[-1]["pipeline"] if rows else "",
        runs=tuple(_run(found) for found in by_run),
        columns=_ordered(columns),
    )


def _run(rows: Sequence[Mapping[str, Any]]) -> RunDrift:
    first = rows[0]
    drifted = [row for row in rows if row["drifted"]]
    drifted.sort(key=lambda row: (-excess(row["psi"], row["limit"]), row["column"]))
    return RunDrift(
        run_id=first["run_id"],
        parameters=json.loads(first["parameters"]),
        model=first["model"],
        table_version=first["table_version"],
        committed_at=first["committed_at"],
        rows=first["rows"],
        drifted_columns=first["drifted_columns"],
        alarm=first["alarm"],
        drifted=tuple(row["column"] for row in drifted),
    )


def excess(psi: float | None, limit: float | None) -> float:
    """How many times its limit a PSI is."""
    if psi is None or limit is None:
        return 0.0
    return psi / limit if limit > 0 else psi


def _ordered(columns: Sequence[ColumnHistory]) -> tuple[ColumnHistory, ...]:
    def place(column: ColumnHistory) -> tuple[bool, int, float, str]:
        largest = max(
            (excess(point.psi, point.limit) for point in column.points if point is not None), default=0.0
        )
        return (column.kind != "prediction", -column.drifted_runs, -largest, column.column)

    return tuple(sorted(columns, key=place))
