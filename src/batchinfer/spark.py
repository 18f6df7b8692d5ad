"""Scoring for people who have a Spark DataFrame and not files: one function, through the one scoring path."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa

from batchinfer.core import Lineage, Refusals, ScoringPath, arrays
from batchinfer.errors import DigestMismatch, InputError, UsageError, needs
from batchinfer.model import Registry, Scorer, read_bundle

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["REASON", "score"]

REASON = "_reason"
"""The column that says why a row has no scores; null where it has them."""

_opening = threading.Lock()


def score(
    df: DataFrame,
    *,
    model: str,
    registry: str | None = None,
    on_refused: Literal["null", "raise"] = "null",
) -> DataFrame:
    """The DataFrame with the model's result columns beside its own, row for row. Lazy, as DataFrames are.

    Rows go from Spark to the Python workers in Arrow batches; each worker process loads the model once, and
    refuses one that is not what this process found under the name. Needs `batchinfer[cpu]` and pyspark on the
    workers, and a registry that they see.

    Args:
        df: the rows; it has the columns that the model reads. Classic Spark and Spark Connect.
        model: NAME@ALIAS, NAME@VERSION or a bundle's path. An alias is looked up now, not when the job runs.
        registry: the registry's folder or URL; by default BATCHINFER_REGISTRY, else `models` here.
        on_refused: what becomes of a row that the model cannot score. With "null" its result columns are null,
            and a column `_reason` says why; with "raise" the job fails at it.

    Raises:
        ModelError: no such model.
        InputError: a column that the model reads is missing, or one of the results' is there already.
        UsageError: `on_refused` is neither.
    """
    if on_refused not in {"null", "raise"}:  # a third would leave nulls, and no reason
        raise UsageError(f"on_refused is 'null' or 'raise', found {on_refused!r}")
    with needs("spark", "batchinfer.spark"):
        from pyspark.sql.pandas.types import from_arrow_schema
        from pyspark.sql.types import StringType, StructField, StructType
    scorer = Scorer.of(Registry(registry).resolve(model))
    added = list(from_arrow_schema(_plain(scorer.output_schema)))
    if on_refused == "null":
        added.append(StructField(REASON, StringType()))
    _check_columns(df.columns, scorer, [field.name for field in added])
    location, digest = scorer.bundle.location, scorer.bundle.manifest.digest
    if "://" not in location:
        location = str(Path(location).absolute())  # workers have working directories of their own

    def score_partition(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from _score(batches, location, digest, on_refused)

    return df.mapInArrow(score_partition, StructType([*df.schema.fields, *added]))


def _check_columns(columns: list[str], scorer: Scorer, added: list[str]) -> None:
    for name in scorer.columns:
        if name not in columns:
            raise InputError(f"the DataFrame has no column '{name}', which the model takes", column=name)
    there = {name.lower() for name in columns}  # Spark takes names that differ in their case alone for one
    for name in added:
        if name.lower() in there:
            raise InputError(
                f"the DataFrame has a column '{name}' already, which scoring would add",
                next_step="rename or drop it",
                column=name,
            )


def _plain(schema: pa.Schema) -> pa.Schema:
    """Result types as Spark has them: it knows no lists of fixed size, and no half floats."""
    return pa.schema([pa.field(field.name, _spark_type(field.type)) for field in schema])


def _spark_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_spark_type(kind.value_type))
    if pa.types.is_float16(kind):
        return pa.float32()
    widened = {
        pa.uint8(): pa.int16(),
        pa.uint16(): pa.int32(),
        pa.uint32(): pa.int64(),
        pa.uint64(): pa.int64(),
    }
    return widened.get(kind, kind)


def _score(
    batches: Iterator[pa.RecordBatch], location: str, digest: str, on_refused: str
) -> Iterator[pa.RecordBatch]:
    """In a Python worker: the rows of a partition, with their results."""
    with _opening:
        path = _path(location, digest)
    first_row = 0
    for batch in batches:
        if not batch.num_rows:
            continue
        positions = arrays.from_numpy(np.arange(first_row, first_row + batch.num_rows))
        first_row += batch.num_rows
        scored = path.score(batch, Lineage(path.model.identity, "", "this partition", positions))
        predictions, refused = scored.predictions, scored.refused
        if refused and on_refused == "raise":
            raise InputError(
                f"{len(refused)} of {batch.num_rows} rows cannot be scored: {refused.reason(0).text}",
                next_step="handle such rows before, or take on_refused='null'",
            )
        if refused:
            places = np.zeros(batch.num_rows, np.int64)
            places[refused.rows] = -1
            places[places == 0] = np.arange(predictions.num_rows)
            predictions = predictions.take(pa.array(places, mask=places < 0))
        plain = _plain(predictions.schema)
        columns = [column.cast(field.type) for column, field in zip(predictions.columns, plain, strict=True)]
        names = [*batch.schema.names, *plain.names]
        if on_refused == "null":
            columns.append(_reasons(refused, batch.num_rows))
            names.append(REASON)
        yield pa.RecordBatch.from_arrays([*batch.columns, *columns], names=names)


def _reasons(refused: Refusals, rows: int) -> pa.Array:
    if not refused:
        return pa.nulls(rows, pa.string())
    texts = arrays.from_texts([reason.text for reason in refused.reasons])
    codes = np.full(rows, -1, np.int32)
    codes[refused.rows] = refused.codes
    return texts.take(pa.array(codes, mask=codes < 0))


@lru_cache(maxsize=4)
def _path(location: str, digest: str) -> ScoringPath:
    bundle = read_bundle(location)
    if bundle.manifest.digest != digest:
        raise DigestMismatch(
            f"{location}: the worker finds {bundle.identity} with digest {bundle.manifest.digest}, "
            f"the driver found {digest}",
            next_step="give driver and workers one registry",
            path=location,
            expected=digest,
            found=bundle.manifest.digest,
        )
    return ScoringPath(Scorer.of(bundle), None, [], [])
