"""How a backfill gets on: one bar over its days on a terminal, a plain line for each day elsewhere."""

from __future__ import annotations

import logging
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from batchinfer.runs import BackfillProgress, DayReport

_log = logging.getLogger("batchinfer.cli")
_SECONDS_BETWEEN_LINES = 10.0


def open_progress(*, json_logs: bool) -> BackfillProgress:
    """What fits stderr."""
    if json_logs:
        return DaysLog()
    return DaysBar() if sys.stderr.isatty() else DaysLines()


class _Days:
    """Counts days and rows. A day that is half scored is half a day."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.name, self.total, self.ended_days, self.scored_rows = "", 0, 0, 0
        self._rows: dict[str, int] = {}
        self._done: dict[str, int] = {}

    @property
    def days(self) -> float:
        """Days done, and the shares of those under way."""
        shares = (min(1.0, done / (self._rows[day] or 1)) for day, done in self._done.items())
        return self.ended_days + sum(shares)

    def planned(self, day: str, rows: int) -> None:
        """See `BackfillProgress`."""
        with self.lock:
            self._rows[day], self._done[day] = rows, 0

    def count(self, day: str, count: int) -> None:
        """Some of the day's rows are done."""
        self._done[day] += count
        self.scored_rows += count

    def end(self, day: DayReport) -> None:
        """A day is at its end."""
        self._done.pop(day.day, None)
        self.ended_days += 1


class DaysBar(_Days):
    """A bar with days, rows, rows/s and the time left."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._started = time.monotonic()

    def begun(self, pipeline: str, days: int) -> None:
        """Draw the bar."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[days]:,} of {task.total:,.0f} days"),
            TextColumn("{task.fields[rows]}"),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task(pipeline, total=days, days=0, rows="")
        self._started = time.monotonic()
        self._bar.start()

    def rows(self, day: str, count: int) -> None:
        """Move it."""
        with self.lock:
            self.count(day, count)
            self._draw()

    def ended(self, day: DayReport) -> None:
        """Move it."""
        with self.lock:
            self.end(day)
            self._draw()

    def finished(self) -> None:
        """Take it away: the summary follows."""
        if self._bar is not None:
            self._bar.stop()

    def _draw(self) -> None:
        if self._bar is None or self._task is None:
            return
        rate = self.scored_rows / (time.monotonic() - self._started)
        rows = f"{self.scored_rows:,} rows, {rate:,.0f} rows/s" if self.scored_rows else ""
        self._bar.update(self._task, completed=self.days, days=self.ended_days, rows=rows)


class DaysLines(_Days):
    """A line for each day, and one every ten seconds between them, for logs."""

    def __init__(self) -> None:
        super().__init__()
        self._started = self._last = time.monotonic()

    def begun(self, pipeline: str, days: int) -> None:
        """Remember what there is to do."""
        self.name, self.total = pipeline, days

    def rows(self, day: str, count: int) -> None:
        """Print a line when one is due."""
        with self.lock:
            self.count(day, count)
            now = time.monotonic()
            if now - self._last < _SECONDS_BETWEEN_LINES:
                return
            rate = self.scored_rows / (now - self._started)
            self._print(
                f"{self.days:,.1f} of {self.total:,} days, {self.scored_rows:,} rows, {rate:,.0f} rows/s"
            )

    def ended(self, day: DayReport) -> None:
        """Print how the day ended."""
        with self.lock:
            self.end(day)
            told = f"{day.rows.read:,} rows in {day.seconds:.2f} s" if day.run_id is not None else ""
            said = [
                f"{day.day} {day.status}",
                *([told] if told else []),
                f"{self.ended_days} of {self.total} days",
            ]
            self._print(", ".join(said))

    def finished(self) -> None:
        """Nothing to take away."""

    def _print(self, line: str) -> None:
        self._last = time.monotonic()
        print(f"{self.name}: {line}", file=sys.stderr, flush=True)


class DaysLog:
    """A log line for each day, where stderr is for logs alone."""

    def begun(self, pipeline: str, days: int) -> None:
        """See `BackfillProgress`."""
        _log.info("%s: %d days", pipeline, days)

    def planned(self, day: str, rows: int) -> None:
        """The run logs its plan."""

    def rows(self, day: str, count: int) -> None:
        """Too many to be logged."""

    def ended(self, day: DayReport) -> None:
        """Log how the day ended."""
        level = logging.ERROR if day.exit_code else logging.INFO
        told = f"{day.day} {day.status}{f': {day.error}' if day.error else ''}"
        _log.log(level, told, extra={"run_id": day.run_id})

    def finished(self) -> None:
        """The summary follows."""
