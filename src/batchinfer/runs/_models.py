"""Adding a model: the registry's own checks, and the reference that its runs' drift is measured against."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batchinfer import model
from batchinfer.core import NOTHING_SENSITIVE, Handling, Sensitive, arrays, views
from batchinfer.drift import FixedSample, ScoredRows, build_reference
from batchinfer.errors import InputError, UsageError
from batchinfer.model import PROFILE, REFERENCE, Bundle, Scorer

SAMPLE_ROWS = 5_000
_BATCH_ROWS = 16_384


def add_model(
    name: str,
    *,
    onnx: str | Path,
    sample: str | Path,
    config: str | Path | Mapping[str, Any] | None = None,
    reference: str | Path | None = None,
    reference_by: str | None = None,
    sensitive: Mapping[str, Handling] | None = None,
    registry: str | None = None,
    alias: str | None = None,
) -> Bundle:
    """Make a bundle of an ONNX model, with its reference, and put it into a registry as its next version.

    Args:
        name, onnx, sample, config, registry, alias: see `batchinfer.model.add_model`.
        reference: a Parquet file with the rows that the model was trained on. They are scored; their profile
            and up to 5,000 of them, with the scores and all other columns, become part of the bundle.
        reference_by: a column of the reference that groups its rows as runs will, as the day.
        sensitive: columns of the reference that the bundle holds hashed, or not at all (drop), as the spec's
            `input.sensitive`.

    Raises:
        ModelError, InputError: see `batchinfer.model.add_model`.
        InputError: the reference cannot be read or scored, has no rows, or cannot be grouped.
        SpecError: columns are to be hashed, and there is no key.
    """
    if reference_by is not None and reference is None:
        raise UsageError("--reference-by groups the rows of a reference, and there is none")
    hides = Sensitive.of(sensitive) if sensitive else NOTHING_SENSITIVE
    describe = None if reference is None else partial(_describe, Path(reference), reference_by, hides)
    return model.add_model(
        name, onnx=onnx, sample=sample, config=config, describe=describe, registry=registry, alias=alias
    )


def _describe(
    path: Path, group_column: str | None, sensitive: Sensitive, scorer: Scorer, folder: Path
) -> None:
    """Write `profile.json` and `reference.parquet`. Rows are scored once, and kept on disk for the second pass."""
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as e:
        raise InputError(f"{path}: cannot read the reference: {e}", path=str(path)) from e
    with file, tempfile.TemporaryDirectory(prefix="batchinfer-reference-") as temporary:
        _check_columns(path, file.schema_arrow, scorer, group_column, sensitive)
        scored = Path(temporary) / "scored.arrows"
        sample = _score(_read(file, path), scorer, group_column, scored)
        if sample is None:
            raise InputError(f"{path}: the reference has no rows that the model can score", path=str(path))
        reference = build_reference(
            partial(_read_scored, scored), group_column=group_column, sensitive=sensitive
        )
        (folder / PROFILE).write_text(reference.to_json(), encoding="utf-8")
        pq.write_table(sensitive.hide_table(sample), folder / REFERENCE, compression="zstd")


def _check_columns(
    path: Path, schema: pa.Schema, scorer: Scorer, group_column: str | None, sensitive: Sensitive
) -> None:
    try:
        scorer.check_columns({field.name: field.type for field in schema})
    except InputError as e:
        raise InputError(
            f"{path}: {e.message}", next_step=e.next_step, **{"path": str(path), **e.fields}
        ) from e
    if group_column is not None and group_column not in schema.names:
        raise InputError(
            f"{path}: no column '{group_column}' to group the reference by",
            next_step=f"it has {', '.join(schema.names)}",
            path=str(path),
            column=group_column,
        )
    for column in sensitive.columns:
        if column not in schema.names:
            raise InputError(
                f"{path}: no column '{column}', which is said to be sensitive",
                next_step=f"it has {', '.join(schema.names)}",
                path=str(path),
                column=column,
            )
    predicted = set(scorer.output_schema.names) - set(scorer.columns)
    if taken := sorted(predicted & set(schema.names)):
        raise InputError(
            f"{path}: the column '{taken[0]}' has the name of a prediction",
            next_step=f"give it another name in the reference, as {taken[0]}_label",
            path=str(path),
            column=taken[0],
        )


def _read(file: pq.ParquetFile, path: Path) -> Iterator[pa.RecordBatch]:
    batches = file.iter_batches(_BATCH_ROWS)
    while True:
        try:
            batch = next(batches, None)
        except (OSError, pa.ArrowException) as e:
            raise InputError(
                f"{path}: cannot read the reference: {e}",
                next_step="write this file again",
                path=str(path),
            ) from e
        if batch is None:
            return
        yield views.free_batch(batch)


def _score(
    batches: Iterable[pa.RecordBatch], scorer: Scorer, group_column: str | None, target: Path
) -> pa.Table | None:
    """Write the scored rows to `target`; returns a sample of them, None where there are none."""
    sample, scored_rows, position = FixedSample(SAMPLE_ROWS), 0, 0
    writer: pa.ipc.RecordBatchStreamWriter | None = None
    with ThreadPoolExecutor() as threads, pa.OSFile(str(target), "wb") as sink:
        for batch in batches:
            predictions, refused = scorer.score_rows(batch.select(scorer.columns), threads.map)
            position += batch.num_rows
            if len(refused):
                good = np.delete(np.arange(batch.num_rows), refused.rows)
                batch = batch.take(arrays.from_numpy(good))  # noqa: PLW2901
            if not batch.num_rows:
                continue
            parts = {
                "features": batch.select(scorer.columns).to_struct_array(),
                "predictions": predictions.to_struct_array(),
            }
            if group_column is not None:
                parts["group"] = batch.column(group_column)
            scored = pa.RecordBatch.from_arrays(list(parts.values()), names=list(parts))
            if writer is None:
                writer = pa.ipc.new_stream(sink, scored.schema)
            writer.write_batch(scored)
            sample.add(_beside(batch, predictions), scored_rows)
            scored_rows += batch.num_rows
        if writer is None:
            return None
        writer.close()
    return sample.table()


def _beside(batch: pa.RecordBatch, predictions: pa.RecordBatch) -> pa.RecordBatch:
    """All columns of the reference, then the predictions."""
    held = batch.schema.names
    names = [f"{name} (prediction)" if name in held else name for name in predictions.schema.names]
    return pa.RecordBatch.from_arrays([*batch.columns, *predictions.columns], names=[*held, *names])


def _read_scored(path: Path) -> Iterator[ScoredRows]:
    with pa.OSFile(str(path), "rb") as source, pa.ipc.open_stream(source) as stream:
        for batch in stream:
            group = batch.column("group") if "group" in batch.schema.names else None
            features, predictions = (
                pa.RecordBatch.from_struct_array(batch.column(name)) for name in ("features", "predictions")
            )
            yield features, predictions, group
