"""Arrow's views of text and bytes, which some writers ask readers for: Arrow takes no rows from them.

So they are no part of a batch that is scored: what reads or makes one hands the plain types on.
"""

from __future__ import annotations

import pyarrow as pa


def free_type(kind: pa.DataType) -> pa.DataType:
    """The type without views in it, at any depth; the type itself where it has none."""
    if "_view" not in str(kind):
        return kind
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(free_type(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(free_type(kind.key_type), free_type(kind.item_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_value_field(kind), kind.list_size)
    if pa.types.is_large_list(kind):
        return pa.large_list(_value_field(kind))
    if pa.types.is_list(kind):
        return pa.list_(_value_field(kind))
    return kind


def free_column(column: pa.Array) -> pa.Array:
    """The column of the type without views; itself where it has none."""
    kind = free_type(column.type)
    return column if column.type == kind else column.cast(kind)


def free_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch without views in its columns; itself where it has none."""
    if all(field.type == free_type(field.type) for field in batch.schema):
        return batch
    return pa.RecordBatch.from_arrays(
        [free_column(column) for column in batch.columns], names=batch.schema.names
    )


def _value_field(kind: pa.DataType) -> pa.Field:
    return kind.value_field.with_type(free_type(kind.value_type))
