"""The batch size of a model on a GPU: measured once, remembered for the next process, halved for want of memory."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_log = logging.getLogger("batchinfer.model")

SIZES = (8, 32, 128, 512, 2048, 8192, 32768, 131072)
FEW_SIZES = (32, 512, 8192)
"""TensorRT builds an engine for each size, which takes from seconds to minutes."""
_NEAR_ENOUGH = 0.98
_SECONDS_A_SIZE = 0.05
_LEAST_CALLS = 3
_LONGEST_CALL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class BatchSize:
    """The size that was found last for one model on one kind of device, as one small file keeps it.

    A file that cannot be read or written costs a sweep, and nothing else.

    Attributes:
        path: the file.
        about: what it was measured for; written into the file for people.
    """

    path: Path
    about: dict[str, Any]

    @classmethod
    def of(cls, folder: Path, about: dict[str, Any]) -> BatchSize:
        """The file of exactly this model, device, runtime and options."""
        name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]
        return cls(folder / "batch-sizes" / f"{name}.json", about)

    def read(self) -> int | None:
        """The size; None where it was never measured."""
        try:
            rows = json.loads(self.path.read_text(encoding="utf-8"))["batch_rows"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as e:
            _log.warning("%s cannot be read, so the batch size is measured anew: %s", self.path, e)
            return None
        return rows if isinstance(rows, int) and rows > 0 else None

    def write(self, rows: int, **how: Any) -> None:
        """Remember a size, and how it was found."""
        unfinished = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex[:8]}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_text(json.dumps({**self.about, "batch_rows": rows, **how}, indent=1) + "\n")
            os.replace(unfinished, self.path)  # noqa: PTH105 - atomic, for processes that do the same
        except OSError as e:
            _log.warning(
                "the batch size is not remembered (set BATCHINFER_CACHE to a writable folder): %s", e
            )


def sweep(sizes: Sequence[int], call_of: Callable[[int], Callable[[], object] | None]) -> dict[int, int]:
    """Rows a second by size, up to where a call takes long, or the memory ends.

    Args:
        sizes: to try, ascending.
        call_of: a call of so many rows, ready to be repeated; None where it does not fit.
    """
    rates: dict[int, int] = {}
    for size in sizes:
        call = call_of(size)
        if call is None:
            break
        seconds = _fastest(call)
        rates[size] = max(int(size / seconds), 1)
        if seconds > _LONGEST_CALL_SECONDS:
            break
    return rates


def _fastest(call: Callable[[], object]) -> float:
    best, calls, until = float("inf"), 0, time.perf_counter() + _SECONDS_A_SIZE
    while calls < _LEAST_CALLS or time.perf_counter() < until:
        started = time.perf_counter()
        call()
        best = min(best, max(time.perf_counter() - started, 1e-9))
        calls += 1
        if best > _LONGEST_CALL_SECONDS:
            break
    return best


def smallest_near_best(rates: dict[int, int]) -> int:
    """The smallest size whose rate is all but the best: it bounds memory, and what padding wastes."""
    best = max(rates.values())
    return next(size for size, rate in rates.items() if rate >= _NEAR_ENOUGH * best)
