"""The commands as README.md and docs/ write them, what each prints where, and what Ctrl-C does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import deltalake
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner, Result
from tests.integration.report import assert_contract

from batchinfer.cli import main

Rows = Callable[[int, int], pa.Table]

ROOT = Path(__file__).parents[2]


def invoke(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    return result


def process(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    code = "from batchinfer.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def spec(pipeline: Any, rows: Rows) -> str:
    """A pipeline with two days of input."""
    pipeline.write_input(rows(0, 100), ds="d1", row_group_size=40)
    pipeline.write_input(rows(100, 100), ds="d2")
    return str(pipeline.write_spec())


# The way that README.md shows


@pytest.fixture
def newcomer(tmp_path: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with what README.md assumes: churn.onnx, a sample, and one day of customers."""
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["X"], ["churns"], axes=[1], keepdims=1)],
        "churn",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("churns", TensorProto.FLOAT, ["N", 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (tmp_path / "churn.onnx").write_bytes(model.SerializeToString())
    columns = ["customer_id", "age", "tenure_months", "monthly_spend", "note"]

    def customers_from(first: int, count: int) -> pa.Table:
        found = rows(first, count).rename_columns(columns)
        return found.append_column("support_calls", found["age"])

    customers = customers_from(4700, 50)
    pq.write_table(customers, tmp_path / "sample.parquet")
    days = pa.array([f"2026-01-{1 + i // 200:02}" for i in range(1000)])
    pq.write_table(customers_from(0, 1000).append_column("ds", days), tmp_path / "train.parquet")
    (tmp_path / "data/customers/ds=2026-01-31").mkdir(parents=True)
    pq.write_table(customers, tmp_path / "data/customers/ds=2026-01-31/part.parquet")
    (tmp_path / "pipelines/churn").mkdir(parents=True)
    config, pipeline = (
        "\n".join(line.removeprefix("   ") for line in block.split("```")[0].splitlines())
        for block in (ROOT / "README.md").read_text().split("```yaml")[1:3]
    )
    (tmp_path / "churn.yaml").write_text(config)
    assert yaml.safe_load(pipeline)["name"] == "churn"
    (tmp_path / "pipelines/churn/pipeline.yaml").write_text(pipeline)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BATCHINFER_RUNS", raising=False)
    monkeypatch.delenv("BATCHINFER_REGISTRY", raising=False)
    return tmp_path


def test_the_first_pipeline_of_the_readme_works_as_written(newcomer: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    add = readme[readme.index("batchinfer model add churn") :].split("```")[0].replace("\\\n", "")
    added = invoke(*add.split()[1:])
    assert "churn@1" in added.stdout and "age, tenure_months" in added.stdout
    checked = invoke(*["check", "pipelines/churn", "-p", "ds=2026-01-31"])
    assert "50 rows in 1 files" in checked.stdout
    assert not (newcomer / "results").exists() and not (newcomer / "runs").exists()

    ran = invoke(*["run", "pipelines/churn", "-p", "ds=2026-01-31"])
    assert "done" in ran.stdout and "50 read" in ran.stdout
    assert "churn" in invoke("runs", "list").stdout
    explained = invoke(*["explain", "pipelines/churn", "--key", "4711"])
    assert "customer_id=4711: the bits agree" in explained.stdout
    assert "ds=2026-01-31/part.parquet, row 11" in explained.stdout
    invoke("results", "history", "pipelines/churn")
    invoke("results", "sweep", "pipelines/churn", "--dry-run")
    assert len(list((newcomer / "runs").glob("*.json"))) == 1

    import batchinfer

    report = batchinfer.run(batchinfer.load_spec("pipelines/churn"), {"ds": "2026-01-31"})
    assert (report.status, report.units["reused"]) == ("done", 1)
    table = deltalake.DeltaTable("results/churn").to_pyarrow_table(filters=[("ds", "=", "2026-01-31")])
    sample = pq.read_table("sample.parquet")
    np.testing.assert_allclose(
        table.sort_by("customer_id")["churns"].to_numpy(),
        np.mean(
            [
                sample[c].to_numpy()
                for c in yaml.safe_load(Path("churn.yaml").read_text())["inputs"]["X"]["pack"]
            ],
            0,
        ),
        rtol=1e-5,
    )


def test_the_model_commands_of_the_docs_work_as_written(newcomer: Path) -> None:
    add = ["model", "add", "churn", "--onnx", "churn.onnx", "--sample", "sample.parquet"]
    config = Path("churn.yaml").read_text()
    Path("model.yaml").write_text(
        f"{config}\ntraining: {{auc: 0.7}}\noutputs: {{churns: {{column: score}}}}\n"
    )
    first = json.loads(invoke(*add, "--config", "churn.yaml", "--alias", "champion", "--json").stdout)
    second = json.loads(
        invoke(*add, "--config", "model.yaml", "--reference", "sample.parquet", "--json").stdout
    )
    assert (first["version"], second["version"]) == ("1", "2")
    assert (
        second["training"] == {"auc": 0.7} and {"profile.json", "reference.parquet"} < second["files"].keys()
    )

    invoke("model", "alias", "churn", "champion", "2")
    (listed,) = json.loads(invoke("model", "list", "--json").stdout)
    assert listed == {"name": "churn", "versions": ["1", "2"], "aliases": {"champion": "2"}}
    assert "champion→2" in invoke("model", "list").stdout
    assert "churn@2" in invoke("model", "verify", "churn@champion").stdout
    assert "churn@1" in invoke("model", "verify", "models/churn/1").stdout

    Path("models/churn/2/model.onnx").write_bytes(b"other")
    refused = invoke("model", "verify", "churn@champion", code=2)
    assert "DigestMismatch" in refused.stderr and refused.stdout == ""
    invoke("model", "alias", "churn", "champion", "1")
    assert "'9'" in invoke("model", "alias", "churn", "champion", "9", code=2).stderr
    assert "none" in invoke("model", "list", "--registry", "elsewhere").stdout


def test_the_demo_works_on_the_committed_sample(tmp_path: Path) -> None:
    for name in ("data", "pipelines"):
        (tmp_path / name).symlink_to(ROOT / name)
    done = process("demo", cwd=tmp_path, BATCHINFER_RUNS=str(tmp_path / "runs"))

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "14 runs" in done.stdout and "Delta table results/flight_delay" in done.stdout
    days = [line.split() for line in done.stdout.splitlines() if line.startswith("2013-")]
    assert len(days) == 14
    read = sum(int(day[1].replace(",", "")) for day in days)
    table = deltalake.DeltaTable(str(tmp_path / "results/flight_delay")).to_pyarrow_table()
    assert table.num_rows == read == len(set(table["flight_id"].to_pylist()))
    assert pc.min_max(table["p_late"]).as_py()["max"] <= 1
    next_steps = [line.strip() for line in done.stdout.splitlines() if "batchinfer " in line[:24]]
    assert len(next_steps) == 5
    for step in next_steps:
        command = step.split("   ")[0].split()[1:]
        followed = process(*command, cwd=tmp_path, BATCHINFER_RUNS=str(tmp_path / "runs"))
        assert followed.returncode == 0, (command, followed.stderr)


def test_the_demo_without_its_data_says_where_it_runs(tmp_path: Path) -> None:
    (tmp_path / "pipelines").symlink_to(ROOT / "pipelines")
    done = process("demo", cwd=tmp_path)
    assert done.returncode == 2
    assert "no sample data" in done.stderr and "Traceback" not in done.stderr


# Looking before a run


def test_check_and_plan_write_nothing(pipeline: Any, spec: str) -> None:
    before = sorted(pipeline.root.rglob("*"))
    invoke("check", spec)
    invoke("check", spec, "-p", "ds=d1")
    invoke("plan", spec, "-p", "ds=d1")
    invoke("plan", spec, "-p", "ds=d1", "--json")
    assert sorted(pipeline.root.rglob("*")) == before


def test_check_tells_what_the_model_takes_and_which_parameters_are_needed(spec: str) -> None:
    checked = invoke("check", spec)
    assert "linear@1" in checked.stdout and "x0, x1, x2" in checked.stdout
    assert "-p ds=VALUE" in checked.stdout


def test_plan_tells_what_the_run_will_do(spec: str) -> None:
    plan = json.loads(invoke("plan", spec, "-p", "ds=d1", "--json").stdout)
    assert (plan["rows"], plan["files"], plan["model"]) == (100, 1, "linear@1")
    assert plan["partitions"] == [{"ds": "d1"}]
    (unit,) = plan["units"]
    assert unit["rows"] == 100 and unit["slices"][0]["row_groups"] == [0, 3]
    assert "100 rows in 1 files, 1 units" in invoke("plan", spec, "-p", "ds=d1").stdout

    report = json.loads(invoke("run", spec, "-p", "ds=d1", "--json").stdout)
    assert report["run_id"] == plan["run_id"]
    assert json.loads(invoke("plan", spec, "-p", "ds=d1", "--json").stdout)["run_id"] == plan["run_id"]


# A run's output


def test_json_is_the_one_line_on_stdout_and_text_goes_to_stderr(spec: str) -> None:
    result = invoke("run", spec, "-p", "ds=d1", "--json")
    (line,) = result.stdout.splitlines()
    report = json.loads(line)
    assert_contract(report)
    assert (report["status"], report["rows"]["scored"]) == ("done", 100)
    assert report["units"] == {"total": 1, "reused": 0}
    assert "100 scored" in result.stderr


def test_text_says_the_same_on_stdout_and_nothing_on_stderr(spec: str) -> None:
    result = invoke("run", spec, "-p", "ds=d1")
    assert result.stderr == ""
    for said in ("scores ds=d1: done in", "100 read · 100 scored", "1 (0 reused)", "linear@1", "version"):
        assert said in result.stdout


def test_json_of_a_failed_run_is_its_report_too(pipeline: Any, rows: Rows, spec: str) -> None:
    table = rows(0, 100)
    bad = table.set_column(1, "x0", pa.array([None] * 20 + [1.0] * 80, pa.float32()))
    pipeline.write_input(bad, ds="d1")
    result = invoke("run", spec, "-p", "ds=d1", "--json", code=3)
    report = json.loads(result.stdout.splitlines()[-1])
    assert_contract(report)
    assert (report["status"], report["table_version"]) == ("failed", None)
    assert report["rows"] == {"read": 100, "scored": 80, "quarantined": 20, "skipped": 0}
    assert report["quality"]["quarantined"] == {"null in 'x0'": 20}
    assert "QualityGate" in result.stderr and "20 of 100" in report["error"]

    (pipeline.root / "results").rename(pipeline.root / "moved")
    (pipeline.root / "results").write_text("a file")
    result = invoke("run", spec, "-p", "ds=d2", "--json", code=1)
    report = json.loads(result.stdout)
    assert_contract(report)
    assert report["status"] == "failed" and "cannot write" in report["error"]


def test_json_of_a_run_that_has_no_plan_is_a_report_without_an_id(
    pipeline: Any, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*arguments: str, code: int = 2) -> dict[str, Any]:
        result = invoke("run", *arguments, "--json", code=code)
        (line,) = result.stdout.splitlines()
        report: dict[str, Any] = json.loads(line)
        assert_contract(report)
        assert (report["run_id"], report["table_version"], report["rows"]["read"]) == (None, None, 0)
        assert report["error"].splitlines()[0] in result.stderr or code == 130
        return report

    report = told(spec, "-p", "ds=d9")
    assert (report["status"], report["pipeline"], report["parameters"]) == ("failed", "scores", {"ds": "d9"})
    assert "d9: no such file" in report["error"]
    assert "no parameter 'day'" in told(spec, "-p", "day=1")["error"]
    assert "expected NAME=VALUE" in told(spec, "-p", "ds")["error"]
    assert told("nowhere.yaml", "-p", "ds=d1")["pipeline"] == "nowhere.yaml"
    monkeypatch.setattr("batchinfer.runs._job.make_plan", lambda *_: signal.raise_signal(signal.SIGTERM))
    assert told(spec, "-p", "ds=d1", code=130)["status"] == "interrupted"
    assert not (pipeline.root / "runs").exists()


def test_json_logs_are_json_lines_with_the_run_id_and_nothing_else(
    pipeline: Any, rows: Rows, spec: str
) -> None:
    for mode in ([], ["--json"]):
        result = invoke("--log-format", "json", "run", spec, "-p", "ds=d1", *mode)
        lines = [json.loads(line) for line in result.stderr.splitlines()]
        assert len(lines) >= 2
        assert len({line["run_id"] for line in lines}) == 1
        assert all(line.keys() >= {"time", "level", "logger", "message"} for line in lines)
    pipeline.write_input(rows(0, 100).set_column(1, "x0", pa.nulls(100, pa.float32())), ds="d2")
    result = invoke("--log-format", "json", "run", spec, "-p", "ds=d2", "--json", code=3)
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    assert lines[-1]["level"] == "ERROR" and "QualityGate" in lines[-1]["message"]
    assert lines[-1]["run_id"] == json.loads(result.stdout)["run_id"]
    result = invoke("--log-format", "json", "run", spec, "-p", "ds=d9", code=2)
    assert "NoInput" in json.loads(result.stderr)["message"]


def test_text_logs_go_to_stderr_once_for_each_command(spec: str) -> None:
    for _ in range(2):
        result = invoke("--log-format", "text", "run", spec, "-p", "ds=d1")
        assert result.stderr.count("planned 100 rows") == 1
        assert "planned" not in result.stdout


def test_set_and_engine_override_the_spec_for_one_command(pipeline: Any, spec: str) -> None:
    elsewhere = str(pipeline.root / "elsewhere")
    invoke("run", spec, "-p", "ds=d1", "--set", f"output.path={elsewhere}", "--engine", "local")
    assert deltalake.DeltaTable(elsewhere).to_pyarrow_table().num_rows == 100
    assert not pipeline.output.exists()


# Records, history, rows


def test_runs_are_listed_and_shown_by_the_beginning_of_their_id(pipeline: Any, rows: Rows, spec: str) -> None:
    assert invoke("runs", "list").stdout == "none\n"
    first = json.loads(invoke("run", spec, "-p", "ds=d1", "--json").stdout)
    pipeline.write_input(rows(0, 100).set_column(1, "x0", pa.nulls(100, pa.float32())), ds="d2")
    invoke("run", spec, "-p", "ds=d2", code=3)

    listed = json.loads(invoke("runs", "list", "--json").stdout)
    assert {(r["parameters"]["ds"], r["status"]) for r in listed} == {("d1", "done"), ("d2", "failed")}
    assert len(json.loads(invoke("runs", "list", "--limit", "1", "--json").stdout)) == 1
    text = invoke("runs", "list").stdout
    assert first["run_id"] in text and "failed" in text
    shown = json.loads(invoke("runs", "show", first["run_id"][:6], "--json").stdout)
    assert shown == first
    assert "100 scored" in invoke("runs", "show", first["run_id"]).stdout
    (failed,) = [r["run_id"] for r in listed if r["status"] == "failed"]
    assert "were set aside" in invoke("runs", "show", failed).stdout
    assert "no run begins with 'zz'" in invoke("runs", "show", "zz", code=2).stderr
    assert "2 runs begin" in invoke("runs", "show", "", code=2).stderr


def test_a_record_that_cannot_be_read_is_named_and_the_others_are_listed(
    pipeline: Any, spec: str, tmp_path: Path
) -> None:
    run_id = json.loads(invoke("run", spec, "-p", "ds=d1", "--json").stdout)["run_id"]
    contents = {"torn": '{"run_id": "torn", "sta', "list": "[]", "other": '{"a": 1}'}
    for name, content in contents.items():
        (pipeline.root / "runs" / f"{name}.json").write_text(content)
    listed = process("runs", "list", "--json", cwd=tmp_path)
    assert listed.returncode == 0
    assert [report["run_id"] for report in json.loads(listed.stdout)] == [run_id]
    assert all(f"runs/{name}.json: not a run record" in listed.stderr for name in contents)
    assert "torn.json: not a run record" in invoke("runs", "show", "torn", code=2).stderr


@pytest.mark.parametrize("store", ["delta", "parquet"])
def test_history_tells_each_commit_newest_first(pipeline: Any, rows: Rows, spec: str, store: str) -> None:
    into = ["--set", f"output.store={store}"]
    assert invoke("results", "history", spec, *into).stdout == "none\n"
    ids = [
        json.loads(invoke("run", spec, "-p", f"ds={day}", "--json", *into).stdout)["run_id"]
        for day in ("d1", "d2")
    ]
    entries = json.loads(invoke("results", "history", spec, "--json", *into).stdout)
    told = [entry for entry in entries if entry["run_id"]]
    assert [entry["run_id"] for entry in told] == ids[::-1]
    assert [entry["report"]["rows"]["scored"] for entry in told] == [100, 100]
    assert told[0]["version"] > told[1]["version"]
    assert len(json.loads(invoke("results", "history", spec, "--json", "--limit", "1", *into).stdout)) == 1
    assert all(run_id in invoke("results", "history", spec, *into).stdout for run_id in ids)


@pytest.mark.parametrize("store", ["delta", "parquet"])
def test_sweep_deletes_what_failed_runs_left_and_nothing_that_readers_see(
    pipeline: Any, rows: Rows, spec: str, store: str
) -> None:
    into = ["--set", f"output.store={store}"]
    invoke("run", spec, "-p", "ds=d1", *into)
    bad = pa.array([None] * 20 + [1.0] * 80, pa.float32())
    pipeline.write_input(rows(0, 100).set_column(1, "x0", bad), ds="d2")
    invoke("run", spec, "-p", "ds=d2", *into, code=3)

    def staged() -> int:
        return len(list((pipeline.root / "results").rglob("part-*.parquet")))

    before = staged()
    now = ["--older-than-hours", "0"]
    young = invoke("results", "sweep", spec, *into)
    assert young.stdout == "" and "0 orphans" in young.stderr
    listed = invoke("results", "sweep", spec, *into, *now, "--dry-run").stdout.splitlines()
    assert any(path.endswith(".parquet") for path in listed)
    assert staged() == before
    assert invoke("results", "sweep", spec, *into, *now).stdout.splitlines() == listed
    assert invoke("results", "sweep", spec, *into, *now).stdout == ""
    explained = invoke("explain", spec, "--key", "7", "-p", "ds=d1", *into)
    assert "the bits agree" in explained.stdout
    assert staged() == 1


def test_explain_ends_with_1_when_the_bits_differ(pipeline: Any, spec: str) -> None:
    invoke("run", spec, "-p", "ds=d1")
    deltalake.DeltaTable(str(pipeline.output)).update(updates={"score": "score + 1"}, predicate="id = 7")
    changed = invoke("explain", spec, "--key", "7", code=1)
    assert "the bits DIFFER" in changed.stdout and "Traceback" not in changed.output
    (told,) = json.loads(invoke("explain", spec, "--key", "id=7", "--json", code=1).stdout)
    assert told["bit_exact"] is False and told["position"] == 7
    assert told["stored"]["score"] == pytest.approx(told["rescored"]["score"] + 1)
    (told,) = json.loads(invoke("explain", spec, "--key", "8", "-p", "ds=d1", "--json").stdout)
    assert told["bit_exact"] is True and told["key"] == {"id": 8}
    assert "no row with id=700" in invoke("explain", spec, "--key", "700", code=2).stderr


def test_explain_writes_json_also_of_numbers_that_json_does_not_know(
    pipeline: Any, rows: Rows, spec: str
) -> None:
    infinite = float("inf")
    table = rows(0, 100)
    for name, value in (("x0", [infinite, -infinite, infinite]), ("x2", [0, 0, infinite])):
        column = pa.array([*value, *[0.0] * 97], pa.float32())
        table = table.set_column(table.schema.get_field_index(name), name, column)
    pipeline.write_input(table, ds="d1")
    invoke("run", spec, "-p", "ds=d1")
    for row, text in enumerate(["Infinity", "-Infinity", "NaN"]):
        line = invoke("explain", spec, "--key", str(row), "--json").stdout
        (told,) = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        assert told["stored"] == told["rescored"] == {"score": text}
        assert told["inputs"]["x0"] == ("Infinity" if row == 2 else text)


def test_every_command_helps_and_a_wrong_one_is_exit_2() -> None:
    groups = {"runs": ["list", "show"], "model": ["add", "list", "alias", "verify"]}
    groups |= {"results": ["history", "sweep"]}
    singles = [["check"], ["plan"], ["run"], ["explain"], ["demo"]]
    for command in [*singles, *([group, name] for group, names in groups.items() for name in names)]:
        assert "Usage:" in invoke(*command, "-h").stdout
    assert "batchinfer" in invoke("--version").stdout
    invoke("runn", code=2)
    invoke("run", code=2)
    invoke("--log-format", "xml", "runs", "list", code=2)


# Ctrl-C

WAITS = """
import os
import pathlib

HERE = pathlib.Path(__file__).parent


def build(batch):
    # The gate is a fifo: opening it blocks until the test opens the other end.
    if batch["ds"][0].as_py() == "d3" and (HERE / "gate").exists():
        with open(HERE / "reached", "w"):
            pass
        with open(HERE / "gate"):
            pass
    return batch.select(["x0", "x1", "x2"])
"""


@pytest.fixture
def waiting(pipeline: Any, rows: Rows) -> Iterator[subprocess.Popen[str]]:
    """A run over six days that two units of are done and the third of waits at a gate."""
    for day in range(1, 7):
        pipeline.write_input(rows(day * 100, 100), ds=f"d{day}")
    (pipeline.root / "features.py").write_text(WAITS)
    everything = {"path": str(pipeline.input), "key": ["id"]}
    pipeline.write_spec(input=everything, transform="features.py:build", engine={"threads": 1})
    os.mkfifo(pipeline.root / "gate")
    os.mkfifo(pipeline.root / "reached")
    # A test run in the background ignores SIGINT, and so would its child; a user's shell does not.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from batchinfer.cli import main; main()"
    run = subprocess.Popen(
        [sys.executable, "-c", code, "run", str(pipeline.root / "pipeline.yaml"), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    try:
        with (pipeline.root / "reached").open():  # blocks until the third unit is under way
            yield run
    finally:
        if run.poll() is None:
            run.kill()
        run.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_ends_with_130_and_the_next_goes_on_from_what_it_did(
    pipeline: Any, rows: Rows, waiting: subprocess.Popen[str], number: signal.Signals
) -> None:
    assert waiting.stderr is not None
    waiting.send_signal(number)
    said = waiting.stderr.readline()
    assert "stopping" in said
    with (pipeline.root / "gate").open("w"):
        pass
    stdout, stderr = waiting.communicate(timeout=60)

    assert waiting.returncode == 130, stderr
    assert "Interrupted" in stderr and "goes on from there" in stderr
    assert "Traceback" not in stderr and stderr.count("batchinfer: ") == 1
    report = json.loads(stdout)
    assert_contract(report)
    assert report["status"] == "interrupted"
    assert not deltalake.DeltaTable.is_deltatable(str(pipeline.output))
    assert [r["status"] for r in json.loads(invoke("runs", "list", "--json").stdout)] == ["interrupted"]

    (pipeline.root / "gate").unlink()
    again = json.loads(invoke("run", str(pipeline.root / "pipeline.yaml"), "--json").stdout)
    assert again["run_id"] == report["run_id"]
    assert again["units"]["total"] == 6 and again["units"]["reused"] in {2, 3}
    assert again["rows"] == {"read": 600, "scored": 600, "quarantined": 0, "skipped": 0}
    table = deltalake.DeltaTable(str(pipeline.output)).to_pyarrow_table().sort_by("id")
    inputs = rows(100, 600)
    assert table["id"].to_pylist() == inputs["id"].to_pylist()
    assert table["ds"].to_pylist() == [f"d{i // 100}" for i in range(100, 700)]
    score = inputs["x0"].to_numpy() + 2 * inputs["x1"].to_numpy() - inputs["x2"].to_numpy()
    np.testing.assert_allclose(table["score"].to_numpy(), score, rtol=1e-5, atol=1e-5)


def test_a_second_signal_stops_at_once_and_does_no_harm(
    pipeline: Any, waiting: subprocess.Popen[str]
) -> None:
    assert waiting.stderr is not None
    waiting.send_signal(signal.SIGINT)
    assert "once more stops at once" in waiting.stderr.readline()
    waiting.send_signal(signal.SIGINT)
    assert waiting.wait(timeout=30) == -signal.SIGINT
    assert not deltalake.DeltaTable.is_deltatable(str(pipeline.output))

    (pipeline.root / "gate").unlink()
    again = json.loads(invoke("run", str(pipeline.root / "pipeline.yaml"), "--json").stdout)
    assert (again["status"], again["units"]) == ("done", {"total": 6, "reused": 2})
    assert deltalake.DeltaTable(str(pipeline.output)).to_pyarrow_table().num_rows == 600


def test_ctrl_c_before_the_first_row_is_130_too(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: Any) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("batchinfer.runs._job.make_plan", stop)
    stopped = invoke("run", spec, "-p", "ds=d1", code=130)
    assert "Interrupted" in stopped.stderr and stopped.stdout == ""


def test_signal_handlers_and_log_handlers_are_put_back_after_a_command(spec: str) -> None:
    import logging

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    handlers = list(logging.getLogger("batchinfer").handlers)
    invoke("--log-format", "json", "run", spec, "-p", "ds=d1")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert logging.getLogger("batchinfer").handlers == handlers
