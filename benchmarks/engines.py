"""How much faster are the Spark and Dask engines than what Spark and Dask offer for the same job?

    python -m benchmarks.engines                                   # 10 M rows, MLP and LightGBM
    python -m benchmarks.engines --rows 2000000 --models mlp --engines spark

Read Parquet, score, write Parquet, on all cores of this machine: Spark `local[cores]` with the same settings for both,
Dask with one process a core.  The peer, `predict_batch_udf` or `map_partitions`, writes `id` and `score`,
batchinfer its whole result rows, lineage included, in a committed Delta table.  Each run is a fresh process; the
clock starts when the session or cluster and its Python workers are up.  The peer takes the best batch size of a
sweep over a fifth of the rows.  Runs are interleaved; ratios are medians of the ratios within each repeat.

Goals: Spark >= 4 x for the MLP and >= 1.6 x for LightGBM, Dask >= 2 x for the MLP; the driver's memory does not grow
with the rows: it stands for a fifth of them, too.  The memory is that of the driver's Python; Spark's JVM is not in it.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from .data import DEFAULT_FOLDER, DEFAULT_ROWS, MODELS, ROW_GROUP_ROWS, ensure_flights, ensure_model
from .jobs import Job, prepare, rows_written, work_folder
from .measure import Figures, arguments, median, spawn, spread, store, table, verdict

ROOT = Path(__file__).parents[1]
BATCHES = {"spark": (8_192, 32_768, 131_072), "dask": (131_072, 524_288)}
PEERS = {"spark": "predict_batch_udf", "dask": "map_partitions"}
GOALS = {("spark", "mlp"): 4.0, ("spark", "lightgbm"): 1.6, ("dask", "mlp"): 2.0}
FILES = 8


@dataclass(frozen=True, slots=True)
class Peer:
    """What an engine's own library offers for one model."""

    engine: str
    model: Path
    results: Path

    def run(self, flights: Path, rows: int, batch_rows: int) -> float:
        """Job seconds."""
        shutil.rmtree(self.results, ignore_errors=True)
        paths = [str(path.resolve()) for path in (flights, self.model, self.results)]
        program = [sys.executable, "-m", f"benchmarks.peer_{self.engine}"]
        child = spawn([*program, *paths, json.dumps({"batch_size": batch_rows})], cwd=ROOT)
        check_rows(self.results, rows)
        return float(child.report["job_s"])


def run_ours(job: Job, engine: str) -> Figures:
    shutil.rmtree(job.results, ignore_errors=True)
    child = spawn([sys.executable, "-m", "benchmarks.engine_driver", str(job.spec), engine], cwd=ROOT)
    check_rows(job.results, job.rows)
    return child.report


def check_rows(folder: Path, rows: int) -> None:
    written = rows_written(folder)
    shutil.rmtree(folder, ignore_errors=True)
    if written != rows:
        raise SystemExit(f"{rows:,} rows in, {written:,} out: {folder}")


def main() -> None:
    parser = arguments(__doc__, rows=DEFAULT_ROWS)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--engines", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER)
    options = parser.parse_args()
    few = options.rows // 5
    all_flights = ensure_flights(options.folder, options.rows, FILES)
    few_flights = ensure_flights(options.folder, few, max(1, min(FILES, few // ROW_GROUP_ROWS)))
    figures: Figures = {}
    with work_folder(options.folder) as work:
        for model in options.models:
            job = prepare(options.folder, work, all_flights, options.rows, model)
            small = prepare(options.folder, work, few_flights, few, model)
            for engine in options.engines:
                peer = Peer(engine, ensure_model(options.folder, model), work / "peer")
                sweep = {batch: peer.run(few_flights, few, batch) for batch in BATCHES[engine]}
                best = min(sweep, key=lambda batch: sweep[batch])
                few_mb = run_ours(small, engine)["peak_mb"]
                repeats = [
                    {**run_ours(job, engine), "peer_s": peer.run(all_flights, options.rows, best)}
                    for _ in range(options.repeats)
                ]
                show(engine, model, rows=options.rows, best=best, repeats=repeats, few_mb=few_mb)
                figures[f"{engine} {model}"] = {"sweep_s": sweep, "repeats": repeats, "few_rows_mb": few_mb}
    store(options.json, figures)


def show(engine: str, model: str, *, rows: int, best: int, repeats: list[Figures], few_mb: float) -> None:
    lines = []
    for name, key in (("batchinfer", "job_s"), (f"{PEERS[engine]}, {best:,} rows", "peer_s")):
        samples = [each[key] for each in repeats]
        seconds = median(samples)
        lines.append([name, f"{seconds:.2f}", spread(samples), f"{rows / seconds / 1e6:.3f}"])
    table(f"{engine}, {model}: {rows:,} rows", ["", "seconds", "spread", "M rows/s"], lines)
    ratio = median(each["peer_s"] / each["job_s"] for each in repeats)
    goal = GOALS.get((engine, model))
    peak_mb = median(each["peak_mb"] for each in repeats)
    units, loads = repeats[-1]["units"], repeats[-1]["model_loads"]
    table(
        f"{engine}, {model}: goals",
        ["", "found", ""],
        [
            ["times the peer", f"{ratio:.2f}", verdict(ratio, goal, at_least=True) if goal else ""],
            ["driver's peak memory, MB", f"{peak_mb:.0f}", f"{few_mb:.0f} for a fifth of the rows"],
            [
                "driver's CPU seconds",
                f"{median(each['driver_cpu_s'] for each in repeats):.2f}",
                f"{units} units",
            ],
            ["model loads", str(loads), ""],
        ],
    )


if __name__ == "__main__":
    main()
