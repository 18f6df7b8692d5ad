"""What runs and backfills tell Prometheus and OpenLineage, over HTTP and files, and that no run fails of it."""

from __future__ import annotations

import json
import logging
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families
from tests.listener import Listener, listening

from batchinfer.cli import main
from batchinfer.errors import DriftGate, Interrupted, MissingExtra, NoInput, QualityGate, UsageError
from batchinfer.runs import RunRecords, RunReport, backfill, run
from batchinfer.telemetry import METRICS, lineage_id

Rows = Callable[[int, int], pa.Table]
Labels = frozenset[tuple[str, str]]


@pytest.fixture(autouse=True)
def _nobody_else_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENLINEAGE_URL", "OPENLINEAGE_DISABLED", "OPENLINEAGE_API_KEY", "OPENLINEAGE_PARENT_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening() as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "textfiles").mkdir()
    return tmp_path / "textfiles"


class Metrics:
    """Samples by name and labels, read by prometheus_client's own parser."""

    def __init__(self, *texts: str) -> None:
        families = [family for text in texts for family in text_string_to_metric_families(text)]
        self.samples = {(s.name, frozenset(s.labels.items())): s.value for f in families for s in f.samples}

    def __call__(self, name: str, *, trigger: str = "run", **labels: str) -> float:
        own = {"pipeline": "scores", "trigger": trigger, **labels}
        return self.samples[f"batchinfer_{name}", frozenset(own.items())]

    def by(self, name: str, label: str) -> dict[str, float]:
        found = [
            (dict(labels), v) for (each, labels), v in self.samples.items() if each == f"batchinfer_{name}"
        ]
        return {labels[label]: value for labels, value in found}


def metrics_in(folder: Path) -> Metrics:
    return Metrics(*(file.read_text() for file in sorted(folder.iterdir())))


def with_nulls(table: pa.Table, count: int) -> pa.Table:
    """The same rows, the first of them without a feature: they cannot be scored."""
    column = table["x0"].to_pylist()
    return table.set_column(1, "x0", pa.array([None] * count + column[count:], pa.float32()))


def test_a_runs_metrics_say_what_its_report_says(pipeline: Any, rows: Rows, folder: Path) -> None:
    pipeline.write_input(with_nulls(rows(0, 100), 3))
    drift = {"drift": {"reference": "model"}}
    report = run(pipeline.spec(**{"metrics.textfile": str(folder), **drift}), {"ds": "d1"})

    assert sorted(file.name for file in folder.iterdir()) == [
        "batchinfer_scores_run.prom",
        "batchinfer_scores_run_success.prom",
    ]
    told = metrics_in(folder)
    assert told.by("run_rows", "outcome") == {"scored": 97, "quarantined": 3, "skipped": 0}
    assert told.by("run_quarantined_rows", "reason") == report.quality["quarantined"]
    assert told("run_quarantined_ratio") == 0.03
    assert told("run_quarantine_limit_ratio") == 0.05
    assert told.by("run_status", "status") == {"done": 1, "failed": 0, "unknown": 0, "interrupted": 0}
    assert told("run_exit_code") == 0
    assert told("run_info", run_id=report.run_id, model="linear@1") == 1
    assert told("run_duration_seconds") == report.seconds
    assert told.by("run_stage_duration_seconds", "stage") == report.timings["stages"]
    assert told.by("run_worker_seconds", "step") == report.timings["workers"]
    assert told("run_rows_per_second") == report.rows_per_second
    assert told("run_table_version") == report.table_version
    assert told("run_drift_alarm") == report.drift["alarm"]
    psi = {name: column["psi"] for name, column in report.drift["columns"].items()}
    assert told.by("run_drift_psi", "column") == pytest.approx(psi)
    assert told("run_start_timestamp_seconds") < told("run_last_success_timestamp_seconds")
    assert report.telemetry == [
        {"channel": "textfile", "receiver": str(folder), "delivered": True, "error": None}
    ]
    assert RunRecords().find(report.run_id) == report


def test_the_time_of_a_run_is_all_accounted_for(pipeline: Any, rows: Rows) -> None:
    pipeline.write_input(rows(0, 5000))
    report = run(pipeline.spec(), {"ds": "d1"})
    assert list(report.timings["stages"]) == ["plan", "tell", "begin", "score", "judge", "commit", "finish"]
    assert sum(report.timings["stages"].values()) == pytest.approx(report.seconds, abs=0.002)
    assert list(report.timings["workers"]) == ["read", "score", "write"]
    assert all(seconds > 0 for seconds in report.timings["workers"].values())
    again = run(pipeline.spec(), {"ds": "d1"})
    assert again.run_id == report.run_id
    assert again.timings.get("workers", {}) == {}


def test_every_metric_keeps_to_prometheus_names() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert metric.name.startswith("batchinfer_") and not metric.name.endswith("_total")  # all are gauges
        assert metric.help.endswith(".") or "…" in metric.help


def test_a_failed_run_is_told_and_the_last_success_stands(pipeline: Any, rows: Rows, folder: Path) -> None:
    spec = pipeline.spec(**{"metrics.textfile": str(folder)})
    pipeline.write_input(rows(0, 100), ds="d1")
    run(spec, {"ds": "d1"})
    success = metrics_in(folder)("run_last_success_timestamp_seconds")

    pipeline.write_input(with_nulls(rows(0, 100), 50), ds="d2")
    with pytest.raises(QualityGate):
        run(spec, {"ds": "d2"})
    told = metrics_in(folder)
    assert told.by("run_status", "status")["failed"] == 1
    assert told("run_exit_code") == 3
    assert told("run_quarantined_ratio") == 0.5
    assert told("run_last_success_timestamp_seconds") == success

    with pytest.raises(NoInput):
        run(spec, {"ds": "d3"})
    told = metrics_in(folder)
    assert (told("run_exit_code"), told.by("run_status", "status")["failed"]) == (2, 1)
    assert told.by("run_rows", "outcome") == {}
    assert told("run_last_success_timestamp_seconds") == success


def test_a_mistyped_command_says_nothing_of_its_pipeline(pipeline: Any, folder: Path) -> None:
    with pytest.raises(UsageError):
        run(pipeline.spec(**{"metrics.textfile": str(folder)}), {"day": "d1"})
    assert list(folder.iterdir()) == []


def test_the_drift_gate_is_told_as_what_the_command_ends_with(
    pipeline: Any, rows: Rows, folder: Path
) -> None:
    table = rows(0, 3000)
    pipeline.write_input(table.set_column(1, "x0", pa.array([1000.0] * 3000, pa.float32())))
    spec = pipeline.spec(
        **{
            "metrics.textfile": str(folder),
            "drift": {"on_drift": "fail", "thresholds": {"drifted_columns": 0}},
        }
    )
    with pytest.raises(DriftGate):
        run(spec, {"ds": "d1"})
    told = metrics_in(folder)
    assert (told("run_exit_code"), told("run_drift_alarm")) == (4, 1)
    assert told.by("run_status", "status")["done"] == 1
    assert told("run_drift_psi", column="x0") > told("run_drift_psi_limit", column="x0")


def test_a_push_gateway_gets_each_group_whole(pipeline: Any, rows: Rows, listener: Listener) -> None:
    pipeline.write_input(rows(0, 100))
    report = run(pipeline.spec(**{"metrics.push_gateway": listener.url}), {"ds": "d1"})
    assert [(each.method, each.path) for each in listener.requests] == [
        ("PUT", "/metrics/job/batchinfer/pipeline/scores/trigger/run"),
        ("PUT", "/metrics/job/batchinfer_success/pipeline/scores/trigger/run"),
    ]
    told = Metrics(*(each.body.decode() for each in listener.requests))
    assert told("run_rows", outcome="scored") == 100
    assert told("run_last_success_timestamp_seconds") > 0
    assert [each["delivered"] for each in report.telemetry] == [True]


def test_the_environment_names_receivers_where_the_spec_does_not(
    pipeline: Any, rows: Rows, folder: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHINFER_METRICS_TEXTFILE", str(folder))
    monkeypatch.setenv("BATCHINFER_METRICS_PUSH_GATEWAY", f"{listener.url}/gateway")
    monkeypatch.setenv("OPENLINEAGE_URL", listener.url)
    monkeypatch.setenv("OPENLINEAGE_NAMESPACE", "team")
    monkeypatch.setenv("OPENLINEAGE_API_KEY", "planted-key")
    pipeline.write_input(rows(0, 10))
    report = run(pipeline.spec(), {"ds": "d1"})
    assert len(list(folder.iterdir())) == 2
    assert [each.path.split("/")[1] for each in listener.requests] == ["api", "gateway", "gateway", "api"]
    assert json.loads(listener.requests[0].body)["job"]["namespace"] == "team"
    assert listener.requests[0].headers["Authorization"] == "Bearer planted-key"
    assert "planted-key" not in report.to_json()

    monkeypatch.setenv("OPENLINEAGE_DISABLED", "true")
    pipeline.write_input(rows(0, 20))
    run(pipeline.spec(), {"ds": "d1"})
    assert len(listener.requests) == 6


@pytest.mark.parametrize("status", [500, 400])
def test_receivers_that_fail_are_named_and_the_run_is_done(
    pipeline: Any, rows: Rows, listener: Listener, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    listener.status = status
    pipeline.write_input(rows(0, 100))
    missing = str(pipeline.root / "nowhere")
    settings = {
        "metrics.textfile": missing,
        "metrics.push_gateway": f"{listener.url}/planted-path",
        "lineage.url": "http://127.0.0.1:9/planted-path" if status == 400 else f"{listener.url}/planted-path",
    }
    with caplog.at_level(logging.DEBUG, "batchinfer"):
        report = run(pipeline.spec(**settings), {"ds": "d1"})
    assert (report.status, report.table_version) == ("done", 1)
    failed = {each["channel"]: each["error"] for each in report.telemetry if not each["delivered"]}
    lineage = "no connection" if status == 400 else "HTTP 500"
    assert failed == {
        "textfile": "No such file or directory",
        "push_gateway": f"HTTP {status}",
        "lineage": lineage,
    }
    warned = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert {record.getMessage().split(":")[0] for record in warned} == {"textfile", "push_gateway", "lineage"}
    assert all(record.__dict__["run_id"] == report.run_id for record in warned)
    assert "planted-path" not in report.to_json() + "".join(record.getMessage() for record in warned)
    assert RunRecords().find(report.run_id).telemetry == report.telemetry


def test_an_address_in_the_environment_that_is_no_url_is_named_as_that_and_is_no_defect(
    pipeline: Any, rows: Rows, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENLINEAGE_URL", "marquez")
    pipeline.write_input(rows(0, 10))
    report = run(pipeline.spec(), {"ds": "d1"})
    assert report.status == "done"
    told = {(each["receiver"], each["error"]) for each in report.telemetry}
    assert told == {
        ("a URL that cannot be read", "it is no URL: write OPENLINEAGE_URL as http://HOST:5000"),
    }
    assert not any(record.exc_info for record in caplog.records)


def test_a_defect_in_telling_is_logged_whole_and_the_run_is_done(
    pipeline: Any,
    rows: Rows,
    folder: Path,
    listener: Listener,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: Any) -> Any:
        raise KeyError("rows")

    monkeypatch.setattr("batchinfer.runs._telemetry.of_run", broken)
    monkeypatch.setattr("batchinfer.runs._telemetry._datasets", broken)
    pipeline.write_input(rows(0, 10))
    report = run(
        pipeline.spec(**{"metrics.textfile": str(folder), "lineage.url": listener.url}), {"ds": "d1"}
    )
    assert report.status == "done"
    assert [each["error"] for each in report.telemetry] == ["KeyError"] * 3
    assert sum(record.exc_info is not None for record in caplog.records) == 3


def test_the_command_warns_of_who_was_not_told_and_ends_with_0(pipeline: Any, rows: Rows) -> None:
    pipeline.write_input(rows(0, 10))
    spec = pipeline.write_spec(metrics={"textfile": str(pipeline.root / "nowhere")})
    ended = CliRunner().invoke(main, ["run", str(spec), "-p", "ds=d1"])
    assert ended.exit_code == 0
    assert "NOT told: No such file or directory" in ended.output


def test_lineage_starts_and_completes_with_the_same_run(
    pipeline: Any, rows: Rows, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = str(uuid.uuid4())
    monkeypatch.setenv("OPENLINEAGE_PARENT_ID", f"air/flow/dag.task/{parent}")
    pipeline.write_input(with_nulls(rows(0, 100), 2))
    spec = pipeline.spec(**{"lineage.url": listener.url})
    report = run(spec, {"ds": "d1"})
    started, completed = listener.json()
    assert [each.path for each in listener.requests] == ["/api/v1/lineage"] * 2
    assert (started["eventType"], completed["eventType"]) == ("START", "COMPLETE")
    assert started["eventTime"] < completed["eventTime"]
    assert started["job"]["name"] == "scores"
    assert started["run"]["runId"] == completed["run"]["runId"] == lineage_id(report.run_id)

    facets = completed["run"]["facets"]
    assert {name: facets["batchinfer_model"][name] for name in report.model} == report.model
    assert facets["batchinfer_run"]["run_id"] == report.run_id
    assert facets["batchinfer_run"]["rows"]["quarantined"] == 2
    assert facets["executionParameters"]["parameters"][0]["value"] == "d1"
    assert facets["parent"]["job"] == {"namespace": "air/flow", "name": "dag.task", "facets": {}}
    assert facets["parent"]["run"]["runId"] == parent

    (read,) = completed["inputs"]
    assert (read["namespace"], read["name"]) == ("file", str(pipeline.input))
    assert {"name": "x0", "type": "float", "fields": []} in read["facets"]["schema"]["fields"]
    assert read["inputFacets"]["inputStatistics"]["rowCount"] == 100

    results, refused = completed["outputs"]
    assert results["name"] == str(pipeline.output) and refused["name"].endswith("_quarantine")
    assert results["outputFacets"]["outputStatistics"]["rowCount"] == 98
    assert refused["outputFacets"]["outputStatistics"]["rowCount"] == 2
    assert results["facets"]["version"]["datasetVersion"] == str(report.table_version)
    names = [each["name"] for each in results["facets"]["schema"]["fields"]]
    assert names == ["id", "note", "score", "_model", "_run_id", "_source", "_position", "ds"]
    lineage = results["facets"]["columnLineage"]["fields"]
    assert [each["field"] for each in lineage["score"]["inputFields"]] == ["x0", "x1", "x2"]
    assert lineage["note"]["inputFields"][0]["transformations"][0]["subtype"] == "IDENTITY"
    assert [each["name"] for each in started["outputs"]] == [str(pipeline.output)]

    run(spec, {"ds": "d1"})
    assert {each["run"]["runId"] for each in listener.json()} == {lineage_id(report.run_id)}


def test_lineage_tells_of_failures_with_their_message(pipeline: Any, rows: Rows, listener: Listener) -> None:
    pipeline.write_input(with_nulls(rows(0, 100), 50))
    spec = pipeline.spec(**{"lineage.url": listener.url})
    with pytest.raises(QualityGate) as refused:
        run(spec, {"ds": "d1"})
    _, failed = listener.json()
    assert failed["eventType"] == "FAIL"
    assert failed["run"]["facets"]["errorMessage"]["message"] == str(refused.value)
    assert [each["outputFacets"] for each in failed["outputs"]] == [{}]

    for _ in range(2):
        with pytest.raises(NoInput):
            run(spec, {"ds": "d2"})
    *_, first, second = listener.json()
    assert (first["eventType"], first["inputs"], first["outputs"]) == ("FAIL", [], [])
    assert first["run"]["runId"] == second["run"]["runId"] != failed["run"]["runId"]
    assert "batchinfer_model" not in first["run"]["facets"]


def test_nothing_that_is_told_holds_a_sensitive_value(
    pipeline: Any, rows: Rows, listener: Listener, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHINFER_HASH_SECRET", "planted-" * 8)
    table = rows(0, 100)
    pipeline.write_input(table.set_column(4, "note", pa.array(["planted-value"] * 100)))
    kind, kwargs = "expect_column_values_to_be_in_set", {"column": "note", "value_set": ["x"]}
    suite = {"name": "s", "expectations": [{"type": kind, "kwargs": kwargs}], "meta": {}}
    (pipeline.root / "suite.json").write_text(json.dumps(suite))
    spec = pipeline.spec(
        **{
            "input.sensitive": {"note": "hash"},
            "quality.suite": "suite.json",
            "lineage.url": listener.url,
            "metrics.textfile": str(folder),
        }
    )
    with pytest.raises(QualityGate):
        run(spec, {"ds": "d1"})
    events = listener.json()
    (assertion,) = events[-1]["inputs"][0]["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert assertion["success"] is False
    note = events[-1]["outputs"][0]["facets"]["columnLineage"]["fields"]["note"]
    assert note["inputFields"][0]["transformations"][0]["masking"] is True
    assert metrics_in(folder)("run_quarantined_ratio") == 1
    assert "planted" not in json.dumps(events) + "".join(file.read_text() for file in folder.iterdir())


def test_an_interrupted_run_is_told_as_aborted(
    pipeline: Any, rows: Rows, listener: Listener, folder: Path
) -> None:
    class Stopping:
        def planned(self, plan: Any) -> None: ...
        def finished(self) -> None: ...
        def rows(self, count: int) -> None:
            raise KeyboardInterrupt

    pipeline.write_input(rows(0, 100))
    spec = pipeline.spec(**{"lineage.url": listener.url, "metrics.textfile": str(folder)})
    with pytest.raises(Interrupted):
        run(spec, {"ds": "d1"}, progress=Stopping())
    assert [event["eventType"] for event in listener.json()] == ["START", "ABORT"]
    told = metrics_in(folder)
    assert (told("run_exit_code"), told.by("run_status", "status")["interrupted"]) == (130, 1)


def test_a_backfill_tells_of_its_days_and_leaves_the_nightly_metrics_alone(
    pipeline: Any, rows: Rows, folder: Path, listener: Listener
) -> None:
    spec = pipeline.spec(**{"metrics.textfile": str(folder), "lineage.url": listener.url})
    for day in ("2013-01-01", "2013-01-02", "2013-01-04"):
        pipeline.write_input(rows(0, 100), ds=day)
    run(spec, {"ds": "2013-01-04"})
    nightly = (folder / "batchinfer_scores_run.prom").read_bytes()

    report = backfill(spec, date(2013, 1, 1), date(2013, 1, 4))
    assert (folder / "batchinfer_scores_run.prom").read_bytes() == nightly
    told = metrics_in(folder)
    assert told.by("backfill_days", "status") == {
        "done": 2,
        "skipped": 1,
        "no input": 1,
        "failed": 0,
        "stopped": 0,
    }
    assert told("backfill_rows", trigger="backfill", outcome="scored") == 300
    assert told("backfill_exit_code", trigger="backfill") == report.exit_code == 2
    assert told("run_rows", trigger="backfill", outcome="scored") == 100
    triggers = [event["run"]["facets"]["batchinfer_run"]["trigger"] for event in listener.json()]
    assert triggers == ["run"] * 2 + ["backfill"] * 4


def test_what_is_told_changes_nothing_of_the_work(pipeline: Any, folder: Path) -> None:
    told = {"metrics.textfile": str(folder), "lineage.url": "http://l", "lineage.namespace": "n"}
    assert pipeline.spec(**told).digest() == pipeline.spec().digest()


def test_an_absent_package_is_named_with_its_extra(
    pipeline: Any, rows: Rows, folder: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.write_input(rows(0, 10))
    monkeypatch.setitem(sys.modules, "openlineage.client", None)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingExtra, match=r"batchinfer\[metrics\]"):
        run(pipeline.spec(**{"metrics.textfile": str(folder)}), {"ds": "d1"})
    with pytest.raises(MissingExtra, match=r"batchinfer\[lineage\]"):
        run(pipeline.spec(**{"lineage.url": listener.url}), {"ds": "d1"})
    monkeypatch.setenv("OPENLINEAGE_URL", listener.url)  # meant for others, perhaps
    report: RunReport = run(pipeline.spec(), {"ds": "d1"})
    assert report.status == "done"
    assert all("batchinfer[lineage]" in each["error"] for each in report.telemetry)
    assert listener.requests == []
