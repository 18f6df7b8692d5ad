"""How a run gets on: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from batchinfer.runs import Plan

_SECONDS_BETWEEN_LINES = 10.0


def open_progress() -> BarProgress | LineProgress:
    """What fits stderr."""
    return BarProgress() if sys.stderr.isatty() else LineProgress()


class BarProgress:
    """A bar with rows, rows/s and the time left."""

    def __init__(self) -> None:
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None

    def planned(self, plan: Plan) -> None:
        """Draw the bar."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f} rows"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task(plan.spec.name, total=plan.rows, rate="")
        self._bar.start()

    def rows(self, count: int) -> None:
        """Move it."""
        if self._bar is None or self._task is None:
            return
        speed = self._bar.tasks[0].speed
        self._bar.update(self._task, advance=count, rate=f"{speed:,.0f} rows/s" if speed else "")

    def finished(self) -> None:
        """Take it away: the report follows."""
        if self._bar is not None:
            self._bar.stop()


class LineProgress:
    """A line every ten seconds, for logs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._name, self._total, self._done = "", 0, 0
        self._started = self._last = time.monotonic()

    def planned(self, plan: Plan) -> None:
        """Remember what there is to do."""
        self._name, self._total = plan.spec.name, plan.rows

    def rows(self, count: int) -> None:
        """Print a line when one is due."""
        with self._lock:
            self._done += count
            now = time.monotonic()
            if now - self._last < _SECONDS_BETWEEN_LINES:
                return
            self._last = now
            rate = self._done / (now - self._started)
            left = (self._total - self._done) / rate
            line = (
                f"{self._name}: {self._done:,} of {self._total:,} rows ({self._done / self._total:.0%}), "
                f"{rate:,.0f} rows/s, {left:.0f} s left"
            )
        print(line, file=sys.stderr, flush=True)

    def finished(self) -> None:
        """Nothing to take away."""
