"""Does the GPU give the CPU's scores? Asked of the first rows that a process scores, before any is kept.

A certificate is measured on a CPU, and a GPU sums in another order: bits differ. What is promised there is
that scores agree within a tolerance, and that a driver, a provider option or a kernel which computes something
else is found out at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from batchinfer.core import Refusals, arrays
from batchinfer.errors import ModelError
from batchinfer.model._devices import Device

ROWS = 64


_Scores = Callable[[pa.RecordBatch], tuple[pa.RecordBatch, Refusals]]
"""The results of the rows that can be scored, and the others."""


class Agreement:
    """Holds a GPU's scores of some rows against the CPU's, once. Thread-safe.

    Args:
        on_cpu, on_gpu: score with the same model.
        device: the GPU.
        tolerance: how far a score may be off, relative to it, and absolute for scores below 1.
    """

    def __init__(self, on_cpu: _Scores, on_gpu: _Scores, device: Device, tolerance: float) -> None:
        self._on_cpu = on_cpu
        self._on_gpu = on_gpu
        self._device = device
        self._tolerance = tolerance
        self._lock = threading.Lock()
        self._agreed = False

    def check(self, features: pa.RecordBatch) -> bool:
        """Whether some rows were compared, now or before: none were where there are none to score.

        Raises:
            ModelError: the scores of a row differ by more than the tolerance; names the column.
        """
        with self._lock:
            if not self._agreed and features.num_rows:
                rows = features.slice(0, ROWS)
                self._agreed = self._compare(rows.num_rows, self._on_cpu(rows), self._on_gpu(rows))
            return self._agreed

    def _compare(
        self,
        rows: int,
        on_cpu: tuple[pa.RecordBatch, Refusals],
        on_gpu: tuple[pa.RecordBatch, Refusals],
    ) -> bool:
        kept = [np.setdiff1d(np.arange(rows), refused.rows) for _, refused in (on_cpu, on_gpu)]
        both = np.intersect1d(kept[0], kept[1])
        for name in on_cpu[0].schema.names if len(both) else ():
            expected, found = (
                results.column(name).take(arrays.from_numpy(np.searchsorted(own, both)))
                for (results, _), own in zip((on_cpu, on_gpu), kept, strict=True)
            )
            worst = largest_difference(expected, found)
            if worst > self._tolerance:
                raise ModelError(
                    f"{self._device.title} and the CPU disagree on the model's scores: '{name}' differs by "
                    f"{worst:.3g} in one of the first {len(both)} rows, and engine.tolerance is "
                    f"{self._tolerance:g}",
                    next_step="where less precision is meant (16-bit floats, TF32), raise engine.tolerance; else "
                    "check the driver and engine.provider_options, or state engine.device: cpu",
                    column=name,
                    difference=worst,
                )
        return len(both) > 0


def largest_difference(expected: pa.Array, found: pa.Array) -> float:
    """The largest difference, each relative to the expected value where that is beyond ±1.

    Infinite where one is NaN and the other is not, or where values that are no floats differ.
    """
    if pa.types.is_nested(expected.type):
        expected, found = expected.flatten(), found.flatten()
    if not pa.types.is_floating(expected.type):
        return 0.0 if expected.equals(found) else float("inf")
    (left, _), (right, _) = arrays.to_numpy(expected), arrays.to_numpy(found)
    left, right = left.astype(np.float64), right.astype(np.float64)
    unequal = ~((left == right) | (np.isnan(left) & np.isnan(right)))
    with np.errstate(invalid="ignore"):
        differences = np.abs(left - right)[unequal] / np.maximum(np.abs(left[unequal]), 1.0)
    return float(np.nan_to_num(differences, nan=np.inf, posinf=np.inf).max(initial=0.0))
