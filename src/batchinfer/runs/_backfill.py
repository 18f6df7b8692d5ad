"""A backfill: one run for each day, each with its own atomic commit; days whose work is done are left alone.

First every day is planned and looked up in the table, which tells what is to be done; then the days are worked
on, some of them at once. All share one model, and one engine where it has a cluster behind it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import replace
from datetime import date, timedelta
from typing import Protocol

from batchinfer.core import Engine, first_done, rows_of_partition
from batchinfer.engines import open_engine
from batchinfer.errors import BatchinferError, DriftGate, Interrupted, NoInput, Transient, UsageError
from batchinfer.runs._backfill_report import BackfillReport, DayReport, DayStatus
from batchinfer.runs._drift import hold_drift
from batchinfer.runs._job import open_results, run_plan, standing
from batchinfer.runs._plan import Loaded, Plan, check_parameters, load, make_plan
from batchinfer.runs._records import RunRecords
from batchinfer.runs._telemetry import tell_backfill
from batchinfer.spec import AlertsSpec, PipelineSpec, parameters_of
from batchinfer.store import ResultsStore

_log = logging.getLogger("batchinfer.runs")

DAY = "ds"
"""The parameter that takes the day, where a spec has one of this name."""
_ATTEMPTS = 3
_PAUSE_SECONDS = 2.0
_DAYS_ON_A_CLUSTER = 4
"""Days at once by default, where the cores are elsewhere: while one is planned or committed, others are scored."""


class BackfillProgress(Protocol):
    """Told how a backfill gets on, from any thread."""

    def begun(self, pipeline: str, days: int) -> None:
        """Once, before the first day."""

    def planned(self, day: str, rows: int) -> None:
        """The day's rows are worked on from the first, perhaps not for the first time."""

    def rows(self, day: str, count: int) -> None:
        """So many more of the day's rows were scored or reused."""

    def ended(self, day: DayReport) -> None:
        """Once for each day, when nothing more is done about it."""

    def finished(self) -> None:
        """Once, after the last day, also when the backfill fails."""


class _Silent:
    def begun(self, pipeline: str, days: int) -> None:
        pass

    def planned(self, day: str, rows: int) -> None:
        pass

    def rows(self, day: str, count: int) -> None:
        pass

    def ended(self, day: DayReport) -> None:
        pass

    def finished(self) -> None:
        pass


def backfill(
    spec: PipelineSpec,
    start: date,
    end: date,
    parameters: Mapping[str, str] | None = None,
    *,
    jobs: int | None = None,
    force: bool = False,
    progress: BackfillProgress | None = None,
) -> BackfillReport:
    """Run a pipeline for each day from `start` to `end`, both included; see `run` for what is done for a day.

    A day that fails does not stop the others: the report tells of each. A day that fails with a Transient
    error is tried three times. No alerts are sent: days of the past say nothing of how a pipeline is now.

    Args:
        spec: the pipeline. The day is its parameter `ds`, else the only one that `parameters` leaves open.
        start: the first day.
        end: the last day.
        parameters: values for the other `{…}` blanks of the spec.
        jobs: how many days are worked on at once; by default 1 on the local engine, which uses all cores for
            one, and 4 on others.
        force: score also the days whose work is done.
        progress: told how the backfill gets on.

    Raises:
        UsageError: no days, no parameter for the day, wrong parameters, or days that would replace each other.
        SpecError, ModelError, TransformError: what the spec names cannot be loaded.
        MissingExtra, Transient: the engine cannot be opened.
        Interrupted: stopped; `error.fields["backfill"]` is the report. Days that are done stay done.
    """
    given, days = dict(parameters or {}), days_between(start, end)
    name = day_parameter(spec, given)
    check_parameters(spec, {**given, name: days[0]})
    if jobs is None:
        jobs = 1 if spec.engine.kind == "local" else _DAYS_ON_A_CLUSTER
    if jobs < 1:
        raise UsageError(f"{jobs} days at once: at least one is needed", jobs=jobs)
    started = time.perf_counter()
    work = _Backfill(spec, name, given, force=force, progress=progress or _Silent())

    def report(error: str | None = None) -> BackfillReport:
        ended = tuple(work.ended.get(day, DayReport.stopped(day)) for day in days)
        return BackfillReport(spec.name, given, name, ended, seconds=_since(started), error=error)

    work.progress.begun(spec.name, len(days))
    try:
        with ThreadPoolExecutor(jobs, thread_name_prefix="day") as pool:
            work.each(pool, days, work.look)
            _check_apart(work.plans)
            todo = [day for day in days if day not in work.ended]
            own = spec.engine.kind == "local" or not todo
            with nullcontext() if own else open_engine(spec.engine) as engine:
                work.each(pool, todo, lambda day: work.attempt(day, engine))
    except KeyboardInterrupt as e:
        told = report("interrupted")
        tell_backfill(spec, told)
        done = told.counts["done"] + told.counts["skipped"]
        raise Interrupted(
            f"the backfill was stopped: {done} of {len(days)} days are done, and stay so",
            next_step="the same command goes on from there",
            backfill=told,
        ) from e
    finally:
        work.progress.finished()
    told = report()
    tell_backfill(spec, told)
    return told


def days_between(start: date, end: date) -> tuple[str, ...]:
    """Each day from the first to the last, as 2013-01-31.

    Raises:
        UsageError: the last is before the first.
    """
    if end < start:
        raise UsageError(
            f"the last day, {end}, is before the first, {start}", next_step="exchange start and end"
        )
    return tuple((start + timedelta(days=n)).isoformat() for n in range((end - start).days + 1))


def day_parameter(spec: PipelineSpec, given: Mapping[str, str]) -> str:
    """The parameter that takes the day: `ds`, else the only one whose value is not given.

    Raises:
        UsageError: there is none, or which of several is not clear.
    """
    asked = dict.fromkeys([*parameters_of(spec.input.path), *parameters_of(spec.output.path)])
    left = [name for name in asked if name not in given]
    if not left:
        at_fault = f"-p {DAY}={given[DAY]} gives one" if DAY in given else "the spec asks for no parameter"
        steps = [] if DAY in asked else [f"write {{{DAY}}} into input.path"]
        steps += [f"leave -p {DAY}=… out"] if DAY in given else []
        raise UsageError(
            f"a backfill gives each day to a parameter, but {at_fault}", next_step=", and ".join(steps)
        )
    name = DAY if DAY in left else left[0]
    if others := [other for other in left if other != name]:
        raise UsageError(
            f"the pipeline needs {', '.join(left)}, and a backfill gives the day to one parameter",
            next_step=" ".join(["pass", *(f"-p {other}=VALUE" for other in others)])
            if DAY in left
            else "pass all but the one that takes the day with -p NAME=VALUE",
            parameters=left,
        )
    return name


def _check_apart(plans: Mapping[str, Plan]) -> None:
    """Refuse days that replace the same partition, of which only the last would be left.

    Raises:
        UsageError: names two of them, and the partition.
    """
    held: dict[object, str] = {}
    for day, plan in plans.items():
        for partition in plan.partitions:
            other = held.setdefault((plan.output_path, partition), day)
            if other != day:
                raise UsageError(
                    f"{other} and {day} would both replace {rows_of_partition(partition)} of "
                    f"{plan.output_path}, and only the last day be left",
                    next_step="partition the output by the day, or write the day into output.path",
                )


class _Backfill:
    """The days of a backfill, and what became of them. Its methods are called from many threads."""

    def __init__(
        self,
        spec: PipelineSpec,
        name: str,
        given: Mapping[str, str],
        *,
        force: bool,
        progress: BackfillProgress,
    ) -> None:
        self.progress = progress
        self.plans: dict[str, Plan] = {}
        self.ended: dict[str, DayReport] = {}
        self._spec = spec.model_copy(update={"alerts": AlertsSpec()})
        self._loaded: Loaded = load(spec)
        self._name, self._given, self._force = name, given, force
        self._stop = threading.Event()
        self._tables: dict[str, ResultsStore] = {}
        self._records = RunRecords()

    def each(self, pool: ThreadPoolExecutor, days: Sequence[str], function: Callable[[str], None]) -> None:
        """Do something for each day. An interrupt begins no further one, and waits for those under way."""
        running: set[Future[None]] = set()
        try:
            running.update(pool.submit(function, day) for day in days)
            while running:
                for future in (done := first_done(running)):
                    future.result()
                running -= done
        except BaseException:
            self._stop.set()
            for future in running:
                future.cancel()
            wait(running)
            raise

    def look(self, day: str) -> None:
        """Plan a day; it is at its end if its work is done, or cannot be planned."""
        if self._stop.is_set():
            return
        started = time.perf_counter()
        try:
            plan = self._plan(day)
            report = None if self._force else standing(plan, self._results(plan.output_path))
            if report is None:
                self.plans[day] = plan
                return
            self._records.settle(report)
            hold_drift(self._spec, report)
            outcome = DayReport.of_run(day, "skipped", report)
        except Transient:
            return  # the day's attempts begin with planning it
        except DriftGate as e:
            outcome = replace(
                DayReport.of_run(day, "skipped", e.fields["report"]), exit_code=e.exit_code, error=str(e)
            )
        except Exception as e:
            outcome = self._failed(day, e)
        self._end(replace(outcome, seconds=_since(started)))

    def attempt(self, day: str, engine: Engine | None) -> None:
        """Run a day, a few times where trying again may help."""
        started = time.perf_counter()
        for attempt in range(1, _ATTEMPTS + 1):
            if self._stop.is_set():
                return
            outcome = replace(self._run(day, engine), attempts=attempt, seconds=_since(started))
            if outcome.exit_code != Transient.exit_code or attempt == _ATTEMPTS:
                break
            _log.warning("%s: attempt %d of %d: %s", day, attempt, _ATTEMPTS, outcome.error)
            self.plans.pop(day, None)
            if self._stop.wait(_PAUSE_SECONDS * 2 ** (attempt - 1)):
                break
        self._end(outcome)

    def _run(self, day: str, engine: Engine | None) -> DayReport:
        try:
            plan = self.plans.get(day) or self._plan(day)
            told = _Day(day, self.progress, self._stop)
            return DayReport.of_run(
                day, "done", run_plan(plan, progress=told, force=self._force, engine=engine)
            )
        except DriftGate as e:  # the results are committed
            return replace(
                DayReport.of_run(day, "done", e.fields["report"]), exit_code=e.exit_code, error=str(e)
            )
        except Exception as e:
            return self._failed(day, e)

    def _plan(self, day: str) -> Plan:
        return make_plan(self._spec, {**self._given, self._name: day}, self._loaded)

    def _results(self, path: str) -> ResultsStore:
        """The table at `path`, the same for all days: it remembers what it has read of its log."""
        return self._tables.setdefault(path, open_results(self._spec, path))

    def _failed(self, day: str, error: Exception) -> DayReport:
        status: DayStatus = "no input" if isinstance(error, NoInput) else "failed"
        if self._stop.is_set():  # the others ended for the same reason, whatever they say of it
            status = "stopped"
        if not isinstance(error, BatchinferError):
            _log.error("%s: a defect", day, exc_info=error)
        return DayReport.of_error(day, status, error)

    def _end(self, day: DayReport) -> None:
        self.ended[day.day] = day
        self.plans.pop(day.day, None)
        self.progress.ended(day)


class _Day:
    """A run's progress, told as a day's; where the backfill stops, the run is interrupted."""

    def __init__(self, day: str, progress: BackfillProgress, stop: threading.Event) -> None:
        self._day, self._progress, self._stop = day, progress, stop

    def planned(self, plan: Plan) -> None:
        self._progress.planned(self._day, plan.rows)

    def rows(self, count: int) -> None:
        self._progress.rows(self._day, count)
        if self._stop.is_set():
            raise KeyboardInterrupt

    def finished(self) -> None:
        """The day's end is told with its outcome."""


def _since(started: float) -> float:
    return round(time.perf_counter() - started, 3)
