"""A deterministic sample of rows: those whose position hashes lowest, whatever batches they came in."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchinfer.core import arrays, hashed


class FixedSample:
    """Keeps `rows` of all rows that are added, or all of them while there are fewer. Memory holds twice that."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._limit = np.uint32(2**32 - 1)
        self._hashes: list[npt.NDArray[np.uint32]] = []
        self._batches: list[pa.RecordBatch] = []
        self._held = 0

    def add(self, batch: pa.RecordBatch, first: int) -> None:
        """Offer the rows at positions `first` and on; positions rise from call to call."""
        hashes = hashed(np.arange(first, first + batch.num_rows))
        chosen = np.flatnonzero(hashes <= self._limit)
        self._hashes.append(hashes[chosen])
        self._batches.append(batch.take(arrays.from_numpy(chosen)))
        self._held += len(chosen)
        if self._held > 2 * self._rows:
            self._prune()

    def table(self) -> pa.Table:
        """The rows, in the order of their positions; there must have been some."""
        self._prune()
        return pa.Table.from_batches(self._batches)

    def _prune(self) -> None:
        hashes = np.concatenate(self._hashes)
        kept = np.argsort(hashes, kind="stable")[: self._rows]
        if len(kept) == self._rows:
            self._limit = hashes[kept[-1]]
        kept = np.sort(kept)
        self._hashes, self._held = [hashes[kept]], len(kept)
        rows = pa.Table.from_batches(self._batches).take(arrays.from_numpy(kept))
        self._batches = rows.combine_chunks().to_batches()
