"""`batchinfer runs` and `batchinfer results`: what runs have left behind."""

from __future__ import annotations

import click

from batchinfer.cli._options import (
    json_option,
    output_of,
    override_options,
    parameter_options,
    pipeline_argument,
)


@click.group()
def runs() -> None:
    """The records of runs, under BATCHINFER_RUNS or ./runs."""


@runs.command("list")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1))
@json_option
def runs_list(limit: int, as_json: bool) -> None:
    """The latest runs, newest first."""
    from batchinfer.cli import _render
    from batchinfer.runs import RunRecords

    reports = RunRecords().all()[:limit]
    _render.as_json([r.to_dict() for r in reports]) if as_json else _render.runs(reports)


@runs.command("show")
@click.argument("run_id")
@json_option
def runs_show(run_id: str, as_json: bool) -> None:
    """One run, by its id or the beginning of it."""
    from batchinfer.cli import _render
    from batchinfer.runs import RunRecords

    report = RunRecords().find(run_id)
    click.echo(report.to_json()) if as_json else _render.report(report)


@click.group()
def results() -> None:
    """The results table of a pipeline."""


@results.command("history")
@pipeline_argument
@parameter_options
@override_options
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1))
@json_option
def results_history(
    pipeline: str, parameters: tuple[str, ...], overrides: tuple[str, ...], limit: int, as_json: bool
) -> None:
    """The table's commits, newest first."""
    from batchinfer.cli import _render
    from batchinfer.runs import open_results

    entries = open_results(*output_of(pipeline, parameters, overrides)).history(limit)
    _render.as_json(entries) if as_json else _render.history(entries)


@results.command("sweep")
@pipeline_argument
@parameter_options
@override_options
@click.option("--older-than-hours", default=168.0, show_default=True, type=click.FloatRange(0))
@click.option("--dry-run", is_flag=True, help="Only list what would be deleted.")
def results_sweep(
    pipeline: str,
    parameters: tuple[str, ...],
    overrides: tuple[str, ...],
    older_than_hours: float,
    dry_run: bool,
) -> None:
    """Delete staged files of that age which no commit refers to: what killed runs left behind."""
    from batchinfer.runs import open_quarantine, open_results

    where = output_of(pipeline, parameters, overrides)
    tables = open_results(*where), open_quarantine(*where)
    paths = [path for table in tables for path in table.sweep(older_than_hours * 3600, dry_run=dry_run)]
    for path in paths:
        click.echo(path)
    click.echo(f"{len(paths)} orphans {'found' if dry_run else 'deleted'}", err=True)
