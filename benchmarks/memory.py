"""Does a run's memory grow with its rows?

    python -m benchmarks.memory                           # 10 M rows against 100 M
    python -m benchmarks.memory --checked                 # the same with a suite and drift: see quality.py
    python -m benchmarks.memory --rows 1000000 4000000

Peak resident memory of `batchinfer.run` in a fresh process, at two sizes, the files written in
the same way (row groups of 131,072, one file).  Goal: the larger within 10% of the smaller.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from .data import DEFAULT_FOLDER, MODELS, ensure_flights
from .jobs import RunFigures, installed, prepare, work_folder
from .measure import Figures, arguments, median, store, table, verdict

GROWTH_GOAL = 1.10


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(repeats=1)
    parser.add_argument("--rows", type=int, nargs=2, default=[10_000_000, 100_000_000])
    parser.add_argument("--files", type=int, default=1)
    parser.add_argument("--model", choices=list(MODELS), default="mlp")
    parser.add_argument("--checked", action="store_true", help="with the suite, and drift")
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER)
    options = parser.parse_args()
    if not installed():
        return
    with work_folder(options.folder) as work:
        jobs = [
            prepare(
                options.folder,
                work,
                ensure_flights(options.folder, rows, options.files),
                rows,
                options.model,
                checked=options.checked,
            )
            for rows in options.rows
        ]
        runs: list[list[RunFigures]] = [[job.run() for job in jobs] for _ in range(options.repeats)]
    peaks = [median(run[size].peak_mb for run in runs) for size in range(len(jobs))]
    growth = max(peaks) / min(peaks)
    lines = [
        [f"{job.rows:,}", f"{peak:.0f}", f"{peak / peaks[0]:.2f}"]
        for job, peak in zip(jobs, peaks, strict=True)
    ]
    table(
        f"{options.model}{' with suite and drift' if options.checked else ''}: memory",
        ["rows", "peak MB", "ratio"],
        lines,
    )
    print(f"  {verdict(growth, GROWTH_GOAL)}")
    figures: Figures = {
        "rows": options.rows,
        "peak_mb": peaks,
        "growth": growth,
        "repeats": [[asdict(figure) for figure in run] for run in runs],
    }
    store(options.json, figures)


if __name__ == "__main__":
    main()
