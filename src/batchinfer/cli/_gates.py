"""`batchinfer drift` and `batchinfer quality`: what was found in the rows of runs."""

from __future__ import annotations

import json

import click

from batchinfer.cli._options import (
    json_option,
    output_of,
    override_options,
    pairs,
    parameter_options,
    pipeline_argument,
)
from batchinfer.errors import UsageError


@click.command()
@pipeline_argument
@parameter_options
@override_options
@click.option(
    "--html", type=click.Path(), help="Write the history's chart and Evidently's report into this folder."
)
@click.option("--labels", type=click.Path(), help="Parquet: what became of the rows, by key.")
@click.option("--label-column", metavar="COLUMN", help="The label's column there.")
@json_option
def drift(  # noqa: PLR0917 - click passes them by name
    pipeline: str,
    parameters: tuple[str, ...],
    overrides: tuple[str, ...],
    html: str | None,
    labels: str | None,
    label_column: str | None,
    as_json: bool,
) -> None:
    """Show the history of drift, with -p that of runs with these parameters; with --html, write pages about it."""
    from batchinfer.cli._drift import render_history, render_history_json
    from batchinfer.runs import drift_history, write_drift_pages

    if labels is not None and html is None:
        raise UsageError("--labels adds a page, and there is no --html FOLDER to write it to")
    if (labels is None) != (label_column is None):
        raise UsageError("--labels and --label-column go together")
    spec, output_path = output_of(pipeline, parameters, overrides)
    history = drift_history(spec, output_path, pairs(parameters, "-p"))
    render_history_json(history) if as_json else render_history(history)
    if html is None:
        return
    pages = write_drift_pages(
        spec,
        output_path,
        html,
        parameters=pairs(parameters, "-p"),
        labels=labels,
        label_column=label_column,
    )
    for name, why in pages.left_out.items():
        click.echo(f"left out of {pages.evidently}: {name}: {why}", err=True)
    if pages.unlabelled:
        click.echo(f"{pages.unlabelled:,} rows have no label", err=True)
    for page in (pages.history, pages.evidently, pages.labels):
        if page is not None:
            click.echo(f"wrote {page}", err=True)


@click.group()
def quality() -> None:
    """What suites have found in the rows of runs."""


@quality.command("show")
@click.argument("run_id")
def quality_show(run_id: str) -> None:
    """A run's validation result, in Great Expectations' own JSON."""
    from batchinfer.runs import read_validation

    click.echo(json.dumps(read_validation(run_id), indent=1))


@quality.command("docs")
@click.argument("folder", type=click.Path())
@click.option(
    "--limit", default=100, show_default=True, type=click.IntRange(1), help="The latest so many runs."
)
def quality_docs(folder: str, limit: int) -> None:
    """Render Great Expectations' Data Docs of the latest runs into a folder."""
    from batchinfer.runs import write_docs

    click.echo(f"wrote {write_docs(folder, limit)}", err=True)
