"""Cutting files into units: row-group ranges of like size that never mix result partitions. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from batchinfer.core import Partition, Slice, WorkUnit
from batchinfer.source._footer import SourceFile

UNIT_ROWS = 524_288
"""A unit holds at most so many rows: a part of some tens of megabytes, and units enough for all cores."""
UNIT_BYTES = 64 * 1024 * 1024
"""And at most so many uncompressed bytes of the columns that are read."""
_STEPS = 64


@dataclass(frozen=True, slots=True)
class _Piece:
    """One row group that has rows."""

    slice: Slice
    size_bytes: int


def plan_units(
    files: Sequence[SourceFile],
    partitions: Mapping[str, Partition],
    columns: Sequence[str] | None,
    *,
    unit_rows: int = UNIT_ROWS,
    unit_bytes: int = UNIT_BYTES,
) -> tuple[WorkUnit, ...]:
    """Cut the files' row groups into units, in order.

    Large files are split between row groups, small ones gathered: into as few units as the bounds allow, of
    sizes as even as the row groups allow. A row group that alone exceeds a bound is a unit of its own. The
    cut depends on the files alone, not on the machine, so a rerun elsewhere meets the same units. Row groups
    without rows are in no unit.

    Args:
        files: the input files, in order.
        partitions: the result partition of each file, by path.
        columns: the columns that are read; None for all.
        unit_rows: see `UNIT_ROWS`.
        unit_bytes: see `UNIT_BYTES`.
    """
    pieces: dict[Partition, list[_Piece]] = {partition: [] for partition in sorted(set(partitions.values()))}
    wanted = None if columns is None else frozenset(columns)
    for file in files:
        pieces[partitions[file.input.path]] += _row_groups(file, wanted)
    return tuple(
        WorkUnit(index, partition, _merged(run))
        for index, (partition, run) in enumerate(
            (partition, run)
            for partition, run_of in pieces.items()
            for run in _even_runs(run_of, unit_rows, unit_bytes)
        )
    )


def _row_groups(file: SourceFile, wanted: frozenset[str] | None) -> list[_Piece]:
    needed = [i for i, name in enumerate(file.schema.names) if wanted is None or name in wanted]
    pieces = []
    first_row = 0
    for index, group in enumerate(file.row_groups):
        if group.rows:
            size = sum(group.column_bytes[i] for i in needed)
            pieces.append(_Piece(Slice(file.input, index, 1, first_row, group.rows), size))
        first_row += group.rows
    return pieces


def _even_runs(pieces: Sequence[_Piece], most_rows: int, most_bytes: int) -> list[Sequence[_Piece]]:
    """As few runs as the bounds allow; among those cuts the one whose largest run is smallest."""
    best = _cuts(pieces, most_rows, most_bytes)
    low, high = 0, _STEPS  # in steps of 1/64 of the bounds: too tight, and wide enough
    while high - low > 1:
        middle = (low + high) // 2
        cuts = _cuts(pieces, most_rows * middle // _STEPS, most_bytes * middle // _STEPS)
        if len(cuts) <= len(best):
            best, high = cuts, middle
        else:
            low = middle
    return [pieces[start:stop] for start, stop in pairwise([*best, len(pieces)])]


def _cuts(pieces: Sequence[_Piece], most_rows: int, most_bytes: int) -> list[int]:
    """Where runs begin if each takes all that the bounds allow."""
    starts: list[int] = []
    rows = size = 0
    for i, piece in enumerate(pieces):
        if not starts or rows + piece.slice.rows > most_rows or size + piece.size_bytes > most_bytes:
            starts.append(i)
            rows = size = 0
        rows, size = rows + piece.slice.rows, size + piece.size_bytes
    return starts


def _merged(pieces: Sequence[_Piece]) -> tuple[Slice, ...]:
    """Neighbouring row groups of a file as one slice."""
    merged: list[Slice] = []
    for piece in (p.slice for p in pieces):
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
