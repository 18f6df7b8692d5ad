"""Expectations about a column's distinct values: which are compiled, and how the survey's counts answer them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchinfer.core import arrays
from batchinfer.quality._condition import Condition
from batchinfer.quality._counter import Counts
from batchinfer.quality._divergence import judge_values, valid_values
from batchinfer.quality._expectation import Check, Expectation, Judgement
from batchinfer.quality._members import first_places, members
from batchinfer.quality._metrics import between
from batchinfer.quality._rows import RowCheck
from batchinfer.quality._survey import Distinct, Unique, Unsurveyed
from batchinfer.quality._values import Kind, Mask, Unfit, at, kind_of, parse_bound

SHOWN = 20
"""Values that Great Expectations shows of a set."""

MODES = 1000
"""Most common values that are shown where that many tie."""


class CountDistinct:
    """The number of distinct values, or (`share`) that number by the values that are not null."""

    def __init__(self, kwargs: Mapping[str, Any], share: bool) -> None:
        self._kwargs = kwargs
        self._share = share
        self._distinct = self._values = 0

    def see(self, values: pa.Array, counts: Counts) -> None:
        """Add them up."""
        self._distinct += len(values)
        self._values += int(counts.sum())

    def judge(self) -> Judgement:
        """Between the bounds; the share of no values is 0."""
        if self._share:
            return between(self._distinct / self._values if self._values else 0, self._kwargs)
        return between(self._distinct, self._kwargs)


class CompareSet:
    """Whether the values are in a set, contain it, or are equal to it."""

    def __init__(self, kind: Kind, stated: Sequence[Any], may_lack: bool, may_have_more: bool) -> None:
        self._stated = stated
        self._may_lack, self._may_have_more = may_lack, may_have_more
        self._members = members(kind, stated)
        self._found: set[int] = set()
        self._slots = first_places(kind, stated)
        self._unexpected = 0
        self._least: pa.Array | None = None

    def see(self, values: pa.Array, counts: Counts) -> None:
        """Which of the set are there, and what else is."""
        places = self._members.find(values)
        self._found.update(places[places >= 0].tolist())
        others = values.filter(arrays.from_numpy(places < 0))
        self._unexpected += len(others)
        if len(others):
            self._least = least(others, self._least, SHOWN)

    def judge(self) -> Judgement:
        """As Great Expectations compares the sets, with up to 20 values of each difference."""
        missing = self._missing()
        result: dict[str, Any] = {"observed_value": None}
        if not self._may_have_more:
            result["unexpected_count"] = self._unexpected
            result["partial_unexpected_list"] = shown(self._least)
        if not self._may_lack:
            result["missing_count"] = len(missing)
            result["partial_missing_list"] = missing[:SHOWN]
        success = (self._may_have_more or not self._unexpected) and (self._may_lack or not missing)
        return Judgement(success, result)

    def _missing(self) -> list[Any]:
        each = enumerate(zip(self._slots, self._stated, strict=True))
        absent = [
            value for place, (slot, value) in each if slot < 0 or (slot == place and slot not in self._found)
        ]
        values = list(dict.fromkeys(absent))  # what no value of the column can equal may be stated twice
        try:
            return sorted(values)
        except TypeError:
            return values


class MostCommon:
    """The values that occur most often."""

    def __init__(self, kind: Kind, kwargs: Mapping[str, Any]) -> None:
        self._kwargs = kwargs
        self._members = members(kind, kwargs["value_set"])
        self._top = self._modes = self._expected = 0
        self._least: pa.Array | None = None

    def see(self, values: pa.Array, counts: Counts) -> None:
        """Keep those that occur as often as any."""
        top = int(counts.max(initial=0))
        if top < self._top or not len(values):
            return
        if top > self._top:
            self._top, self._modes, self._expected, self._least = top, 0, 0, None
        modes = values.filter(arrays.from_numpy(counts == top))
        self._modes += len(modes)
        self._expected += int(np.count_nonzero(self._members.find(modes) >= 0))
        self._least = least(modes, self._least, MODES)

    def judge(self) -> Judgement:
        """One of them in the set where ties are okay, else the only one."""
        ties = bool(self._kwargs.get("ties_okay"))
        success = self._expected > 0 if ties else self._modes == 1 and self._expected == 1
        result: dict[str, Any] = {"observed_value": shown(self._least)}
        if self._modes > MODES:
            result["details"] = {"most_common_values": self._modes}
        return Judgement(success, result)


class Divergence:
    """The divergence from a categorical partition. Keeps all distinct values in memory: the result lists them."""

    def __init__(self, kwargs: Mapping[str, Any]) -> None:
        self._kwargs = kwargs
        self._counts: dict[Any, int] = {}

    def see(self, values: pa.Array, counts: Counts) -> None:
        """Keep them."""
        self._counts.update(zip(at(values, np.arange(len(values))), counts.tolist(), strict=True))

    def judge(self) -> Judgement:
        """The divergence, up to the threshold."""
        return judge_values(self._counts, self._kwargs)


def least(values: pa.Array, others: pa.Array | None, count: int) -> pa.Array:
    """The `count` least of two arrays' values."""
    both = values if others is None else pa.concat_arrays([values, others])
    return both.take(pc.array_sort_indices(both)[:count])


def shown(values: pa.Array | None) -> list[Any]:
    """As JSON holds them."""
    return [] if values is None else at(values, np.arange(len(values)))


def compile_distinct(
    expectation: Expectation, schema: pa.Schema, condition: Condition | None
) -> Check | None:
    """The check of an expectation in `DISTINCT`; None where Great Expectations has to run it.

    Raises:
        Unfit: an argument does not fit the column.
    """
    kwargs = expectation.kwargs
    column = kwargs["column"]
    kind = kind_of(schema.field(column).type)
    if kind is None:
        return None
    answer = _answer(expectation.type, kind, kwargs)
    return None if answer is None else Unsurveyed(Distinct(expectation, column, answer, condition))


def compile_unique(expectation: Expectation, schema: pa.Schema, condition: Condition | None) -> Check | None:
    """The check of a column whose values, or of columns whose values together, are to be unique."""
    kwargs = expectation.kwargs
    reads = tuple(kwargs["column_list"]) if "column_list" in kwargs else (kwargs["column"],)
    if any(kind_of(schema.field(name).type) is None for name in reads):
        return None
    if "column" in kwargs:
        return Unsurveyed(Unique(RowCheck(expectation, reads, _nothing, condition=condition)))
    stated = kwargs.get("ignore_row_if") or "all_values_are_missing"
    ignores: dict[str, Any] = {
        "all_values_are_missing": "all",
        "any_value_is_missing": "any",
        "never": "none",
    }
    if stated not in ignores:
        raise Unfit(f"one of {', '.join(ignores)}, found '{stated}'", "ignore_row_if")
    check = RowCheck(
        expectation, reads, _nothing, ignores=ignores[stated], shape="record", condition=condition
    )
    return Unsurveyed(Unique(check))


def _nothing(columns: Sequence[pa.Array], missing: Mask | None) -> Mask | None:
    return None


def _answer(name: str, kind: Kind, kwargs: Mapping[str, Any]) -> Any:
    stated = kwargs.get("value_set") or []
    try:
        members(kind, stated)
    except Unfit as e:
        raise Unfit(str(e), "value_set") from e
    bounds = {
        key: parse_bound(kwargs[key]) for key in ("min_value", "max_value") if kwargs.get(key) is not None
    }
    match name.removeprefix("expect_column_"):
        case "unique_value_count_to_be_between":
            return partial(CountDistinct, {**kwargs, **bounds}, share=False)
        case "proportion_of_unique_values_to_be_between":
            return partial(CountDistinct, {**kwargs, **bounds}, share=True)
        case "distinct_values_to_be_in_set":
            return partial(CompareSet, kind, stated, may_lack=True, may_have_more=False)
        case "distinct_values_to_contain_set":
            return partial(CompareSet, kind, stated, may_lack=False, may_have_more=True)
        case "distinct_values_to_equal_set":
            return partial(CompareSet, kind, stated, may_lack=False, may_have_more=False)
        case "most_common_value_to_be_in_set":
            return partial(MostCommon, kind, kwargs) if kind.family in {"text", "number", "bool"} else None
    partition = kwargs.get("partition_object") or {}
    if not valid_values(partition) or kwargs.get("internal_weight_holdout"):
        return None
    alike = all(isinstance(value, str) for value in partition["values"]) and kind.family == "text"
    numbers = all(type(value) in (int, float) for value in partition["values"]) and kind.family == "number"
    return partial(Divergence, kwargs) if alike or (numbers and kind.scale == 1) else None


DISTINCT: tuple[str, ...] = (
    "expect_column_distinct_values_to_be_in_set",
    "expect_column_distinct_values_to_contain_set",
    "expect_column_distinct_values_to_equal_set",
    "expect_column_most_common_value_to_be_in_set",
    "expect_column_proportion_of_unique_values_to_be_between",
    "expect_column_unique_value_count_to_be_between",
)
"""What `compile_distinct` compiles, besides the divergence from a categorical partition."""

UNIQUE: tuple[str, ...] = ("expect_column_values_to_be_unique", "expect_compound_columns_to_be_unique")
"""What `compile_unique` compiles."""
