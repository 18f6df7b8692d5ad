"""Spark names GPUs as the machine does; a process counts those that it sees."""

from __future__ import annotations

import pytest

pytest.importorskip("pyspark")

from batchinfer.engines._spark import _ordinal


@pytest.mark.parametrize(
    ("address", "visible", "ordinal"),
    [
        ("1", "", "1"),
        ("3", "2,3", "1"),
        ("0", "1, 0", "1"),
        ("1", "2,3", "1"),
        ("GPU-a", "GPU-b,GPU-a", "1"),
        ("GPU-a", "", "GPU-a"),
    ],
)
def test_an_address_is_the_place_among_the_visible(address: str, visible: str, ordinal: str) -> None:
    assert _ordinal(address, visible) == ordinal
