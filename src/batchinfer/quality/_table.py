"""Expectations about the table's columns: answered by its schema, without looking at a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import pyarrow as pa

from batchinfer.core import Lineage
from batchinfer.quality._expectation import Check, Expectation, Judgement, State
from batchinfer.quality._metrics import between


@dataclass(frozen=True, slots=True)
class SchemaCheck:
    """A check whose verdict follows from the schema of the input."""

    expectation: Expectation
    names: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """None: it reads no values."""
        return ()

    def measure(self, batch: pa.RecordBatch, lineage: Lineage) -> tuple[State, None]:
        """Nothing: the schema is the same for each batch."""
        return {}, None

    def merge(self, one: State, other: State) -> State:
        """Nothing."""
        return {}

    def judge(self, state: State) -> Judgement:
        """The verdict on the schema."""
        return TABLE[self.expectation.type](self.names, self.expectation.kwargs)


def compile_table(expectation: Expectation, schema: pa.Schema) -> Check:
    """The check of an expectation in `TABLE`. It may name columns that the schema lacks: that is its question."""
    return SchemaCheck(expectation, tuple(schema.names))


def _column_count(names: tuple[str, ...], kwargs: Mapping[str, Any]) -> Judgement:
    if "value" in kwargs:
        return Judgement(len(names) == kwargs["value"], {"observed_value": len(names)})
    return between(len(names), kwargs)


def _ordered_list(names: tuple[str, ...], kwargs: Mapping[str, Any]) -> Judgement:
    expected = kwargs.get("column_list")
    observed: dict[str, Any] = {"observed_value": list(names)}
    if expected is None or list(expected) == list(names):
        return Judgement(True, observed)
    mismatched = [
        {"Expected Column Position": place, "Expected": one, "Found": other}
        for place, (one, other) in enumerate(zip_longest(expected, names))
        if one != other
    ]
    return Judgement(False, observed | {"details": {"mismatched": mismatched}})


def _set(names: tuple[str, ...], kwargs: Mapping[str, Any]) -> Judgement:
    expected = set(kwargs.get("column_set") or ())
    observed: dict[str, Any] = {"observed_value": sorted(names)}
    unexpected, missing = sorted(set(names) - expected), sorted(expected - set(names))
    mismatched = {key: value for key, value in (("unexpected", unexpected), ("missing", missing)) if value}
    if not mismatched:
        return Judgement(True, observed)
    exact = kwargs.get("exact_match") is not False
    return Judgement(not exact and not missing, observed | {"details": {"mismatched": mismatched}})


def _exists(names: tuple[str, ...], kwargs: Mapping[str, Any]) -> Judgement:
    column, place = kwargs["column"], kwargs.get("column_index")
    if not place:  # Great Expectations asks for the place only where it is not 0
        return Judgement(column in names, {})
    return Judgement(-len(names) <= place < len(names) and names[place] == column, {})


TABLE: dict[str, Callable[[tuple[str, ...], Mapping[str, Any]], Judgement]] = {
    "expect_column_to_exist": _exists,
    "expect_table_column_count_to_be_between": _column_count,
    "expect_table_column_count_to_equal": _column_count,
    "expect_table_columns_to_match_ordered_list": _ordered_list,
    "expect_table_columns_to_match_set": _set,
}
"""How each is judged, by the names of the columns and the arguments."""
