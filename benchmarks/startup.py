"""How long until a person sees something: `--help`, and one small day scored?

    python -m benchmarks.startup

Wall seconds of whole processes, as they are typed, medians of several runs after one that is not
counted: `batchinfer --help` (goal under 0.4 s) and a run of the sample pipeline for one day into
a results folder that is new each time (goal under 1.5 s).  An empty Python process is shown
beside them: what the machine takes before any of our code.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from .jobs import command, installed
from .measure import arguments, median, spawn, spread, store, table, verdict

ROOT = Path(__file__).parents[1]
PIPELINE = "pipelines/flight_delay/pipeline.yaml"
HELP_GOAL_S = 0.4
RUN_GOAL_S = 1.5


def bare_python() -> float:
    return spawn([sys.executable, "-c", "pass"]).wall_s


def show_help() -> float:
    return spawn([*command(), "--help"]).wall_s


def run_day() -> float:
    with tempfile.TemporaryDirectory() as results:
        arguments = ["-p", "ds=2013-01-08", "--set", f"output.path={results}/table"]
        return spawn([*command(), "run", PIPELINE, *arguments], cwd=ROOT).wall_s


CASES: dict[str, tuple[Callable[[], float], float | None]] = {
    "python -c pass": (bare_python, None),
    "batchinfer --help": (show_help, HELP_GOAL_S),
    "batchinfer run (one day)": (run_day, RUN_GOAL_S),
}


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(repeats=7)
    options = parser.parse_args()
    if not installed():
        return
    samples: dict[str, list[float]] = {name: [] for name in CASES}
    for repeat in range(options.repeats + 1):
        for name, (measure, _) in CASES.items():
            seconds = measure()
            if repeat:
                samples[name].append(seconds)
    base = median(samples["python -c pass"])
    lines = []
    for name, (_, goal) in CASES.items():
        seconds = median(samples[name])
        judged = "" if goal is None else verdict(seconds, goal)
        lines.append([name, f"{seconds:.3f}", spread(samples[name]), f"{seconds / base:.1f}", judged])
    table("start-up", ["command", "seconds", "spread", "of python", ""], lines)
    store(options.json, {"seconds": samples})


if __name__ == "__main__":
    main()
