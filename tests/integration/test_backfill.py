"""Backfills with real runs over both stores: what is done, skipped, tried again, and what the command says."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from click.testing import CliRunner, Result

from batchinfer.cli import main
from batchinfer.errors import ModelError, SpecError, StoreError, TransformError, Transient, UsageError
from batchinfer.model import Scorer
from batchinfer.runs import (
    BackfillReport,
    DayReport,
    Plan,
    RunRecords,
    _backfill,
    _job,
    backfill,
    make_plan,
    open_quarantine,
    run,
)
from batchinfer.spec import PipelineSpec, load_spec
from batchinfer.store import ResultsStore, open_store

Rows = Callable[[int, int], pa.Table]
ROOT = Path(__file__).parents[2]
DAYS = ("2013-01-01", "2013-01-02", "2013-01-03", "2013-01-04")
FIRST, LAST = date(2013, 1, 1), date(2013, 1, 4)


class Days:
    """A pipeline with four days of 100 rows."""

    def __init__(self, pipeline: Any, rows: Rows, store: str) -> None:
        self.pipeline, self.rows, self.store = pipeline, rows, store
        for number, day in enumerate(DAYS):
            self.write(day, rows(100 * number, 100))

    def write(self, day: str, table: pa.Table) -> Path:
        path: Path = self.pipeline.write_input(table, ds=day)
        return path

    def spec_file(self, **overrides: Any) -> str:
        output = {
            "store": self.store,
            "path": str(self.pipeline.output),
            "partition_by": ["ds"],
            "carry": ["note"],
        }
        return str(self.pipeline.write_spec(**{"output": output, **overrides}))

    def spec(self, **overrides: Any) -> PipelineSpec:
        return load_spec(self.spec_file(**overrides))

    def backfill(self, spec: PipelineSpec | None = None, **options: Any) -> BackfillReport:
        return backfill(spec or self.spec(), FIRST, LAST, **options)

    def table(self) -> pa.Table:
        return self._results().dataset().to_table().sort_by("id")

    def versions(self) -> int:
        return len(self._results().history(100))

    def _results(self) -> ResultsStore:
        return open_store(self.store, str(self.pipeline.output), ("ds",), "scores")


@pytest.fixture(params=["delta", "parquet"])
def days(request: pytest.FixtureRequest, pipeline: Any, rows: Rows) -> Days:
    return Days(pipeline, rows, request.param)


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other at once."""
    monkeypatch.setattr(_backfill, "_PAUSE_SECONDS", 0.0)


def statuses(report: BackfillReport) -> list[str]:
    return [day.status for day in report.days]


@pytest.mark.parametrize("jobs", [1, 3])
def test_each_day_is_a_run_of_its_own_as_the_nightly_run_would_do_it(days: Days, jobs: int) -> None:
    report = days.backfill(jobs=jobs)
    assert (report.status, report.exit_code, report.parameter) == ("done", 0, "ds")
    assert [(day.day, day.status, day.rows.read, day.attempts) for day in report.days] == [
        (day, "done", 100, 1) for day in DAYS
    ]
    table = days.table()
    assert table["id"].to_pylist() == list(range(400))
    assert table["ds"].to_pylist() == [DAYS[i // 100] for i in range(400)]
    assert sorted(day.table_version for day in report.days) == sorted({d.table_version for d in report.days})  # type: ignore[type-var]
    nightly = {day: run(days.spec(), {"ds": day}) for day in DAYS}
    assert {day.day: day.run_id for day in report.days} == {day: r.run_id for day, r in nightly.items()}
    assert all(found.units["reused"] == found.units["total"] for found in nightly.values())
    assert {record.status for record in RunRecords().all()} == {"done"}
    assert days.table().equals(table)


def test_days_whose_work_is_done_are_skipped_without_scoring_or_writing(
    days: Days, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = days.spec()
    days.backfill(spec)
    before, versions = days.table(), days.versions()

    def files() -> dict[Path, int]:
        return {p: p.stat().st_mtime_ns for p in days.pipeline.root.rglob("*") if p.is_file()}

    written = files()
    monkeypatch.setattr(Scorer, "score_rows", lambda *_: pytest.fail("a row was scored"))
    report = days.backfill(spec)
    assert (statuses(report), report.exit_code) == (["skipped"] * 4, 0)
    assert [day.rows.scored for day in report.days] == [100] * 4
    assert all(day.table_version is not None and day.attempts == 0 for day in report.days)
    assert files() == written
    assert days.table().equals(before) and days.versions() == versions


def test_a_day_killed_just_before_its_record_said_done_comes_to_have_one_that_does(days: Days) -> None:
    spec = days.spec()
    backfill(spec, FIRST, FIRST)
    [record] = RunRecords().all()
    RunRecords().write(record.with_(status="running", rows=type(record.rows)(), table_version=None))
    assert statuses(backfill(spec, FIRST, FIRST)) == ["skipped"]
    [settled] = RunRecords().all()
    assert (settled.status, settled.started_at) == ("done", record.started_at)
    assert (settled.rows, settled.table_version) == (record.rows, record.table_version)


def test_a_day_is_done_anew_where_its_work_is_another(days: Days) -> None:
    run(days.spec(), {"ds": DAYS[1]})
    assert statuses(days.backfill()) == ["done", "skipped", "done", "done"]
    days.write(DAYS[2], days.rows(1000, 50))
    assert statuses(days.backfill()) == ["skipped", "skipped", "done", "skipped"]
    assert days.table()["id"].to_pylist() == [*range(200), *range(300, 400), *range(1000, 1050)]
    other = days.spec(quality={"max_quarantined": 0.5})
    assert statuses(days.backfill(other)) == ["done"] * 4


def test_force_scores_again_and_replaces_results_and_quarantine(
    days: Days, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = days.rows(0, 100)
    days.write(
        DAYS[0], table.set_column(1, "x0", pa.array([None, *table["x0"].to_pylist()[1:]], pa.float32()))
    )
    days.backfill()
    before, versions = days.table(), days.versions()
    quarantine = open_quarantine(days.spec(), str(days.pipeline.output))
    scored: list[int] = []
    score = Scorer.score_rows

    def counted(self: Scorer, batch: pa.RecordBatch, *arguments: Any) -> Any:
        scored.append(batch.num_rows)
        return score(self, batch, *arguments)

    monkeypatch.setattr(Scorer, "score_rows", counted)
    quarantined = len(quarantine.history(100))
    report = days.backfill(force=True)
    assert (statuses(report), report.exit_code) == (["done"] * 4, 0)
    assert sum(scored) == 400
    assert days.versions() == versions + 4 and len(quarantine.history(100)) == quarantined + 4
    assert days.table().equals(before)
    assert quarantine.dataset().to_table()["id"].to_pylist() == [0]
    assert statuses(days.backfill()) == ["skipped"] * 4


def test_the_model_is_loaded_once_for_all_days_and_stays_though_the_alias_moves(
    days: Days, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    of = Scorer.of.__func__  # type: ignore[attr-defined]

    def counted(cls: type[Scorer], bundle: Any, *arguments: Any) -> Scorer:
        loads.append(bundle.identity)
        loaded: Scorer = of(cls, bundle, *arguments)
        return loaded

    monkeypatch.setattr(Scorer, "of", classmethod(counted))
    assert days.backfill(jobs=2).status == "done"
    assert loads == ["linear@1"]


def test_a_day_without_input_is_told_apart_and_hinders_no_other(days: Days) -> None:
    days.write(DAYS[1], days.rows(0, 1)).unlink()
    report = backfill(days.spec(), FIRST, date(2013, 1, 5))
    assert statuses(report) == ["done", "no input", "done", "done", "no input"]
    assert report.exit_code == 2
    assert "no Parquet file" in str(report.days[1].error) and "no such file" in str(report.days[4].error)


def test_a_day_that_fails_does_not_stop_the_others(days: Days, monkeypatch: pytest.MonkeyPatch) -> None:
    days.write(DAYS[0], days.rows(0, 100).drop_columns(["x1"]))
    days.write(DAYS[1], days.rows(0, 100)).write_bytes(b"no parquet")
    table = days.rows(200, 100)
    days.write(DAYS[2], table.set_column(1, "x0", pa.nulls(100, pa.float32())))
    report = days.backfill()
    assert statuses(report) == ["failed", "failed", "failed", "done"]
    assert [day.exit_code for day in report.days] == [2, 2, 3, 0] and report.exit_code == 2
    assert report.days[0].error is not None and "no column 'x1'" in report.days[0].error
    assert report.days[2].rows.quarantined == 100 and report.days[2].table_version is None
    assert {day.attempts for day in report.days[:2]} == {0}, "a day that cannot be planned is not run"
    assert set(days.table()["ds"].to_pylist()) == {DAYS[3]}


def test_a_defect_fails_its_day_alone(
    days: Days, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plan = make_plan

    def broken(spec: PipelineSpec, parameters: dict[str, str], loaded: Any) -> Plan:
        if parameters["ds"] == DAYS[0]:
            raise ZeroDivisionError("a defect")
        return plan(spec, parameters, loaded)

    monkeypatch.setattr(_backfill, "make_plan", broken)
    report = days.backfill()
    assert statuses(report) == ["failed", "done", "done", "done"] and report.exit_code == 1
    assert report.days[0].error == "ZeroDivisionError: a defect"
    assert caplog.records[0].exc_info is not None


class TouchOnce:
    """Changes a day's input when its run has planned it: the first time, or each time."""

    def __init__(self, path: Path, times: int) -> None:
        self.path, self.times, self.ended_days = path, times, list[DayReport]()

    def begun(self, pipeline: str, days: int) -> None:
        pass

    def planned(self, day: str, rows: int) -> None:
        if self.times and f"ds={day}" in str(self.path):
            self.times -= 1
            os.utime(self.path, (self.times, self.times))

    def rows(self, day: str, count: int) -> None:
        pass

    def ended(self, day: DayReport) -> None:
        self.ended_days.append(day)

    def finished(self) -> None:
        pass


def test_a_day_that_fails_for_now_is_planned_and_tried_again(days: Days, no_pause: None) -> None:
    progress = TouchOnce(days.write(DAYS[1], days.rows(100, 100)), times=1)
    report = days.backfill(progress=progress)
    assert statuses(report) == ["done"] * 4 and report.exit_code == 0
    assert [day.attempts for day in report.days] == [1, 2, 1, 1]
    assert report.days[1].run_id == run(days.spec(), {"ds": DAYS[1]}).run_id
    assert sorted(day.day for day in progress.ended_days) == list(DAYS)


def test_a_day_that_fails_for_now_each_time_is_given_up_with_75(days: Days, no_pause: None) -> None:
    progress = TouchOnce(days.write(DAYS[1], days.rows(100, 100)), times=99)
    report = days.backfill(progress=progress, jobs=2)
    assert statuses(report) == ["done", "failed", "done", "done"]
    assert (report.days[1].attempts, report.days[1].exit_code, report.exit_code) == (3, 75, 75)
    assert "InputChanged" in str(report.days[1].error)
    assert statuses(days.backfill()) == ["skipped", "done", "skipped", "skipped"]


def test_an_unknown_outcome_is_asked_of_the_table_and_not_done_twice(
    days: Days, monkeypatch: pytest.MonkeyPatch, no_pause: None
) -> None:
    commit = _job._commit
    lost = iter([True])

    def loses_its_answer(*arguments: Any) -> int:
        version = commit(*arguments)
        if next(lost, False):
            raise Transient("the connection was lost")
        return version

    monkeypatch.setattr(_job, "_commit", loses_its_answer)
    report = days.backfill()
    assert [day.attempts for day in report.days] == [2, 1, 1, 1]
    assert report.exit_code == 0 and days.versions() == 4 + (days.store == "delta")


def test_what_a_kill_left_undone_behind_a_commit_is_made_good_and_not_skipped(
    days: Days, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = days.rows(0, 100)
    days.write(
        DAYS[0], table.set_column(1, "x0", pa.array([None, *table["x0"].to_pylist()[1:]], pa.float32()))
    )
    commit = _job._commit_quarantine

    def fails(*arguments: Any) -> None:
        raise StoreError("no room for the quarantine")

    monkeypatch.setattr(_job, "_commit_quarantine", fails)
    first = backfill(days.spec(), FIRST, FIRST).days[0]
    assert (first.status, first.exit_code) == ("failed", 1) and first.table_version is not None
    monkeypatch.setattr(_job, "_commit_quarantine", commit)
    monkeypatch.setattr(Scorer, "score_rows", lambda *_: pytest.fail("a row was scored"))
    assert statuses(backfill(days.spec(), FIRST, FIRST)) == ["done"]
    quarantine = open_quarantine(days.spec(), str(days.pipeline.output))
    assert quarantine.dataset().to_table()["id"].to_pylist() == [0]
    assert statuses(backfill(days.spec(), FIRST, FIRST)) == ["skipped"]


def test_days_in_parallel_may_widen_the_quarantine_at_once(days: Days) -> None:
    for number, day in enumerate(DAYS):
        table = days.rows(100 * number, 100).append_column(f"more_{number}", pa.array(range(100)))
        values = [None, *table["x0"].to_pylist()[1:]]
        days.write(day, table.set_column(1, "x0", pa.array(values, pa.float32())))
    report = days.backfill(jobs=4)
    assert statuses(report) == ["done"] * 4, [day.error for day in report.days]
    found = open_quarantine(days.spec(), str(days.pipeline.output)).dataset().to_table()
    assert sorted(found["id"].to_pylist()) == [0, 100, 200, 300]
    assert {f"more_{n}" for n in range(4)} < set(found.column_names)


def test_days_that_would_replace_each_other_are_refused_before_the_first(days: Days) -> None:
    output = {"store": days.store, "path": str(days.pipeline.output)}
    with pytest.raises(UsageError, match="2013-01-01 and 2013-01-02 would both replace"):
        days.backfill(days.spec(output=output))
    assert not days.pipeline.output.exists()
    each = days.spec(output={**output, "path": str(days.pipeline.output / "{ds}")})
    assert days.backfill(each).status == "done"


def test_what_no_day_could_do_with_is_refused_before_the_first(days: Days) -> None:
    for spec, parameters, error in (
        (days.spec(model="linear@9"), {}, ModelError),
        (days.spec(transform="none.py:f"), {}, TransformError),
        (days.spec(), {"region": "eu"}, UsageError),
    ):
        with pytest.raises(error):
            days.backfill(spec, parameters=parameters)
    with pytest.raises(UsageError, match="at least one"):
        days.backfill(jobs=0)
    with pytest.raises(SpecError):
        days.backfill(days.spec(drift={"reference": "model"}, quality={"suite": "none.json"}))
    assert not days.pipeline.output.exists()


def test_a_backfill_sends_no_alerts(days: Days) -> None:
    told = days.pipeline.root / "told"
    spec = days.spec(alerts={"command": ["sh", "-c", f"cat > {told}"]})
    days.write(DAYS[0], days.rows(0, 100).set_column(1, "x0", pa.nulls(100, pa.float32())))
    assert days.backfill(spec).exit_code == 3
    assert not told.exists()
    with pytest.raises(Exception, match="quarantine"):
        run(spec, {"ds": DAYS[0]})
    assert told.exists(), "the same spec's nightly run does tell"


# The command


def invoke(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["backfill", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def few(pipeline: Any, rows: Rows) -> Days:
    return Days(pipeline, rows, "delta")


def test_the_table_on_stdout_has_a_line_for_each_day_and_progress_goes_to_stderr(few: Days) -> None:
    run(few.spec(), {"ds": DAYS[0]})
    result = invoke(few.spec_file(), "--start", "2013-01-01", "--end", "2013-01-06", code=2)
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["day", "status", "rows", "quarantined", "drift", "seconds"]
    assert re.fullmatch(r"2013-01-01 +skipped +100 +0 +\d+\.\d\d", lines[1]), lines[1]
    assert re.fullmatch(r"2013-01-02 +done +100 +0 +\d+\.\d\d", lines[2])
    assert re.fullmatch(r"2013-01-05 +no input +\d+\.\d\d", lines[5])
    assert "2013-01-05: NoInput: " in result.stdout and "no input either: 2013-01-06" in result.stdout
    assert re.match(r"scores: 6 days: 3 done, 1 skipped, 2 no input; 400 rows stand; \d+\.\d\d s$", lines[-1])
    assert "scores: 2013-01-02 done, 100 rows in" in result.stderr
    assert result.stderr.splitlines()[-1].endswith("6 of 6 days")


def test_json_is_one_object_whatever_became_of_the_days(few: Days) -> None:
    def told(*arguments: str, code: int) -> dict[str, Any]:
        (line,) = invoke(*arguments, "--json", code=code).stdout.splitlines()
        found: dict[str, Any] = json.loads(line)
        assert found["exit_code"] == code
        return found

    for number, day in enumerate(DAYS[:2]):
        table = few.rows(500 * number, 500)
        few.write(day, table.set_column(1, "x0", pc.add(table["x0"], pa.scalar(50, pa.float32()))))
    path = few.spec_file(drift={"on_drift": "fail"})
    done = told(path, "--start", "2013-01-01", "--end", "2013-01-02", code=4)
    assert [(d["status"], d["exit_code"], d["drift_alarm"]) for d in done["days"]] == [("done", 4, True)] * 2
    again = told(path, "--start", "2013-01-01", "--end", "2013-01-02", code=4)
    assert [(d["status"], d["exit_code"]) for d in again["days"]] == [("skipped", 4)] * 2
    assert (done["pipeline"], done["parameter"], done["parameters"]) == ("scores", "ds", {})
    first = ("--start", "2013-01-01", "--end", "2013-01-01")
    ok = told(few.spec_file(), "--start", "2013-01-01", "--end", "2013-01-04", "--jobs", "2", code=0)
    assert (ok["status"], ok["rows"]["scored"], ok["counts"]["done"]) == ("done", 1200, 4)
    for arguments, says in (
        ((few.spec_file(), "--start", "2013-01-02", "--end", "2013-01-01"), "before the first"),
        (("nowhere.yaml", *first), "cannot read"),
        ((few.spec_file(), *first, "-p", "x"), "NAME=VALUE"),
    ):
        wrong = told(*arguments, code=2)
        assert (wrong["status"], wrong["days"]) == ("failed", []) and says in wrong["error"]


def test_wrong_days_and_jobs_are_refused_by_name(few: Days) -> None:
    spec = few.spec_file()
    assert "'2013-02-30'" in invoke(spec, "--start", "2013-02-30", "--end", "2013-03-01", code=2).stderr
    assert "--end" in invoke(spec, "--start", "2013-02-01", code=2).stderr
    assert "--jobs" in invoke(spec, "--start", *DAYS[:1], "--end", *DAYS[:1], "--jobs", "0", code=2).stderr


def test_json_logs_are_json_lines_and_nothing_else(few: Days) -> None:
    arguments = ["--log-format", "json", "backfill", few.spec_file(), "--json"]
    result = CliRunner().invoke(main, [*arguments, "--start", "2013-01-04", "--end", "2013-01-05"])
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    assert [line["level"] for line in lines if "2013-01-05" in line["message"]] == ["ERROR"]
    ended = next(line for line in lines if line["message"] == "2013-01-04 done")
    (report,) = result.stdout.splitlines()
    assert ended["run_id"] == json.loads(report)["days"][0]["run_id"]


WAITS = """
import pathlib

HERE = pathlib.Path(__file__).parent


def build(batch):
    # The gate is a fifo: opening it blocks until the test opens the other end.
    if batch["id"][0].as_py() == 200 and (HERE / "gate").exists():
        with open(HERE / "reached", "w"):
            pass
        with open(HERE / "gate"):
            pass
    return batch.select(["x0", "x1", "x2"])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_backfill_keeps_the_days_done_and_the_same_command_goes_on(
    few: Days, number: signal.Signals
) -> None:
    root = few.pipeline.root
    (root / "features.py").write_text(WAITS)
    spec = few.spec_file(transform="features.py:build")
    os.mkfifo(root / "gate")
    os.mkfifo(root / "reached")
    # A test run in the background ignores SIGINT, and so would its child; a user's shell does not.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from batchinfer.cli import main; main()"
    arguments = ["backfill", spec, "--start", "2013-01-01", "--end", "2013-01-04", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        with (root / "reached").open():  # blocks until the third day is under way
            process.send_signal(number)
        assert process.stderr is not None
        while "stopping" not in (said := process.stderr.readline()):
            assert said, "it ended without a word"
        with (root / "gate").open("w"):
            pass
        stdout, stderr = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()

    assert process.returncode == 130, stderr
    report = json.loads(stdout)
    # The third day's rows may have been through before the signal was heard.
    done = report["counts"]["done"]
    assert done in {2, 3} and report["status"] == "interrupted"
    assert [day["status"] for day in report["days"]] == ["done"] * done + ["stopped"] * (4 - done)
    assert f"{done} of 4 days are done" in stderr
    assert "goes on from there" in stderr and "Traceback" not in stderr
    assert few.table()["id"].to_pylist() == list(range(100 * done))
    (root / "gate").unlink()
    assert statuses(few.backfill(load_spec(spec))) == ["skipped"] * done + ["done"] * (4 - done)
    assert few.table()["id"].to_pylist() == list(range(400))
