"""`batchinfer parity` and `batchinfer stream repair`: what a stream wrote, held against batch, and mended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from batchinfer.cli._options import json_option, override_options, pipeline_argument, read_spec

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchinfer.runs import RepairReport, SinkParity

_BOUND = "begin, end, PARTITION:OFFSET[,…] or a time as 2013-01-31T12:00 (UTC)"


def window_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--from` and `--to`."""
    low = click.option("--from", "low", required=True, metavar="BOUND", help=f"The first message: {_BOUND}.")
    high = click.option("--to", "high", required=True, metavar="BOUND", help="Before which the window ends.")
    return low(high(command))


@click.command()
@pipeline_argument
@window_options
@click.option(
    "--sink",
    "sinks",
    multiple=True,
    type=click.Choice(["topic", "store"]),
    help="Of several sinks, this one alone.",
)
@override_options
@json_option
def parity(  # noqa: PLR0917 - click passes them by name
    pipeline: str, low: str, high: str, sinks: tuple[str, ...], overrides: tuple[str, ...], as_json: bool
) -> None:
    """Score a window of the topic again through the batch path, and hold it against what the stream wrote.

    Row for row and bit for bit. Exit code 0 where all agree, 1 where anything differs.
    """
    from batchinfer.runs import parity as compare
    from batchinfer.runs import parse_bound

    bounds = parse_bound(low, "--from"), parse_bound(high, "--to")
    report = compare(read_spec(pipeline, overrides), *bounds, sinks=sinks)
    for sink in report.sinks:
        _render(sink, err=as_json)
    if as_json:
        click.echo(report.to_json())
    if not report.equal:
        raise SystemExit(1)


@click.command()
@pipeline_argument
@window_options
@click.option("--model", metavar="NAME@VERSION", help="Score with this model in the place of the spec's.")
@override_options
@json_option
def repair(  # noqa: PLR0917 - click passes them by name
    pipeline: str, low: str, high: str, model: str | None, overrides: tuple[str, ...], as_json: bool
) -> None:
    """Replace exactly the rows of a window in the results table by rows scored now, in one commit."""
    from batchinfer.runs import parse_bound, repair_stream

    bounds = parse_bound(low, "--from"), parse_bound(high, "--to")
    report = repair_stream(read_spec(pipeline, overrides), *bounds, model=model)
    _repaired(report, err=as_json)
    if as_json:
        click.echo(report.to_json())


def _render(sink: SinkParity, *, err: bool) -> None:
    from batchinfer.cli import _render

    verdict = "the bits agree" if sink.agrees else "DIFFERENT"
    click.echo(f"{sink.sink} {sink.place}: {sink.equal:,} of {sink.rows:,} rows equal: {verdict}", err=err)
    windows = [(source, str(low), str(high)) for source, (low, high) in sink.window.items()]
    _render.table(("partition", "from", "to"), windows, err=err)
    if sink.agrees:
        return
    counts = [*sink.different.items(), ("rows missing", sink.missing), ("rows extra", sink.extra)]
    _render.table(("difference", "rows"), [(name, str(n)) for name, n in counts if n], err=err)
    columns = ("source", "position", "column", "written", "scored")
    shown = [tuple("" if each[c] is None else str(each[c]) for c in columns) for each in sink.examples]
    _render.table(columns, shown, err=err)


def _repaired(report: RepairReport, *, err: bool) -> None:
    window = ", ".join(f"{source} [{low}, {high})" for source, (low, high) in report.window.items())
    click.echo(
        f"{report.table}: {report.removed:,} rows replaced by {report.written:,} of {report.model}, for "
        f"{report.messages:,} messages of {window} ({report.refused:,} without a row); version {report.version}",
        err=err,
    )
