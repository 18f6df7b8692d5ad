"""From expectations to checks: one table says what is compiled, and by what."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa

from batchinfer.quality._aggregates import AGGREGATES, compile_aggregate
from batchinfer.quality._condition import Condition, Foreign, compile_condition
from batchinfer.quality._distinct import DISTINCT, UNIQUE, compile_distinct, compile_unique
from batchinfer.quality._expectation import Check, Expectation, Judgement, State
from batchinfer.quality._members import first_places, members
from batchinfer.quality._rows import RowCheck
from batchinfer.quality._rules import (
    Between,
    DistinctWithinRow,
    EqualWithinRow,
    InSet,
    Lengths,
    Null,
    PairEqual,
    PairGreater,
    PairInSet,
    Patterns,
    SumEqual,
    comparable,
    pair_codes,
)
from batchinfer.quality._suite import Suite, nearest
from batchinfer.quality._table import TABLE, compile_table
from batchinfer.quality._types import KNOWN, names_of
from batchinfer.quality._values import Kind, Mask, Unfit, kind_of, limits, parse_bound

Compiler = Callable[[Expectation, pa.Schema], Check | None]
"""Makes the check of an expectation whose columns are there. None: of this column's type only Great Expectations
itself can judge. Raises Unfit where the arguments do not fit the column, Foreign for a row condition."""

_ABOUT_SCHEMA = {"expect_column_to_exist", "expect_table_columns_to_match_ordered_list"}
"""They name columns that need not be there."""


def compile_suite(suite: Suite, schema: pa.Schema) -> tuple[list[Check], list[Expectation]]:
    """The checks of a suite for input of a schema, and the expectations that are not compiled.

    Raises:
        SpecError: an expectation names a column that the schema lacks (with the nearest), or arguments that do not
            fit its column; names the file, the expectation's place and type, and the key.
    """
    checks: list[Check] = []
    foreign: list[Expectation] = []
    for expectation in suite.expectations:
        if expectation.type not in _ABOUT_SCHEMA:
            _columns_are_there(suite, expectation, schema)
        compiler = COMPILERS.get(expectation.type)
        try:
            check = compiler(expectation, schema) if compiler else None
        except Foreign:
            check = None
        except Unfit as e:
            raise suite.wrong(expectation, e.key, str(e)) from e
        if check is None:
            foreign.append(expectation)
        else:
            checks.append(check)
    return checks, foreign


def condition_of(expectation: Expectation, schema: pa.Schema) -> Condition | None:
    """The row condition of an expectation, if it has one."""
    stated = expectation.kwargs.get("row_condition")
    if not stated:
        return None
    return compile_condition(stated, expectation.kwargs.get("condition_parser"), schema)


def _columns_are_there(suite: Suite, expectation: Expectation, schema: pa.Schema) -> None:
    for key in ("column", "column_A", "column_B", "column_list"):
        named = expectation.kwargs.get(key) or ()
        for name in [named] if isinstance(named, str) else named:
            if schema.get_field_index(name) < 0:
                near = difflib.get_close_matches(name, schema.names, n=1)
                hint = f"did you mean '{near[0]}'?" if near else f"the columns are {', '.join(schema.names)}"
                raise suite.wrong(expectation, key, f"the input has no column '{name}'; {hint}")


@dataclass(frozen=True, slots=True)
class TypeCheck:
    """A verdict on the column's type alone: no row is looked at."""

    expectation: Expectation
    type: pa.DataType
    columns: tuple[str, ...] = ()

    def measure(self, batch: pa.RecordBatch, lineage: Any) -> tuple[State, Mask | None]:
        """Nothing."""
        return {}, None

    def merge(self, one: State, other: State) -> State:
        """Nothing."""
        return {}

    def judge(self, state: State) -> Judgement:
        """Whether one of the names is the type's."""
        stated = self.expectation.kwargs.get("type_")
        wanted = [stated] if stated else self.expectation.kwargs.get("type_list")
        success = wanted is None or not names_of(self.type).isdisjoint(wanted)
        return Judgement(success, {"observed_value": str(self.type)})


def _column(expectation: Expectation, schema: pa.Schema, rule: Any, **more: Any) -> RowCheck:
    reads = (expectation.kwargs["column"],)
    return RowCheck(expectation, reads, rule, condition=condition_of(expectation, schema), **more)


def _kind(expectation: Expectation, schema: pa.Schema) -> Kind | None:
    return kind_of(schema.field(expectation.kwargs["column"]).type)


def _null(expectation: Expectation, schema: pa.Schema) -> Check:
    rule = Null(wanted=expectation.type == "expect_column_values_to_be_null")
    return _column(expectation, schema, rule, ignores="none", counts_missing=False)


def _between(expectation: Expectation, schema: pa.Schema) -> Check | None:
    kind = _kind(expectation, schema)
    if kind is None:
        return None
    if kind.family == "text":
        raise Unfit("a column of text has no bounds; use a set, a regex or lengths", "column")
    bounds: list[Any] = []
    for key in ("min_value", "max_value"):
        stated = expectation.kwargs.get(key)
        bounds.append(None if stated is None else parse_bound(stated))
        try:
            limits(kind, bounds[-1], None)
        except Unfit as e:
            raise Unfit(str(e), key) from e
    return _column(expectation, schema, Between(limits(kind, bounds[0], bounds[1], **_strict(expectation))))


def _strict(expectation: Expectation) -> dict[str, bool]:
    return {
        f"strict_{n}": bool(expectation.kwargs.get(f"strict_{k}"))
        for n, k in (("low", "min"), ("high", "max"))
    }


def _in_set(expectation: Expectation, schema: pa.Schema) -> Check | None:
    kind = _kind(expectation, schema)
    if kind is None:
        return None
    stated = expectation.kwargs["value_set"]
    try:
        known = members(kind, stated)
    except Unfit as e:
        raise Unfit(str(e), "value_set") from e
    if not len(known):
        raise Unfit(f"no value of a column of {kind} equals any of {stated!r}", "value_set")
    return _column(
        expectation, schema, InSet(known, wanted=expectation.type == "expect_column_values_to_be_in_set")
    )


def _patterns(expectation: Expectation, schema: pa.Schema) -> Check | None:
    if not _has_stable_text(_kind(expectation, schema)):
        return None
    kwargs = expectation.kwargs
    patterns = tuple(kwargs["regex_list"]) if "regex_list" in kwargs else (kwargs["regex"],)
    found: Any = "none" if "_not_match_" in expectation.type else kwargs.get("match_on") or "any"
    return _column(expectation, schema, Patterns(patterns, found))


def _lengths(expectation: Expectation, schema: pa.Schema) -> Check | None:
    if not _has_stable_text(_kind(expectation, schema)):
        return None
    kwargs = expectation.kwargs
    length = Kind("number", pa.int32())
    if "value" in kwargs:
        return _column(expectation, schema, Lengths(limits(length, kwargs["value"], kwargs["value"])))
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    for key, value in (("min_value", low), ("max_value", high)):
        if value is not None and (not isinstance(value, int | float) or int(value) != value):
            raise Unfit(f"a whole number, found {value!r}", key)
    return _column(expectation, schema, Lengths(limits(length, low, high, **_strict(expectation))))


def _has_stable_text(kind: Kind | None) -> bool:
    """Whether a value's text is the same whatever the other rows hold: pandas pads floats and times by what it sees."""
    return kind is not None and (
        kind.family in {"text", "bool"} or (pa.types.is_integer(kind.type) and kind.family == "number")
    )


def _type(expectation: Expectation, schema: pa.Schema) -> Check:
    kwargs = expectation.kwargs
    type_ = schema.field(kwargs["column"]).type
    for key, names in (("type_", [kwargs.get("type_")]), ("type_list", kwargs.get("type_list") or ())):
        for name in names:
            if name is not None and name not in KNOWN and name not in names_of(type_) and "[" not in name:
                raise Unfit(f"unknown type '{name}'; {nearest(name, KNOWN)}", key)
    return TypeCheck(expectation, type_)


def _pair(expectation: Expectation, schema: pa.Schema) -> Check | None:
    kinds = _kinds(schema, _sides(expectation))
    if kinds is None or not comparable(*kinds):
        return None
    if expectation.type == "expect_column_pair_values_to_be_equal":
        return _pair_check(expectation, schema, PairEqual())
    return _pair_check(expectation, schema, PairGreater(or_equal=bool(expectation.kwargs.get("or_equal"))))


def _pair_in_set(expectation: Expectation, schema: pa.Schema) -> Check | None:
    kinds = _kinds(schema, _sides(expectation))
    if kinds is None:
        return None
    pairs = expectation.kwargs["value_pairs_set"]
    values = [[pair[side] for pair in pairs] for side in range(2)]
    try:
        known = (members(kinds[0], values[0]), members(kinds[1], values[1]))
        slots = [first_places(kind, side) for kind, side in zip(kinds, values, strict=True)]
    except Unfit as e:
        raise Unfit(str(e), "value_pairs_set") from e
    null = len(pairs)  # the place of a missing value, behind all members
    for side in range(2):
        slots[side] = [null if v is None else p for v, p in zip(values[side], slots[side], strict=True)]
    allowed = tuple((a, b) for a, b in zip(*slots, strict=True) if a >= 0 and b >= 0)
    if not allowed:
        raise Unfit(
            f"no values of columns of {kinds[0]} and {kinds[1]} equal any of the pairs", "value_pairs_set"
        )
    return _pair_check(expectation, schema, PairInSet(known, null, pair_codes(null, allowed)))


def _sum(expectation: Expectation, schema: pa.Schema) -> Check | None:
    kinds = _kinds(schema, expectation.kwargs["column_list"])
    if kinds is None or not all(_adds(kind) for kind in kinds):
        return None
    types = [np.dtype(np.int64) if kind.dtype.kind in "iu" else kind.dtype for kind in kinds]
    if any(type_.kind == "f" for type_ in types):
        types = [kind.dtype for kind in kinds]
    return _record(expectation, schema, SumEqual(expectation.kwargs["sum_total"], np.result_type(*types)))


def _adds(kind: Kind) -> bool:
    return kind.family == "number" and kind.scale == 1 and kind.type != pa.uint64()


def _within_row(expectation: Expectation, schema: pa.Schema) -> Check | None:
    kinds = _kinds(schema, expectation.kwargs["column_list"])
    if kinds is None or not all(
        comparable(kinds[0], kind) and kinds[0].family == kind.family for kind in kinds
    ):
        return None
    distinct = expectation.type == "expect_select_column_values_to_be_unique_within_record"
    return _record(expectation, schema, DistinctWithinRow() if distinct else EqualWithinRow())


def _aggregate(expectation: Expectation, schema: pa.Schema) -> Check | None:
    return compile_aggregate(expectation, schema, condition_of(expectation, schema))


def _distinct(expectation: Expectation, schema: pa.Schema) -> Check | None:
    return compile_distinct(expectation, schema, condition_of(expectation, schema))


def _divergence(expectation: Expectation, schema: pa.Schema) -> Check | None:
    categorical = "values" in (expectation.kwargs.get("partition_object") or {})
    return (_distinct if categorical else _aggregate)(expectation, schema)


def _unique(expectation: Expectation, schema: pa.Schema) -> Check | None:
    return compile_unique(expectation, schema, condition_of(expectation, schema))


def _sides(expectation: Expectation) -> list[str]:
    return [expectation.kwargs["column_A"], expectation.kwargs["column_B"]]


def _kinds(schema: pa.Schema, columns: list[str]) -> list[Kind] | None:
    kinds = [kind_of(schema.field(name).type) for name in columns]
    return None if None in kinds else cast("list[Kind]", kinds)


def _pair_check(expectation: Expectation, schema: pa.Schema, rule: Any) -> Check:
    kwargs = expectation.kwargs
    ignores = _ignores(
        kwargs.get("ignore_row_if") or "both_values_are_missing",
        {"both_values_are_missing": "all", "either_value_is_missing": "any", "neither": "none"},
    )
    reads = (kwargs["column_A"], kwargs["column_B"])
    condition = condition_of(expectation, schema)
    return RowCheck(expectation, reads, rule, ignores=ignores, shape="pair", condition=condition)


def _record(expectation: Expectation, schema: pa.Schema, rule: Any) -> Check:
    kwargs = expectation.kwargs
    ignores = _ignores(
        kwargs.get("ignore_row_if") or "all_values_are_missing",
        {"all_values_are_missing": "all", "any_value_is_missing": "any", "never": "none"},
    )
    reads = tuple(kwargs["column_list"])
    condition = condition_of(expectation, schema)
    return RowCheck(expectation, reads, rule, ignores=ignores, shape="record", condition=condition)


def _ignores(stated: str, known: dict[str, str]) -> Any:
    if stated not in known:
        raise Unfit(f"unknown value '{stated}'; {nearest(stated, known)}", "ignore_row_if")
    return known[stated]


COMPILERS: dict[str, Compiler] = {
    **dict.fromkeys(AGGREGATES, _aggregate),
    **dict.fromkeys(DISTINCT, _distinct),
    **dict.fromkeys(TABLE, compile_table),
    **dict.fromkeys(UNIQUE, _unique),
    "expect_column_kl_divergence_to_be_less_than": _divergence,
    "expect_column_pair_values_a_to_be_greater_than_b": _pair,
    "expect_column_pair_values_to_be_equal": _pair,
    "expect_column_pair_values_to_be_in_set": _pair_in_set,
    "expect_column_value_lengths_to_be_between": _lengths,
    "expect_column_value_lengths_to_equal": _lengths,
    "expect_column_values_to_be_between": _between,
    "expect_column_values_to_be_in_set": _in_set,
    "expect_column_values_to_be_in_type_list": _type,
    "expect_column_values_to_be_null": _null,
    "expect_column_values_to_be_of_type": _type,
    "expect_column_values_to_match_regex": _patterns,
    "expect_column_values_to_match_regex_list": _patterns,
    "expect_column_values_to_not_be_in_set": _in_set,
    "expect_column_values_to_not_be_null": _null,
    "expect_column_values_to_not_match_regex": _patterns,
    "expect_column_values_to_not_match_regex_list": _patterns,
    "expect_multicolumn_sum_to_equal": _sum,
    "expect_multicolumn_values_to_be_equal": _within_row,
    "expect_select_column_values_to_be_unique_within_record": _within_row,
}
"""What is compiled, and by what."""
