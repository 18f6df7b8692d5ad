"""Quarantined rows: kept as the input holds them, with all their columns and why they were refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from batchinfer import source
from batchinfer.core import (
    NOTHING_SENSITIVE,
    Lineage,
    Partition,
    Reason,
    Refusals,
    Sensitive,
    StagedPart,
    StagingArea,
    WorkUnit,
    arrays,
    files,
    quarantine_schema,
)
from batchinfer.errors import InputError, StoreError
from batchinfer.store import PartWriter, ResultsStore

PartWriterFor = Callable[[pa.Schema], PartWriter]


@dataclass(frozen=True, slots=True)
class Original:
    """A column of the input, and the field that the quarantine keeps it in."""

    column: str
    field: pa.Field


def begin_quarantine(
    table: ResultsStore, run_id: str, originals: Sequence[pa.Field], partitions: Sequence[Partition]
) -> tuple[Original, ...]:
    """Open the table, or provide for one, for rows with these columns; says in which field each is kept.

    A column whose type is not the one that the table has goes into one of its own, `NAME (TYPE)`: rows that are
    set aside must stop no run, and those that were set aside before must not be lost.

    Raises:
        StoreError: the table cannot be written or may not be made, or is partitioned otherwise.
    """
    kept = tuple(Original(field.name, field) for field in originals)
    if not table.exists():
        table.provide(quarantine_schema(originals))
        return kept
    try:
        table.begin(run_id, quarantine_schema(originals), partitions)
    except StoreError as e:
        unlike = set(e.fields.get("columns", ()))
        if not unlike.intersection(field.name for field in originals):
            raise
        kept = tuple(
            Original(
                o.column, o.field.with_name(f"{o.column} ({o.field.type})") if o.column in unlike else o.field
            )
            for o in kept
        )
        table.begin(run_id, stored_schema(kept), partitions)
    return kept


def stored_schema(originals: Sequence[Original]) -> pa.Schema:
    """The columns of a quarantine part."""
    return quarantine_schema([original.field for original in originals])


def staged_schema(staging: StagingArea, parts: Sequence[StagedPart]) -> pa.Schema:
    """The columns that staged parts have: also of an earlier attempt, for which the table was another."""
    schemas = []
    for part in parts:
        filesystem, path = files.locate(files.join(staging.parts, part.path))
        with filesystem.open_input_file(path) as file:
            schemas.append(pq.read_schema(file))
    return pa.unify_schemas(schemas)


class UnitQuarantine:
    """Collects a unit's refused rows, and stages them at its end. Not thread-safe: one worker thread owns it.

    Scoring reads only the columns that it needs. Refused rows are few, so all their columns are read when
    the unit's last row is scored, from the row groups that hold such rows.

    Args:
        unit: whose rows.
        originals: the input's columns, and the fields that they are kept in.
        model: `name@version`, for the lineage.
        run_id: the run's id, for the lineage.
        sensitive: columns that are kept as hashes.
    """

    def __init__(
        self,
        unit: WorkUnit,
        originals: Sequence[Original],
        model: str,
        run_id: str,
        sensitive: Sensitive = NOTHING_SENSITIVE,
    ) -> None:
        self._unit = unit
        self._originals = originals
        self._model = model
        self._run_id = run_id
        self._sensitive = sensitive
        self._reasons: list[Reason] = []
        self._refused: dict[str, list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]]] = {}

    def add(self, refused: Refusals, path: str, first_row: int) -> None:
        """Take the refused rows of a batch that begins at `first_row` of the file at `path`."""
        known = {reason: place for place, reason in enumerate(self._reasons)}
        for reason in refused.reasons:
            if known.setdefault(reason, len(known)) == len(self._reasons):
                self._reasons.append(reason)
        codes = np.array([known[reason] for reason in refused.reasons], np.int32)[refused.codes]
        self._refused.setdefault(path, []).append((refused.rows + first_row, codes))

    def stage(self, writer_for: PartWriterFor) -> StagedPart | None:
        """Write the rows; None, and nothing written, where there are none.

        Raises:
            InputChanged, InputError, StoreError: see `source.read_rows` and `PartWriter`.
        """
        if not self._refused:
            return None
        schema = stored_schema(self._originals)
        writer = writer_for(schema)
        refused = {
            path: tuple(np.concatenate(pieces) for pieces in zip(*batches, strict=True))
            for path, batches in self._refused.items()
        }
        for rows, path, positions in source.read_rows(self._unit, {p: r for p, (r, _) in refused.items()}):
            places, codes = refused[path]
            here = codes[np.searchsorted(places, positions)]
            lineage = Lineage(self._model, self._run_id, path, arrays.from_numpy(positions))
            columns = [self._original(rows, original, path) for original in self._originals]
            columns += [*self._why(here), *lineage.columns()]
            writer.write(pa.RecordBatch.from_arrays(columns, schema=schema))
        return writer.finish()

    def _original(self, rows: pa.RecordBatch, original: Original, path: str) -> pa.Array:
        if original.column not in self._sensitive or rows.schema.get_field_index(original.column) < 0:
            return _original(rows, original, path)
        return self._sensitive.hashed(original.column, rows.column(original.column))

    def _why(self, codes: npt.NDArray[np.int32]) -> tuple[pa.Array, pa.Array]:
        """The reason and the failed expectations of each row: each distinct one is made once."""
        places = arrays.from_numpy(codes)
        names = [reason.expectations for reason in self._reasons]
        offsets = arrays.from_numpy(np.cumsum([0, *map(len, names)]).astype(np.int32))
        flat = arrays.from_texts([name for names_ in names for name in names_])
        texts = arrays.from_texts([reason.text for reason in self._reasons])
        return texts.take(places), pa.ListArray.from_arrays(offsets, flat).take(places)


def _original(rows: pa.RecordBatch, original: Original, path: str) -> pa.Array:
    """A column of the input as the quarantine holds it; null where this file has no such column."""
    field = original.field
    place = rows.schema.get_field_index(original.column)
    if place < 0:
        return pa.nulls(rows.num_rows, field.type)
    column = rows.column(place)
    if column.type == field.type:
        return column
    try:
        return column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as e:
        if pa.types.is_string(field.type):
            values = column.to_pylist()  # a type that no store holds: JSON says it best
            return pa.array([None if v is None else json.dumps(v, default=str) for v in values], pa.string())
        raise InputError(
            f"{path}: column '{original.column}' cannot be kept as {field.type} in quarantine: {e}",
            next_step=f"write the column so that {field.type} holds it, or leave it out of the file",
            path=path,
            column=original.column,
        ) from e
