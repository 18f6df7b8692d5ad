"""Histories that tests draw and print."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from batchinfer.drift import HISTORY, MeasuredRun, history_rows

START = datetime(2026, 2, 1, 4, tzinfo=UTC)


def column(
    psi: float | None, limit: float | None = 0.2, kind: str = "feature", **values: Any
) -> dict[str, Any]:
    """A column of a drift report."""
    return {
        "kind": kind,
        "psi": psi,
        "js": 0.1,
        "limit": limit,
        "drifted": psi is not None and limit is not None and psi > limit,
        "null_rate": 0.0,
        "reference_null_rate": 0.01,
        "unseen": 0.0,
        "mean": 1.0,
        "reference_mean": 1.5,
        "min": 0.0,
        "max": 2.0,
        **values,
    }


def report(
    columns: Mapping[str, dict[str, Any]], *, rows: int = 1000, alarm: bool | None = None
) -> dict[str, Any]:
    """A drift report as `DriftReport.to_dict()` gives it."""
    features = [c["drifted"] for c in columns.values() if c["kind"] == "feature"]
    share = sum(features) / len(features) if features else 0.0
    return {
        "alarm": share > 0.3 if alarm is None else alarm,
        "drifted_columns": share,
        "rows": rows,
        "columns": dict(columns),
    }


def run(number: int, **parameters: str) -> MeasuredRun:
    """The n-th run, committed n minutes after the first."""
    when = START + timedelta(minutes=number)
    return MeasuredRun(f"run{number:04}", "flights", parameters, "delay@1", number, when)


def two_months() -> pa.Table:
    """Three calm days in January, three in July that drifted in `temp` and once in `dest`."""
    tables = []
    for number, day in enumerate(["01-08", "01-09", "01-10", "07-08", "07-09", "07-10"]):
        is_july = day.startswith("07")
        columns = {
            "dest": column(
                0.3 if day == "07-10" else 0.1, mean=None, reference_mean=None, min=None, max=None
            ),
            "temp": column(14.0 if is_july else 1.0, 5.0, mean=85.0 if is_july else 40.0),
            "calm": column(0.01),
            "p_late": column(0.05, kind="prediction"),
        }
        tables.append(history_rows(run(number, ds=f"2013-{day}"), report(columns)))
    return pa.concat_tables(tables)


def empty() -> pa.Table:
    """Of a pipeline that never ran."""
    return HISTORY.empty_table()
