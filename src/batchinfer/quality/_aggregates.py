"""Expectations about a column as a whole: which are compiled for which type, and the check that measures them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchinfer.core import Lineage, arrays
from batchinfer.errors import SpecError
from batchinfer.quality._divergence import Histogram, valid_bins
from batchinfer.quality._expectation import Check, Expectation, Judgement, State
from batchinfer.quality._instants import instant, shows
from batchinfer.quality._metrics import (
    INTERPOLATIONS,
    Extreme,
    Metric,
    Moments,
    NonNullProportion,
    Quantiles,
    RowCount,
)


class Condition(Protocol):
    """The row condition of an expectation: which rows it is about."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it reads."""

    def rows(self, batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
        """True for the rows that the expectation is about."""


@dataclass(frozen=True, slots=True)
class Aggregate:
    """A check of one column (of the first one where any will do: a row count)."""

    expectation: Expectation
    column: str
    metric: Metric
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
        return self.metric.judge(state, self.expectation.kwargs)


def compile_aggregate(
    expectation: Expectation, schema: pa.Schema, condition: Condition | None = None
) -> Check | None:
    """The check of a column's aggregate or of the number of rows; None where Great Expectations has to run it.

    Raises:
        SpecError: the column's type has no such aggregate at all; names the column and its type.
    """
    name = expectation.type.removeprefix("expect_").removesuffix("_to_be_between").removesuffix("_to_equal")
    if name == "table_row_count":
        return Aggregate(expectation, schema.names[0], RowCount(), condition) if schema.names else None
    column = expectation.kwargs["column"]
    metric = _metric(expectation, name.removeprefix("column_"), schema.field(column).type)
    return None if metric is None else Aggregate(expectation, column, metric, condition)


def _metric(expectation: Expectation, name: str, kind: pa.DataType) -> Metric | None:
    if name == "proportion_of_non_null_values":
        return NonNullProportion()
    if name == "kl_divergence_to_be_less_than":
        return _histogram(expectation.kwargs) if _is_number(kind) and not pa.types.is_boolean(kind) else None
    bounds = [
        bound for key in ("min_value", "max_value") if (bound := expectation.kwargs.get(key)) is not None
    ]
    if _is_no_quantity(kind):
        raise SpecError(
            f"{expectation.type}: column '{expectation.kwargs['column']}' is {kind}, which has no "
            f"{name.replace('_', ' ')}",
            expectation=expectation.index,
            column=expectation.kwargs["column"],
            found=str(kind),
        )
    if name in ("min", "max") and pa.types.is_timestamp(kind):
        comparable = shows(kind) and all(
            isinstance(bound, str) and instant(bound, kind) is not None for bound in bounds
        )
        return Extreme(name, kind) if comparable else None
    if not _is_number(kind) or any(isinstance(bound, str) for bound in bounds):
        return None
    if name in ("min", "max"):
        return Extreme(name, kind)
    integers = not pa.types.is_floating(kind)
    if name == "quantile_values":
        known = (expectation.kwargs.get("allow_relative_error") or "nearest") in INTERPOLATIONS
        return Quantiles(integers, median=False) if known and not pa.types.is_boolean(kind) else None
    return Quantiles(integers, median=True) if name == "median" else Moments(name, integers)


def _histogram(kwargs: Mapping[str, Any]) -> Metric | None:
    partition = kwargs.get("partition_object") or {}
    if kwargs.get("bucketize_data") is False or not valid_bins(
        partition, kwargs.get("tail_weight_holdout") or 0
    ):
        return None
    return Histogram(tuple(partition["bins"]))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _is_no_quantity(kind: pa.DataType) -> bool:
    tests = ("string", "large_string", "binary", "large_binary", "fixed_size_binary", "dictionary", "nested")
    return any(getattr(pa.types, f"is_{test}")(kind) for test in tests)


AGGREGATES: tuple[str, ...] = (
    "expect_column_kl_divergence_to_be_less_than",
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
"""What `compile_aggregate` compiles."""
