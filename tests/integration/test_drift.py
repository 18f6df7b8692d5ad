"""Drift in a run: measured on every scored row, kept in the history, and a gate after the commit where asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import batchinfer
from batchinfer.cli import main
from batchinfer.drift import MeasuredRun, history_rows
from batchinfer.errors import DriftGate, InputError, SpecError, UsageError
from batchinfer.runs import (
    RunRecords,
    RunReport,
    _drift_pages,
    add_model,
    open_results,
    read_drift,
    write_drift_pages,
)
from batchinfer.runs._drift import drift_path
from batchinfer.source import plan_units
from batchinfer.store import append_once

Rows = Callable[[int, int], pa.Table]


class World:
    """A pipeline whose model was trained on the rows 0 to 1999."""

    def __init__(self, pipeline: Any, rows: Rows) -> None:
        self.pipeline, self.rows = pipeline, rows
        pipeline.write_input(rows(2000, 1500), "a", row_group_size=200)
        pipeline.write_input(shifted(rows(3500, 500)), "b", ds="d2")

    def run(self, ds: str = "d1", **overrides: Any) -> RunReport:
        return batchinfer.run(self.pipeline.spec(**{"drift": {}, **overrides}), {"ds": ds})

    def history(self) -> pa.Table:
        found = read_drift(str(self.pipeline.output))
        assert found is not None
        return found


def shifted(table: pa.Table) -> pa.Table:
    """The same with an x0 beyond all that the model was trained on."""
    return table.set_column(1, "x0", pc.add(table["x0"], pa.scalar(100, pa.float32())))


@pytest.fixture
def world(pipeline: Any, rows: Rows) -> World:
    return World(pipeline, rows)


def test_rows_like_those_of_the_training_do_not_alarm_and_others_do(world: World) -> None:
    calm, changed = world.run("d1"), world.run("d2")
    assert (calm.drift["alarm"], calm.drift["rows"]) == (False, 1500)
    assert changed.drift["alarm"]
    drifted = {name for name, column in changed.drift["columns"].items() if column["drifted"]}
    assert drifted == {"x0", "score"}
    assert changed.drift["columns"]["x0"]["unseen"] == 1
    assert changed.drift["columns"]["score"]["kind"] == "prediction"


def test_the_commit_itself_tells_of_the_drift(world: World) -> None:
    report = world.run("d2")
    store = open_results(world.pipeline.spec(), str(world.pipeline.output))
    assert store.history(1)[0]["report"]["drift"] == report.drift


def test_under_fail_an_alarm_is_told_after_the_commit(world: World) -> None:
    fail = {"drift.on_drift": "fail"}
    assert world.run("d1", **fail).status == "done"
    with pytest.raises(DriftGate, match=r"x0 \(PSI .*committed as version 2") as caught:
        world.run("d2", **fail)
    report = caught.value.fields["report"]
    assert (caught.value.exit_code, report.status, report.table_version) == (4, "done", 2)
    assert RunRecords().find(report.run_id).status == "done"
    table = deltalake.DeltaTable(str(world.pipeline.output)).to_pyarrow_table()
    assert table.filter(pc.field("ds") == "d2").num_rows == 500
    with pytest.raises(DriftGate):  # also for who finds the work done
        world.run("d2", **fail)
    assert deltalake.DeltaTable(str(world.pipeline.output)).version() == 2


def test_the_command_line_ends_with_4_and_prints_the_report(world: World) -> None:
    world.pipeline.write_spec(drift={"on_drift": "fail"})
    outcome = CliRunner().invoke(main, ["run", str(world.pipeline.root), "-p", "ds=d2", "--json"])
    assert outcome.exit_code == 4, outcome.output
    report = json.loads(outcome.stdout.splitlines()[-1])
    assert (report["status"], report["drift"]["alarm"]) == ("done", True)
    assert "have drifted" in outcome.stderr


def test_the_history_has_a_row_for_each_run_and_column_once(world: World) -> None:
    first, second = world.run("d1"), world.run("d2")
    world.run("d2")
    history = world.history()
    assert history.num_rows == 2 * 4
    counted = sorted((row["run_id"], row["column"]) for row in history.to_pylist())
    assert counted == sorted((r.run_id, c) for r in (first, second) for c in ("x0", "x1", "x2", "score"))
    of_x0 = history.filter((pc.field("run_id") == second.run_id) & (pc.field("column") == "x0")).to_pylist()[
        0
    ]
    assert of_x0["psi"] == second.drift["columns"]["x0"]["psi"]
    assert (of_x0["alarm"], of_x0["rows"], json.loads(of_x0["parameters"])) == (True, 500, {"ds": "d2"})
    assert (of_x0["table_version"], of_x0["model"]) == (second.table_version, "linear@1")


def test_the_profile_does_not_depend_on_units_or_order(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = world.run("d1").drift
    monkeypatch.setitem(plan_units.__kwdefaults__, "unit_rows", 200)  # type: ignore[arg-type]
    cut = world.run("d1", **{"output.path": str(world.pipeline.root / "elsewhere")})
    assert cut.units["total"] > 1
    assert cut.drift == whole


def test_quarantined_rows_are_not_profiled(world: World) -> None:
    table = world.rows(0, 1000)
    x0 = [None if i % 25 == 0 else v for i, v in enumerate(table["x0"].to_pylist())]
    world.pipeline.write_input(table.set_column(1, "x0", pa.array(x0, pa.float32())), ds="d3")
    report = world.run("d3")
    assert (report.rows.quarantined, report.drift["rows"]) == (40, 960)
    assert report.drift["columns"]["x0"]["null_rate"] == 0


def test_a_sample_of_the_scored_rows_is_kept_with_the_run(world: World) -> None:
    report = world.run("d1")
    content = RunRecords().kept(report.run_id or "", "sample.parquet")
    sample = pq.read_table(pa.BufferReader(content)).sort_by("id")
    assert sample.schema.names == ["id", "x0", "x1", "x2", "score"]
    assert sample["id"].to_pylist() == list(range(2000, 3500)), "a run of few rows is kept whole"


def test_pages_are_of_the_latest_run_though_a_stream_has_measured_windows_since(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[pa.Table] = []

    def show(reference: pa.Table, current: pa.Table, **_: Any) -> dict[str, str]:
        shown.append(current)
        return {}

    monkeypatch.setattr(_drift_pages, "write_drift_report", show)
    drift, place = world.run("d2").drift, str(world.pipeline.output)
    window = MeasuredRun("stream-1", "linear", {"window": "w"}, "linear@1", None, datetime.now(UTC))
    append_once(drift_path(place), history_rows(window, drift), "stream-1")
    pages = write_drift_pages(world.pipeline.spec(drift={}), place, str(tmp_path / "pages"))
    assert pages.evidently is not None
    assert [rows.num_rows for rows in shown] == [500]
    windows, of_windows = str(tmp_path / "windows"), {"window": "w"}
    found = write_drift_pages(world.pipeline.spec(drift={}), place, windows, parameters=of_windows)
    assert (found.evidently, len(shown)) == (None, 1)
    assert Path(found.history).is_file()
    with pytest.raises(UsageError, match="windows of a stream"):
        write_drift_pages(
            world.pipeline.spec(drift={}),
            place,
            windows,
            parameters=of_windows,
            labels="l.parquet",
            label_column="l",
        )


def test_a_model_without_a_reference_is_refused(world: World) -> None:
    source = world.pipeline.registry.removesuffix("/models")
    registry = str(world.pipeline.root / "models")
    config = {"inputs": {"input": {"pack": ["x0", "x1", "x2"]}}}
    add_model(
        "bare",
        onnx=f"{source}/linear.onnx",
        sample=f"{source}/sample.parquet",
        config=config,
        registry=registry,
    )
    with pytest.raises(SpecError, match=r"bare@1 has no reference") as caught:
        world.run(model="bare@1", registry=registry)
    assert "--reference" in str(caught.value)


def test_a_reference_may_be_a_path(world: World) -> None:
    path = world.pipeline.root / "reference"
    path.mkdir()
    pq.write_table(shifted(world.rows(0, 1000)), path / "a.parquet")
    pq.write_table(shifted(world.rows(1000, 1000)), path / "b.parquet")
    reference = {"drift.reference": str(path)}
    calm, changed = world.run("d2", **reference), world.run("d1", **reference)
    assert (calm.drift["alarm"], changed.drift["alarm"]) == (False, True)
    pq.write_table(shifted(world.rows(0, 10)), path / "b.parquet")
    assert world.run("d2", **reference).run_id != calm.run_id, "another reference is other work"


def test_an_empty_reference_is_refused(world: World) -> None:
    path = world.pipeline.root / "reference.parquet"
    pq.write_table(world.rows(0, 0), path)
    with pytest.raises(InputError, match="no rows"):
        world.run("d1", **{"drift.reference": str(path)})


def test_thresholds_decide(world: World) -> None:
    patient = {"drift.thresholds": {"psi": 50, "drifted_columns": 0.9}}
    assert world.run("d2", **patient).drift["alarm"] is False


def test_an_alert_is_fired_once_for_each_change_of_state(world: World) -> None:
    heard = world.pipeline.root / "heard.jsonl"
    command = ["sh", "-c", f"cat >> {heard}; echo >> {heard}"]
    alerts = {"alerts.command": command}
    assert world.run("d1", **alerts).alerts == []
    (delivery,) = world.run("d2", **alerts).alerts
    assert delivery["delivered"]
    world.run("d2", **alerts)
    world.run("d1", **alerts)
    world.pipeline.write_input(world.rows(9000, 200), ds="d4")
    world.run("d4", **alerts)
    told = [json.loads(line) for line in heard.read_text().splitlines() if line]
    assert [(alert["previous"], alert["state"]) for alert in told] == [("ok", "drift"), ("drift", "ok")]
    assert "x0" in told[0]["why"]


def test_an_alert_that_nobody_takes_fails_no_run(world: World) -> None:
    report = world.run("d2", **{"alerts.command": ["false"]})
    assert report.status == "done"
    assert [delivery["delivered"] for delivery in report.alerts] == [False]


def test_a_failed_gate_is_told_too(world: World) -> None:
    heard = world.pipeline.root / "heard.json"
    (world.pipeline.root / "suite.json").write_text(
        json.dumps(
            {
                "name": "s",
                "expectations": [
                    {"type": "expect_table_row_count_to_be_between", "kwargs": {"max_value": 1}}
                ],
            }
        )
    )
    with pytest.raises(batchinfer.errors.QualityGate):
        world.run("d1", **{"quality.suite": "suite.json", "alerts.command": ["tee", str(heard)]})
    assert json.loads(heard.read_text())["state"] == "quality-failed"
