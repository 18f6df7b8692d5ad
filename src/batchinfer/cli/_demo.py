"""`batchinfer demo`: the sample flights, scored, beside what became of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchinfer.cli import _render
from batchinfer.core import RowCounts
from batchinfer.errors import UsageError
from batchinfer.runs import RunReport, find_rows, open_results, run
from batchinfer.spec import PipelineSpec

_LABELS = Path("data/samples/labels")


def run_demo(spec: PipelineSpec) -> None:
    """Run the pipeline for each sample day, and print what the model said beside what happened.

    Raises:
        UsageError: there is no sample data here.
    """
    days = sorted(p.name.removeprefix("ds=") for p in Path(spec.input.path).parent.glob("ds=*"))
    if not days:
        raise UsageError(
            f"there is no sample data at {spec.input.path}",
            next_step="run the demo from a checkout of batchinfer: make demo",
        )
    reports = [run(spec, {"ds": day}) for day in days]
    rows = [_day(spec, report) for report in reports]
    click.echo(f"Will these flights arrive more than 15 minutes late? {reports[0].model['name']} says:\n")
    _render.table(
        ("day", "flights", "said late", "were late", "ranked right", "most at risk", "its odds", "drift"),
        rows,
    )
    _say_what_next(spec, reports)


def _day(spec: PipelineSpec, report: RunReport) -> tuple[str, ...]:
    day = report.parameters["ds"]
    scored = find_rows(open_results(spec, spec.output.path), {"ds": day})
    worst = scored.sort_by([("p_late", "descending")]).slice(0, 1).to_pylist()[0]
    labels = pq.read_table(_LABELS / f"ds={day}", partitioning=None)
    joined = scored.join(labels, "flight_id", join_type="inner", right_suffix="_right").filter(
        pc.is_valid(pc.field("late_right"))
    )
    happened = joined.column("late_right")
    return (
        day,
        f"{scored.num_rows:,}",
        f"{pc.mean(scored.column('p_late')).as_py():.0%}",
        f"{pc.mean(happened.cast(pa.float64())).as_py():.0%}",
        f"{_auc(joined.column('p_late'), happened):.0%}",
        f"{worst['carrier']} {worst['origin']}→{worst['dest']}",
        f"{worst['p_late']:.0%}",
        _drifted(report),
    )


def _drifted(report: RunReport) -> str:
    """The columns in which the day is unlike those of the training."""
    columns = report.drift.get("columns", {})
    drifted = [name for name, column in columns.items() if column["drifted"]]
    return f"ALARM: {', '.join(drifted)}" if report.drift.get("alarm") else ", ".join(drifted)


def _auc(scores: pa.ChunkedArray, late: pa.ChunkedArray) -> float:
    """How often a late flight got a higher score than one on time: the area under the ROC curve."""
    # Ties share a rank on average, so both ends of each tie are counted.
    first = pc.rank(scores, sort_keys="ascending", tiebreaker="min")
    last = pc.rank(scores, sort_keys="ascending", tiebreaker="max")
    middle = pc.divide(pc.add(first.cast(pa.float64()), last.cast(pa.float64())), 2.0)
    positives = pc.sum(late.cast(pa.int64())).as_py()
    negatives = len(late) - positives
    if not positives or not negatives:
        return float("nan")
    total = pc.sum(pc.if_else(late, middle, 0.0)).as_py()
    return float((total - positives * (positives + 1) / 2) / (positives * negatives))


def _say_what_next(spec: PipelineSpec, reports: list[RunReport]) -> None:
    rows = sum((report.rows for report in reports), RowCounts())
    reused = sum(report.units["reused"] for report in reports)
    again = f" ({reused} days were there already)" if reused else ""
    click.echo(
        f"\n{rows.read:,} flights, {len(reports)} runs{again}, each one atomic commit to the Delta table "
        f"{spec.output.path}.\n\n"
        "Next:\n" + _steps(spec, reports[-1])
    )


def _steps(spec: PipelineSpec, last: RunReport) -> str:
    found = shutil.which("batchinfer") is not None
    name, folder = "batchinfer" if found else ".venv/bin/batchinfer", spec.folder
    steps = [
        (f"{name} runs list", "what was run"),
        (f"{name} results history {folder}", "the table's commits"),
        (f"{name} drift {folder}", "how far each day is from the training data"),
        (f"{name} explain {folder} --key 6535", "one flight, scored again from its source"),
        (f"{name} plan {folder} -p ds={last.parameters['ds']}", "what a run would do"),
        ("docs/first-pipeline.md", "a pipeline of your own"),
    ]
    width = max(len(command) for command, _ in steps)
    return "\n".join(f"  {command:<{width}}   {what}" for command, what in steps)
