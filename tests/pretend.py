"""A GPU in all but the computing: chosen, opened, fed and reported as one, on the CPU's sessions and memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batchinfer.model import _gpu, _scorer, _session
from batchinfer.model._devices import Device

PRETEND = Device("Pretend", 0, (("cuda", ()),))


def cpu_session(ort: Any, path: Path, options: Any, device: Device) -> Any:
    """Stands in for the session on a GPU."""
    return ort.InferenceSession(str(path), sess_options=options, providers=["CPUExecutionProvider"])


def pretend_gpu(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """From now on every process of this test has one GPU, and remembers its batch sizes below `cache`."""
    monkeypatch.setenv("BATCHINFER_CACHE", str(cache))
    monkeypatch.setattr(_gpu, "SIZES", (16, 64))
    monkeypatch.setattr(_scorer, "choose_device", lambda *_: PRETEND)
    monkeypatch.setattr(_session, "_gpu_session", cpu_session)
    monkeypatch.setattr(_session.Session, "where", ("cpu", 0))
