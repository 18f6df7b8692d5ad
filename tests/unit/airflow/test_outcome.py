"""What an exit code means to a scheduler, and how little of a report is handed on."""

from __future__ import annotations

import signal

import pytest

from batchinfer import errors
from batchinfer.airflow._outcome import digest_of, last_json, outcome_of


@pytest.mark.parametrize("error", [getattr(errors, name) for name in errors.__all__])
def test_every_error_has_an_outcome_and_what_may_pass_is_tried_again(
    error: type[errors.BatchinferError],
) -> None:
    outcome = outcome_of(error.exit_code)
    if issubclass(error, errors.Transient | errors.CommitRefused | errors.WorkerLost | errors.Interrupted):
        assert outcome == "try again"
    if error.exit_code in {2, 3, 4}:
        assert outcome == "give up"


def test_a_signal_is_tried_again() -> None:
    assert outcome_of(-signal.SIGKILL) == "try again"
    assert outcome_of(0) == "done"


@pytest.mark.parametrize("output", ["", "\n", "no JSON", "[1]", '{"a": 1}\ndone'])
def test_output_that_ends_without_an_object_is_none(output: str) -> None:
    assert last_json(output) is None
    assert last_json(output + '\n{"b": 2}\n') == {"b": 2}


def test_a_wide_report_is_handed_on_small_and_without_the_errors_text() -> None:
    columns = {f"c{n}": {"drifted": n % 2 == 0, "psi": n / 100, "mean": 1.0} for n in range(500)}
    report = {
        "run_id": "r",
        "error": "s3://user:secret@bucket",
        "quality": {"success": False, "failed": [{"values": ["secret"]}]},
        "drift": {"alarm": True, "drifted_columns": 0.5, "rows": 9, "columns": columns},
    }
    kept = digest_of(report, gate=False)
    assert kept["quality"] == {"success": False}
    assert list(kept["drift"]["columns"])[:2] == ["c498", "c496"]
    assert len(kept["drift"]["columns"]) == 20
    assert "secret" not in str(kept)
