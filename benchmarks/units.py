"""What does a unit cost the driver, where the units are many and the work in each is small?

    python -m benchmarks.units                        # 1,000 units of 1,000 rows on Spark and on Dask

The driver plans the units from the files' footers, hands them to the engine, takes the reports and commits once.  Its
processor time is that of the process that calls `batchinfer.run`; Dask's scheduler runs in it too.  The processor time
of Spark's JVM stands beside: in `local[cores]` it is driver and executor at once, and compiles its code meanwhile.  The
clock has the units' own work in it, on all cores.

Goal: under 5 ms of the driver's time a unit, planned and scheduled.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pyarrow.parquet as pq

from .data import DEFAULT_FOLDER, ensure_flights
from .engines import ROOT, check_rows
from .jobs import prepare, work_folder
from .measure import Figures, arguments, median, spawn, store, table, verdict

UNIT_ROWS = 1_000
GOAL_MS = 5.0


def many_files(folder: Path, units: int) -> Path:
    """The folder of so many files of 1,000 flights."""
    target = folder / f"flights-{units}-files"
    if not target.exists():
        source = next(ensure_flights(folder, units * UNIT_ROWS).glob("*.parquet"))
        unfinished = target.with_name(f".{target.name}")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        with pq.ParquetFile(source) as flights:
            for number, batch in enumerate(flights.iter_batches(UNIT_ROWS)):
                with pq.ParquetWriter(unfinished / f"flights-{number:05d}.parquet", batch.schema) as writer:
                    writer.write_batch(batch)
        unfinished.rename(target)
    return target


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--units", type=int, default=1_000)
    parser.add_argument("--engines", nargs="+", choices=["spark", "dask"], default=["spark", "dask"])
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER)
    options = parser.parse_args()
    rows = options.units * UNIT_ROWS
    flights = many_files(options.folder, options.units)
    figures: Figures = {}
    with work_folder(options.folder) as work:
        job = prepare(options.folder, work, flights, rows, "mlp")
        for engine in options.engines:
            repeats = []
            for _ in range(options.repeats):
                shutil.rmtree(job.results, ignore_errors=True)
                program = [sys.executable, "-m", "benchmarks.engine_driver", str(job.spec), engine]
                repeats.append(spawn([*program, json.dumps({"unit_rows": UNIT_ROWS})], cwd=ROOT).report)
                check_rows(job.results, rows)
            figures[engine] = repeats
    show(figures)
    store(options.json, figures)


def show(figures: Figures) -> None:
    lines = []
    for engine, repeats in figures.items():
        a_unit = {
            key: median(each[key] / each["units"] * 1e3 for each in repeats)
            for key in ("driver_cpu_s", "jvm_cpu_s", "job_s")
        }
        lines.append(
            [
                engine,
                str(repeats[-1]["units"]),
                *(f"{a_unit[key]:.2f}" for key in ("driver_cpu_s", "jvm_cpu_s", "job_s")),
                verdict(a_unit["driver_cpu_s"], GOAL_MS),
            ]
        )
    table(
        "Milliseconds a unit",
        ["", "units", "driver, CPU", "Spark's JVM, CPU", "by the clock, with its work", "driver"],
        lines,
    )


if __name__ == "__main__":
    main()
