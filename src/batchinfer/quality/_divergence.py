"""Kullback-Leibler divergence from a partition that the suite states, by Great Expectations' rules."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchinfer.quality._expectation import Judgement, State
from batchinfer.quality._metrics import present

_BLOCK = 1 << 15

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of a numeric column in the partition's bins, below and above it."""

    bins: tuple[float, ...]

    def measure(self, values: pa.Array) -> State:
        """Counts: below, in each bin (the last one closed), above."""
        numbers = present(values)
        edges = np.array(self.bins, np.float64)
        counts = np.zeros(len(edges) + 1, np.int64)
        for start in range(0, len(numbers), _BLOCK):
            block = numbers[start : start + _BLOCK].astype(np.float64)
            counts += np.bincount(np.searchsorted(edges, block, "right"), minlength=len(counts))
            at_end = int(np.count_nonzero(block == edges[-1]))
            counts[-1] -= at_end
            counts[-2] += at_end
        return {"counts": counts.tolist()}

    def merge(self, one: State, other: State) -> State:
        """The sums."""
        return {"counts": [a + b for a, b in zip(one["counts"], other["counts"], strict=True)]}

    def judge(self, state: State, kwargs: Mapping[str, Any]) -> Judgement:
        """The divergence of the observed weights from the expected ones."""
        return judge_bins(np.array(state["counts"], np.float64), kwargs)


def judge_bins(counts: Floats, kwargs: Mapping[str, Any]) -> Judgement:
    """The verdict on counts below, in and above a continuous partition's bins."""
    partition = kwargs["partition_object"]
    bins = partition["bins"]
    tail, internal = kwargs.get("tail_weight_holdout") or 0, kwargs.get("internal_weight_holdout") or 0
    expected = np.array(partition["weights"], np.float64) * (1 - tail - internal)
    empty = expected == 0
    if internal > 0 and empty.any():
        expected[empty] = internal / np.count_nonzero(empty)
    total = counts.sum()
    observed = counts / total if total else np.full(len(counts), np.nan)
    # An infinite end leaves nothing beyond it: the outermost bin is the tail.
    low, high = bins[0] == -math.inf, bins[-1] == math.inf
    shares = list(partition.get("tail_weights") or [tail / 2, tail / 2])
    if low != high:
        shares = [tail, tail]
    expected = np.concatenate([[] if low else shares[:1], expected, [] if high else shares[1:]])
    observed = observed[int(low) : len(observed) - int(high)]
    inner = slice(1, -1)
    details = {
        "observed_partition": _partition(bins[low : len(bins) - high], observed[inner], observed),
        "expected_partition": _partition(bins[low : len(bins) - high], expected[inner], expected),
    }
    return _verdict(divergence(observed, expected), details, kwargs)


def judge_values(found: Mapping[Any, int], kwargs: Mapping[str, Any]) -> Judgement:
    """The verdict on a column's value counts, given a categorical partition."""
    partition = kwargs["partition_object"]
    tail = kwargs.get("tail_weight_holdout") or 0
    stated = dict(zip(partition["values"], partition["weights"], strict=True))
    total = sum(found.values())
    unexpected = sorted(value for value in found if value not in stated)
    values = [*stated, *unexpected]
    observed = np.array([found.get(value, 0) / total if total else 0.0 for value in values], np.float64)
    scale = 1 - tail if unexpected else 1
    expected = np.array(
        [weight * scale for weight in stated.values()] + [tail / len(unexpected)] * len(unexpected)
        if unexpected
        else list(stated.values()),
        np.float64,
    )
    details = {
        "observed_partition": {"values": values, "weights": observed.tolist()},
        "expected_partition": {"values": values, "weights": expected.tolist()},
    }
    return _verdict(divergence(observed, expected), details, kwargs)


def divergence(observed: Floats, expected: Floats) -> float:
    """Of two lists of weights, each scaled to a sum of 1; infinite where the unexpected was observed."""
    with np.errstate(invalid="ignore", divide="ignore"):
        p, q = observed / observed.sum(), expected / expected.sum()
        terms = np.where(p > 0, p * np.log(p / q), np.where((p == 0) & (q >= 0), 0.0, np.inf))
    return float("nan") if np.isnan(p).any() or np.isnan(q).any() else float(terms.sum())


def valid_bins(partition: Any, tail_weight_holdout: float) -> bool:
    """Whether it is a continuous partition that Great Expectations takes."""
    if not isinstance(partition, dict) or not {"weights", "bins"} <= partition.keys():
        return False
    bins, weights, tails = partition["bins"], list(partition["weights"]), partition.get("tail_weights")
    if tails is not None and (
        len(tails) != 2 or tail_weight_holdout or math.inf in map(abs, bins[:1] + bins[-1:])
    ):
        return False
    if bins[:1] == [-math.inf] and bins[-1:] == [math.inf] and (tail_weight_holdout or len(weights) < 2):
        return False
    rising = len(bins) > 1 and all(low < high for low, high in pairwise(bins))
    return rising and len(bins) == len(weights) + 1 and _is_one(sum(weights + list(tails or ())))


def valid_values(partition: Any) -> bool:
    """Whether it is a categorical partition that Great Expectations takes, without a value named twice."""
    if not isinstance(partition, dict) or not {"weights", "values"} <= partition.keys():
        return False
    values, weights = partition["values"], partition["weights"]
    return len(values) == len(weights) == len(set(values)) and _is_one(sum(weights))


def _is_one(total: float) -> bool:
    return abs(total - 1) <= 1e-8 + 1e-5


def _partition(bins: list[float], inner: Floats, whole: Floats) -> dict[str, Any]:
    return {"bins": bins, "weights": inner.tolist(), "tail_weights": [float(whole[0]), float(whole[-1])]}


def _verdict(value: float, details: dict[str, Any], kwargs: Mapping[str, Any]) -> Judgement:
    threshold = kwargs.get("threshold")
    success = threshold is None or value <= threshold
    return Judgement(success, {"observed_value": value if math.isfinite(value) else None, "details": details})
