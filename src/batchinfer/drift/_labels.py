"""Labels that came later, joined to the rows that were scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from batchinfer.core import files
from batchinfer.errors import InputError

_ROW, _LABEL_ROW, _COUNT = "_row", "_label_row", "_count"


@dataclass(frozen=True, slots=True)
class LabelledRows:
    """Scored rows whose label is known.

    Attributes:
        table: these rows with all their columns, and the label as `target`.
        target: the label's column; `late (label)` where the rows have a column `late` of their own.
        unlabelled: how many rows have no label, or a null one.
    """

    table: pa.Table
    target: str
    unlabelled: int


def read_labels(path: str, key: Sequence[str], column: str) -> pa.Table:
    """The key and the label from a Parquet file, or from a folder of them; folders `name=value` are columns too.

    Raises:
        InputError: nothing is there, it is no Parquet, or a column is missing.
    """
    if not files.exists(path):
        raise InputError(f"{path}: no labels are there", path=path)
    filesystem, inner = files.locate(path)
    try:
        found = ds.dataset(inner, filesystem=filesystem, format="parquet", partitioning="hive")
        _need(found.schema, key, column, path)
        return found.to_table(columns=[*key, column])
    except (pa.ArrowInvalid, pa.ArrowTypeError, OSError) as e:
        raise InputError(f"{path}: cannot read the labels: {str(e).splitlines()[0]}", path=path) from e


def join_labels(results: pa.Table, labels: pa.Table, key: Sequence[str], column: str) -> LabelledRows:
    """Give each row the label of its key; rows without one are left out and counted. The rows keep their order.

    Whole numbers meet whole numbers of any width, and text meets text however it is encoded; other types must be
    equal. A null key meets nothing.

    Args:
        results: scored rows, with the key's columns.
        labels: the key's columns and `column`; each key once.
        key: `input.key`.
        column: the label's name in `labels`.

    Raises:
        InputError: a column is missing, a type differs, a key has two labels, or no row has a label.
    """
    _need(labels.schema, key, column, "the labels")
    _need(results.schema, key, None, "the results")
    left, right = {}, {}
    for name in key:
        left[name], right[name] = _comparable(name, results[name], labels[name])
    _once(labels, right, key)
    joined = (
        pa.table({**left, _ROW: _numbers(results)})
        .join(
            pa.table({**right, _LABEL_ROW: _numbers(labels)}),
            keys=list(key),
            join_type="inner",
        )
        .sort_by(_ROW)
    )
    values = labels[column].take(joined[_LABEL_ROW])
    known = pc.is_valid(values)
    rows = results.take(joined[_ROW].filter(known))
    if not rows.num_rows:
        raise InputError(
            f"none of the {results.num_rows:,} rows has a label: the keys of the results begin with "
            f"{_first(results, key)}, those of the labels with {_first(labels, key)}",
            next_step=f"check that both mean the same by {', '.join(key)}, and that the labels are of the same days",
            key=tuple(key),
        )
    target = column if column not in results.column_names else f"{column} (label)"
    return LabelledRows(
        rows.append_column(target, values.filter(known)), target, results.num_rows - rows.num_rows
    )


def _need(schema: pa.Schema, key: Sequence[str], column: str | None, where: str) -> None:
    wanted = [(name, f"key column '{name}'") for name in key]
    wanted += [(column, f"label column '{column}'")] if column is not None else []
    for name, said in wanted:
        if schema.get_field_index(name) < 0:
            there = ", ".join(schema.names) or "no columns"
            raise InputError(f"{where}: {said} is missing; there: {there}", column=name, found=schema.names)


def _comparable(
    name: str, result: pa.ChunkedArray, label: pa.ChunkedArray
) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    one, other = _canonical(result), _canonical(label)
    if one.type != other.type:
        raise InputError(
            f"key column '{name}': the results hold {result.type}, the labels {label.type}",
            next_step=f"write the labels with '{name}' as {result.type}",
            column=name,
            expected=str(result.type),
            found=str(label.type),
        )
    return one, other


def _canonical(values: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    if pa.types.is_integer(kind):
        # What int64 cannot hold stays as it is, and so meets only its own type.
        wide = kind == pa.uint64() and values.length() and (pc.max(values).as_py() or 0) > 2**63 - 1
        return values.cast(pa.uint64() if wide else pa.int64())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return values.cast(pa.large_string())
    return values.cast(kind)


def _once(labels: pa.Table, keys: dict[str, pa.ChunkedArray], key: Sequence[str]) -> None:
    counted = pa.table({**keys, _COUNT: _numbers(labels)})
    for name in key:
        counted = counted.filter(pc.is_valid(counted[name]))
    counted = counted.group_by(list(key), use_threads=False).aggregate([(_COUNT, "count")])
    twice = counted.filter(pc.greater(counted[f"{_COUNT}_count"], 1))
    if twice.num_rows:
        count = twice[f"{_COUNT}_count"][0].as_py()
        more = (
            f", and {twice.num_rows - 1:,} other keys are there more than once" if twice.num_rows > 1 else ""
        )
        raise InputError(
            f"the labels hold {_first(twice, key)} {count} times{more}: each key needs one label",
            next_step="keep the label that counts, and drop the others",
            key={name: twice[name][0].as_py() for name in key},
        )


def _first(table: pa.Table, key: Sequence[str]) -> str:
    if not table.num_rows:
        return "no row"
    return ", ".join(f"{name}={table[name][0].as_py()}" for name in key)


def _numbers(table: pa.Table) -> pa.Array:
    return pa.array(np.arange(table.num_rows, dtype=np.int64))
