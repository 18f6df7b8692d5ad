"""The local engine: threads in this process, one shared model session, units in flight bounded."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from batchinfer.core import UnitReport, WorkUnit, first_done
from batchinfer.engines._attempts import Attempts

if TYPE_CHECKING:
    from batchinfer.spec import EngineSpec

_Task = TypeVar("_Task")
_Outcome = TypeVar("_Outcome")


class _Stopped(Exception):
    """The run is ending for another reason; this unit gives up at its next block."""


class LocalEngine:
    """Works on units in threads, one a core; decoding, scoring and encoding leave Python's lock.

    A unit's thread scores its blocks itself: handing them to a pool would cost more than a small model. Once
    fewer units are left than there are cores, their blocks are shared out, so that a run ends on all cores.

    A context manager: leaving it stops what still runs at its next block, and ends the threads.

    Args:
        threads: cores to use; None for all that this process may.
    """

    same_machine = True

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or available_cores()
        self._running = 0
        self._closed = False
        self._stop = threading.Event()
        self._units = ThreadPoolExecutor(self.threads, thread_name_prefix="unit")
        self._blocks = ThreadPoolExecutor(self.threads, thread_name_prefix="block")

    @classmethod
    def open(cls, options: EngineSpec) -> Self:
        """The engine as a spec states it; see `open_engine`."""
        return cls(options.threads)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        self._stop.set()
        self._units.shutdown(cancel_futures=True)
        self._blocks.shutdown(cancel_futures=True)

    def map(self, work: Callable[[WorkUnit], UnitReport], units: Sequence[WorkUnit]) -> Iterator[UnitReport]:
        """Yield reports as units are done, in any order; never more are in work than there are cores.

        The first error, or an interrupt, stops the others at their next block and starts no more; it is
        raised when they have stopped. After that the engine is as good as new.
        """
        waiting, again = iter(units), list[WorkUnit]()
        attempts = Attempts()
        running: dict[Future[UnitReport], WorkUnit] = {}
        try:
            while True:
                while len(running) < self.threads:
                    unit = again.pop() if again else next(waiting, None)
                    if unit is None:
                        break
                    running[self._units.submit(work, unit)] = unit
                self._running = len(running)
                if not running:
                    return
                done = first_done(running)
                for future in done:
                    unit = running.pop(future)
                    if (error := future.exception()) is None:
                        yield future.result()
                    else:
                        attempts.failed(unit, error)
                        again.append(unit)
        finally:
            if running:
                self._stop.set()
                wait(running)
                if not self._closed:
                    self._stop.clear()

    def blocks(self, function: Callable[[_Task], _Outcome], tasks: Iterable[_Task]) -> Iterable[_Outcome]:
        """Apply a function to the blocks of a batch, in order: see `BlockMap`."""

        def unless_stopped(task: _Task) -> _Outcome:
            if self._stop.is_set():
                raise _Stopped
            return function(task)

        outcomes: list[_Outcome] = []
        pending = iter(tasks)
        for task in pending:
            if self._running < self.threads and (rest := list(pending)):
                return [*outcomes, *self._blocks.map(unless_stopped, [task, *rest])]
            outcomes.append(unless_stopped(task))
        return outcomes


def available_cores() -> int:
    """The cores that this process may use: its affinity, or its container's quota where that is less."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _container_quota(Path("/sys/fs/cgroup"))
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def _container_quota(cgroup: Path) -> float | None:
    """The cores' worth of time that a container may use, by either version of Linux' control groups."""
    try:
        if (cgroup / "cpu.max").exists():
            quota, period = (cgroup / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota, period = (
                (cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text(encoding="ascii")
                for name in ("quota", "period")
            )
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):  # no such file, or "max"
        return None
