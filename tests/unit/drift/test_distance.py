"""PSI, Jensen-Shannon and their noise against what is known of them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from batchinfer.drift._distance import jensen_shannon, noise, psi


def test_distances_of_known_distributions() -> None:
    assert psi([1, 1], [2, 2]) == 0.0 and jensen_shannon([1, 1], [2, 2]) == 0.0
    assert psi([50, 50], [25, 75]) == pytest.approx(0.25 * math.log(2) + 0.25 * math.log(1.5))
    assert jensen_shannon([1, 0], [0, 1]) == 1.0
    assert psi([1, 0], [0, 1]) == pytest.approx(2 * (1 - 1e-4) * math.log(1e4))
    assert jensen_shannon([3, 1, 0], [1, 0, 4]) == jensen_shannon([1, 0, 4], [3, 1, 0])


@pytest.mark.parametrize("rows", [30, 100, 1000, 20_000])
@pytest.mark.parametrize("bins", [2, 10, 40, 100])
@pytest.mark.parametrize("skew", [0, 2])
def test_chance_alone_seldom_exceeds_the_noise_and_reaches_a_third_of_it(
    rows: int, bins: int, skew: int
) -> None:
    """A limit that nothing reaches would hide drift; one that chance exceeds would cry wolf."""
    random = np.random.default_rng(bins * rows)
    shares = np.arange(1.0, bins + 1) ** -skew
    shares /= shares.sum()
    reference = random.multinomial(50 * rows, shares).tolist()
    ratios = []
    for _ in range(500):
        found = random.multinomial(rows, shares).tolist()
        ratios.append(psi(reference, found) / noise(reference, rows))
    assert np.mean(np.array(ratios) > 1) <= 0.05
    assert max(ratios) > 1 / 3
