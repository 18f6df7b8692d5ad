"""What do a suite of ten expectations and the profile of every row cost a run, and what would they cost without us?

    python -m benchmarks.quality                                # 10 M rows, MLP and LightGBM: about seven minutes
    python -m benchmarks.quality --models mlp --repeats 7       # some minutes

For each model `batchinfer.run` in fresh processes, in pairs: without suite and drift, and with both.  The order in
a pair alternates.  A run of LightGBM takes so long that a shared host changes its speed in between, by more than
the difference.  So the workers of both are also paired unit by unit, in one process on all cores: from Parquet to
the staged part and its receipt, a row group a unit, each done without and with, in either order.

Beside them what checks and profile take alone, on all cores over batches that are in memory, and one expectation at
a time.  Then the same suite by Great Expectations on a pandas frame, on one core as ours; both
must find the same.

The suite is `expectations.json`, over the 14 columns.  What each takes of a batch whose rows are good:

    row count                     nothing but the number of rows
    id not null                   Arrow's own count of nulls
    pressure not null, mostly     one pass that looks for NaN
    month in 1 to 12              twelve comparisons a row, or what stands for them
    distance and humid between    two passes each: least and greatest
    wind_speed between, mostly    rows fail: masks, counts and examples as well
    temp >= dewp                  both columns, their NaN, and a mask
    mean of visib                 an exact sum
    median of sched_arr_time      a sketch of 1,163 distinct values, more than it counts exactly

Unique columns are left out: they take a pass of their own before the run, whatever is scored.

Goals: rows/s with both >= 0.75 of those without for the MLP, 0.97 for LightGBM; 20 x Great Expectations.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import reduce
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batchinfer import load_spec
from batchinfer.core import Lineage, Slice, StagingArea, WorkUnit, arrays
from batchinfer.drift import build_reference
from batchinfer.drift._profile import Profiler
from batchinfer.quality import Check, SuiteChecks, SuiteTally, compile_suite, load_suite
from batchinfer.runs._plan import Plan, make_plan
from batchinfer.runs._work import RunWork
from batchinfer.runs._worker import Staging, Worker

from .data import DEFAULT_FOLDER, DEFAULT_ROWS, MODELS, ROW_GROUP_ROWS, ensure_flights, ensure_model
from .drift import Batch as ScoredBatch
from .drift import profile_cost, scored_batches
from .jobs import SUITE, Job, add_model, work_folder, write_job
from .measure import Cost, Figures, arguments, cores, median, parallel, spread, store, table, verdict

RATE_GOALS = {"mlp": 0.75, "lightgbm": 0.97}
PEER_GOAL = 20.0
PEER_ROWS = 1_000_000

Pair = dict[str, dict[str, float]]
Placed = tuple[pa.RecordBatch, Lineage]
Verdicts = dict[str, tuple[bool | None, Any]]
"""By expectation: success and the count of unexpected rows."""


def measure_pairs(plain: Job, checked: Job, repeats: int) -> list[Pair]:
    pairs = []
    for number in range(repeats):
        jobs = {"without": plain, "with": checked}
        order = sorted(jobs, reverse=number % 2 == 0)
        pairs.append({name: asdict(jobs[name].run()) for name in order})
    return pairs


def show_pairs(model: str, rows: int, pairs: list[Pair]) -> None:
    def rate(figure: str) -> float:
        return median(pair["without"][figure] / pair["with"][figure] for pair in pairs)

    lines = []
    for name in ("without", "with"):
        seconds = [pair[name]["job_s"] for pair in pairs]
        lines.append(
            [
                f"{name} suite and drift",
                f"{median(seconds):.3f}",
                spread(seconds),
                f"{rows / median(seconds) / 1e6:.2f}",
                f"{median(pair[name]['job_cpu_s'] for pair in pairs):.3f}",
                f"{median(pair[name]['peak_mb'] for pair in pairs):.0f}",
            ]
        )
    table(
        f"{model}: {rows:,} rows, {len(pairs)} pairs",
        ["batchinfer.run", "seconds", "spread", "M rows/s", "cpu s", "peak MB"],
        lines,
    )
    goal = RATE_GOALS[model]
    table(
        f"{model}: goals",
        ["rows/s with, of those without", "found", ""],
        [
            ["by the clock", f"{rate('job_s'):.3f}", verdict(rate("job_s"), goal, at_least=True)],
            ["by CPU seconds", f"{rate('job_cpu_s'):.3f}", verdict(rate("job_cpu_s"), goal, at_least=True)],
        ],
    )


def row_group_units(units: Sequence[WorkUnit]) -> list[WorkUnit]:
    """The same row groups, each a unit; the files hold them at their full size but for the last."""
    pieces = [
        Slice(
            piece.file,
            piece.first_row_group + group,
            1,
            piece.first_row + first,
            min(ROW_GROUP_ROWS, piece.rows - first),
        )
        for unit in units
        for piece in unit.slices
        for group, first in enumerate(range(0, piece.rows, ROW_GROUP_ROWS))
    ]
    return [WorkUnit(index, (), (piece,)) for index, piece in enumerate(pieces)]


def open_worker(job: Job, staging: Path) -> tuple[Plan, Worker]:
    """The worker that a run of `job` on this machine has; it stages below `staging`."""
    plan = make_plan(load_spec(job.spec), {})
    areas = [
        StagingArea(str(staging / name / "parts"), str(staging / name / "receipts"))
        for name in ("results", "refused")
    ]
    checks = plan.suite.prepare(plan.units, plan.spec.quality) if plan.suite is not None else None
    work = RunWork.of(plan, Staging(*areas), plan.originals, checks)
    return plan, work.worker(plan.scorer, plan.transform, map, lambda rows: None)


def measure_units(plain: Job, checked: Job, work: Path, repeats: int) -> dict[str, list[Cost]]:
    """What each unit takes in its thread, without and with; the two lists hold the same units in the same order."""
    costs: dict[str, list[Cost]] = {"without": [], "with": []}
    together = threading.Lock()
    for number in range(repeats):
        staging = {name: work / f"staging-{name}-{number}" for name in costs}
        opened = {
            name: open_worker(job, staging[name]) for name, job in zip(costs, (plain, checked), strict=True)
        }
        units = row_group_units(opened["with"][0].units)

        def both(unit: WorkUnit, opened: Any = opened, number: int = number) -> None:
            pair = {}
            for name in sorted(opened, reverse=(unit.index + number) % 2 == 0):
                started, cpu_before_s = time.perf_counter(), time.thread_time()
                opened[name][1](unit)
                pair[name] = Cost(time.perf_counter() - started, time.thread_time() - cpu_before_s)
            with together:
                for name, cost in pair.items():
                    costs[name].append(cost)

        parallel(units, lambda: both)
        for folder in staging.values():
            shutil.rmtree(folder)
    return costs


def show_units(model: str, costs: dict[str, list[Cost]]) -> None:
    """The median of the pairs' ratios, and its standard error by their quartiles."""
    lines = []
    for name, figure in (("by the clock", "wall_s"), ("by CPU seconds", "cpu_s")):
        pairs = zip(costs["without"], costs["with"], strict=True)
        ratios = np.array([getattr(without, figure) / getattr(checked, figure) for without, checked in pairs])
        low, ratio, high = (float(each) for each in np.quantile(ratios, [0.25, 0.5, 0.75]))
        error = 0.93 * (high - low) / math.sqrt(len(ratios))
        lines.append([name, f"{ratio:.3f} ± {error:.3f}", verdict(ratio, RATE_GOALS[model], at_least=True)])
    table(
        f"{model}: {len(costs['with'])} units by each worker in turn, from Parquet to staged parts",
        ["rows/s with, of those without", "found", ""],
        lines,
    )


def placed_batches(flights: Path, rows: int) -> list[Placed]:
    """The first `rows` rows as a run reads them, a row group a batch."""
    batches: list[Placed] = []
    left = rows
    for path in sorted(flights.glob("*.parquet")):
        first = 0
        for read in pq.ParquetFile(path).iter_batches(ROW_GROUP_ROWS):
            batch = read.slice(0, left)
            if batch.num_rows:
                positions = arrays.from_numpy(np.arange(first, first + batch.num_rows))
                batches.append((batch, Lineage("bench@1", "bench", str(path), positions)))
            first += batch.num_rows
            left -= batch.num_rows
            if not left:
                return batches
    return batches


def profiler_of(batches: list[ScoredBatch]) -> Profiler:
    """On the bins of the first row groups."""
    return build_reference(lambda: ((*batch, None) for batch in batches[:3])).profiler


def checks_cost(checks: Sequence[Check], batches: list[Placed]) -> float:
    """CPU nanoseconds a row, on all cores."""
    suite = SuiteChecks(checks, quarantines=True)
    cost = parallel(batches, lambda: lambda placed: suite.check(*placed))
    rows: int = sum(batch.num_rows for batch, _ in batches)
    return cost.cpu_s / rows * 1e9


def show_parts(checks: Sequence[Check], flights: Path, model: Path, repeats: int) -> Figures:
    """What each part takes alone."""
    batches = placed_batches(flights, PEER_ROWS * 2)
    scored = list(islice(scored_batches(flights, model), len(batches)))
    profiler = profiler_of(scored)
    rows = sum(features.num_rows for features, _ in scored)

    def lowest(*each: Check) -> float:
        return min(checks_cost(each, batches) for _ in range(repeats))

    found = {check.expectation.name: lowest(check) for check in checks}
    found["the suite"] = lowest(*checks)
    found["the profile"] = min(profile_cost(profiler, scored).cpu_s / rows * 1e9 for _ in range(repeats))
    table(
        f"alone, on {cores()} cores, {rows:,} rows",
        ["part", "CPU ns a row"],
        [[name, f"{each:.1f}"] for name, each in found.items()],
    )
    return found


def by_us(checks: Sequence[Check], batches: list[Placed]) -> tuple[float, Verdicts]:
    """CPU seconds on one core from the first batch to the verdicts."""
    started = time.process_time()
    suite = SuiteChecks(checks, quarantines=True)
    tallies = [suite.check(batch, lineage)[1] for batch, lineage in batches]
    judged = suite.judge(reduce(SuiteTally.merge, tallies))
    cpu_s = time.process_time() - started
    return cpu_s, {c.expectation.name: (j.success, j.result.get("unexpected_count")) for c, j in judged}


def great_expectations_batch(frame: Any) -> Any:
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("bench").add_dataframe_asset("flights")
    return asset.add_batch_definition_whole_dataframe("whole").get_batch({"dataframe": frame})


def by_great_expectations(batch: Any, names: dict[str, str]) -> tuple[float, Verdicts]:
    """CPU seconds of its own validation, in the result format that ours has. `names`: ours, by its arguments."""
    from great_expectations import ExpectationSuite

    suite = ExpectationSuite(**json.loads(SUITE.read_text()))
    started = time.process_time()
    found = batch.validate(suite, result_format="SUMMARY")
    cpu_s = time.process_time() - started
    verdicts = {}
    for each in found.results:
        config = each.expectation_config
        verdicts[names[argument_text(config.type, config.kwargs)]] = (
            each.success,
            each.result.get("unexpected_count"),
        )
    return cpu_s, verdicts


def argument_text(kind: str, kwargs: Mapping[str, Any]) -> str:
    """What tells an expectation from the others, whatever else Great Expectations has added to its arguments."""
    return f"{kind} {kwargs.get('column') or kwargs.get('column_A')}"


def compare_with_great_expectations(checks: Sequence[Check], flights: Path, repeats: int) -> Figures:
    """Raises SystemExit where the two do not find the same."""
    batches = placed_batches(flights, PEER_ROWS)
    frame = pa.Table.from_batches([batch for batch, _ in batches]).to_pandas()
    peer = great_expectations_batch(frame)
    names = {
        argument_text(check.expectation.type, check.expectation.kwargs): check.expectation.name
        for check in checks
    }
    ours, theirs = list[float](), list[float]()
    for _ in range(repeats):
        cpu_s, found = by_us(checks, batches)
        ours.append(cpu_s)
        cpu_s, expected = by_great_expectations(peer, names)
        theirs.append(cpu_s)
        if found != expected:
            raise SystemExit(f"batchinfer found {found}\nGreat Expectations found {expected}")
    times = median(their / our for our, their in zip(ours, theirs, strict=True))
    table(
        f"the suite on {PEER_ROWS:,} rows in memory, one core; both find the same",
        ["", "CPU s", "M rows/s", ""],
        [
            [
                "Great Expectations, pandas",
                f"{median(theirs):.3f}",
                f"{PEER_ROWS / median(theirs) / 1e6:.2f}",
                "",
            ],
            ["compiled", f"{median(ours):.3f}", f"{PEER_ROWS / median(ours) / 1e6:.2f}", ""],
            ["compiled is faster by", "", f"{times:.1f}", verdict(times, PEER_GOAL, at_least=True)],
        ],
    )
    return {"ours_cpu_s": ours, "great_expectations_cpu_s": theirs}


def main() -> None:
    parser = arguments(__doc__, rows=DEFAULT_ROWS)
    parser.set_defaults(repeats=5)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER)
    options = parser.parse_args()
    flights = ensure_flights(options.folder, options.rows)
    (first, *_) = sorted(flights.glob("*.parquet"))
    checks, foreign = compile_suite(load_suite(SUITE), pq.read_schema(first))
    assert not foreign
    figures: Figures = {}
    figures["parts_ns"] = show_parts(checks, flights, ensure_model(options.folder, "mlp"), options.repeats)
    figures["peer"] = compare_with_great_expectations(checks, flights, options.repeats)
    with work_folder(options.folder) as work:
        for model in options.models:
            add_model(options.folder, work, model, reference=True)
            plain, checked = (
                write_job(work, flights, options.rows, model, checked=checked) for checked in (False, True)
            )
            pairs = measure_pairs(plain, checked, options.repeats)
            show_pairs(model, options.rows, pairs)
            units = measure_units(plain, checked, work, options.repeats)
            show_units(model, units)
            figures[model] = {
                "pairs": pairs,
                "units": {name: [asdict(c) for c in each] for name, each in units.items()},
            }
    store(options.json, figures)


if __name__ == "__main__":
    main()
