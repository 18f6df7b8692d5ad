"""The rules: for the columns of a batch, which rows are unexpected. Plain values, that can be sent to workers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchinfer.core.arrays import from_texts, to_numpy
from batchinfer.quality._members import Members
from batchinfer.quality._patterns import in_re2
from batchinfer.quality._values import Kind, Limits, Mask, kind_of, missing, spread, ticks


@dataclass(frozen=True, slots=True)
class Null:
    """Unexpected are missing values, or (`wanted`) all others."""

    wanted: bool

    def __call__(self, columns: Sequence[pa.Array], _: Mask | None) -> Mask | None:
        absent = missing(columns[0])
        if not self.wanted:
            return absent
        return np.ones(len(columns[0]), np.bool_) if absent is None else ~absent


@dataclass(frozen=True, slots=True)
class Between:
    """Unexpected is what lies outside the limits."""

    limits: Limits

    def __call__(self, columns: Sequence[pa.Array], absent: Mask | None) -> Mask | None:
        column = columns[0]
        if isinstance(column, pa.DictionaryArray):
            return _spread(self.limits.outside(ticks(column.dictionary)), column)
        return self.limits.outside(ticks(column), has_missing=absent is not None)


@dataclass(frozen=True, slots=True)
class InSet:
    """Unexpected is what is not in the set, or (`not wanted`) what is."""

    members: Members
    wanted: bool

    def __call__(self, columns: Sequence[pa.Array], _: Mask | None) -> Mask | None:
        column = columns[0]
        values = column.dictionary if isinstance(column, pa.DictionaryArray) else column
        found = self.members.contains(values)
        return _spread(~found if self.wanted else found, column)


@dataclass(frozen=True, slots=True)
class Patterns:
    """Unexpected is text in which no pattern is found (any), not every one is (all), or any is (none)."""

    patterns: tuple[str, ...]
    found: Literal["any", "all", "none"]

    def __call__(self, columns: Sequence[pa.Array], _: Mask | None) -> Mask | None:
        distinct, column = _distinct_texts(columns[0])
        if not len(distinct):
            return None
        hits = [_search(pattern, distinct) for pattern in self.patterns]
        together = np.logical_and.reduce(hits) if self.found == "all" else np.logical_or.reduce(hits)
        return _spread(together if self.found == "none" else ~together, column)


@dataclass(frozen=True, slots=True)
class Lengths:
    """Unexpected is text whose length in characters lies outside the limits."""

    limits: Limits

    def __call__(self, columns: Sequence[pa.Array], absent: Mask | None) -> Mask | None:
        column = columns[0]
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            lengths = _lengths(column)
            return self.limits.outside(lengths, has_missing=absent is not None)
        distinct, encoded = _distinct_texts(column)
        return _spread(self.limits.outside(_lengths(distinct)), encoded)


@dataclass(frozen=True, slots=True)
class PairInSet:
    """Unexpected is a pair of values that is none of the allowed ones; a missing value is the member null.

    Attributes:
        members: of each column, and at which place in the list of pairs they first stand.
        null: the place that stands for a missing value.
        allowed: the codes of the pairs of places, ascending.
    """

    members: tuple[Members, Members]
    null: int
    allowed: Any = field(hash=False)

    def __call__(self, columns: Sequence[pa.Array], _: Mask | None) -> Mask | None:
        first, second = (self._places(m, column) for m, column in zip(self.members, columns, strict=True))
        codes = _code(self.null, first, second)
        near = np.minimum(np.searchsorted(self.allowed, codes), len(self.allowed) - 1)
        unexpected: Mask = self.allowed[near] != codes
        return unexpected

    def _places(self, known: Members, column: pa.Array) -> Any:
        if isinstance(column, pa.DictionaryArray):
            places = spread(known.find(column.dictionary), column)
        else:
            places = known.find(column)
        absent = missing(column)
        return places if absent is None else np.where(absent, self.null, places)


def pair_codes(null: int, places: Sequence[tuple[int, int]]) -> Any:
    """The codes of the allowed pairs, for `PairInSet`."""
    return np.unique([_code(null, first, second) for first, second in places])


def _code(null: int, first: Any, second: Any) -> Any:
    """One number for two places from -1 (no member) to `null`."""
    return (first + 1) * (null + 2) + second + 1


@dataclass(frozen=True, slots=True)
class PairEqual:
    """Unexpected are pairs that differ; nothing equals a missing value."""

    def __call__(self, columns: Sequence[pa.Array], _: Mask | None) -> Mask | None:
        first, second = map(decoded, columns)
        return _or_missing(~equal(first, second), columns)


@dataclass(frozen=True, slots=True)
class PairGreater:
    """Unexpected is a first value that is not greater than the second (or equal); missing is not greater."""

    or_equal: bool

    def __call__(self, columns: Sequence[pa.Array], _: Mask | None) -> Mask | None:
        first, second = map(decoded, columns)
        return _or_missing(~greater(first, second, or_equal=self.or_equal), columns)


@dataclass(frozen=True, slots=True)
class SumEqual:
    """Unexpected is a row whose sum, added from left to right in the columns' common type, is another."""

    total: float
    dtype: Any

    def __call__(self, columns: Sequence[pa.Array], _: Mask | None) -> Mask | None:
        views = [ticks(column) for column in columns]
        total = views[0].astype(self.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            for view in views[1:]:
                total += view
        return _or_missing(total != self.total, columns)


@dataclass(frozen=True, slots=True)
class DistinctWithinRow:
    """Unexpected is a row in which two columns hold the same; two missing values are the same."""

    def __call__(self, columns: Sequence[pa.Array], _: Mask | None) -> Mask | None:
        values = [decoded(column) for column in columns]
        absent = [missing(column) for column in columns]
        unexpected = np.zeros(len(columns[0]), np.bool_)
        for a, b in combinations(range(len(columns)), 2):
            unexpected |= _same(values[a], values[b], absent[a], absent[b])
        return unexpected


@dataclass(frozen=True, slots=True)
class EqualWithinRow:
    """Unexpected is a row in which two columns differ; two missing values are the same."""

    def __call__(self, columns: Sequence[pa.Array], _: Mask | None) -> Mask | None:
        values = [decoded(column) for column in columns]
        absent = [missing(column) for column in columns]
        unexpected = np.zeros(len(columns[0]), np.bool_)
        for other in range(1, len(columns)):
            unexpected |= ~_same(values[0], values[other], absent[0], absent[other])
        return unexpected


def equal(first: pa.Array, second: pa.Array) -> Mask:
    """Where two columns of one family hold the same; at a missing value, anything but True where one is NaN."""
    return _compare(first, second, np.equal, pc.equal)


def greater(first: pa.Array, second: pa.Array, *, or_equal: bool = False) -> Mask:
    """Where the first is greater; texts in the order of their code points."""
    if or_equal:
        return _compare(first, second, np.greater_equal, pc.greater_equal)
    return _compare(first, second, np.greater, pc.greater)


def comparable(first: Kind, second: Kind) -> bool:
    """Whether `equal` and `greater` compare these columns by what their ticks mean."""
    numbers = {first.family, second.family} <= {"number", "bool"}
    if not numbers and first.family != second.family:
        return False
    return first.scale == second.scale and (first.zone is None) == (second.zone is None)


def decoded(column: pa.Array) -> pa.Array:
    """The values of a dictionary, or the column itself."""
    return column.dictionary_decode() if isinstance(column, pa.DictionaryArray) else column


def _compare(first: pa.Array, second: pa.Array, numbers: Any, texts: Callable[..., pa.Array]) -> Mask:
    kind = kind_of(first.type)
    if kind is None or kind.family != "text":
        with np.errstate(invalid="ignore"):
            compared: Mask = numbers(ticks(first), ticks(second))
        return compared
    if first.type != second.type:
        first, second = first.cast(pa.large_string()), second.cast(pa.large_string())
    result, there = to_numpy(texts(first, second))
    return result if there is None else result & there


def _same(first: pa.Array, second: pa.Array, absent: Mask | None, other_absent: Mask | None) -> Mask:
    same = equal(first, second)
    if absent is None and other_absent is None:
        return same
    none = np.zeros(len(first), np.bool_)
    absent = none if absent is None else absent
    other_absent = none if other_absent is None else other_absent
    return np.where(absent | other_absent, absent & other_absent, same)


def _or_missing(unexpected: Mask, columns: Sequence[pa.Array]) -> Mask:
    for column in columns:
        absent = missing(column)
        if absent is not None:
            unexpected = unexpected | absent
    return unexpected


def _spread(unexpected: Mask | None, column: pa.Array) -> Mask | None:
    if unexpected is None or not isinstance(column, pa.DictionaryArray):
        return unexpected
    return spread(unexpected, column) if unexpected.any() else None


def _distinct_texts(column: pa.Array) -> tuple[pa.Array, pa.DictionaryArray]:
    """The distinct values as text, and the column that refers to them."""
    encoded = column if isinstance(column, pa.DictionaryArray) else column.dictionary_encode()
    values = encoded.dictionary
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        values = from_texts([str(value) for value in values.to_pylist()])
    return values, encoded


def _search(pattern: str, texts: pa.Array) -> Mask:
    """In which texts a pattern is found, as Python's `re` understands it."""
    same = in_re2(pattern, texts)
    if same is not None:
        return to_numpy(pc.match_substring_regex(texts, pattern=same))[0]
    search = re.compile(pattern).search
    hits = (text is not None and search(text) is not None for text in texts.to_pylist())
    return np.fromiter(hits, np.bool_, len(texts))


def _lengths(texts: pa.Array) -> Any:
    return to_numpy(pc.utf8_length(texts))[0]
