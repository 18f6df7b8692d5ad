"""Where a run stands in a chart, and what it is called there. Used by the page and by the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from statistics import median

from batchinfer.drift._history import RunDrift

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_WIDEST_SLOT = 64.0


@dataclass(frozen=True, slots=True)
class RunAxis:
    """The runs from left to right, one slot each; a slot stays free where days are missing in between.

    Attributes:
        labels: what each run is called, short enough for an axis.
        middles: the middle of each run's slot.
        slot: a slot's width.
        breaks: the places in front of which days are missing.
    """

    labels: tuple[str, ...]
    middles: tuple[float, ...]
    slot: float
    breaks: frozenset[int]

    def stretches(self) -> list[range]:
        """The runs between breaks: lines are drawn within these only."""
        edges = [0, *sorted(self.breaks), len(self.labels)]
        return [range(first, last) for first, last in pairwise(edges)]

    def shown(self, room: float) -> list[int]:
        """The runs whose labels are written so that each has so much room, the newest among them."""
        every = max(1, -int(-room // self.slot))
        newest = len(self.labels) - 1
        return [place for place in range(len(self.labels)) if (newest - place) % every == 0]


def run_axis(runs: Sequence[RunDrift], left: float, right: float) -> RunAxis:
    """Lay the runs out between two edges. Few runs stay together at the left."""
    texts, days = run_names(runs), _days(runs)
    breaks = _breaks(days) if days is not None else frozenset()
    slot = min((right - left) / max(len(runs) + len(breaks), 1), _WIDEST_SLOT)
    middles, place = [], 0
    for number in range(len(runs)):
        place += number in breaks
        middles.append(left + (number + place + 0.5) * slot)
    labels = [day_label(day) for day in days] if days is not None else texts
    return RunAxis(tuple(labels), tuple(middles), slot, breaks)


def run_names(runs: Sequence[RunDrift]) -> list[str]:
    """The values of the parameters in which the runs differ; the commit's time where they differ in none."""
    names = dict.fromkeys(name for run in runs for name in run.parameters)
    varying = [name for name in names if len({run.parameters.get(name) for run in runs}) > 1]
    told = varying or (list(names) if len(runs) == 1 else [])
    if not told:
        return [run.committed_at.strftime("%Y-%m-%d %H:%M") for run in runs]
    return [" ".join(run.parameters.get(name, "") for name in told) for run in runs]


def day_label(day: date) -> str:
    """`8 Jan`, whatever the locale."""
    return f"{day.day} {_MONTHS[day.month - 1]}"


def _days(runs: Sequence[RunDrift]) -> list[date] | None:
    try:
        return [date.fromisoformat(name) for name in run_names(runs)]
    except ValueError:
        return None


def _breaks(days: Sequence[date]) -> frozenset[int]:
    steps = [(after - before).days for before, after in pairwise(days)]
    usual = median(step for step in steps if step > 0) if any(step > 0 for step in steps) else 0
    return frozenset(place for place, step in enumerate(steps, start=1) if step < 0 or step > 3 * usual > 0)
