"""The promises of an engine, as a suite that every adapter runs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from batchinfer.core import Engine
from batchinfer.engines import open_engine
from batchinfer.errors import (
    DigestMismatch,
    InputError,
    Interrupted,
    RunFailed,
    Transient,
    WorkerLost,
)
from batchinfer.runs import RunReport, open_results, run
from batchinfer.runs._job import open_quarantine
from batchinfer.runs._plan import Plan, make_plan
from batchinfer.runs._quarantine import begin_quarantine
from batchinfer.runs._work import RunWork
from batchinfer.runs._worker import Staging
from batchinfer.source import plan_units
from batchinfer.spec import EngineSpec, PipelineSpec
from batchinfer.testing._digest import table_digest
from batchinfer.testing._engine_work import Notes, NotingWork, units

PARAMETERS = {"ds": "d1"}
UNIT_ROWS = 500
"""The suite cuts inputs into units so small, so that a few thousand rows make several."""

SpecFor = Callable[..., PipelineSpec]


class _Stopping:
    """Progress that sends this process Ctrl-C when the first rows are reported."""

    def planned(self, plan: Plan) -> None:
        pass

    def rows(self, count: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    def finished(self) -> None:
        pass


class EngineConformance:
    """Subclass it in a test module, with two fixtures.

    `options` (scope "class") is the spec's `engine` section; the suite keeps one engine open for the class, and
    runs share what it opened. `spec_for` takes a folder and overrides by dotted key, and gives a pipeline whose
    parameter `ds=d1` means some 4,000 rows in row groups of 500, with results in that folder. Its transform, where
    `kill_once` is given, makes that file and kills the process that it runs in, unless the file exists. Where
    `meet` is given, it makes a file in that folder and waits until there are two.

    `processes` is false where the workers are threads of the driver: no test kills those.
    """

    processes: ClassVar[bool] = True

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, options: Mapping[str, Any]) -> Iterator[Engine]:
        """One engine for all tests of the class."""
        with open_engine(EngineSpec.model_validate(options)) as engine:
            yield engine

    @pytest.fixture
    def notes(self, tmp_path: Path) -> Notes:
        """Where workers note their attempts."""
        folder = tmp_path / "notes"
        folder.mkdir()
        return Notes(str(folder))

    @pytest.fixture
    def small_units(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Cut inputs into units of `UNIT_ROWS`."""
        assert plan_units.__kwdefaults__ is not None
        monkeypatch.setitem(plan_units.__kwdefaults__, "unit_rows", UNIT_ROWS)

    @pytest.fixture
    def interruptible(self) -> Iterator[None]:
        """Ctrl-C interrupts, as under a user's shell; what a script started in the background ignores it."""
        before = signal.getsignal(signal.SIGINT)
        if before is signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
        signal.signal(signal.SIGINT, before)

    def _needs_processes(self) -> None:
        if not self.processes:
            pytest.skip("the workers are threads of this process: what kills one kills the test")

    # Each unit, once

    def test_every_unit_is_reported_once(self, engine: Engine, notes: Notes) -> None:
        reports = list(engine.map(NotingWork(notes), units(30)))
        assert sorted(report.unit for report in reports) == list(range(30))
        assert notes.begun() == dict.fromkeys(range(30), 1)
        assert (os.getpid() in notes.processes()) is not self.processes

    def test_no_units_no_reports(self, engine: Engine, notes: Notes) -> None:
        assert list(engine.map(NotingWork(notes), [])) == []

    def test_reports_come_while_other_units_are_in_work(self, engine: Engine, notes: Notes) -> None:
        reports = engine.map(NotingWork(notes, waits=[5]), units(6))
        first = next(reports)
        assert first.unit != 5
        (Path(notes.folder) / "go").touch()
        assert sorted([first.unit, *(report.unit for report in reports)]) == list(range(6))

    # What fails

    def test_a_unit_that_fails_twice_in_passing_is_done_in_the_end(
        self, engine: Engine, notes: Notes
    ) -> None:
        work = NotingWork(notes, raises={2: (Transient("the storage does not answer"), 2)})
        reports = list(engine.map(work, units(4)))
        assert sorted(report.unit for report in reports) == [0, 1, 2, 3]
        assert notes.begun() == {0: 1, 1: 1, 2: 3, 3: 1}

    def test_a_unit_that_never_comes_through_ends_with_its_own_error(
        self, engine: Engine, notes: Notes
    ) -> None:
        error = Transient("the storage does not answer", next_step="wait", path="s3://b/x")
        with pytest.raises(Transient) as raised:
            list(engine.map(NotingWork(notes, raises={1: (error, 99)}), units(2)))
        assert (str(raised.value), raised.value.fields) == (str(error), error.fields)
        assert notes.begun()[1] == 3

    def test_an_error_of_the_work_is_raised_as_it_is_and_not_tried_again(
        self, engine: Engine, notes: Notes
    ) -> None:
        error = InputError("row 7 is bad", next_step="mend it", path="x.parquet", row=7)
        with pytest.raises(InputError) as raised:
            list(engine.map(NotingWork(notes, raises={1: (error, 99)}), units(3)))
        assert (str(raised.value), raised.value.fields) == (str(error), error.fields)
        assert notes.begun()[1] == 1

    def test_an_error_that_nobody_foresaw_is_not_tried_again(self, engine: Engine, notes: Notes) -> None:
        with pytest.raises((RunFailed, ZeroDivisionError), match="by nought"):
            list(engine.map(NotingWork(notes, raises={1: (ZeroDivisionError("by nought"), 99)}), units(2)))
        assert notes.begun()[1] == 1

    def test_a_unit_whose_process_dies_is_done_by_another(self, engine: Engine, notes: Notes) -> None:
        self._needs_processes()
        reports = list(engine.map(NotingWork(notes, kills={1: 1}), units(6)))
        assert sorted(report.unit for report in reports) == list(range(6))
        assert notes.begun()[1] == 2

    def test_a_unit_that_kills_every_process_ends_the_run(self, engine: Engine, notes: Notes) -> None:
        self._needs_processes()
        with pytest.raises(WorkerLost) as raised:
            list(engine.map(NotingWork(notes, kills={0: 99}), units(1)))
        assert raised.value.next_step
        assert 2 <= notes.begun()[0] <= 5
        self.test_no_units_no_reports(engine, notes)

    # What is stopped

    def test_what_is_not_begun_when_nobody_asks_any_more_is_never_begun(
        self, engine: Engine, notes: Notes
    ) -> None:
        reports = engine.map(NotingWork(notes, seconds=0.1), units(120))
        next(reports)
        reports.close()  # type: ignore[attr-defined]
        begun = notes.begun().total()
        assert begun < 120
        time.sleep(0.5)
        assert notes.begun().total() <= begun + 4, "units went on being begun"
        again = Notes(str(Path(notes.folder) / "again"))
        Path(again.folder).mkdir()
        assert len(list(engine.map(NotingWork(again), units(4)))) == 4

    @pytest.mark.usefixtures("engine", "small_units", "interruptible")
    def test_a_run_that_is_stopped_goes_on_where_it_was(
        self, options: Mapping[str, Any], spec_for: SpecFor, tmp_path: Path
    ) -> None:
        spec = _on(spec_for(tmp_path / "here"), options)
        with pytest.raises(Interrupted):
            run(spec, PARAMETERS, progress=_Stopping())
        report = run(spec, PARAMETERS)
        assert report.units["reused"] >= 1
        assert self._digest(spec) == self._digest(self._locally(spec_for, tmp_path))

    # Runs

    @pytest.mark.usefixtures("engine", "small_units")
    def test_a_run_writes_what_the_local_engine_writes(
        self, options: Mapping[str, Any], spec_for: SpecFor, tmp_path: Path
    ) -> None:
        local = self._locally(spec_for, tmp_path)
        expected = run(local, PARAMETERS)  # again: nothing is scored, and the report stands
        spec = _on(spec_for(tmp_path / "here"), options)
        report = run(spec, PARAMETERS)
        assert self._digest(spec) == self._digest(local)
        assert report.rows.scored == report.rows.read - report.rows.quarantined
        assert _judged(report) == _judged(expected)
        assert report.units == {"total": expected.units["total"], "reused": 0}
        assert report.units["total"] >= 8
        assert 1 <= report.model_loads <= 2, "two processes, and each loads the model once"

    @pytest.mark.usefixtures("engine", "small_units")
    def test_a_process_that_dies_in_mid_unit_leaves_no_trace_in_the_table(
        self, options: Mapping[str, Any], spec_for: SpecFor, tmp_path: Path
    ) -> None:
        self._needs_processes()
        marker = tmp_path / "killed"
        spec = _on(spec_for(tmp_path / "here", kill_once=marker), options)
        report = run(spec, PARAMETERS)
        assert marker.exists()
        assert report.rows.read == report.rows.scored + report.rows.quarantined > 0
        quiet = spec_for(tmp_path / "quiet", kill_once=marker)
        run(quiet, PARAMETERS)
        assert self._digest(spec) == self._digest(quiet)

    @pytest.mark.usefixtures("small_units")
    def test_two_attempts_at_a_unit_at_once_do_no_harm(
        self, engine: Engine, options: Mapping[str, Any], spec_for: SpecFor, tmp_path: Path
    ) -> None:
        meeting = tmp_path / "meeting"
        meeting.mkdir()
        spec = _on(spec_for(tmp_path / "here", meet=meeting), options)
        plan, work = _planned(spec)
        twins = list(engine.map(work, [plan.units[0]] * 2))
        assert [twin.unit for twin in twins] == [0, 0]
        assert len({twin.results.path for twin in twins if twin.results is not None}) == 2
        assert run(spec, PARAMETERS).units["reused"] == 1
        assert self._digest(spec) == self._digest(self._locally(spec_for, tmp_path))

    @pytest.mark.usefixtures("small_units")
    def test_a_worker_that_finds_another_model_refuses(
        self, engine: Engine, options: Mapping[str, Any], spec_for: SpecFor, tmp_path: Path
    ) -> None:
        plan, work = _planned(_on(spec_for(tmp_path / "here"), options))
        with pytest.raises(DigestMismatch) as refused:
            list(engine.map(replace(work, model_digest="0" * 64), plan.units))
        for digest in ("0" * 64, plan.scorer.bundle.manifest.digest):
            assert digest in str(refused.value)

    def _locally(self, spec_for: SpecFor, tmp_path: Path) -> PipelineSpec:
        """The same pipeline, run on the local engine."""
        spec = spec_for(tmp_path / "local")
        run(spec, PARAMETERS)
        return spec

    def _digest(self, spec: PipelineSpec) -> str:
        # The folder of a spec is part of no row, but of the run's id.
        return table_digest(open_results(spec, spec.output.path), ignore=["_run_id"])


def _on(spec: PipelineSpec, options: Mapping[str, Any]) -> PipelineSpec:
    return spec.model_copy(update={"engine": EngineSpec.model_validate(options)})


def _judged(report: RunReport) -> dict[str, Any]:
    """What a report says of the rows, whoever worked on them."""
    return {"rows": report.rows, "quality": report.quality, "drift": report.drift}


def _planned(spec: PipelineSpec) -> tuple[Plan, RunWork]:
    """A run up to the point where its units are worked on."""
    plan = make_plan(spec, PARAMETERS)
    results = open_results(spec, plan.output_path)
    quarantine = open_quarantine(spec, plan.output_path)
    results.begin(plan.run_id, plan.result_schema, plan.partitions)
    staging = Staging(results.staging(plan.run_id), quarantine.staging(plan.run_id))
    checks = plan.suite.prepare(plan.units, spec.quality) if plan.suite is not None else None
    originals = begin_quarantine(quarantine, plan.run_id, plan.originals, plan.partitions)
    return plan, RunWork.of(plan, staging, originals, checks)
