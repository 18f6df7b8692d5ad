"""Validation results that runs have kept, and Great Expectations' Data Docs of them."""

from __future__ import annotations

import json
from typing import Any

from batchinfer.errors import UsageError
from batchinfer.quality import render_docs
from batchinfer.runs._quality import VALIDATION
from batchinfer.runs._records import RunRecords


def read_validation(run_id: str) -> dict[str, Any]:
    """A run's validation result, in Great Expectations' own JSON.

    Args:
        run_id: the run's id or the beginning of it.

    Raises:
        UsageError: no such run, or it checked no suite.
    """
    records = RunRecords()
    found = records.find(run_id).run_id or run_id
    content = records.kept(found, VALIDATION)
    if content is None:
        raise UsageError(
            f"run {found} has no validation result", next_step="add quality.suite to the spec", run_id=found
        )
    return _read(found, content)


def _read(run_id: str, content: bytes) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads(content)
    except ValueError as e:
        raise UsageError(f"run {run_id}: its {VALIDATION} is no JSON: {e}", run_id=run_id) from e
    return result


def write_docs(folder: str, limit: int) -> str:
    """Render Data Docs of the latest runs that checked a suite; returns the path of the first page.

    Raises:
        UsageError: no run has checked one.
        MissingExtra: Great Expectations is not installed.
    """
    records = RunRecords()
    results: list[dict[str, Any]] = []
    for run_id in (report.run_id or "" for report in records.all()):
        if len(results) < limit and (content := records.kept(run_id, VALIDATION)) is not None:
            results.append(_read(run_id, content))
    if not results:
        raise UsageError(
            f"no run in {records.location} has checked a suite", next_step="run a pipeline with one"
        )
    return str(render_docs(results, folder))
