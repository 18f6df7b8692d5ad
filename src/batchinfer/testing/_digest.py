"""What a results table says, as one digest: two tables with the same rows have the same, however they lie."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from batchinfer.core import POSITION, SOURCE

_BLOCK_ROWS = 1 << 16


def table_digest(table: Any, *, ignore: Sequence[str] = ()) -> str:
    """The sha256 of a table's rows: independent of files, row groups, encodings, column order and row order.

    Column names, types (labels count as plain strings) and every bit of every value matter, and how often a
    row is there. Holds the table in memory once, while it sorts.

    Args:
        table: a store (anything with `dataset()`), a `pyarrow.dataset.Dataset` or a `pyarrow.Table`.
        ignore: columns to leave out.
    """
    source = table.dataset() if hasattr(table, "dataset") else table
    rows = source if isinstance(source, pa.Table) else source.to_table()
    names = sorted(set(rows.column_names).difference(ignore))
    rows = pa.table({name: _plain(rows[name]) for name in names})
    rows = rows.take(pc.sort_indices(rows, sort_keys=[(name, "ascending") for name in _sort_by(rows)]))
    digest = hashlib.sha256(repr([(f.name, str(f.type)) for f in rows.schema]).encode())
    for start in range(0, rows.num_rows, _BLOCK_ROWS):
        for column in rows.slice(start, _BLOCK_ROWS).columns:
            _update(digest, pa.concat_arrays(column.chunks))
    return digest.hexdigest()


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _sort_by(rows: pa.Table) -> list[str]:
    # Lineage names a row. The other columns order rows that a broken store doubled with other values.
    sortable = [f.name for f in rows.schema if not pa.types.is_nested(f.type)]
    first = [name for name in (SOURCE, POSITION) if name in sortable]
    return first + [name for name in sortable if name not in first]


def _update(digest: Any, values: pa.Array) -> None:
    """Feed length, nulls and values; nothing of what buffers hold at nulls or outside the slice."""
    digest.update(len(values).to_bytes(8, "little"))
    digest.update(_bytes(pc.cast(pc.is_valid(values), pa.uint8())))
    values = values.drop_null()
    kind = values.type
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        digest.update(_bytes(pc.list_value_length(values)))
        _update(digest, values.flatten())
    elif pa.types.is_string(kind) or pa.types.is_binary(kind):
        digest.update(_bytes(pc.binary_length(values)))
        digest.update(b"".join(values.cast(pa.binary()).to_pylist()))
    elif pa.types.is_boolean(kind):
        digest.update(_bytes(values.cast(pa.uint8())))
    elif pa.types.is_decimal(kind):
        digest.update("|".join(values.cast(pa.string()).to_pylist()).encode())
    else:
        digest.update(_bytes(values))


def _bytes(values: pa.Array) -> bytes:
    width = values.type.bit_width // 8
    data = values.buffers()[1]
    if data is None or not len(values):
        return b""
    return memoryview(data)[values.offset * width : (values.offset + len(values)) * width].tobytes()
