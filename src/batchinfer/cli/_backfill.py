"""`batchinfer backfill`: a run for each day, and what became of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import click

from batchinfer.cli._options import (
    engine_option,
    json_option,
    logs_json,
    override_options,
    pairs,
    parameter_options,
    pipeline_argument,
    read_spec,
)
from batchinfer.errors import BatchinferError, Interrupted

if TYPE_CHECKING:
    from batchinfer.runs import BackfillReport, DayReport

_DAY = click.DateTime(["%Y-%m-%d"])


@click.command()
@pipeline_argument
@click.option("--start", type=_DAY, required=True, metavar="DAY", help="The first day, as 2013-01-01.")
@click.option("--end", type=_DAY, required=True, metavar="DAY", help="The last day; it is done too.")
@parameter_options
@click.option(
    "--jobs", type=click.IntRange(1), metavar="N", help="Days at once; 1 on the local engine, else 4."
)
@click.option("--force", is_flag=True, help="Score also the days whose work is done.")
@engine_option
@override_options
@json_option
@click.pass_context
def backfill(
    ctx: click.Context,
    *,
    pipeline: str,
    start: datetime,
    end: datetime,
    parameters: tuple[str, ...],
    jobs: int | None,
    force: bool,
    engine: str | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Run a pipeline for each day from START to END; days whose work is done are skipped.

    The day is the parameter `ds`, else the only one that -p leaves open.

    Exit code 0: all days are done. Else that of the worst day: a failure, then a day without input, then drift
    that fails a run, then what is transient. 130: stopped; the same command goes on from there.
    """
    from batchinfer.cli import _render
    from batchinfer.cli._backfill_progress import open_progress
    from batchinfer.runs import backfill as run_days

    json_logs = logs_json(ctx)
    progress = open_progress(json_logs=json_logs)
    name, given = pipeline, dict[str, str]()
    try:
        given = pairs(parameters, "-p")
        spec = read_spec(pipeline, overrides, engine)
        name = spec.name
        report = run_days(
            spec,
            start.date(),
            end.date(),
            given,
            jobs=jobs,
            force=force,
            progress=progress,
        )
    except (BatchinferError, KeyboardInterrupt) as e:
        told = e.fields.get("backfill") if isinstance(e, Interrupted) else None
        if told is not None:
            _show(told, as_json=as_json, quiet=json_logs)
        elif as_json:
            _render.as_json(_unbegun(name, given, e))
        raise
    _show(report, as_json=as_json, quiet=json_logs)
    ctx.exit(report.exit_code)


def _show(report: BackfillReport, *, as_json: bool, quiet: bool) -> None:
    """The summary; on stderr where stdout is for JSON, and nowhere where both are."""
    from batchinfer.cli import _render

    if not (as_json and quiet):
        headers = ("day", "status", "rows", "quarantined", "drift", "seconds")
        _render.table(headers, [_row(day) for day in report.days], err=as_json)
        for line in _errors(report.days):
            click.echo(line, err=as_json)
        counts = ", ".join(f"{count} {status}" for status, count in report.counts.items() if count)
        rows = f"{report.rows.read:,} rows stand"
        click.echo(
            f"{report.pipeline}: {len(report.days)} days: {counts}; {rows}; {report.seconds:.2f} s",
            err=as_json,
        )
    if as_json:
        _render.as_json(report.to_dict())


def _row(day: DayReport) -> tuple[str, ...]:
    ran = day.run_id is not None
    return (
        day.day,
        day.status,
        f"{day.rows.read:,}" if ran else "",
        f"{day.rows.quarantined:,}" if ran else "",
        {None: "", False: "none", True: "ALARM"}[day.drift_alarm],
        f"{day.seconds:.2f}",
    )


def _errors(days: Sequence[DayReport]) -> Iterator[str]:
    """What went wrong on each day. Days without input differ in nothing but the day: one stands for all."""
    empty = [day for day in days if day.status == "no input"]
    for day in days:
        if day.error and day not in empty[1:]:
            yield f"{day.day}: {day.error}"
    if len(empty) > 1:
        yield f"no input either: {', '.join(day.day for day in empty[1:])}"


def _unbegun(pipeline: str, parameters: dict[str, str], error: BaseException) -> dict[str, object]:
    """The report of a backfill that ended before it knew its days."""
    from batchinfer.runs import BackfillReport

    stopped = not isinstance(error, BatchinferError)
    return {
        **BackfillReport(pipeline, parameters, "", ()).to_dict(),
        "status": "interrupted" if stopped else "failed",
        "exit_code": error.exit_code if isinstance(error, BatchinferError) else Interrupted.exit_code,
        "parameter": None,
        "error": "interrupted" if stopped else str(error),
    }
