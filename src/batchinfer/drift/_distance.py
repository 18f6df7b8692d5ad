"""Distances between two distributions over the same bins, and how large chance alone makes them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

LEAST_SHARE = 1e-4
"""What an empty bin's share counts as in the PSI, whose logarithm has no value for 0."""

_FEW = 20
_COUNTS = np.arange(80.0)
"""More than a bin that expects _FEW will ever hold."""
_LOG_FACTORIALS = np.concatenate([[0.0], np.cumsum(np.log(_COUNTS[1:]))])


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


def noise(reference: Sequence[int], rows: int) -> float:
    """What the PSI of so many rows from the reference's own distribution hardly exceeds.

    The sum over the bins of its mean, and three standard deviations. In a well filled bin of n rows the term is
    1 / n times a chi-square variable of one degree of freedom; where few rows are expected the values of the term
    are weighed by their Poisson probabilities, since an empty bin's is far larger.
    """
    p = np.maximum(_shares(reference), LEAST_SHARE)
    expected = rows * p
    means, variances = np.full(len(p), 1 / rows), np.full(len(p), 2 / rows**2)
    sparse = expected <= _FEW
    if sparse.any():
        weights = np.exp(_COUNTS * np.log(expected[sparse, None]) - expected[sparse, None] - _LOG_FACTORIALS)
        share = p[sparse, None]
        terms = (_COUNTS / rows - share) * np.log(np.maximum(_COUNTS / rows, LEAST_SHARE) / share)
        means[sparse] = (weights * terms).sum(axis=1)
        variances[sparse] = np.maximum((weights * terms**2).sum(axis=1) - means[sparse] ** 2, 0)
    # The reference's own shares were drawn as well, from its own number of rows.
    drawn = 1 + rows / sum(reference)
    return float(drawn * (means.sum() + 3 * math.sqrt(variances.sum())))


def _shares(counts: Sequence[int]) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = np.asarray(counts, np.float64)
    shares: npt.NDArray[np.float64] = values / values.sum()
    return shares


def _relative_entropy(p: npt.NDArray[np.float64], q: npt.NDArray[np.float64]) -> float:
    some = p > 0
    return float(np.sum(p[some] * np.log2(p[some] / q[some])))
