"""Sets of values that a suite states, in a column's own terms."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchinfer.core.arrays import from_numpy, from_texts, to_numpy
from batchinfer.quality._values import Kind, Mask, as_float, exact, ticks, without_units

_FEW = 16
"""Up to so many members, comparing with each in turn is faster than a search."""


@dataclass(frozen=True, slots=True)
class Members:
    """A set of values in the column's own terms: those that no value of the column can equal are left out.

    Attributes:
        known: ascending: an Arrow array of texts or whole ticks, or other ticks in NumPy.
        place: of each of `known`, the place in the suite's list.
    """

    known: Any
    place: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.place)

    def contains(self, values: pa.Array) -> Mask:
        """Which values are members; for a null, anything."""
        if isinstance(self.known, pa.Array):
            found = pc.is_in(without_units(values), value_set=self.known)
            member: Mask = to_numpy(found)[0]
            return member
        if len(self.known) > _FEW:
            return self.find(values) >= 0
        view = ticks(values)
        member = np.zeros(len(view), np.bool_)
        equal = np.empty(len(view), np.bool_)
        for one in self.known:
            np.equal(view, one, out=equal)
            np.logical_or(member, equal, out=member)
        return member

    def find(self, values: pa.Array) -> npt.NDArray[np.int64]:
        """The place of each value in the suite's list, -1: not there; for a null, anything."""
        if not len(self.known):
            return np.full(len(values), -1, np.int64)
        if isinstance(self.known, pa.Array):
            found, there = to_numpy(pc.index_in(without_units(values), value_set=self.known))
            return np.where(_all(len(found)) if there is None else there, self.place[found], -1)
        view = ticks(values)
        near = np.minimum(np.searchsorted(self.known, view), len(self.known) - 1)
        return np.where(self.known[near] == view, self.place[near], -1)


def _all(rows: int) -> Mask:
    return np.ones(rows, np.bool_)


def members(kind: Kind, values: Sequence[Any]) -> Members:
    """The members among `values` that a column can hold; null and NaN are none.

    Raises:
        Unfit: a date or a timestamp cannot be read.
    """
    known: Any
    found: dict[Any, int] = {}
    for place, tick in enumerate(_tick(kind, value) for value in values):
        if tick is not None:
            found.setdefault(tick, place)
    order = sorted(found)
    if kind.family == "text":
        known = from_texts(order).cast(kind.type)
    else:
        known = np.array(order, kind.dtype)
        if kind.dtype.kind in "iu" and kind.family != "bool" and not pa.types.is_decimal(kind.type):
            known = from_numpy(known)
    return Members(known, np.array([found[tick] for tick in order], np.int64))


def first_places(kind: Kind, values: Sequence[Any]) -> list[int]:
    """Of each value the first place in the list that holds the same; -1: no value of the column equals it."""
    found: dict[Any, int] = {}
    each = enumerate(_tick(kind, value) for value in values)
    return [-1 if tick is None else found.setdefault(tick, place) for place, tick in each]


def _tick(kind: Kind, value: Any) -> Any:
    """The one tick that equals a value; None: there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if kind.family == "text":
        return value if isinstance(value, str) and not re.search("[\ud800-\udfff]", value) else None
    if kind.family in {"number", "bool"} and not isinstance(value, int | float):
        return None
    tick = exact(kind, value)
    if kind.dtype.kind == "f":
        with np.errstate(over="ignore"):
            near = float(kind.dtype.type(as_float(tick)))
        return near if near == tick else None
    if isinstance(tick, float) or tick.denominator != 1:
        return None
    info = np.iinfo(kind.dtype)
    return int(tick) if info.min <= tick <= info.max else None
