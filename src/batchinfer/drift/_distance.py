"""Distances between two distributions over the same bins, and how large chance alone makes them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

LEAST_SHARE = 1e-4
"""What an empty bin's share counts as in the PSI, whose logarithm has no value for 0."""


def psi(reference: Sequence[int], found: Sequence[int]) -> float:
    """The population stability index: Σ (q - p) ln(q / p) over the bins' shares."""
    p, q = (np.maximum(_shares(counts), LEAST_SHARE) for counts in (reference, found))
    return float(np.sum((q - p) * np.log(q / p)))


def jensen_shannon(reference: Sequence[int], found: Sequence[int]) -> float:
    """The Jensen-Shannon distance to base 2: the root of the divergence, from 0 to 1."""
    p, q = _shares(reference), _shares(found)
    middle = (p + q) / 2
    divergence = (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2
    return math.sqrt(min(max(divergence, 0.0), 1.0))


def noise(reference: Sequence[int], found: Sequence[int]) -> float:
    """What the PSI of two draws from one distribution hardly exceeds.

    Divided by (1/n + 1/m) it follows a chi-square distribution with one degree of freedom less than there are
    bins in use: this is its mean and three standard deviations.
    """
    used = sum(1 for one, two in zip(reference, found, strict=True) if one or two)
    freedom = max(used - 1, 1)
    return (freedom + 3 * math.sqrt(2 * freedom)) * (1 / sum(reference) + 1 / sum(found))


def _shares(counts: Sequence[int]) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = np.asarray(counts, np.float64)
    shares: npt.NDArray[np.float64] = values / values.sum()
    return shares


def _relative_entropy(p: npt.NDArray[np.float64], q: npt.NDArray[np.float64]) -> float:
    some = p > 0
    return float(np.sum(p[some] * np.log2(p[some] / q[some])))
