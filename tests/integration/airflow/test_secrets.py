"""Planted secrets and a sensitive column are looked for in all that Airflow keeps: XCom, rendered fields, logs.

Each DAG runs once, one after the other in one process: to success, and to failures of several kinds.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests import postgres, refusing
from tests.integration.airflow.conftest import Deployment, of
from tests.planted import leaks

from batchinfer.core import HASH_SECRET

DAY = "2013-01-05"
SECRETS = {
    "PGPASSWORD": "planted-password",
    "AWS_ACCESS_KEY_ID": refusing.KEY_ID,
    "AWS_SECRET_ACCESS_KEY": "planted/aws+secret=key",
    "TEAM_TOKEN": "planted-token",
    HASH_SECRET: "planted-hash-secret-of-forty-letters-or-so",
}
PLANTED = ("planted", "PLANTED", "Planted-Note")
Outcomes = dict[str, Any]


@pytest.fixture(scope="module")
def outcomes(deployment: Deployment, postgres_url: str) -> Iterator[Outcomes]:
    command = [sys.executable, str(Path(refusing.__file__))]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as receiver,
        postgres.locked(postgres_url, "known", SECRETS["PGPASSWORD"]),
        postgres.locked(postgres_url, "unknown", "another one"),
    ):
        assert receiver.stdout is not None
        port = int(receiver.stdout.readline())
        succeeds(deployment, postgres_url)
        is_stopped(deployment)
        is_refused(deployment, postgres_url)
        cannot_look(deployment, port)
        cannot_be_read(deployment)
        names = ("succeeds", "is_stopped", "is_refused", "cannot_look")
        runs: dict[str, dict[str, Any]] = {name: of(DAY, name) for name in names}
        runs["cannot_be_read"] = {"dag": "cannot_be_read"}
        hook = f"http://127.0.0.1:{port}/planted/{SECRETS['TEAM_TOKEN']}"
        yield deployment.test(
            runs, **SECRETS, TEAM_CHANNEL=hook, BATCHINFER_STAGING=str(deployment.root / "staging")
        )
        receiver.kill()


def write(deployment: Deployment, name: str, **more: Any) -> None:
    """A pipeline over rows with a sensitive column, one of which its suite refuses."""
    table = deployment.rows(0, 200)
    notes = pa.array([f"Planted-Note-{i}" for i in range(200)])
    day = deployment.write_input(
        DAY, table.set_column(table.schema.get_field_index("note"), "note", notes), name
    )
    source = {"path": f"input/{name}/ds={{ds}}", "key": ["id"], "sensitive": {"note": "hash"}}
    refusing = {
        "type": "expect_column_values_to_not_match_regex",
        "kwargs": {"column": "note", "regex": "-17$"},
    }
    suite = {"name": "s", "meta": {}, "expectations": [refusing]}
    (deployment.folder(name) / "suite.json").write_text(json.dumps(suite))
    document = {
        "input": source,
        "quality": {"suite": "suite.json", "max_quarantined": 0.5},
        "drift": {"reference": str(day), "thresholds": {"psi": 0.0000001}},
        "alerts": {"webhook": "${TEAM_CHANNEL}", "command": ["sh", "-c", "echo $0; exit 1", "${TEAM_TOKEN}"]},
        **more,
    }
    deployment.write_spec(name, {"retries": 0, "wait_s": 0}, **document)


def to_postgres(url: str, role: str, table: str) -> dict[str, Any]:
    path = f"{url.replace('//batch@', f'//{role}@')}#{role}.{table}"
    return {"store": "postgres", "path": path, "partition_by": ["ds"], "carry": ["note"]}


def succeeds(deployment: Deployment, url: str) -> None:
    write(deployment, "succeeds", output=to_postgres(url, "known", "succeeds"))


def is_stopped(deployment: Deployment) -> None:
    """By its quality gate, when its transform has said secrets past all logging of ours."""
    transform = """
import os, sys
def build(batch):
    print("said", os.environ["PGPASSWORD"], file=sys.stderr)
    print("said", os.environ["TEAM_TOKEN"])
    return batch.select(["x0", "x1", "x2"])
"""
    write(
        deployment,
        "is_stopped",
        quality={"suite": "suite.json", "on_failure": "fail"},
        transform=deployment.write_transform("is_stopped", transform),
    )


def is_refused(deployment: Deployment, url: str) -> None:
    write(deployment, "is_refused", output=to_postgres(url, "unknown", "refused"))


def cannot_look(deployment: Deployment, port: int) -> None:
    where = f"s3://bucket/in?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
    write(deployment, "cannot_look", input={"path": where, "key": ["id"]})


def cannot_be_read(deployment: Deployment) -> None:
    spec = "name: cannot_be_read\nschedule: {cron: '@daily', wait_s: '${TEAM_TOKEN}'}\nalerts: '${TEAM_CHANNEL}'\n"
    (deployment.folder("cannot_be_read") / "pipeline.yaml").write_text(spec)


def states(outcomes: Outcomes, name: str) -> dict[str, str]:
    return {task: state for task, (state, _) in outcomes[name]["tasks"].items()}


def test_each_run_ended_as_it_should_and_said_why(outcomes: Outcomes) -> None:
    assert outcomes["succeeds"]["state"] == "success"
    assert outcomes["succeeds"]["xcoms"]["score"]["return_value"]["rows"]["quarantined"] == 1
    for name, task, said in (
        ("is_stopped", "score", "QualityGate"),
        ("is_stopped", "score", "said ***"),
        ("is_refused", "score", "password authentication failed"),
        ("cannot_look", "input_arrived", "cannot look at"),
        ("cannot_be_read", "check", "something that may be a secret"),
    ):
        assert states(outcomes, name)[task] == "failed"
        assert said in outcomes[name]["log"], outcomes[name]["log"][-4000:]


def test_alerts_were_tried_and_their_answers_are_in_the_record(
    outcomes: Outcomes, deployment: Deployment
) -> None:
    run_id = outcomes["is_stopped"]["xcoms"]["plan"]["return_value"]["run_id"]
    record = json.loads((deployment.root / "runs" / f"{run_id}.json").read_text())
    assert [told["delivered"] for told in record["alerts"]] == [False, False]


def test_nothing_that_airflow_keeps_or_says_holds_one(outcomes: Outcomes, deployment: Deployment) -> None:
    kept = ("xcom", "rendered_task_instance_fields", "serialized_dag", "dag_run")
    with sqlite3.connect(deployment.home / "airflow.db") as database:
        rows = {table: database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in kept}
    assert 0 not in rows.values(), f"there is something to look into: {rows}"
    assert leaks(deployment.home, PLANTED) == {}


def test_nothing_that_a_run_leaves_in_the_deployment_holds_one(
    outcomes: Outcomes, deployment: Deployment
) -> None:
    assert leaks(deployment.root, PLANTED, but=[deployment.root / "input"]) == {}
