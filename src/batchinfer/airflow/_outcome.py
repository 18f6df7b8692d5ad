"""What a command's end means for its task, and what of a run's report is handed to other tasks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

Outcome = Literal["done", "try again", "give up"]

_GIVE_UP = {2, 3, 4}
"""Wrong use, spec or input; the quality gate; the drift gate: trying the same again ends the same."""

_HANDED_ON = (
    "run_id",
    "status",
    "pipeline",
    "parameters",
    "model",
    "rows",
    "units",
    "seconds",
    "table_version",
)


def outcome_of(code: int) -> Outcome:
    """What to do after an exit code of the command line; negative for the signal that ended it.

    1 is tried again like 75: what refused the commit may have been another run of the same work, which a second
    try finds and takes for its own.
    """
    if code == 0:
        return "done"
    return "give up" if code in _GIVE_UP else "try again"


def last_json(output: str) -> dict[str, Any] | None:
    """The JSON object on the last line that a command printed; None where there is none."""
    lines = output.strip().splitlines()
    try:
        found = json.loads(lines[-1]) if lines else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def digest_of(report: Mapping[str, Any], *, gate: bool) -> dict[str, Any]:
    """A run's report in a few hundred bytes: no column's figures but the PSI of the 20 that drifted most.

    The error's text is left out: it is in the log, and may quote a location or a value. `gate` says that the spec
    wants a failure of the drift that was found.
    """
    kept = {name: report[name] for name in _HANDED_ON if name in report}
    quality = report.get("quality") or {}
    plain = {name: value for name, value in quality.items() if isinstance(value, str | int | float | bool)}
    return {**kept, "quality": plain, "drift": _drift(report.get("drift") or {}), "drift_gate": gate}


def _drift(drift: Mapping[str, Any]) -> dict[str, Any]:
    if not drift:
        return {}
    psi = {name: column["psi"] for name, column in drift["columns"].items() if column["drifted"]}
    most = sorted(psi, key=lambda name: -psi[name])[:20]
    facts = {name: drift[name] for name in ("alarm", "drifted_columns")}
    return {**facts, "columns": {name: round(psi[name], 4) for name in most}}
