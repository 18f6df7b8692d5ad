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
from batchinfer.core._sensitive import NOTHING_SENSITIVE, Sensitive

_BLOCK = 1 << 14


@dataclass(frozen=True, slots=True)
class RowSample:
    """Takes the rows whose hash of (source, position) is small: about `rows` of a run's `of_rows`.

    A row's lot does not hang on the others', so units sample apart and their samples add up to the run's.

    Args:
        rows: how many rows to aim at.
        of_rows: how many the run reads.
        key: the result columns that name a row.
        features: the feature columns to keep; predictions are kept all.
        sensitive: columns of which the sample holds hashes, or nothing.
    """

    rows: int
    of_rows: int
    key: tuple[str, ...]
    features: tuple[str, ...]
    sensitive: Sensitive = NOTHING_SENSITIVE

    def take(self, scored: Scored) -> pa.RecordBatch | None:
        """The sampled rows of a batch: key, features, predictions. None where it has none."""
        lineage = scored.lineage
        positions, _ = arrays.to_numpy(lineage.positions)
        chosen = np.flatnonzero(hashed(positions, _seed(lineage.source)) <= self._highest())
        if not len(chosen):
            return None
        rows = arrays.from_numpy(chosen)
        columns = {name: scored.results.column(name) for name in self.key}
        held = scored.features.schema.names
        columns |= {name: scored.features.column(name) for name in self.features if name in held}
        columns |= dict(zip(scored.predictions.schema.names, scored.predictions.columns, strict=True))
        taken = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns)).take(rows)
        return self.sensitive.hide(taken) if self.sensitive else taken

    def _highest(self) -> np.uint32:
        share = min(1.0, self.rows / max(self.of_rows, 1))
        return np.uint32(max(int(share * 2**32) - 1, 0))


def hashed(positions: npt.NDArray[np.int64], seed: int = 0x9E3779B9) -> npt.NDArray[np.uint32]:
    """32 well mixed bits for each position, as MurmurHash3 ends: each bit of a position changes half of them.

    Each row of a run comes through here: 32 bits take a third of what 64 do, and blocks stay in the cache.
    """
    mixed = positions.astype(np.uint32)
    if len(positions) and positions.max() >> 32:
        mixed ^= (positions >> 32).astype(np.uint32) * np.uint32(0x9E3779B1)
    for start in range(0, len(mixed), _BLOCK):
        block = mixed[start : start + _BLOCK]
        block ^= np.uint32(seed)
        block ^= block >> np.uint32(16)
        block *= np.uint32(0x85EBCA6B)
        block ^= block >> np.uint32(13)
        block *= np.uint32(0xC2B2AE35)
        block ^= block >> np.uint32(16)
    return mixed


def _seed(source: str) -> int:
    return int.from_bytes(hashlib.sha256(source.encode()).digest()[:4], "little")


def pack_rows(batches: Sequence[pa.RecordBatch]) -> str | None:
    """Batches of one unit as text, for its receipt; None for none."""
    if not batches:
        return None
    sink = pa.BufferOutputStream()
    table = _joined([pa.Table.from_batches([batch]) for batch in batches]).unify_dictionaries()
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
    return _joined(tables) if tables else None


def _joined(tables: Sequence[pa.Table]) -> pa.Table:
    """The tables as one. A column that the input's files hold in different types gets one for the values of all."""
    for name in tables[0].column_names:
        kinds = {table.schema.field(name).type for table in tables}
        if len(kinds) > 1 and (common := _common(kinds)) is not None:
            tables = [_recast(table, name, common) for table in tables]
    return pa.concat_tables(tables, promote_options="permissive")


def _common(kinds: set[pa.DataType]) -> pa.DataType | None:
    """Of numbers and of texts Arrow's own promotion refuses some, and wraps an unsigned integer round."""
    values = [kind.value_type if pa.types.is_dictionary(kind) else kind for kind in kinds]
    if all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in values):
        return pa.float64()
    if all(arrays.is_text(kind) for kind in values):
        return pa.string()
    return None


def _recast(table: pa.Table, name: str, kind: pa.DataType) -> pa.Table:
    column = table[name].cast(kind, safe=False)  # of a sample's numbers 53 bits are enough
    return table.set_column(table.schema.get_field_index(name), name, column)
