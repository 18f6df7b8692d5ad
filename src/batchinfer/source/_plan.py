"""Cutting files into units: row-group ranges of like size that never mix result partitions. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from batchinfer.core import Partition, Slice, WorkUnit
from batchinfer.source._files import SourceFile

UNIT_ROWS = 524_288
"""A unit aims at so many rows: a part of some tens of megabytes, and enough units to keep all cores busy."""
UNIT_BYTES = 64 * 1024 * 1024
"""And holds no more decoded bytes of the columns that are read, unless one row group alone is larger."""


def plan_units(
    files: Sequence[SourceFile],
    partitions: Mapping[str, Partition],
    columns: Sequence[str] | None,
    *,
    unit_rows: int = UNIT_ROWS,
    unit_bytes: int = UNIT_BYTES,
) -> tuple[WorkUnit, ...]:
    """Cut the files' row groups into units, in order.

    Large files are split between row groups, small ones gathered. The cut depends on the files alone, not on
    the machine, so a rerun elsewhere meets the same units. Row groups without rows are in no unit.

    Args:
        files: the input files, in order.
        partitions: the result partition of each file, by path.
        columns: the columns that are read; None for all.
        unit_rows: see `UNIT_ROWS`.
        unit_bytes: see `UNIT_BYTES`.
    """
    units: list[WorkUnit] = []
    for partition in sorted(set(partitions.values())):
        pieces: list[Slice] = []
        rows = size = 0
        for file in files:
            if partitions[file.input.path] != partition:
                continue
            for piece, piece_bytes in _row_groups(file, columns):
                if pieces and (rows + piece.rows > unit_rows or size + piece_bytes > unit_bytes):
                    units.append(WorkUnit(len(units), partition, _merged(pieces)))
                    pieces, rows, size = [], 0, 0
                pieces.append(piece)
                rows, size = rows + piece.rows, size + piece_bytes
        if pieces:
            units.append(WorkUnit(len(units), partition, _merged(pieces)))
    return tuple(units)


def _row_groups(file: SourceFile, columns: Sequence[str] | None) -> list[tuple[Slice, int]]:
    """A slice for each row group that has rows, and its decoded bytes."""
    needed = [i for i, name in enumerate(file.schema.names) if columns is None or name in columns]
    slices = []
    first_row = 0
    for index, group in enumerate(file.row_groups):
        if group.rows:
            size = sum(group.column_bytes[i] for i in needed)
            slices.append((Slice(file.input, index, 1, first_row, group.rows), size))
        first_row += group.rows
    return slices


def _merged(pieces: Sequence[Slice]) -> tuple[Slice, ...]:
    """Neighbouring row groups of a file as one slice."""
    merged: list[Slice] = []
    for piece in pieces:
        last = merged[-1] if merged else None
        if (
            last is not None
            and last.file == piece.file
            and last.first_row_group + last.row_groups == piece.first_row_group
        ):
            merged[-1] = Slice(
                last.file, last.first_row_group, last.row_groups + 1, last.first_row, last.rows + piece.rows
            )
        else:
            merged.append(piece)
    return tuple(merged)
