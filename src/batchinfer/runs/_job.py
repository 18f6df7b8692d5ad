"""The batch job: plan → work → ledger → gate → one atomic commit → record.

The order of the steps is what makes a kill at any moment harmless; see `docs/adr/0002-commit-protocol.md`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

import pyarrow as pa

from batchinfer.core import (
    CommitInfo,
    Engine,
    Fence,
    Stopwatch,
    UnitReport,
    check_ledger,
    files,
    total_rows,
    total_seconds,
)
from batchinfer.engines import open_engine
from batchinfer.errors import BatchinferError, CommitUnknown, Interrupted, StoreError, UsageError
from batchinfer.quality import SuiteChecks
from batchinfer.runs._alerting import tell
from batchinfer.runs._drift import (
    SAMPLE,
    hold_drift,
    keep_drift,
    measure_drift,
    packed_sample,
    provide_drift,
)
from batchinfer.runs._plan import Plan, make_plan
from batchinfer.runs._quality import VALIDATION, hold_gate, judge_suite, row_quality
from batchinfer.runs._quarantine import Original, begin_quarantine, staged_schema, stored_schema
from batchinfer.runs._records import RunRecords
from batchinfer.runs._report import RunReport
from batchinfer.runs._telemetry import RunTelemetry
from batchinfer.runs._work import RunWork, check_visible
from batchinfer.runs._worker import Staging
from batchinfer.secrets import without_secrets
from batchinfer.spec import PipelineSpec
from batchinfer.store import ResultsStore, open_store, read_receipt

_log = logging.getLogger("batchinfer.runs")


class Progress(Protocol):
    """Told how a run gets on, from any thread. A progress bar is one."""

    def planned(self, plan: Plan) -> None:
        """Once, before the first row."""

    def rows(self, count: int) -> None:
        """So many more rows were scored or reused."""

    def finished(self) -> None:
        """Once, after the last row, also when the run fails."""


class _Silent:
    def planned(self, plan: Plan) -> None:
        pass

    def rows(self, count: int) -> None:
        pass

    def finished(self) -> None:
        pass


def run(
    spec: PipelineSpec,
    parameters: Mapping[str, str] | None = None,
    *,
    progress: Progress | None = None,
) -> RunReport:
    """Score the inputs of a pipeline and replace the result partition in one atomic commit.

    The same work has the same run id. What an earlier attempt staged is reused, and work whose rows readers
    see already is not done again.

    Args:
        spec: the pipeline; see `load_spec`.
        parameters: values for the `{…}` blanks of the spec, as {"ds": "2013-01-01"}.
        progress: told how the run gets on.

    Raises:
        BatchinferError: see `batchinfer.errors`. Nothing was committed, unless it is CommitUnknown, or its
            report (`error.fields["report"]`) has a table_version: then the results stand, and what comes after
            their commit failed, as that of the quarantined rows. Running again makes either good.
    """
    started = time.perf_counter()
    telemetry = RunTelemetry(spec, "run")
    try:
        plan = make_plan(spec, parameters or {})
    except BaseException as e:
        telemetry.unplanned(parameters or {}, e)
        raise
    return run_plan(plan, progress=progress, started=started, telemetry=telemetry)


def run_plan(
    plan: Plan,
    *,
    progress: Progress | None = None,
    started: float | None = None,
    force: bool = False,
    engine: Engine | None = None,
    telemetry: RunTelemetry | None = None,
) -> RunReport:
    """Do what a plan says; see `run`.

    Args:
        plan: made for this run alone.
        progress: told how the run gets on.
        started: when the run's time began, by `time.perf_counter`; None for now.
        force: score all units again, also those that are staged or whose rows readers see.
        engine: an engine that several runs share, of the spec's kind; None opens one for this run.
        telemetry: who tells of the run; None for a day of a backfill.
    """
    watch = Stopwatch(started)
    if started is not None:
        watch.lap("plan")
    telemetry = telemetry or RunTelemetry(plan.spec, "backfill")
    spec, records = plan.spec, RunRecords()
    report = _first_report(plan)
    records.write(report)
    _log.info("planned %d rows in %d units", plan.rows, len(plan.units), extra={"run_id": plan.run_id})
    telemetry.started(plan, report)
    watch.lap("tell")
    try:
        work = partial(_work, plan, progress or _Silent(), engine)
        report, finish = _work_and_commit(plan, report, records, work, watch=watch, force=force)
        # From here on readers see the results. A kill or an error before the end is made good by a rerun.
        finish()
        watch.lap("finish")
        report = _staged(_timed(report, watch.elapsed), watch).with_(status="done")
    except KeyboardInterrupt as e:
        stopped = _staged(report, watch).with_(
            status="interrupted", seconds=round(watch.elapsed, 3), error="interrupted"
        )
        stopped = stopped.with_(telemetry=telemetry.ended(plan, stopped, e))
        records.write(stopped)
        raise Interrupted(
            f"run {plan.run_id} was stopped before its end; what it had done by then is kept",
            next_step="the same command goes on from there",
            run_id=plan.run_id,
            report=stopped,
        ) from e
    except BaseException as e:
        status = "unknown" if isinstance(e, CommitUnknown) else "failed"
        told = e.fields.get("report") if isinstance(e, BatchinferError) else None
        failed = _staged(told or report, watch)
        said = without_secrets(str(e) or repr(e))
        failed = failed.with_(status=status, seconds=round(watch.elapsed, 3), error=said)
        failed = failed.with_(alerts=tell(spec, records, failed, e))
        failed = failed.with_(telemetry=telemetry.ended(plan, failed, e))
        records.write(failed)
        if isinstance(e, BatchinferError):
            e.fields["report"] = failed
        raise
    report = report.with_(alerts=tell(spec, records, report))
    report = report.with_(telemetry=telemetry.ended(plan, report))
    records.write(report)
    _log.info("committed version %s", report.table_version, extra={"run_id": plan.run_id})
    hold_drift(spec, report)
    return report


def standing(plan: Plan, results: ResultsStore) -> RunReport | None:
    """What the run said that did this very work, where readers of `results` see its rows; else None.

    Changes nothing. None too where such a run has not come to its end: `run_plan` finds its rows, and does the rest.
    """
    found = results.committed(plan.run_id, plan.partitions)
    if found is None or files.exists(results.staging(plan.run_id).receipts):
        return None
    return _as_committed(plan, _first_report(plan), found).with_(status="done")


def _as_committed(plan: Plan, report: RunReport, found: tuple[int, CommitInfo]) -> RunReport:
    version, info = found
    done = RunReport.from_dict(info.report)
    return report.with_(
        rows=done.rows,
        units={"total": len(plan.units), "reused": len(plan.units)},
        quality=done.quality,
        drift=done.drift,
        model_loads=done.model_loads,
        devices=done.devices,
        table_version=version,
    )


def _work_and_commit(
    plan: Plan,
    report: RunReport,
    records: RunRecords,
    work: Callable[[Staging, tuple[Original, ...]], tuple[list[UnitReport], SuiteChecks | None]],
    *,
    watch: Stopwatch,
    force: bool,
) -> tuple[RunReport, Callable[[], None]]:
    """Go as far as the results' commit. Returns the report with its version, and what is left to be done."""
    results = open_results(plan.spec, plan.output_path)
    quarantine = open_quarantine(plan.spec, plan.output_path)
    fence = results.begin(plan.run_id, plan.result_schema, plan.partitions)
    staging = Staging(results.staging(plan.run_id), quarantine.staging(plan.run_id))

    def finish(committed: RunReport, reports: Sequence[UnitReport], *, again: bool = False) -> None:
        _commit_quarantine(plan, quarantine, reports, committed, again)
        keep_drift(plan.output_path, committed)
        results.clear(plan.run_id)
        quarantine.clear(plan.run_id)

    if (found := results.committed(plan.run_id, plan.partitions)) is not None:
        committed, reports = _as_committed(plan, report, found), _receipts(plan, staging)
        if not force:
            return committed, partial(finish, committed, reports)
        finish(committed, reports)  # while there are the receipts that it may still take
    if force:
        files.delete(staging.results.receipts)
    originals = begin_quarantine(quarantine, plan.run_id, plan.originals, plan.partitions)
    if plan.drift is not None:
        provide_drift(plan.output_path)
    watch.lap("begin")
    reports, checks = work(staging, originals)
    watch.lap("score")
    check_ledger(plan.units, reports)
    report = _summed(report, reports, watch.elapsed)
    if any(unit.quarantine for unit in reports):
        # Marks the parts as this run's, so that a sweep finds them should the run end here.
        quarantine.begin(plan.run_id, stored_schema(originals), plan.partitions)
    report = _judge(plan, report, reports, checks, records)
    watch.lap("judge")
    committed = report.with_(table_version=_commit(results, fence, reports, report))
    watch.lap("commit")
    return committed, partial(finish, committed, reports, again=force)


def _work(
    plan: Plan,
    progress: Progress,
    shared: Engine | None,
    staging: Staging,
    originals: tuple[Original, ...],
) -> tuple[list[UnitReport], SuiteChecks | None]:
    checks = plan.suite.prepare(plan.units, plan.spec.quality) if plan.suite is not None else None
    work = RunWork.of(plan, staging, originals, checks)
    progress.planned(plan)
    try:
        with open_engine(plan.spec.engine) if shared is None else nullcontext(shared) as engine:
            if engine.blocks is not None:
                scorer = plan.scorer.moved(work.device)
                worker = work.worker(scorer, plan.transform, engine.blocks, progress.rows)
                return list(engine.map(worker, plan.units)), checks
            if not engine.same_machine:
                check_visible(plan, staging)
            reports = []
            for report in engine.map(work, plan.units):
                progress.rows(report.rows.read)
                reports.append(report)
            return reports, checks
    finally:
        progress.finished()


def _summed(report: RunReport, reports: Sequence[UnitReport], seconds: float) -> RunReport:
    reused = sum(unit.reused for unit in reports)
    summed = report.with_(
        rows=total_rows(reports),
        units={"total": len(reports), "reused": reused},
        quality=row_quality(reports),
        # Without workers elsewhere, the session is the one that the plan opened.
        model_loads=sum(unit.model_loads for unit in reports) or 1,
        devices=_devices(reports),
        timings={"workers": total_seconds(unit.seconds for unit in reports)},
    )
    return _timed(summed, seconds)


def _devices(reports: Sequence[UnitReport]) -> list[dict[str, Any]]:
    """What the units say of their devices, each device once."""
    devices: dict[str, dict[str, Any]] = {}
    for unit in reports:
        if unit.device is None:
            continue
        known = devices.setdefault(
            unit.device["name"], {"name": unit.device["name"], "units": 0, "notes": []}
        )
        known["units"] += 1
        known["notes"] += [note for note in unit.device["notes"] if note not in known["notes"]]
        if "batch_rows" in unit.device:  # the smallest: memory may have run out on the way
            known["batch_rows"] = min(unit.device["batch_rows"], known.get("batch_rows", 1 << 62))
    return list(devices.values())


def _timed(report: RunReport, seconds: float) -> RunReport:
    read_now = report.rows.read if report.units["reused"] < report.units["total"] else 0
    return report.with_(seconds=round(seconds, 3), rows_per_second=int(read_now / seconds))


def _staged(report: RunReport, watch: Stopwatch) -> RunReport:
    return report.with_(timings={"stages": watch.seconds, **report.timings})


def _judge(
    plan: Plan,
    report: RunReport,
    reports: Sequence[UnitReport],
    checks: SuiteChecks | None,
    records: RunRecords,
) -> RunReport:
    """Judge quality and measure drift before the commit, so that the table's own log tells of both."""
    broken: tuple[str, ...] = ()
    if plan.suite is not None and checks is not None:
        verdict = judge_suite(plan.suite, checks, reports, plan.spec.quality, report)
        report = report.with_(quality={**verdict.summary, **report.quality})
        records.keep(report.run_id, VALIDATION, verdict.validation)
        broken = verdict.broken
    if plan.drift is not None and plan.spec.drift is not None:
        drift = measure_drift(plan.drift, plan.spec.drift, reports)
        report = report.with_(drift=drift.to_dict() if drift is not None else {})
        if (sample := packed_sample(reports)) is not None:
            records.keep(report.run_id, SAMPLE, sample)
    hold_gate(plan.spec.quality, report, broken)
    return report


def _commit(results: ResultsStore, fence: Fence, reports: Sequence[UnitReport], report: RunReport) -> int:
    parts = [(unit.partition, unit.results) for unit in reports if unit.results is not None]
    return results.commit(fence, parts, _info(report))


def _info(report: RunReport) -> CommitInfo:
    return CommitInfo(report.run_id, report.pipeline, report.with_(status="done").to_dict())


def _commit_quarantine(
    plan: Plan,
    quarantine: ResultsStore,
    reports: Sequence[UnitReport],
    report: RunReport,
    again: bool,
) -> None:
    """Replace the same partitions of the quarantine table; there is none until a first row is refused."""
    parts = [(unit.partition, unit.quarantine) for unit in reports if unit.quarantine is not None]
    if not parts and not quarantine.exists():
        return
    if len(reports) != len(plan.units):
        return  # found committed, and an earlier attempt came to the end of this
    if not again and quarantine.committed(plan.run_id, plan.partitions) is not None:
        return
    try:
        if parts:
            schema = staged_schema(quarantine.staging(plan.run_id), [part for _, part in parts])
        else:
            schema = stored_schema(begin_quarantine(quarantine, plan.run_id, plan.originals, plan.partitions))
        fence = quarantine.begin(plan.run_id, schema, plan.partitions)
        quarantine.commit(fence, parts, _info(report))
    except (StoreError, FileNotFoundError):
        # The same run elsewhere may have come to its end meanwhile, and cleared what both had staged.
        if again or quarantine.committed(plan.run_id, plan.partitions) is None:
            raise


def _receipts(plan: Plan, staging: Staging) -> list[UnitReport]:
    receipts = [read_receipt(staging.results, unit) for unit in plan.units]
    return [receipt for receipt in receipts if receipt is not None]


def open_results(spec: PipelineSpec, path: str) -> ResultsStore:
    """The results table at `path`, as the spec's output says."""
    output = spec.output
    upsert = spec.input.key if output.mode == "upsert" else ()
    return open_store(output.store, path, output.partition_by, spec.name, upsert=upsert)


def open_quarantine(spec: PipelineSpec, path: str) -> ResultsStore:
    """The table beside the results that holds the rows which could not be scored."""
    return open_store(
        spec.output.store,
        f"{path.rstrip('/')}_quarantine",
        spec.output.partition_by,
        spec.name,
        widens=True,  # it keeps rows as the input has them, and inputs come to have other columns
    )


def find_rows(table: ResultsStore, conditions: Mapping[str, str]) -> pa.Table:
    """The rows of a results table whose columns have these values, given as text.

    Raises:
        StoreError: there is no table yet.
        UsageError: there is no such column, or a value is not of its type.
    """
    schema = table.dataset().schema
    equal = {}
    for column, text in conditions.items():
        if column not in schema.names:
            raise UsageError(f"{table.path} has no column '{column}'", column=column)
        kind = schema.field(column).type
        try:
            equal[column] = pa.scalar(text).cast(kind)
        except pa.ArrowException as e:
            raise UsageError(f"column '{column}' is {kind}, so it cannot be '{text}'", column=column) from e
    return table.find(equal)


def _first_report(plan: Plan) -> RunReport:
    manifest = plan.scorer.bundle.manifest
    return RunReport(
        run_id=plan.run_id,
        status="running",
        pipeline=plan.spec.name,
        parameters=plan.parameters,
        model={"name": manifest.name, "version": manifest.version, "digest": manifest.digest},
        units={"total": len(plan.units), "reused": 0},
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
