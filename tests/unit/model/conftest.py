"""A bench for models, and a sweep that costs nothing where it is not the subject."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.model.graphs import Bench

from batchinfer.model import _certify


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    quick_sweep(monkeypatch)
    return Bench(tmp_path)


def quick_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_certify, "_SIZES", (1, 8, 64))
    monkeypatch.setattr(_certify, "_SECONDS_A_SIZE", 1e-9)
