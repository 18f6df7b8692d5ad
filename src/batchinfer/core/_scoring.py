"""The one scoring path: a batch of input rows becomes result rows and quarantined rows.

Batch on one machine, on any cluster, and the stream call `ScoringPath.score`, and nothing else scores.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from batchinfer.core import arrays
from batchinfer.core._ports import BlockMap, Model
from batchinfer.core._results import Lineage, quarantine_schema, result_schema
from batchinfer.core._transform import Transform
from batchinfer.errors import InputError


@dataclass(frozen=True, slots=True)
class Scored:
    """What became of a batch: each of its rows is in `results` or in `quarantine`, once.

    `quarantine` is None where no row was refused. `reasons` counts the quarantined rows by reason,
    `nonfinite` the NaN and infinite values by result column.
    """

    results: pa.RecordBatch
    quarantine: pa.RecordBatch | None
    reasons: dict[str, int]
    nonfinite: dict[str, int]


class ScoringPath:
    """check → transform → score, for one pipeline and one loaded model. Thread-safe.

    Args:
        model: scores feature batches.
        transform: from input columns to the model's columns; None where they are the same.
        key: fields of the columns that name a row, as results hold them.
        carry: fields of the columns copied beside the predictions.
    """

    def __init__(
        self,
        model: Model,
        transform: Transform | None,
        key: Sequence[pa.Field],
        carry: Sequence[pa.Field],
    ) -> None:
        self.model = model
        self.result_schema = result_schema([*key, *carry], model.output_schema)
        self.quarantine_schema = quarantine_schema(key)
        self._transform = transform
        self._kept = [*key, *carry]
        self._key_columns = len(key)

    def score(self, batch: pa.RecordBatch, lineage: Lineage, blocks: BlockMap[Any, Any] = map) -> Scored:
        """Score a batch of at least one row.

        A row's result does not depend on its neighbours, as far as the model's certificate goes.

        Raises:
            TransformError: the transform raised, changed the number of rows or its schema.
            InputError: a column is missing, or a kept value cannot be stored; names it.
            ModelError: the model cannot score at all.
        """
        kept = [_stored(batch, field, lineage) for field in self._kept]
        features = batch if self._transform is None else self._transform(batch, _place(lineage))
        predictions, refused = self.model.score_rows(features, blocks)
        quarantine = None
        if refused:
            bad = arrays.from_numpy(refused.rows)
            quarantine = pa.RecordBatch.from_arrays(
                [
                    *(column.take(bad) for column in kept[: self._key_columns]),
                    arrays.from_texts(refused.reasons),
                    *lineage.take(bad).columns(),
                ],
                schema=self.quarantine_schema,
            )
            good = arrays.from_numpy(np.delete(np.arange(batch.num_rows), refused.rows))
            kept = [column.take(good) for column in kept]
            lineage = lineage.take(good)
        results = [*kept, *predictions.columns, *lineage.columns()]
        return Scored(
            pa.RecordBatch.from_arrays(
                [_as(column, field.type) for column, field in zip(results, self.result_schema, strict=True)],
                schema=self.result_schema,
            ),
            quarantine,
            dict(Counter(refused.reasons)),
            _count_nonfinite(predictions),
        )


def _as(column: pa.Array, kind: pa.DataType) -> pa.Array:
    return column if column.type == kind else column.cast(kind)


def _stored(batch: pa.RecordBatch, field: pa.Field, lineage: Lineage) -> pa.Array:
    if batch.schema.get_field_index(field.name) < 0:
        raise InputError(
            f"{lineage.source}: no column '{field.name}'", path=lineage.source, column=field.name
        )
    try:
        return _as(batch.column(field.name), field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as e:
        raise InputError(
            f"{_place(lineage)}: column '{field.name}' cannot be stored as {field.type}: {e}",
            path=lineage.source,
            column=field.name,
        ) from e


def _place(lineage: Lineage) -> str:
    positions = lineage.positions
    return f"{lineage.source}, rows {positions[0]} to {positions[-1]}"


def _count_nonfinite(predictions: pa.RecordBatch) -> dict[str, int]:
    counts = {}
    for field, column in zip(predictions.schema, predictions.columns, strict=True):
        values = column.flatten() if pa.types.is_nested(field.type) else column
        if pa.types.is_floating(values.type):
            # The sum of finite scores is finite: one pass that allocates nothing decides for most batches.
            view, _ = arrays.to_numpy(values)
            with np.errstate(over="ignore", invalid="ignore"):
                if np.isfinite(np.add.reduce(view)):
                    continue
            if bad := int(np.count_nonzero(~np.isfinite(view))):
                counts[field.name] = bad
    return counts
