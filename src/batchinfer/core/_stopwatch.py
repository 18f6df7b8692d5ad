"""Where the time of a piece of work goes, step by step."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping


class Stopwatch:
    """Adds up the time between laps, by the name of what was done in it. For one thread.

    Args:
        started: when the first lap began, by `time.perf_counter`; None for now.
    """

    def __init__(self, started: float | None = None) -> None:
        self._seconds: dict[str, float] = {}
        self._started = self._last = time.perf_counter() if started is None else started

    def lap(self, name: str) -> None:
        """What was done since the last lap was this."""
        now = time.perf_counter()
        self._seconds[name] = self._seconds.get(name, 0.0) + now - self._last
        self._last = now

    @property
    def elapsed(self) -> float:
        """Seconds since the first lap began."""
        return time.perf_counter() - self._started

    @property
    def seconds(self) -> dict[str, float]:
        """The time of each, to a tenth of a millisecond, in the order in which they were first done."""
        return {name: round(seconds, 4) for name, seconds in self._seconds.items()}


def total_seconds(each: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Times added up by name."""
    total: dict[str, float] = {}
    for seconds in each:
        for name, value in seconds.items():
            total[name] = round(total.get(name, 0.0) + value, 4)
    return total
