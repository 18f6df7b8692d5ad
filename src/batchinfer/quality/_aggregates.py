"""Expectations about a column as a whole: which are compiled for which type, and the check that measures them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from batchinfer.core import Lineage, arrays
from batchinfer.quality._condition import Condition
from batchinfer.quality._divergence import Histogram, valid_bins
from batchinfer.quality._expectation import Check, Expectation, Judgement, State
from batchinfer.quality._metrics import (
    INTERPOLATIONS,
    Extreme,
    Metric,
    Moments,
    NonNullProportion,
    Quantiles,
    RowCount,
)
from batchinfer.quality._values import Kind, Unfit, exact, kind_of, parse_bound


@dataclass(frozen=True, slots=True)
class Aggregate:
    """A check of one column (of the first one where any will do: a row count).

    `kwargs` are the expectation's, its bounds parsed.
    """

    expectation: Expectation
    column: str
    metric: Metric
    kwargs: Mapping[str, Any]
    condition: Condition | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The column and those of the condition, each once."""
        return tuple(dict.fromkeys((self.column, *(self.condition.columns if self.condition else ()))))

    def measure(self, batch: pa.RecordBatch, lineage: Lineage) -> tuple[State, None]:
        """The state of these rows; an aggregate finds no single row unexpected."""
        values = batch.column(self.column)
        if self.condition is not None:
            values = values.filter(arrays.from_numpy(self.condition.rows(batch)))
        return self.metric.measure(values), None

    def merge(self, one: State, other: State) -> State:
        """The state of the rows of both."""
        return self.metric.merge(one, other)

    def judge(self, state: State) -> Judgement:
        """The verdict on all rows."""
        return self.metric.judge(state, self.kwargs)


def compile_aggregate(
    expectation: Expectation, schema: pa.Schema, condition: Condition | None
) -> Check | None:
    """The check of a column's aggregate or of the number of rows; None where Great Expectations has to run it.

    Raises:
        Unfit: the column's type has no such aggregate, or none that the bounds can be compared with.
    """
    name = expectation.type.removeprefix("expect_").removesuffix("_to_be_between").removesuffix("_to_equal")
    bounds = {
        key: parse_bound(bound)
        for key in ("min_value", "max_value")
        if (bound := expectation.kwargs.get(key)) is not None
    }
    kwargs = {**expectation.kwargs, **bounds}
    if name == "table_row_count":
        return (
            Aggregate(expectation, schema.names[0], RowCount(), kwargs, condition) if schema.names else None
        )
    column = expectation.kwargs["column"]
    metric = _metric(name.removeprefix("column_"), schema.field(column).type, kwargs)
    if isinstance(metric, Extreme):
        for key, bound in bounds.items():
            _comparable(metric.kind, key, bound)
    elif any(not isinstance(bound, int | float) for bound in bounds.values()):
        raise Unfit("a number", next(iter(bounds)))
    return None if metric is None else Aggregate(expectation, column, metric, kwargs, condition)


def _comparable(kind: Kind, key: str, bound: Any) -> None:
    try:
        exact(kind, bound)
    except Unfit as e:
        raise Unfit(str(e), key) from e


def _metric(name: str, type_: pa.DataType, kwargs: Mapping[str, Any]) -> Metric | None:
    if name == "proportion_of_non_null_values":
        return NonNullProportion()
    kind = None if pa.types.is_dictionary(type_) else kind_of(type_)
    if name == "kl_divergence_to_be_less_than":
        return (
            _histogram(kwargs) if kind is not None and kind.family == "number" and kind.scale == 1 else None
        )
    if kind is None or kind.family == "text":
        if _is_no_quantity(type_):
            raise Unfit(f"a column of {type_} has no {name.replace('_', ' ')}", "column")
        return None
    if pa.types.is_decimal(type_):
        return None
    if name in ("min", "max"):
        return Extreme(name, kind)
    if kind.family not in ("number", "bool"):
        return None
    integers = not pa.types.is_floating(type_)
    if name == "quantile_values":
        known = (kwargs.get("allow_relative_error") or "nearest") in INTERPOLATIONS
        return Quantiles(integers, median=False) if known and kind.family == "number" else None
    return Quantiles(integers, median=True) if name == "median" else Moments(name, integers)


def _histogram(kwargs: Mapping[str, Any]) -> Metric | None:
    partition = kwargs.get("partition_object") or {}
    if kwargs.get("bucketize_data") is False or not valid_bins(
        partition, kwargs.get("tail_weight_holdout") or 0
    ):
        return None
    return Histogram(tuple(partition["bins"]))


def _is_no_quantity(kind: pa.DataType) -> bool:
    tests = ("string", "large_string", "binary", "large_binary", "fixed_size_binary", "dictionary", "nested")
    return any(getattr(pa.types, f"is_{test}")(kind) for test in tests)


AGGREGATES: tuple[str, ...] = (
    "expect_column_max_to_be_between",
    "expect_column_mean_to_be_between",
    "expect_column_median_to_be_between",
    "expect_column_min_to_be_between",
    "expect_column_proportion_of_non_null_values_to_be_between",
    "expect_column_quantile_values_to_be_between",
    "expect_column_stdev_to_be_between",
    "expect_column_sum_to_be_between",
    "expect_table_row_count_to_be_between",
    "expect_table_row_count_to_equal",
)
"""What `compile_aggregate` compiles, besides the divergence from a continuous partition."""
