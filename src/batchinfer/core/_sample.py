"""A sample of scored rows that depends on the rows' places alone: not on units, engines, order or retries."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchinfer.core import arrays
from batchinfer.core._scoring import Scored


@dataclass(frozen=True, slots=True)
class RowSample:
    """Takes the rows whose hash of (source, position) is small: about `rows` of a run's `of_rows`.

    A row's lot does not hang on the others', so units sample apart and their samples add up to the run's.

    Args:
        rows: how many rows to aim at.
        of_rows: how many the run reads.
        key: the result columns that name a row.
        features: the feature columns to keep; predictions are kept all.
    """

    rows: int
    of_rows: int
    key: tuple[str, ...]
    features: tuple[str, ...]

    def take(self, scored: Scored) -> pa.RecordBatch | None:
        """The sampled rows of a batch: key, features, predictions. None where it has none."""
        lineage = scored.lineage
        positions, _ = arrays.to_numpy(lineage.positions)
        chosen = np.flatnonzero(hashed(positions, _seed(lineage.source)) < self._limit())
        if not len(chosen):
            return None
        rows = arrays.from_numpy(chosen)
        columns = {name: scored.results.column(name) for name in self.key}
        held = scored.features.schema.names
        columns |= {name: scored.features.column(name) for name in self.features if name in held}
        columns |= dict(zip(scored.predictions.schema.names, scored.predictions.columns, strict=True))
        return pa.RecordBatch.from_arrays([c.take(rows) for c in columns.values()], names=list(columns))

    def _limit(self) -> np.uint64:
        share = min(1.0, self.rows / max(self.of_rows, 1))
        return np.uint64(min(int(share * 2**64), 2**64 - 1))


def hashed(positions: npt.NDArray[np.int64], seed: int = 0x9E3779B97F4A7C15) -> npt.NDArray[np.uint64]:
    """64 well mixed bits for each position: SplitMix64."""
    mixed: npt.NDArray[np.uint64] = positions.astype(np.uint64) + np.uint64(seed)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _seed(source: str) -> int:
    return int.from_bytes(hashlib.sha256(source.encode()).digest()[:8], "little")


def pack_rows(batches: Sequence[pa.RecordBatch]) -> str | None:
    """Batches of one unit as text, for its receipt; None for none."""
    if not batches:
        return None
    sink = pa.BufferOutputStream()
    table = pa.Table.from_batches(batches).unify_dictionaries()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    return base64.b64encode(sink.getvalue()).decode()


def unpack_rows(packed: Iterable[str | None]) -> pa.Table | None:
    """The rows of many units together; None where none has any."""
    tables = []
    for text in packed:
        if text is not None:
            with pa.ipc.open_stream(pa.py_buffer(base64.b64decode(text))) as reader:
                tables.append(reader.read_all())
    return pa.concat_tables(tables, promote_options="permissive") if tables else None
