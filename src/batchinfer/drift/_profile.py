"""The profile: what is known of each column after a pass over its rows. Any cut of the rows gives the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import pyarrow as pa

from batchinfer.core import NOTHING_SENSITIVE, Sensitive
from batchinfer.drift._bins import Bins, CategoryBins
from batchinfer.drift._counting import CategoryCounter, NumberCounter, profiled_type
from batchinfer.errors import InputError

Kind = Literal["feature", "prediction"]


@dataclass(frozen=True, slots=True)
class Numbers:
    """What is known of a column's numbers beside their bins.

    Attributes:
        infinite: how many are +inf or -inf. They lie in the outermost bins and count in nothing else here.
        minimum: the least finite number; None without any.
        maximum: the greatest.
        total: the exact sum of the finite numbers.
    """

    infinite: int = 0
    minimum: float | None = None
    maximum: float | None = None
    total: Fraction = Fraction(0)

    def merge(self, other: Numbers) -> Numbers:
        """The numbers of both."""
        lows = [n for n in (self.minimum, other.minimum) if n is not None]
        highs = [n for n in (self.maximum, other.maximum) if n is not None]
        return Numbers(
            self.infinite + other.infinite,
            min(lows, default=None),
            max(highs, default=None),
            self.total + other.total,
        )


@dataclass(frozen=True, slots=True)
class ColumnProfile:
    """What is known of a column.

    Attributes:
        counts: values in each bin, and last the nulls; NaN is a null. They add up to the rows.
        numbers: None for categories.
    """

    counts: tuple[int, ...]
    numbers: Numbers | None = None

    @property
    def rows(self) -> int:
        """How many values there are, nulls included."""
        return sum(self.counts)

    @property
    def nulls(self) -> int:
        """How many are null or NaN."""
        return self.counts[-1]

    @property
    def mean(self) -> float | None:
        """The mean of the finite numbers, rounded once; None without any."""
        if self.numbers is None or self.numbers.minimum is None:
            return None
        return float(self.numbers.total / (self.rows - self.nulls - self.numbers.infinite))

    def merge(self, other: ColumnProfile) -> ColumnProfile:
        """The profile of the rows of both."""
        counts = tuple(one + two for one, two in zip(self.counts, other.counts, strict=True))
        if self.numbers is None or other.numbers is None:
            return ColumnProfile(counts)
        return ColumnProfile(counts, self.numbers.merge(other.numbers))

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; the sum is text, since it may have more digits than a float."""
        stated: dict[str, Any] = {"counts": list(self.counts)}
        if self.numbers is not None:
            stated |= {
                "infinite": self.numbers.infinite,
                "min": self.numbers.minimum,
                "max": self.numbers.maximum,
                "sum": str(self.numbers.total),
            }
        return stated

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> ColumnProfile:
        """What `to_dict` wrote."""
        numbers = None
        if "sum" in value:
            numbers = Numbers(value["infinite"], value["min"], value["max"], Fraction(value["sum"]))
        return cls(tuple(value["counts"]), numbers)


@dataclass(frozen=True, slots=True)
class Profile:
    """The tally of the rows that were scored, column by column."""

    rows: int
    columns: dict[str, ColumnProfile]

    def merge(self, other: Profile) -> Profile:
        """The profile of the rows of both; associative and commutative, bit for bit.

        Raises:
            ValueError: they are of other columns or bins.
        """
        if self.columns.keys() != other.columns.keys():
            raise ValueError("profiles of different columns cannot be merged")
        merged = {name: column.merge(other.columns[name]) for name, column in self.columns.items()}
        return Profile(self.rows + other.rows, merged)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"rows": self.rows, "columns": {name: c.to_dict() for name, c in self.columns.items()}}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Profile:
        """What `to_dict` wrote."""
        columns = {name: ColumnProfile.from_dict(c) for name, c in value["columns"].items()}
        return cls(value["rows"], columns)


@dataclass(frozen=True, slots=True)
class Column:
    """A column that is profiled.

    Attributes:
        name: its name in the profile and in reports.
        kind: whether the model reads it or writes it.
        field: its name in the batch: another one only where a feature and a prediction share it.
        bins: how its values are counted.
    """

    name: str
    kind: Kind
    field: str
    bins: Bins


class Profiler:
    """Profiles batches on the reference's bins: implements `batchinfer.core.Profiler`. Thread-safe.

    The values of a sensitive feature are counted by their hashes, which the reference's bins then are of.
    """

    def __init__(self, columns: Sequence[Column], sensitive: Sensitive = NOTHING_SENSITIVE) -> None:
        self._columns = tuple(columns)
        self._sensitive = sensitive
        self._counters = [
            CategoryCounter(c.bins) if isinstance(c.bins, CategoryBins) else NumberCounter(c.bins)
            for c in columns
        ]

    def profile(self, features: pa.RecordBatch, predictions: pa.RecordBatch) -> Profile:
        """The profile of a batch; columns that the reference does not have are not looked at.

        Raises:
            InputError: a column is missing or of another kind than in the reference; names it.
        """
        found = {}
        for column, counter in zip(self._columns, self._counters, strict=True):
            values = self._values(features if column.kind == "feature" else predictions, column)
            counts, numbers = counter.count(values)
            found[column.name] = ColumnProfile(counts, None if numbers is None else Numbers(*numbers))
        return Profile(features.num_rows, found)

    def tally(self, value: dict[str, Any]) -> Profile:
        """A profile read back from a receipt."""
        return Profile.from_dict(value)

    def _values(self, batch: pa.RecordBatch, column: Column) -> pa.Array:
        index = batch.schema.get_field_index(column.field)
        if index < 0:
            raise InputError(
                f"no column '{column.field}', which the model's reference has", column=column.field
            )
        values = batch.column(index)
        if column.kind == "feature" and column.field in self._sensitive:
            values = self._sensitive.hashed(column.field, values)
        kind = values.type
        wanted = "categories" if isinstance(column.bins, CategoryBins) else "numbers"
        if pa.types.is_null(kind) or profiled_type(kind) == wanted:
            return values
        raise InputError(
            f"column '{column.field}' is {kind}; the model's reference has {wanted} there",
            column=column.field,
            found=str(kind),
            expected=wanted,
        )
