"""How the benchmarks measure: threads over items, fresh processes, medians, tables of ratios."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

Item = TypeVar("Item")
Figures = dict[str, Any]


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds by the clock, and seconds of all cores together: these hold on a busy machine too."""

    wall_s: float
    cpu_s: float

    def scaled(self, factor: float) -> Cost:
        return Cost(self.wall_s * factor, self.cpu_s * factor)


def parallel(items: Iterable[Item], worker: Callable[[], Callable[[Item], object]]) -> Cost:
    """What it costs one thread per core to work through `items`, each taking the next.

    `worker` is called once in each thread, before the clock starts, and returns the function that
    does one item: what it prepares (a buffer, an open file) is not part of the figure.
    """
    stream, lock, failures = iter(items), threading.Lock(), list[BaseException]()
    ready = threading.Barrier(cores() + 1)

    def loop() -> None:
        try:
            work = worker()
            ready.wait()
            while True:
                with lock:
                    item = next(stream)
                work(item)
        except StopIteration:
            pass
        except BaseException as error:
            failures.append(error)
            ready.abort()

    threads = [threading.Thread(target=loop, daemon=True) for _ in range(cores())]
    for thread in threads:
        thread.start()
    with contextlib.suppress(threading.BrokenBarrierError):
        ready.wait()
    started, cpu_before_s = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.join()
    cost = Cost(time.perf_counter() - started, time.process_time() - cpu_before_s)
    if failures:
        raise failures[0]
    return cost


@dataclass(frozen=True, slots=True)
class Child:
    """What a fresh process did: its wall seconds, its exit code and what it printed."""

    wall_s: float
    code: int
    stdout: str
    stderr: str

    @property
    def report(self) -> Figures:
        """The JSON object on the last line of stdout."""
        figures: Figures = json.loads(self.stdout.strip().splitlines()[-1])
        return figures


def spawn(
    command: Sequence[str | Path], cwd: Path | None = None, *, may_crash_at_exit: bool = False
) -> Child:
    """Run `command` to its end.  Raises SystemExit with its last words when it fails.

    `may_crash_at_exit`: a process that has printed its report and then dies of a signal has done its work;
    Daft sometimes does (a segmentation fault while Python shuts down).
    """
    started = time.perf_counter()
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    wall_s = time.perf_counter() - started
    reported = may_crash_at_exit and done.returncode < 0 and done.stdout.rstrip().endswith("}")
    if done.returncode and not reported:
        words = (done.stderr or done.stdout)[-4000:]
        raise SystemExit(f"exit {done.returncode} from {' '.join(map(str, command))}\n{words}")
    return Child(wall_s, done.returncode, done.stdout, done.stderr)


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float]) -> str:
    """The relative width of the samples: how noisy the machine was."""
    return f"±{(max(values) - min(values)) / 2 / median(values):.0%}"


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table: the first column flush left, the others flush right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    print(f"\n{title}")
    for line in lines:
        cells = [
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  " + "  ".join(cells).rstrip())


def verdict(value: float, goal: float, at_least: bool = False) -> str:
    met = value >= goal if at_least else value <= goal
    return f"goal {'>=' if at_least else '<='} {goal:g}: {'met' if met else 'MISSED'}"


def arguments(description: str | None, rows: int | None = None) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="store the raw figures in this file")
    parser.add_argument("--repeats", type=int, default=3, help="times each thing is measured")
    if rows is not None:
        parser.add_argument("--rows", type=int, default=rows)
    return parser


def store(path: Path | None, figures: Figures) -> None:
    if path is not None:
        machine = {
            "python": platform.python_version(),
            "system": platform.system(),
            "cores": cores(),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"machine": machine, **figures}, indent=2) + "\n")
