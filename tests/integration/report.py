"""The contract of a run's report, which Python and `--json` both keep."""

from __future__ import annotations

from typing import Any

REPORT_FIELDS = {
    "run_id",
    "status",
    "pipeline",
    "parameters",
    "model",
    "rows",
    "units",
    "seconds",
    "rows_per_second",
    "table_version",
    "quality",
    "drift",
}


def assert_contract(report: dict[str, Any]) -> None:
    """Every field is there, whatever became of the run."""
    assert report.keys() >= REPORT_FIELDS
    assert report["model"].keys() >= {"name", "version", "digest"}
    assert report["rows"].keys() == {"read", "scored", "quarantined", "skipped"}
    assert report["units"].keys() == {"total", "reused"}
