"""`batchinfer drift` and `batchinfer quality` over runs of the sample pipeline, as a user calls them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from batchinfer.cli import main

PIPELINE = "pipelines/flight_delay"
Invoke = Callable[..., Result]


@pytest.fixture(scope="module")
def invoke(tmp_path_factory: pytest.TempPathFactory) -> Invoke:
    """Calls a command in a world where a January and a July day have been scored."""
    folder = tmp_path_factory.mktemp("gates")

    def call(*arguments: str) -> Result:
        return CliRunner(env={"BATCHINFER_RUNS": str(folder / "runs")}).invoke(main, arguments)

    output = f"output.path={folder}/out"
    for day in ("2013-01-10", "2013-07-10"):
        assert call("run", PIPELINE, "-p", f"ds={day}", "--set", output).exit_code == 0
    call.output = output  # type: ignore[attr-defined]
    return call


def output_of(invoke: Any) -> str:
    return str(invoke.output)


def test_the_sample_alarms_in_july_and_not_in_january(invoke: Invoke) -> None:
    found = json.loads(invoke("drift", PIPELINE, "--set", output_of(invoke), "--json").stdout)
    assert [(run["parameters"]["ds"], run["alarm"]) for run in found["runs"]] == [
        ("2013-01-10", False),
        ("2013-07-10", True),
    ]
    text = invoke("drift", PIPELINE, "--set", output_of(invoke)).stdout
    assert "ALARM  temp" in text
    assert "▁" in text


def test_pages_are_written_of_the_run_that_is_asked_for(invoke: Invoke, tmp_path: Path) -> None:
    labels = ("--labels", "data/samples/labels", "--label-column", "late")
    outcome = invoke(
        *("drift", PIPELINE, "--set", output_of(invoke), "--html", str(tmp_path), "-p", "ds=2013-01-10"),
        *labels,
    )
    assert outcome.exit_code == 0, outcome.stderr
    pages = {
        page: (tmp_path / page).read_text() for page in ("history.html", "evidently.html", "labels.html")
    }
    assert "flight-delay" in pages["history.html"]
    assert "PSI of all rows" in pages["evidently.html"]
    assert "have no label" in outcome.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--labels", "data/samples/labels", "--label-column", "late"), "no --html FOLDER"),
        (("--html", "x", "--labels", "data/samples/labels"), "go together"),
        (("--html", "x", "-p", "ds=2013-02-01"), "no run with ds=2013-02-01"),
    ],
)
def test_wrong_use_is_said(invoke: Invoke, arguments: tuple[str, ...], message: str) -> None:
    outcome = invoke("drift", PIPELINE, "--set", output_of(invoke), *arguments)
    assert (outcome.exit_code, message in outcome.stderr) == (2, True), outcome.stderr


def test_a_pipeline_that_never_ran_has_no_history(invoke: Invoke, tmp_path: Path) -> None:
    outcome = invoke("drift", PIPELINE, "--set", f"output.path={tmp_path}/none")
    assert outcome.exit_code == 2
    assert "no run of flight-delay has measured drift" in outcome.stderr
    assert "--set output.path=…, give it here too" in outcome.stderr


def test_a_validation_result_is_shown_and_rendered(invoke: Invoke, tmp_path: Path) -> None:
    run = json.loads(invoke("runs", "list", "--json").stdout)[0]
    shown = json.loads(invoke("quality", "show", run["run_id"]).stdout)
    assert (shown["success"], len(shown["results"])) == (True, 10)
    outcome = invoke("quality", "docs", str(tmp_path / "docs"))
    assert outcome.exit_code == 0, outcome.stderr
    assert "flight-delay" in (tmp_path / "docs" / "index.html").read_text()


def test_the_report_says_quality_and_drift_in_words(invoke: Invoke) -> None:
    run = json.loads(invoke("runs", "list", "--json").stdout)
    july = next(r for r in run if r["parameters"]["ds"] == "2013-07-10")
    text = invoke("runs", "show", july["run_id"]).stdout
    assert "10 expectations of flight-delay, all passed" in text
    assert "ALARM, 5% of the features have drifted: temp PSI 16" in text
