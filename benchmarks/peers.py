"""How much faster is it than Daft and Ray Data at the same job?

    sh benchmarks/peers.sh                    # once: .venv-peers, versions pinned
    python -m benchmarks.peers                # 10 M rows, MLP

Read Parquet, score, write Parquet: each peer writes `id` and `score`, batchinfer its whole result
rows, lineage included, in a committed Delta table.  Each system runs in a fresh process, with ONNX
Runtime in the same settings (one thread a call, calls in parallel on all cores), over the same
files: eight by default, because a peer may read a file with one core only.

Each peer is measured twice: as its guide writes such a function (stack the columns, call the
model), and `tuned`, with our own packing of tensors in blocks inside its function.  Each takes the
best batch size of a sweep over a subset.  `job` leaves out imports and `ray.init`; `marginal` also
leaves out what the subset has to pay as well (workers starting), so it is the speed of long jobs.

Goals, by job time and against the guides' way: >= 2.5 x Daft, >= 10 x Ray Data.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .data import DEFAULT_FOLDER, DEFAULT_ROWS, MODELS, ensure_flights, ensure_model
from .jobs import installed, prepare, rows_written, work_folder
from .measure import Figures, arguments, median, spawn, spread, store, table, verdict

ROOT = Path(__file__).parents[1]
BATCHES = (0, 4_096, 8_192, 32_768, 131_072)
"""Rows in a call of the function; 0 for the system's own choice."""
GOALS = {"daft": 2.5, "ray": 10.0}
OURS = "batchinfer"

Options = dict[str, bool | int]


@dataclass(frozen=True, slots=True)
class Dataset:
    flights: Path
    rows: int


@dataclass(frozen=True, slots=True)
class Seconds:
    job_s: float
    process_s: float


@dataclass(frozen=True, slots=True)
class Peer:
    """One system and one way to write the function: `run` scores a dataset in a fresh process."""

    module: str
    options: Options
    python: Path
    model: Path
    results: Path

    def run(self, dataset: Dataset, batch_rows: int) -> Seconds:
        shutil.rmtree(self.results, ignore_errors=True)
        options = json.dumps({**self.options, "batch_size": batch_rows or None})
        paths = [str(path.resolve()) for path in (dataset.flights, self.model, self.results)]
        start = [str(self.python.absolute()), "-m", f"benchmarks.{self.module}"]
        child = spawn([*start, *paths, options], cwd=ROOT, may_crash_at_exit=True)
        written = rows_written(self.results)
        shutil.rmtree(self.results, ignore_errors=True)
        if written != dataset.rows:
            raise SystemExit(f"{self.module}: {dataset.rows:,} rows in, {written:,} out")
        return Seconds(child.report["job_s"], child.wall_s)

    def sweep(self, subset: Dataset, batches: Sequence[int]) -> dict[int, float]:
        """Job seconds at each batch size."""
        return {batch: self.run(subset, batch).job_s for batch in batches}


@dataclass(frozen=True, slots=True)
class Contender:
    """What is measured: full dataset and subset, as often as asked."""

    name: str
    run: Callable[[Dataset], Seconds]
    batch_rows: int = 0
    sweep: dict[int, float] = field(default_factory=dict)
    full: list[Seconds] = field(default_factory=list)
    subset: list[Seconds] = field(default_factory=list)


def contenders(options: argparse.Namespace, work: Path, sets: Sequence[Dataset]) -> list[Contender]:
    found = []
    if installed():
        jobs = {each: prepare(options.folder, work, each.flights, each.rows, options.model) for each in sets}

        def ours(dataset: Dataset) -> Seconds:
            figures = jobs[dataset].run()
            return Seconds(figures.job_s, figures.process_s)

        found.append(Contender(OURS, ours))
    model = ensure_model(options.folder, options.model)
    for system in options.systems:
        for name, tuned in ((system, False), (f"{system}, tuned", True)):
            peer = Peer(f"peer_{system}", {"tuned": tuned}, options.python, model, work / "results")
            sweep = peer.sweep(sets[-1], options.batches)
            best = min(sweep, key=lambda batch: sweep[batch])

            def run(dataset: Dataset, peer: Peer = peer, best: int = best) -> Seconds:
                return peer.run(dataset, best)

            found.append(Contender(name, run, best, sweep))
    return found


def show(model: str, measured: list[Contender], full: Dataset, subset: Dataset) -> None:
    ours = next((each for each in measured if each.name == OURS), None)
    lines = []
    for each in measured:
        jobs = [seconds.job_s for seconds in each.full]
        small = median(seconds.job_s for seconds in each.subset)
        marginal = (full.rows - subset.rows) / (median(jobs) - small) / 1e6
        faster = judged = ""
        if ours is not None and each is not ours:
            pairs = zip(each.full, ours.full, strict=True)
            times = median(theirs.job_s / own.job_s for theirs, own in pairs)
            faster = f"{times:.2f}"
            judged = verdict(times, GOALS[each.name], at_least=True) if each.name in GOALS else ""
        lines.append(
            [
                each.name,
                f"{each.batch_rows:,}" if each.batch_rows else "own choice",
                f"{median(jobs):.2f}",
                spread(jobs),
                f"{median(seconds.process_s for seconds in each.full):.2f}",
                f"{full.rows / median(jobs) / 1e6:.2f}",
                f"{marginal:.2f}",
                faster,
                judged,
            ]
        )
    header = ["system", "batch", "job s", "spread", "process s", "M rows/s", "marginal"]
    table(f"{model}: {full.rows:,} rows", [*header, "we are x faster", ""], lines)


def figures_of(each: Contender) -> Figures:
    return {
        "batch_rows": each.batch_rows,
        "sweep_job_s": {str(batch): seconds for batch, seconds in each.sweep.items()},
        "full": [[seconds.job_s, seconds.process_s] for seconds in each.full],
        "subset": [[seconds.job_s, seconds.process_s] for seconds in each.subset],
    }


def versions(python: Path) -> Figures:
    """Version of each peer, as the peers' own environment states it."""
    code = (
        "import json, importlib.metadata as m;"
        "print(json.dumps({n: m.version(n) for n in ('daft', 'ray', 'onnxruntime', 'pyarrow')}))"
    )
    return spawn([python, "-c", code]).report


def main() -> None:
    parser = arguments(__doc__, rows=DEFAULT_ROWS)
    parser.add_argument("--subset-rows", type=int, default=2_000_000)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--model", choices=list(MODELS), default="mlp")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="0: own choice")
    parser.add_argument("--systems", nargs="+", choices=list(GOALS), default=list(GOALS))
    parser.add_argument("--python", type=Path, default=Path(".venv-peers/bin/python"))
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER)
    options = parser.parse_args()
    if not options.python.exists():
        sys.exit(f"{options.python} is missing: run  sh benchmarks/peers.sh  first")
    found = versions(options.python)
    print("  ".join(f"{name} {version}" for name, version in found.items()))
    full, subset = (
        Dataset(ensure_flights(options.folder, rows, options.files), rows)
        for rows in (options.rows, options.subset_rows)
    )
    with work_folder(options.folder) as work:
        measured = contenders(options, work, [full, subset])
        for _ in range(options.repeats):
            for each in measured:
                each.full.append(each.run(full))
                each.subset.append(each.run(subset))
    show(options.model, measured, full, subset)
    figures = {each.name: figures_of(each) for each in measured}
    store(
        options.json,
        {"rows": full.rows, "subset_rows": subset.rows, "versions": found, "systems": figures},
    )


if __name__ == "__main__":
    main()
