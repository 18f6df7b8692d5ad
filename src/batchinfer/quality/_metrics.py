"""What aggregates measure of a column: states that merge without a rounding, and Great Expectations' verdicts on them.

Nulls are what pandas takes for one: Arrow's nulls, and NaN. An infinity is a value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchinfer.core import arrays
from batchinfer.quality._exact import root, sum_of, sum_of_squares
from batchinfer.quality._expectation import Judgement, State
from batchinfer.quality._sketch import RELATIVE_ERROR, Number, Sketch
from batchinfer.quality._values import Kind, at, exact, missing, ticks


class Metric(Protocol):
    """What an aggregate measures of a column, and how it judges that."""

    def measure(self, values: pa.Array) -> State:
        """The state of these values."""

    def merge(self, one: State, other: State) -> State:
        """The state of the values of both."""

    def judge(self, state: State, kwargs: Mapping[str, Any]) -> Judgement:
        """The verdict by the expectation's arguments."""


def between(value: Any, kwargs: Mapping[str, Any]) -> Judgement:
    """Great Expectations' verdict on one observed number: None and NaN lie between nothing."""
    if value is None or (isinstance(value, float | np.floating) and np.isnan(value)):
        return Judgement(False, {"observed_value": None})
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    above = low is None or (value > low if kwargs.get("strict_min") else value >= low)
    below = high is None or (value < high if kwargs.get("strict_max") else value <= high)
    return Judgement(
        bool(above and below), {"observed_value": value.item() if hasattr(value, "item") else value}
    )


def present(values: pa.Array) -> npt.NDArray[Any]:
    """The numbers (or bools) that are neither null nor NaN."""
    numbers: npt.NDArray[Any] = arrays.to_numpy(values)[0]
    absent = missing(values)
    return numbers if absent is None else numbers[~absent]


@dataclass(frozen=True, slots=True)
class RowCount:
    """How many rows there are."""

    def measure(self, values: pa.Array) -> State:
        """Their number."""
        return {"rows": len(values)}

    def merge(self, one: State, other: State) -> State:
        """The sum."""
        return {"rows": one["rows"] + other["rows"]}

    def judge(self, state: State, kwargs: Mapping[str, Any]) -> Judgement:
        """Equal to `value` where that is given, else between the bounds."""
        if "value" in kwargs:
            return Judgement(state["rows"] == kwargs["value"], {"observed_value": state["rows"]})
        return between(state["rows"], kwargs)


@dataclass(frozen=True, slots=True)
class NonNullProportion:
    """The share of values that are not null; 0 of an empty column."""

    def measure(self, values: pa.Array) -> State:
        """Rows and values."""
        absent = missing(values)
        return {"rows": len(values), "values": len(values) - (0 if absent is None else int(absent.sum()))}

    def merge(self, one: State, other: State) -> State:
        """The sums."""
        return {key: one[key] + other[key] for key in ("rows", "values")}

    def judge(self, state: State, kwargs: Mapping[str, Any]) -> Judgement:
        """Values by rows, between the bounds."""
        return between(state["values"] / state["rows"] if state["rows"] else 0, kwargs)


@dataclass(frozen=True, slots=True)
class Moments:
    """Sum, mean or sample standard deviation, of the values without a rounding.

    The state is exact; the one rounding is that of the final number to a double. pandas adds float32 columns up in
    float32, and lets 64-bit integers overflow: there the verdicts differ, and these here are right.
    """

    statistic: str
    integers: bool

    def measure(self, values: pa.Array) -> State:
        """Counts, the exact sum of the finite values, and that of their squares where it is asked for."""
        numbers = present(values)
        state: State = {"nulls": len(values) - len(numbers), "values": len(numbers), "up": 0, "down": 0}
        if numbers.dtype.kind == "f" and len(numbers) and np.isinf([numbers.min(), numbers.max()]).any():
            state["up"], state["down"] = (int(np.count_nonzero(numbers == end)) for end in (np.inf, -np.inf))
            numbers = numbers[np.isfinite(numbers)]
        state["sum"] = str(sum_of(numbers))
        if self.statistic == "stdev":
            state["squares"] = str(sum_of_squares(numbers))
        return state

    def merge(self, one: State, other: State) -> State:
        """The exact sums."""
        merged: State = {key: one[key] + other[key] for key in ("nulls", "values", "up", "down")}
        for key in one.keys() - merged.keys():
            merged[key] = str(Fraction(one[key]) + Fraction(other[key]))
        return merged

    def judge(self, state: State, kwargs: Mapping[str, Any]) -> Judgement:
        """The statistic, between the bounds."""
        return between(self._value(state), kwargs)

    def _value(self, state: State) -> int | float | None:
        count, total = state["values"], Fraction(state["sum"])
        if state["up"] or state["down"]:
            if self.statistic == "stdev" or (state["up"] and state["down"]):
                return None
            return math.inf if state["up"] else -math.inf
        if self.statistic == "sum":
            return int(total) if self.integers and not state["nulls"] else _double(total)
        if self.statistic == "mean":
            return _double(total / count) if count else None
        if count < 2:
            return None
        return root((Fraction(state["squares"]) - total * total / count) / (count - 1))


def _double(value: Fraction) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.copysign(math.inf, value)


@dataclass(frozen=True, slots=True)
class Extreme:
    """The smallest or the largest number, date or timestamp."""

    side: str
    kind: Kind

    def measure(self, values: pa.Array) -> State:
        """The extreme as text, of a date or timestamp its ticks; None where there is no value."""
        absent = missing(values)
        found = ticks(values) if absent is None else ticks(values)[~absent]
        nulls = len(values) - len(found)
        if not len(found):
            return {"nulls": nulls, "value": None}
        value = (found.min() if self.side == "min" else found.max()).item()
        return {"nulls": nulls, "value": repr(value + 0)}  # -0.0 is 0.0

    def merge(self, one: State, other: State) -> State:
        """The more extreme of both."""
        found = [state["value"] for state in (one, other) if state["value"] is not None]
        chosen = (min if self.side == "min" else max)(found, key=self._number, default=None)
        return {"nulls": one["nulls"] + other["nulls"], "value": chosen}

    def judge(self, state: State, kwargs: Mapping[str, Any]) -> Judgement:
        """Between the bounds, numbers compared in the type that pandas holds the column in."""
        if state["value"] is None:
            return between(None, kwargs)
        value = self._number(state["value"])
        if self.kind.family == "bool":
            return between(bool(value), kwargs)
        if self.kind.family == "number":
            floating = pa.types.is_floating(self.kind.type)
            return between(
                self.kind.dtype.type(value) if floating else float(value) if state["nulls"] else value, kwargs
            )
        ends = {
            key: exact(self.kind, kwargs[key])
            for key in ("min_value", "max_value")
            if kwargs.get(key) is not None
        }
        shown = arrays.from_numpy(np.array([value], self.kind.dtype)).view(self.kind.type)
        observed = at(shown, np.zeros(1, np.int64))[0]
        return Judgement(between(value, {**kwargs, **ends}).success, {"observed_value": observed})

    def _number(self, text: str) -> Any:
        return float(text) if self.kind.dtype.kind == "f" else int(text)


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Order statistics: exact while there are few distinct values, else estimated by a sketch, and then said so."""

    integers: bool
    median: bool

    def measure(self, values: pa.Array) -> State:
        """The sketch of the values."""
        numbers = present(values)
        return {"nulls": len(values) - len(numbers), "sketch": Sketch.of(numbers).to_dict()}

    def merge(self, one: State, other: State) -> State:
        """The sketch of the values of both."""
        merged = Sketch.from_dict(one["sketch"]).merge(Sketch.from_dict(other["sketch"]))
        return {"nulls": one["nulls"] + other["nulls"], "sketch": merged.to_dict()}

    def judge(self, state: State, kwargs: Mapping[str, Any]) -> Judgement:
        """Each quantile in its range, or the median between the bounds."""
        sketch = Sketch.from_dict(state["sketch"])
        estimate = {} if sketch.exact else {"estimate": {"relative_error": RELATIVE_ERROR}}
        if self.median:
            verdict = between(_median(sketch), kwargs)
            details = {"details": estimate} if estimate else {}
            return Judgement(verdict.success, verdict.result | details)
        ranges = kwargs["quantile_ranges"]
        method = kwargs.get("allow_relative_error") or "nearest"
        found: list[Any] = _quantiles(sketch, ranges["quantiles"], method) or [None] * len(
            ranges["quantiles"]
        )
        if method in _DISCRETE and not (self.integers and not state["nulls"]):
            found = [None if value is None else float(value) for value in found]
        inside = [
            _in_range(value, *bounds) for value, bounds in zip(found, ranges["value_ranges"], strict=True)
        ]
        observed = {"quantiles": ranges["quantiles"], "values": found}
        return Judgement(
            all(inside), {"observed_value": observed, "details": {"success_details": inside, **estimate}}
        )


_DISCRETE = ("lower", "higher", "nearest")

INTERPOLATIONS = (*_DISCRETE, "linear", "midpoint")
"""What `allow_relative_error` may say for pandas."""


def _median(sketch: Sketch) -> float | None:
    count = sum(sketch.counts.values())
    if not count:
        return None
    low, high = sketch.at([(count - 1) // 2, count // 2])
    return (low + high) / 2


def _quantiles(sketch: Sketch, quantiles: list[float], method: str) -> list[Number]:
    """NumPy's quantiles, of no value none."""
    count = sum(sketch.counts.values())
    if not count:
        return []
    places = (count - 1) * (np.array(quantiles, np.float64) * 100 / 100)  # as pandas hands them to NumPy
    below, above = np.floor(places), np.ceil(places)
    if method in _DISCRETE:
        chosen = {"lower": below, "higher": above, "nearest": np.around(places)}[method]
        return sketch.at(chosen.astype(np.int64).tolist())
    part = np.where(below == above, 0, 0.5) if method == "midpoint" else places - below
    next_rank = np.minimum(below + 1, count - 1)
    low, high = (
        np.array(sketch.at(ranks.astype(np.int64).tolist()), np.float64) for ranks in (below, next_rank)
    )
    with np.errstate(invalid="ignore"):
        gap = high - low
        return np.where(part >= 0.5, high - gap * (1 - part), low + gap * part).tolist()  # type: ignore[no-any-return]


def _in_range(value: float | None, low: float | None, high: float | None) -> bool:
    """As Great Expectations does: in the range, or close to one of its ends."""
    if value is None or math.isnan(value):
        return False
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    close = any(
        value == end or (math.isfinite(end) and abs(value - end) <= 1e-8 + 1e-4 * abs(end))
        for end in (low, high)
    )
    return close or low <= value <= high
