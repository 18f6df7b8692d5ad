"""Planted secrets are looked for in all that commands say and leave: after success, and after failures of each kind."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from click.testing import CliRunner, Result
from tests import postgres, refusing
from tests.planted import leaks

from batchinfer.cli import main
from batchinfer.core import HASH_SECRET
from batchinfer.engines._attempts import attempt, outcome_of
from batchinfer.errors import BatchinferError, RunFailed
from batchinfer.spec import load_spec

PASSWORD = "planted-password"
SECRETS = {
    "PGPASSWORD": PASSWORD,
    "AWS_ACCESS_KEY_ID": refusing.KEY_ID,
    "AWS_SECRET_ACCESS_KEY": "planted/aws+secret=key",
    "AWS_SESSION_TOKEN": "planted-session-token",
    "KAFKA_SASL_PASSWORD": "planted-sasl-password",
    HASH_SECRET: "planted-hash-secret-of-forty-letters-or-so",
}
PLANTED = ("planted", "PLANTED")
"""The beginnings of all of them, of the webhook's path too."""


@pytest.fixture(scope="module")
def receiver() -> Iterator[str]:
    command = [sys.executable, str(Path(refusing.__file__))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"127.0.0.1:{int(process.stdout.readline())}"
        process.kill()


@pytest.fixture
def world(pipeline: Any, rows: Callable[[int, int], pa.Table], monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("BATCHINFER_STAGING", str(pipeline.root / "staging"))
    pipeline.write_input(rows(0, 60))
    return pipeline


def said(world: Any, *arguments: str, code: int, logs: str = "json") -> Result:
    """Run a command on the pipeline, and look into all that it said and left."""
    outcome = CliRunner().invoke(main, ["--log-format", logs, *arguments])
    assert outcome.exit_code == code, outcome.output
    shown = [value for value in PLANTED if value in outcome.output]
    assert shown == [], outcome.output
    spec = world.root / "pipeline.yaml"  # may state what is refused
    found = {name: values for name, values in leaks(world.root, PLANTED).items() if name != spec.name}
    assert found == {}
    return outcome


def run(world: Any, *more: str, code: int, **how: str) -> Result:
    return said(world, "run", str(world.root), "-p", "ds=d1", "--json", *more, code=code, **how)


def test_a_run_that_its_gate_stopped_shows_none(world: Any, receiver: str) -> None:
    world.write_spec(
        drift={"reference": str(world.input), "thresholds": {"psi": 0.0001}},
        input={"path": str(world.input / "ds={ds}"), "key": ["id"], "sensitive": {"note": "hash"}},
        quality={"suite": "suite.json"},
        alerts={
            "webhook": f"http://{receiver}/planted/token",
            "command": ["sh", "-c", "echo $KAFKA_SASL_PASSWORD $0; exit 1", "planted-argument"],
        },
    )
    refusing = {"type": "expect_column_values_to_be_between", "kwargs": {"column": "id", "min_value": 50}}
    (world.root / "suite.json").write_text(json.dumps({"name": "s", "expectations": [refusing]}))
    report = json.loads(run(world, code=3).stdout.splitlines()[-1])
    assert [d["delivered"] for d in report["alerts"]] == [False, False], (
        "both were tried, and their answers kept"
    )
    assert report["alerts"][0]["receiver"] == f"http://{receiver}"
    said(world, "runs", "list", code=0)
    said(world, "runs", "show", report["run_id"], "--json", code=0)
    said(world, "plan", str(world.root), "-p", "ds=d1", "--json", code=0)


def test_a_run_that_succeeds_shows_none(world: Any) -> None:
    world.write_spec(drift={"reference": "model"})
    run(world, code=0)
    run(world, code=0, logs="text")
    said(world, "results", "history", str(world.root), "-p", "ds=d1", code=0)
    said(world, "drift", str(world.root), "-p", "ds=d1", "--json", code=0)


def test_an_alert_of_a_failure_shows_none(world: Any, receiver: str) -> None:
    taken = world.root / "taken.json"
    (world.root / "features.py").write_text(
        "import os\ndef build(batch):\n    raise OSError('cannot open ' + os.environ['AWS_SECRET_ACCESS_KEY'])\n"
    )
    world.write_spec(
        transform="features.py:build",
        alerts={"webhook": f"http://{receiver}/taken/planted", "command": ["tee", str(taken)]},
    )
    for logs in ("json", "text"):
        assert "***" in run(world, code=2, logs=logs).output
    assert json.loads(taken.read_text())["state"] == "failed"


@pytest.mark.parametrize(
    "stated",
    [
        {"output": {"path": "postgresql://me:planted@host/db#t", "store": "postgres"}},
        {"output": {"path": "postgresql://host/db?password=planted#t", "store": "delta"}},
        {"registry": "s3://AKIA:planted@bucket/models"},
        {"model": "s3://AKIA:planted@bucket/models/linear/1"},
        {"input": {"path": "s3://AKIA:planted@bucket/in", "key": ["id"]}},
        {"drift": {"reference": "s3://AKIA:planted@bucket/in"}},
        {"drift": {"reference": "abfs://c@a.dfs.core.windows.net/x?sas_token=planted"}},
        {"alerts": "https://hooks.example.com/planted"},
        {"alerts": {"webhook": ["https://hooks.example.com/planted"]}},
        {"alerts": {"command": "curl https://hooks.example.com/planted"}},
        {"alerts": {"webhook": "http://hooks.example.com/planted"}},
        {"alerts": {"webhook": "https://me:planted@hooks.example.com/"}},
        {"alerts": {"webhook": "hooks.example.com/planted"}},
        {"stream": {"input_topic": "a", "output_topic": "b", "settings": {"sasl.password": ["planted"]}}},
        {"stream": {"input_topic": "a", "output_topic": "b", "consumer_settings": "sasl.password=planted"}},
        {"engine": {"conf": {"spark.hadoop.fs.s3a.secret.key": ["planted"]}}},
        {"lineage": {"url": "planted"}},
        {"metrics": {"push_gateway": "https://me:planted@host/"}},
        {"output": {"path": "${PGPASSWORD}/{nothing}"}},
    ],
    ids=str,
)
def test_a_bad_spec_is_refused_without_what_it_should_not_have_said(
    world: Any, stated: dict[str, Any]
) -> None:
    path = world.write_spec()
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **stated}))
    run(world, code=2)
    run(world, code=2, logs="text")
    try:
        load_spec(path)
    except BatchinferError as e:
        assert not any(value in "".join(traceback.format_exception(e)) for value in PLANTED)


def test_secrets_on_the_command_line_are_not_said_again(world: Any) -> None:
    world.write_spec()
    for setting in (
        "output.path=postgresql://me:planted@host/db#t",
        "alerts.webhook=[https://hooks.example.com/planted",
        "alerts.webhoook=https://hooks.example.com/planted",
        "registry=postgresql://me:planted@host/db",
    ):
        run(world, "--set", setting, code=2)


@pytest.mark.parametrize("where", ["output", "input", "registry"])
def test_a_store_that_refuses_the_keys_is_told_without_them(
    world: Any, receiver: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{receiver}")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    address = f"s3://bucket/{where}?endpoint_override={receiver}&scheme=http&region=us-east-1"
    path = world.write_spec()
    document = yaml.safe_load(path.read_text())
    if where == "output":
        document["output"]["path"] = "s3://bucket/scores"
    elif where == "input":
        document["input"]["path"] = address
        document["output"].pop("partition_by")
    else:
        document["registry"] = address
    path.write_text(yaml.safe_dump(document))
    arguments = [] if where == "input" else ["-p", "ds=d1"]
    for logs in ("json", "text"):
        outcome = CliRunner().invoke(main, ["--log-format", logs, "run", str(path), *arguments, "--json"])
        assert outcome.exit_code in {1, 2, 75}
        assert not any(value in outcome.output for value in PLANTED), outcome.output
    assert leaks(world.root, PLANTED) == {}


def test_a_database_that_cannot_be_reached_or_refuses_is_told_without_the_password(
    world: Any, postgres_url: str
) -> None:
    table = postgres.table_path(postgres_url, world.root)

    def to(path: str) -> None:
        document = yaml.safe_load(world.write_spec().read_text())
        document["output"] |= {"store": "postgres", "path": path}
        (world.root / "pipeline.yaml").write_text(yaml.safe_dump(document))

    to(table)
    run(world, code=0)
    to("postgresql://me@127.0.0.1:1/db#t")
    run(world, code=75)
    with postgres.locked(postgres_url, "locked", "another one"):
        to(table.replace("//batch@", "//locked@"))
        refusal = run(world, code=1, logs="text")
    assert "password authentication failed" in refusal.output


def test_a_defect_is_told_with_its_traceback_and_without_secrets(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.write_spec()

    def broken(*_: Any, **__: Any) -> Any:
        raise ValueError(f"cannot parse {PASSWORD} or postgresql://me:planted2@host/db")

    monkeypatch.setattr("batchinfer.runs._job._work", broken)
    for logs in ("json", "text"):
        outcome = run(world, code=1, logs=logs)
        assert "ValueError" in outcome.output
        assert "in broken" in outcome.output
    records = [json.loads(p.read_text()) for p in (world.root / "runs").glob("*.json")]
    assert [r["error"] for r in records] == ["cannot parse *** or postgresql://me:***@host/db"]


def test_what_a_worker_of_spark_or_dask_failed_with_travels_without_secrets(world: Any) -> None:
    told = outcome_of(attempt(pickle.dumps(_failing), pickle.dumps(None), None))
    assert isinstance(told, RunFailed)
    assert "***" in told.message
    assert not any(value in f"{told!r} {told.fields}" for value in PLANTED)


def _failing(unit: object, device: str | None) -> Any:
    raise KeyError(os.environ["AWS_SECRET_ACCESS_KEY"])
