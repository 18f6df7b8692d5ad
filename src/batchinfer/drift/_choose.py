"""The first pass over a reference: which columns are profiled, and on which bins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import field as attribute

import pyarrow as pa

from batchinfer.core import NOTHING_SENSITIVE, Sensitive
from batchinfer.drift._bins import MOST_CATEGORIES, OWN_BINS, Bins, Number, category_bins, numeric_bins
from batchinfer.drift._counting import categories_of, finite, numbers_of, profiled_type
from batchinfer.drift._profile import Column, Kind
from batchinfer.drift._sample import FixedSample
from batchinfer.errors import InputError

QUANTILE_ROWS = 1_000_000
"""Rows that the deciles are taken from; ranges, categories and counts are those of all rows."""

ScoredRows = tuple[pa.RecordBatch, pa.RecordBatch, pa.Array | None]
"""Features, predictions and, where the reference has groups, the group of each row."""


def choose_columns(
    batches: Iterable[ScoredRows], sensitive: Sensitive = NOTHING_SENSITIVE
) -> tuple[list[Column], dict[str, str]]:
    """The columns to profile, and those that are not with the reason.

    Sensitive features are categories, numbers too: hashes have no order. Numbers of which there are more than have
    a bin each are left out, as a run's would hardly be the same ones.

    Raises:
        InputError: there are no rows.
    """
    surveys: list[_Survey] = []
    left_out: dict[str, str] = {}
    sample, rows = FixedSample(QUANTILE_ROWS), 0
    for features, predictions, _ in batches:
        if not features.num_rows:
            continue
        if not rows:
            surveys, left_out = _begin(features.schema, predictions.schema, sensitive)
        for survey in surveys:
            survey.add(survey.column_of(features, predictions), sensitive)
        numeric = [survey for survey in surveys if survey.how == "numbers"]
        if numeric:
            columns = [survey.column_of(features, predictions) for survey in numeric]
            sample.add(pa.RecordBatch.from_arrays(columns, names=[s.name for s in numeric]), rows)
        rows += features.num_rows
    if not rows:
        raise InputError("the reference has no rows that the model can score")
    chosen = []
    for survey in surveys:
        if len(survey.counts) > survey.most:
            left_out[survey.name] = f"has more than {survey.most:,} different values"
        else:
            chosen.append(Column(survey.name, survey.kind, survey.field, survey.bins(sample)))
    return chosen, left_out


def _begin(
    features: pa.Schema, predictions: pa.Schema, sensitive: Sensitive
) -> tuple[list[_Survey], dict[str, str]]:
    surveys, left_out = [], {}
    kinds: list[tuple[Kind, pa.Schema]] = [("feature", features), ("prediction", predictions)]
    for kind, schema in kinds:
        for each in schema:
            shared = kind == "prediction" and each.name in features.names
            name = f"{each.name} (prediction)" if shared else each.name
            how, most = profiled_type(each.type), MOST_CATEGORIES
            hidden = kind == "feature" and each.name in sensitive
            if hidden and each.name in sensitive.dropped:
                left_out[name] = "sensitive"
                continue
            if hidden and how == "numbers":
                how, most = "categories", OWN_BINS
            if how is None:
                left_out[name] = f"{each.type} has no profile"
            else:
                surveys.append(_Survey(name, kind, each.name, how, most, hidden))
    return surveys, left_out


@dataclass(slots=True)
class _Survey:
    """What is known of a column so far."""

    name: str
    kind: Kind
    field: str
    how: str
    most: int
    hidden: bool
    low: Number | None = None
    high: Number | None = None
    counts: Counter[str] = attribute(default_factory=Counter)

    def column_of(self, features: pa.RecordBatch, predictions: pa.RecordBatch) -> pa.Array:
        return (features if self.kind == "feature" else predictions).column(self.field)

    def add(self, column: pa.Array, sensitive: Sensitive) -> None:
        if self.hidden:
            column = sensitive.hashed(self.field, column)
        if self.how == "numbers":
            if len(values := finite(numbers_of(column))):
                low, high = values.min().item(), values.max().item()
                self.low = low if self.low is None else min(self.low, low)
                self.high = high if self.high is None else max(self.high, high)
        elif len(self.counts) <= self.most:
            names, counts = categories_of(column)
            for name, count in zip(names.to_pylist(), counts.tolist(), strict=True):
                if name is not None and count:
                    self.counts[name] += count

    def bins(self, sample: FixedSample) -> Bins:
        if self.how == "categories":
            return category_bins(self.counts)
        column = sample.table().column(self.name).combine_chunks()
        return numeric_bins(finite(numbers_of(column)), self.low, self.high)
