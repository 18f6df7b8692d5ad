"""The nightly DAGs, run for real by `dag.test()`: what each way to end means for tasks, results and events.

All of them run once, one after the other in one process; each test looks at its own.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from tests.integration.airflow.conftest import Deployment, of

DAY = "2013-01-05"
DAYS = [f"2013-01-{day:02}" for day in range(1, 11)]
DRIFT: dict[str, Any] = {"thresholds": {"psi": 0.2, "drifted_columns": 0.1}}
SECRET = "planted-6f1c"
Outcomes = dict[str, Any]


@pytest.fixture(scope="module")
def outcomes(deployment: Deployment) -> Outcomes:
    runs = {name: of(DAY, name) for name in PREPARED}
    for name, prepare in PREPARED.items():
        prepare(deployment, name)
    deployment.write_spec("days")
    for number, day in enumerate(DAYS):
        deployment.write_input(day, deployment.rows(1000 * number, 50), "days")
    (deployment.folder("broken") / "pipeline.yaml").write_text("name: broken\nschedule: {crn: '@daily'}\n")
    runs |= {f"day {day}": of(day, "days") for day in DAYS}
    runs |= {"day again": {"dag": "days", "conf": {"ds": DAY}}, "no day": {"dag": "finished"}}
    deployment.write_spec("no time", {"cron": "99 * * * *"})
    deployment.write_spec("no_time", {"cron": "99 * * * *"})
    runs |= {"broken": {"dag": "broken"}, "no time": {"dag": "no_time"}}
    return deployment.test(runs, PLANTED=SECRET)


def plain(deployment: Deployment, name: str) -> None:
    deployment.write_input(DAY, deployment.rows(0, 2000), name)
    reports = {"reports": "reports", "reports_url": "https://reports.example/r"}
    secret = {"engine": {"kind": "local", "conf": {"spark.key": "${PLANTED}"}}}
    deployment.write_spec(
        name, {**reports, **secret}, drift=DRIFT, alerts={"command": ["true", "${PLANTED}"]}
    )


def alarm(deployment: Deployment, name: str, on_drift: str = "warn") -> None:
    table = deployment.rows(0, 2000)
    drifted = table.set_column(1, "x0", pa.array([1000.0] * 2000, pa.float32()))
    deployment.write_input(DAY, drifted, name)
    deployment.write_spec(name, drift={**DRIFT, "on_drift": on_drift})


def drift_gate(deployment: Deployment, name: str) -> None:
    alarm(deployment, name, "fail")


def quality_gate(deployment: Deployment, name: str) -> None:
    small = {"type": "expect_column_values_to_be_between", "kwargs": {"column": "x0", "max_value": 1}}
    deployment.write_input(DAY, deployment.rows(0, 100), name)
    deployment.write_spec(name, quality={"suite": "suite.json"})
    suite = {"name": "s", "meta": {}, "expectations": [small]}
    (deployment.folder(name) / "suite.json").write_text(json.dumps(suite))


def transient(deployment: Deployment, name: str) -> None:
    path = deployment.write_input(DAY, deployment.rows(0, 100), name)
    # Replaces the file that it is called on the rows of: the run finds another than it has planned.
    transform = f"""
import pathlib
import pyarrow.parquet as pq
def build(batch):
    told = pathlib.Path({str(deployment.root / "changed")!r})
    if not told.exists():
        told.touch()
        path = pathlib.Path({str(path)!r})
        pq.write_table(pq.read_table(path, partitioning=None), path.with_suffix(".new"), compression="none")
        path.with_suffix(".new").replace(path)
    return batch.select(["x0", "x1", "x2"])
"""
    deployment.write_spec(name, transform=deployment.write_transform(name, transform))


def killed(deployment: Deployment, name: str) -> None:
    deployment.write_input(DAY, deployment.rows(0, 600_000), name, row_group_size=300_000)
    # Dies as by the kernel's hand, in the second unit, when the first has its receipt.
    transform = f"""
import os, pathlib, signal, time
def build(batch):
    told, results = pathlib.Path({str(deployment.root / "killed")!r}), pathlib.Path({str(deployment.results(name))!r})
    if batch["id"][0].as_py() >= 300_000 and not told.exists():
        limit = time.monotonic() + 60
        while not any("receipt" in str(p) and p.is_file() for p in results.rglob("*")):
            assert time.monotonic() < limit, [str(p) for p in results.rglob("*")]
            time.sleep(0.05)
        told.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return batch.select(["x0", "x1", "x2"])
"""
    deployment.write_spec(name, engine={"threads": 2}, transform=deployment.write_transform(name, transform))


def wrong_input(deployment: Deployment, name: str) -> None:
    deployment.write_input(DAY, deployment.rows(0, 100).drop_columns(["x1"]), name)
    deployment.write_spec(name)


def late(deployment: Deployment, name: str) -> None:
    deployment.write_spec(name, {"wait_s": 1, "poll_s": 0.2})


def unfinished(deployment: Deployment, name: str) -> None:
    deployment.write_input(DAY, deployment.rows(0, 100), name)
    deployment.write_spec(name, {"marker": "_SUCCESS", "wait_s": 0.5, "poll_s": 0.1})


def finished(deployment: Deployment, name: str) -> None:
    unfinished(deployment, name)
    (deployment.root / "input" / name / f"ds={DAY}" / "_SUCCESS").touch()


PREPARED = {
    function.__name__: function
    for function in (
        plain,
        alarm,
        drift_gate,
        quality_gate,
        transient,
        killed,
        wrong_input,
        late,
        unfinished,
        finished,
    )
}


def states(run: dict[str, Any]) -> dict[str, str]:
    return {task: state for task, (state, _) in run["tasks"].items()}


def report(run: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = run["xcoms"]["score"]["return_value"]
    return found


def test_a_run_scores_its_interval_and_tells_of_the_partition(
    outcomes: Outcomes, deployment: Deployment
) -> None:
    run = outcomes["plain"]
    assert states(run) == {
        "input_arrived": "success",
        "plan": "success",
        "score": "success",
        "verdict": "success",
        "publish": "success",
        "drift_alarm": "skipped",
        "drift_report": "success",
    }
    assert deployment.scored(DAY, "plain") == list(range(2000))
    assert report(run)["run_id"] == run["xcoms"]["plan"]["return_value"]["run_id"]
    assert report(run)["rows"] == {"read": 2000, "scored": 2000, "quarantined": 0, "skipped": 0}
    assert report(run)["drift"]["alarm"] is False
    assert len(json.dumps(report(run))) < 1000
    assert run["events"].keys() == {"plain/results"}
    told = run["events"]["plain/results"]
    assert (told["parameters"], told["run_id"]) == ({"ds": DAY}, report(run)["run_id"])


def test_the_drift_report_is_a_click_away(outcomes: Outcomes, deployment: Deployment) -> None:
    run_id = report(outcomes["plain"])["run_id"]
    link = outcomes["plain"]["xcoms"]["drift_report"]["_link_DriftLink"]
    assert link == f"https://reports.example/r/{run_id}/history.html"
    assert (deployment.root / "reports" / run_id / "history.html").exists()


def test_an_alarm_is_an_event_of_its_own(outcomes: Outcomes) -> None:
    run = outcomes["alarm"]
    assert run["state"] == "success"
    assert run["events"].keys() == {"alarm/results", "alarm/drift"}
    assert run["events"]["alarm/drift"]["parameters"] == {"ds": DAY}
    assert run["events"]["alarm/drift"]["columns"]["x0"] > 0.2


def test_the_drift_gate_fails_the_verdict_publishes_nothing_and_still_alarms(
    outcomes: Outcomes, deployment: Deployment
) -> None:
    run = outcomes["drift_gate"]
    assert run["tasks"]["score"] == ["success", 1]
    assert run["tasks"]["verdict"] == ["failed", 1]
    assert states(run)["publish"] == "upstream_failed"
    assert run["events"].keys() == {"drift_gate/drift"}
    assert deployment.scored(DAY, "drift_gate") == list(range(2000))
    assert "drift gate: " in run["log"]


def test_the_quality_gate_fails_without_a_retry_and_commits_nothing(
    outcomes: Outcomes, deployment: Deployment
) -> None:
    run = outcomes["quality_gate"]
    assert run["tasks"]["score"] == ["failed", 1]
    assert states(run)["publish"] == "upstream_failed"
    assert run["events"] == {}
    assert report(run)["rows"]["quarantined"] > 5
    assert "QualityGate" in run["log"]
    assert not (deployment.results("quality_gate") / "_delta_log").exists()


def test_a_transient_failure_is_tried_again(outcomes: Outcomes, deployment: Deployment) -> None:
    run = outcomes["transient"]
    assert run["tasks"]["score"] == ["success", 2]
    assert "ended with exit code 75" in run["log"]
    assert states(run)["publish"] == "success"
    assert deployment.scored(DAY, "transient") == list(range(100))


def test_what_a_kill_left_is_reused_by_the_retry(outcomes: Outcomes, deployment: Deployment) -> None:
    run = outcomes["killed"]
    assert run["tasks"]["score"] == ["success", 2]
    assert "was ended by signal 9" in run["log"]
    assert report(run)["units"] == {"total": 2, "reused": 1}
    assert deployment.scored(DAY, "killed") == list(range(600_000))


def test_wrong_input_fails_without_a_retry_and_says_why(outcomes: Outcomes) -> None:
    run = outcomes["wrong_input"]
    assert run["tasks"]["plan"] == ["failed", 1]
    assert "x1" in run["log"]


def test_input_that_never_comes_fails_the_sensor_without_a_retry(outcomes: Outcomes) -> None:
    run = outcomes["late"]
    assert run["tasks"]["input_arrived"] == ["failed", 1]
    assert "has not arrived within 1 s" in run["log"]


def test_an_unfinished_partition_has_not_arrived_until_its_marker_has(outcomes: Outcomes) -> None:
    assert states(outcomes["unfinished"])["input_arrived"] == "failed"
    assert outcomes["finished"]["state"] == "success"


def test_ten_days_and_a_second_run_of_one_of_them_double_no_row(
    outcomes: Outcomes, deployment: Deployment
) -> None:
    for number, day in enumerate(DAYS):
        assert outcomes[f"day {day}"]["state"] == "success"
        assert deployment.scored(day, "days") == list(range(1000 * number, 1000 * number + 50))
    first, again = report(outcomes[f"day {DAY}"]), report(outcomes["day again"])
    assert again["run_id"] == first["run_id"]
    assert again["units"] == {"total": 1, "reused": 1}


def test_a_run_of_no_interval_that_names_no_day_says_so(outcomes: Outcomes) -> None:
    run = outcomes["no day"]
    assert run["tasks"]["input_arrived"] == ["failed", 1]
    assert "state ds in its configuration" in run["log"]


def test_a_spec_that_cannot_be_read_fails_in_its_own_dag_and_takes_no_other_away(outcomes: Outcomes) -> None:
    assert outcomes["broken"]["tasks"] == {"check": ["failed", 1]}
    assert "did you mean 'cron'?" in outcomes["broken"]["log"]


def test_nothing_that_airflow_keeps_holds_a_secret(outcomes: Outcomes, deployment: Deployment) -> None:
    assert outcomes["plain"]["state"] == "success"
    assert SECRET not in json.dumps(outcomes)
    kept = [path for path in deployment.home.rglob("*") if path.is_file()]
    assert any(b"input/plain" in path.read_bytes() for path in kept if path.name.startswith("airflow.db"))
    assert not [path for path in kept if SECRET.encode() in path.read_bytes()]


def test_a_folder_and_a_cron_that_airflow_refuses_take_no_other_dag_away(outcomes: Outcomes) -> None:
    assert outcomes["no time"]["tasks"] == {"check": ["failed", 1]}
    assert "schedule.cron: [99 * * * *]" in outcomes["no time"]["log"]
