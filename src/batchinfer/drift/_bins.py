"""Bins: how the values of a column are counted. The reference chooses them, every run counts on the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

OWN_BINS = 100
"""So many of the reference's most frequent categories have a bin each."""
MOST_CATEGORIES = 10_000
"""A column with more categories than this in the reference has names or texts in it, and is left out."""
_PARTS = 10

Number = int | float


@dataclass(frozen=True, slots=True)
class NumericBins:
    """Bins [edge, next edge), one below the first edge and one from the last on; then nulls.

    The first edge is the reference's least value, the last lies just past its greatest, so the first and the
    last bin hold what lies outside anything in the reference. There is no edge where the reference has no number.
    """

    edges: tuple[Number, ...]

    @property
    def size(self) -> int:
        """How many bins there are, without that of the nulls."""
        return len(self.edges) + 1

    @property
    def unseen(self) -> tuple[int, ...]:
        """The bins that are empty in the reference."""
        return (0, len(self.edges)) if self.edges else (0,)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"edges": list(self.edges)}


@dataclass(frozen=True, slots=True)
class CategoryBins:
    """A bin for each of `categories`, one for `others` together, one for what the reference never saw; nulls."""

    categories: tuple[str, ...]
    others: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """How many bins there are, without that of the nulls."""
        return len(self.categories) + 2

    @property
    def unseen(self) -> tuple[int, ...]:
        """The bins that are empty in the reference."""
        return (len(self.categories) + 1,)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"categories": list(self.categories), "others": list(self.others)}


Bins = NumericBins | CategoryBins


def bins_from(value: Mapping[str, Any]) -> Bins:
    """Bins that `to_dict` wrote."""
    if "edges" in value:
        return NumericBins(tuple(value["edges"]))
    return CategoryBins(tuple(value["categories"]), tuple(value["others"]))


def numeric_bins(sample: npt.NDArray[Any], low: Number | None, high: Number | None) -> NumericBins:
    """Bins at the deciles of a sample of the reference.

    A value that is several deciles at once (the zeros of a rainfall) gets a bin of its own.

    Args:
        sample: finite values of the reference, perhaps none.
        low: the least finite value of the whole reference; None where it has none.
        high: its greatest.
    """
    if low is None or high is None:
        return NumericBins(())
    deciles: list[Number] = []
    if len(sample):
        places = np.arange(1, _PARTS) / _PARTS
        deciles = np.quantile(sample, places, method="inverted_cdf").astype(sample.dtype).tolist()
    values = [low, *deciles, high]
    edges = {low, *deciles, _past(high)}
    edges |= {_past(value) for value in values if values.count(value) > 1}
    return NumericBins(tuple(sorted(edges)))


def category_bins(counts: Mapping[str, int]) -> CategoryBins:
    """Bins for the most frequent categories; among equals the alphabet decides."""
    ordered = sorted(counts, key=lambda name: (-counts[name], name))
    return CategoryBins(tuple(ordered[:OWN_BINS]), tuple(sorted(ordered[OWN_BINS:])))


def _past(value: Number) -> Number:
    if isinstance(value, int):
        return value + 1
    past = math.nextafter(value, math.inf)
    return past if math.isfinite(past) else value  # JSON has no infinity; that value alone counts as unseen
