"""What does the profile of every row cost, and is its PSI the one that the raw values give?

    python -m benchmarks.drift                       # 10 M rows x (13 float32 columns + score), MLP
    python -m benchmarks.drift --rows 2000000 --repeats 5

The profile is measured alone, one thread a core over batches of a row group that are in memory, as a
run's workers take it; beside it `batchinfer.run` on the same rows without a profile, in a fresh process.
The share is that of CPU seconds, which other users of the machine move least.  The reference is the
first row groups.  Ways to count one column on the same bins are compared on one core.

Goals: at most 3 ns a value; PSI within 0.01 of that of the raw values.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchinfer.drift import Profile, Reference, Thresholds, build_reference, measure
from batchinfer.drift._counting import BLOCK
from batchinfer.drift._profile import Profiler

from .data import DEFAULT_FOLDER, DEFAULT_ROWS, FEATURES, ROW_GROUP_ROWS, ensure_flights, ensure_model
from .jobs import Job, prepare, work_folder
from .measure import Cost, Figures, arguments, cores, median, parallel, spread, store, table, verdict
from .scoring import block, score, session

NANOSECONDS_GOAL = 3.0
PSI_GOAL = 0.01
REFERENCE_GROUPS = 8

Doubles = npt.NDArray[np.float64]
Batch = tuple[pa.RecordBatch, pa.RecordBatch]
"""Features and predictions."""


def scored_batches(flights: Path, model: Path) -> Iterator[Batch]:
    """The rows with their scores, a row group at a time."""
    loaded, tensor = session(model), block()
    for path in sorted(flights.glob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(ROW_GROUP_ROWS, columns=list(FEATURES)):
            features = batch.select(FEATURES)
            scores = score(loaded, [column.to_numpy() for column in features.columns], tensor)
            yield features, pa.RecordBatch.from_pydict({"score": pa.array(scores)})


def profile_cost(profiler: Profiler, batches: list[Batch]) -> Cost:
    return parallel(batches, lambda: lambda batch: profiler.profile(*batch).to_dict())


def profile_of(profiler: Profiler, batches: list[Batch]) -> Profile:
    whole = profiler.profile(*batches[0])
    for batch in batches[1:]:
        whole = whole.merge(profiler.profile(*batch))
    return whole


def largest_psi_error(reference: Reference, batches: list[Batch]) -> float:
    """The largest difference of a column's PSI from that of its raw values, by NumPy on the same bins."""
    report = measure(reference, profile_of(reference.profiler, batches), Thresholds())
    errors = []
    for number, each in enumerate(reference.columns):
        edges = [-np.inf, *each.column.bins.to_dict()["edges"], np.inf]

        def shares(of: list[Batch], at: int = number, edges: list[float] = edges) -> Doubles:
            values = np.concatenate([[*f.columns, *p.columns][at].to_numpy() for f, p in of])
            counts = np.histogram(values.astype(np.float64), edges)[0]
            return np.asarray(np.maximum(counts / counts.sum(), 1e-4))

        p, q = shares(batches[:REFERENCE_GROUPS]), shares(batches)
        exact = float(np.sum((q - p) * np.log(q / p)))
        errors.append(abs((report.columns[each.column.name].psi or 0.0) - exact))
    return max(errors)


def compare_ways(reference: Reference, column: pa.Array) -> list[list[str]]:
    """Nanoseconds a value of counting one column into its bins, on one core."""
    values = column.to_numpy()
    (stated,) = [each.column for each in reference.columns if each.column.name == "temp"]
    edges = np.array(stated.bins.to_dict()["edges"], np.float32)
    blocks = [values[start : start + BLOCK] for start in range(0, len(values), BLOCK)]
    alone = Profiler([stated])
    batch = pa.RecordBatch.from_arrays([column], names=["temp"])
    arrow_edges = [pa.scalar(edge, pa.float32()) for edge in edges]
    ways: dict[str, Callable[[], object]] = {
        "profile: bins, range, nulls and exact sum": lambda: alone.profile(batch, batch),
        "NumPy: compare blocks with each edge, count": lambda: [
            np.count_nonzero(piece < edge) for piece in blocks for edge in edges
        ],
        "NumPy: histogram": lambda: np.histogram(values, edges),
        "NumPy: searchsorted, bincount": lambda: np.bincount(np.searchsorted(edges, values, side="right")),
        "Arrow: compare with each edge, sum": lambda: [pc.sum(pc.less(column, e)) for e in arrow_edges],
    }
    lines = []
    for name, way in ways.items():
        seconds = []
        for _ in range(5):
            started = time.process_time()
            way()
            seconds.append(time.process_time() - started)
        lines.append([name, f"{min(seconds) / len(values) * 1e9:.2f}"])
    return lines


def main() -> None:
    parser = arguments(__doc__, rows=DEFAULT_ROWS)
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--model", choices=["mlp", "lightgbm"], default="mlp")
    options = parser.parse_args()
    flights = ensure_flights(options.folder, options.rows)
    batches = list(scored_batches(flights, ensure_model(options.folder, options.model)))
    reference = build_reference(lambda: ((f, p, None) for f, p in batches[:REFERENCE_GROUPS]))
    values = options.rows * len(reference.columns)
    with work_folder(options.folder) as work:
        job: Job = prepare(options.folder, work, flights, options.rows, options.model)
        profiles, runs = [], []
        for _ in range(options.repeats):
            profiles.append(profile_cost(reference.profiler, batches))
            runs.append(job.run())
    per_value = [cost.cpu_s / values * 1e9 for cost in profiles]
    share = median(cost.cpu_s / run.job_cpu_s for cost, run in zip(profiles, runs, strict=True))
    error = largest_psi_error(reference, batches)
    found = median(per_value)
    table(
        f"{options.model}: {options.rows:,} rows, {len(reference.columns)} columns, {cores()} cores",
        ["profile", "found", ""],
        [
            ["ns a value (CPU)", f"{found:.2f} {spread(per_value)}", verdict(found, NANOSECONDS_GOAL)],
            ["seconds", f"{median(cost.wall_s for cost in profiles):.2f}", ""],
            ["CPU seconds", f"{median(cost.cpu_s for cost in profiles):.2f}", ""],
            ["CPU seconds of the run without", f"{median(run.job_cpu_s for run in runs):.2f}", ""],
            ["share of the run's", f"{share:.1%}", ""],
            ["largest error of a PSI", f"{error:.1e}", verdict(error, PSI_GOAL)],
        ],
    )
    column = pa.concat_arrays([features.column("temp") for features, _ in batches[:REFERENCE_GROUPS]])
    table("one column (temp), one core", ["way", "ns a value"], compare_ways(reference, column))
    figures: Figures = {"ns_per_value": per_value, "share": share, "largest_psi_error": error}
    store(options.json, figures)


if __name__ == "__main__":
    main()
