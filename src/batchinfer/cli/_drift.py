"""What `batchinfer drift` prints of a pipeline's history: a table for people, JSON from the same values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from batchinfer.cli import _render

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from batchinfer.drift import ColumnHistory, DriftHistory

_SHOWN_RUNS = 30


def render_history_json(found: DriftHistory) -> None:
    """All runs, oldest first, and all columns."""
    _render.as_json(found.to_dict())


def render_history(found: DriftHistory) -> None:
    """The newest 30 runs and each column over them, with colours on a terminal and without any in a pipe."""
    from rich.console import Console
    from rich.measure import Measurement

    if not found.runs:
        click.echo("no run has measured drift yet")
        return
    console = Console(highlight=False, markup=False)
    shown = found.last(_SHOWN_RUNS)
    counted = (
        f"the newest {len(shown.runs)} of {len(found.runs):,}" if shown is not found else len(found.runs)
    )
    console.print(f"Drift of {found.pipeline}, {counted} runs\n", soft_wrap=True)
    tables = [_columns(shown), _runs(shown)]
    if not console.is_terminal:
        # What is piped is not cut to the width of a screen that is not there.
        options = console.options.update(max_width=10_000)
        console.width = max(Measurement.get(console, options, table).maximum for table in tables)
    console.print(tables[0])
    console.print()
    console.print(tables[1])


def _columns(found: DriftHistory) -> Table:
    from rich.text import Text

    from batchinfer.drift import number, share

    table = _table(
        "column", "kind", "PSI>", "limit>", "", "JS>", "nulls>", "ref.>", "mean>", "ref.>", "PSI by run"
    )
    for column in found.columns:
        point = column.latest
        if point is None:
            continue
        style = "red" if point.drifted else ""
        table.add_row(
            Text(column.column, style),
            column.kind,
            Text(number(point.psi), style),
            number(point.limit),
            Text("drifted" if point.drifted else "", style),
            number(point.js),
            share(point.null_rate),
            share(point.reference_null_rate),
            number(point.mean) if point.mean is not None else "",
            number(point.reference_mean) if point.reference_mean is not None else "",
            _sparkline(column),
        )
    return table


def _sparkline(column: ColumnHistory) -> Text:
    from rich.text import Text

    line = Text(no_wrap=True)
    for bar, point in zip(column.sparkline, column.points, strict=True):
        line.append(bar, "red" if point is not None and point.drifted else "blue")
    return line


def _runs(found: DriftHistory) -> Table:
    from rich.text import Text

    from batchinfer.drift import share

    table = _table("run", "parameters", "committed", "rows>", "features drifted>", "", "above their limits")
    for run in found.runs:
        table.add_row(
            run.run_id,
            " ".join(f"{name}={value}" for name, value in run.parameters.items()),
            f"{run.committed_at:%Y-%m-%d %H:%M}",
            f"{run.rows:,}",
            share(run.drifted_columns),
            Text("ALARM" if run.alarm else "", "bold red"),
            ", ".join(run.drifted[:4])
            + (f" and {len(run.drifted) - 4} more" if len(run.drifted) > 4 else ""),
        )
    return table


def _table(*headers: str) -> Table:
    """A table without lines; a header that ends in > stands, like its column, at the right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for header in headers:
        table.add_column(header.removesuffix(">"), justify="right" if header.endswith(">") else "left")
    return table
