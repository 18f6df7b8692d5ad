"""The one scoring path: a batch of input rows becomes result rows and quarantined rows.

Batch on one machine, on any cluster, and the stream call `ScoringPath.score`, and nothing else scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from batchinfer.core import arrays
from batchinfer.core._ports import BlockMap, Checks, Model, Profiler, Reason, Refusals, Tally
from batchinfer.core._results import Lineage, result_schema
from batchinfer.core._sensitive import NOTHING_SENSITIVE, Sensitive, without_values
from batchinfer.core._transform import Transform
from batchinfer.errors import InputError, ModelError


@dataclass(frozen=True, slots=True)
class Scored:
    """What became of a batch: each of its rows is in `results` or in `refused`, once.

    `features`, `predictions` and `lineage` are those of the scored rows. `nonfinite` counts the NaN and
    infinite values by result column; `checks` is the tally of all rows, `profile` that of the scored rows,
    each None where the path has no such part.
    """

    results: pa.RecordBatch
    features: pa.RecordBatch
    predictions: pa.RecordBatch
    lineage: Lineage
    refused: Refusals
    nonfinite: dict[str, int]
    checks: Tally | None = None
    profile: Tally | None = None


class ScoringPath:
    """check → transform → score → profile, for one pipeline and one loaded model. Thread-safe.

    Args:
        model: scores feature batches.
        transform: from input columns to the model's columns; None where they are the same.
        key: fields of the columns that name a row, as results hold them.
        carry: fields of the columns copied beside the predictions.
        checks: run on every row as it is read; rows that they refuse are not scored.
        profiler: profiles the features and predictions of every scored row.
        sensitive: columns that the results hold as hashes, and whose values no error and no reason quotes.
    """

    def __init__(
        self,
        model: Model,
        transform: Transform | None,
        key: Sequence[pa.Field],
        carry: Sequence[pa.Field],
        *,
        checks: Checks | None = None,
        profiler: Profiler | None = None,
        sensitive: Sensitive = NOTHING_SENSITIVE,
    ) -> None:
        self.model = model
        self.checks = checks
        self.profiler = profiler
        self.result_schema = result_schema([*key, *carry], model.output_schema)
        self._transform = transform
        self._kept = [*key, *carry]
        self._sensitive = sensitive
        self._hashed = sensitive.in_results

    def score(self, batch: pa.RecordBatch, lineage: Lineage, blocks: BlockMap[Any, Any] = map) -> Scored:
        """Score a batch of at least one row.

        A row's result does not depend on its neighbours, as far as the model's certificate goes.

        Raises:
            TransformError: the transform raised, changed the number of rows or its schema, or does not return what
                the model takes.
            InputError: a column is missing, or a kept value cannot be stored; names it.
            ModelError: the model cannot score at all.
        """
        refused, checked = Refusals.none(), None
        if self.checks is not None:
            refused, checked = self.checks.check(batch, lineage)
        if not refused:
            return replace(self._score(batch, lineage, blocks), checks=checked)
        passed = refused.others(batch)
        places = arrays.from_numpy(passed)
        scored = self._score(batch.take(places), lineage.take(places), blocks)
        return replace(scored, refused=refused.joined(scored.refused.of(passed)), checks=checked)

    def _score(self, batch: pa.RecordBatch, lineage: Lineage, blocks: BlockMap[Any, Any]) -> Scored:
        kept = [self._stored(batch, field, lineage) for field in self._kept]
        features = batch
        if self._transform is not None and batch.num_rows:
            features = self._transform(batch, _place(lineage), quotes=not self._sensitive)
        try:
            predictions, refused = self._predict(features, blocks)
        except InputError as e:
            if self._transform is None:
                raise
            raise self._transform.misfit(e, _place(lineage)) from e
        if refused:
            good = arrays.from_numpy(refused.others(batch))
            kept = [column.take(good) for column in kept]
            lineage = lineage.take(good)
            features = features.take(good)
        profile = None
        if self.profiler is not None and features.num_rows:
            profile = self.profiler.profile(features, predictions)
        results = [*kept, *predictions.columns, *lineage.columns()]
        return Scored(
            pa.RecordBatch.from_arrays(
                [_as(column, field.type) for column, field in zip(results, self.result_schema, strict=True)],
                schema=self.result_schema,
            ),
            features,
            predictions,
            lineage,
            refused,
            _count_nonfinite(predictions),
            profile=profile,
        )

    def _predict(
        self, features: pa.RecordBatch, blocks: BlockMap[Any, Any]
    ) -> tuple[pa.RecordBatch, Refusals]:
        if features.num_rows and self._sensitive:
            return self._predict_quietly(features, blocks)
        if features.num_rows:
            return self.model.score_rows(features, blocks)
        schema = self.model.output_schema
        return pa.RecordBatch.from_arrays(
            [pa.nulls(0, field.type) for field in schema], schema=schema
        ), Refusals.none()

    def _predict_quietly(
        self, features: pa.RecordBatch, blocks: BlockMap[Any, Any]
    ) -> tuple[pa.RecordBatch, Refusals]:
        """What the model's runtime says of a row that it cannot score may quote it."""
        try:
            predictions, refused = self.model.score_rows(features, blocks)
        except ModelError as e:
            quiet = type(e)(without_values(e.message), next_step=e.next_step)
        else:
            reasons = tuple(Reason(without_values(r.text), r.expectations) for r in refused.reasons)
            return predictions, replace(refused, reasons=reasons)
        raise quiet

    def _stored(self, batch: pa.RecordBatch, field: pa.Field, lineage: Lineage) -> pa.Array:
        if batch.schema.get_field_index(field.name) < 0:
            raise InputError(
                f"{lineage.source}: no column '{field.name}'", path=lineage.source, column=field.name
            )
        column = batch.column(field.name)
        if field.name in self._hashed:
            return self._hashed.hashed(field.name, column)
        try:
            return _as(column, field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as e:
            why = "" if field.name in self._sensitive else f": {e}"
            refusal = InputError(
                f"{_place(lineage)}: column '{field.name}' cannot be stored as {field.type}{why}",
                path=lineage.source,
                column=field.name,
            )
        raise refusal


def _as(column: pa.Array, kind: pa.DataType) -> pa.Array:
    return column if column.type == kind else column.cast(kind)


def _place(lineage: Lineage) -> str:
    """Where rows lie, for messages. Of a stream's rows nothing that differs by row: their reasons are counted."""
    if lineage.sources is not None:
        return "a message"
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
