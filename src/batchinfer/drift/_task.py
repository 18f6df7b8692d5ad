"""Which question the labels answer: is the model a classifier of two classes, of more, or a regression?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from batchinfer.errors import UsageError

_MOST_CLASSES = 50


@dataclass(frozen=True, slots=True)
class Predictions:
    """The result columns that the model writes, and what its bundle says of them.

    Attributes:
        columns: all of them that hold one value a row.
        probabilities: the columns that are the probability of a class, by class.
        classes: all classes, in the graph's order; some may have no column.
    """

    columns: tuple[str, ...]
    probabilities: Mapping[int | str, str] = field(default_factory=dict)
    classes: tuple[int | str, ...] = ()


@dataclass(frozen=True, slots=True)
class Task:
    """How predictions are held against labels.

    Attributes:
        kind: binary, multiclass or regression.
        value: the column of the predicted class, or of the predicted number; None where there are only probabilities.
        probabilities: by class; the positive one alone where there are two classes.
        positive: the class that a binary probability is of.
    """

    kind: Literal["binary", "multiclass", "regression"]
    value: str | None
    probabilities: Mapping[str, str] = field(default_factory=dict)
    positive: str | None = None


def choose_task(rows: pa.Table, target: str, predictions: Predictions) -> Task:
    """What the outputs and the labels are to each other.

    Probabilities of classes make a classification. So does a predicted class (text, boolean or a whole number) where
    the labels are of no more than 50 values. One fractional number is a regression, or the probability of the
    positive class where the labels are boolean, or 0 and 1, and the number never leaves 0 to 1.

    Raises:
        UsageError: the outputs and the labels fit no question, or all labels are the same.
    """
    labels = _distinct(rows[target])
    if len(labels) < 2:
        raise UsageError(
            f"all labels are {labels[0] if labels else 'null'}: nothing can be measured against one value",
            next_step="give the labels of more rows",
            column=target,
        )
    fractional = [name for name in predictions.columns if pa.types.is_floating(rows[name].type)]
    whole = [name for name in predictions.columns if name not in fractional]
    if predictions.probabilities:
        return _of_probabilities(labels, target, whole, predictions)
    if whole and len(labels) <= _MOST_CLASSES and not _is_fractional(rows[target]):
        return _of_classes(rows, labels, whole[0])
    numbers = fractional or whole
    if len(numbers) != 1:
        raise UsageError(
            f"the model writes {', '.join(numbers) or 'no number'}: it is unclear which of them predicts '{target}'",
            next_step="name the classes of the probabilities in the bundle's model.yaml (outputs: columns)",
            found=list(numbers),
        )
    if set(labels) <= {"0", "1"} and _is_share(rows[numbers[0]]):
        return Task("binary", None, {"1": numbers[0]}, "1")
    if not _is_number(rows[target].type):
        raise UsageError(
            f"the labels '{target}' are {rows[target].type}, but the model writes the number '{numbers[0]}'",
            next_step="give labels that are numbers",
            column=target,
        )
    return Task("regression", numbers[0])


def class_texts(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Classes as text, so that true, 1 and 1.0 are the same class."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    if pa.types.is_floating(values.type) and not _is_fractional(values):
        values = values.cast(pa.int64())
    return values.cast(pa.string())


def _of_probabilities(labels: list[str], target: str, whole: list[str], predictions: Predictions) -> Task:
    by_class = {str(name): column for name, column in predictions.probabilities.items()}
    classes = [str(name) for name in predictions.classes] or list(by_class)
    if strange := [label for label in labels if label not in classes]:
        raise UsageError(
            f"the label '{strange[0]}' of '{target}' is none of the model's classes: {', '.join(classes)}",
            column=target,
            found=strange,
            expected=classes,
        )
    value = whole[0] if whole else None
    if len(classes) == 2:
        positive = classes[1] if classes[1] in by_class else classes[0]
        return Task("binary", value, {positive: by_class[positive]}, positive)
    if set(by_class) == set(classes):
        return Task("multiclass", value, by_class)
    if value is None:
        missing = next(name for name in classes if name not in by_class)
        raise UsageError(
            f"the class '{missing}' has no probability column, and no column holds the predicted class",
            next_step="write all probabilities, or the class: outputs in the bundle's model.yaml",
        )
    return Task("multiclass", value)


def _of_classes(rows: pa.Table, labels: list[str], value: str) -> Task:
    classes = sorted({*labels, *_distinct(rows[value])})
    if len(classes) == 2:
        return Task("binary", value, {}, classes[1])
    return Task("multiclass", value)


def _distinct(values: pa.ChunkedArray) -> list[str]:
    return sorted(class_texts(values).drop_null().unique().to_pylist())


def _is_fractional(values: pa.ChunkedArray) -> bool:
    if not pa.types.is_floating(values.type):
        return bool(pa.types.is_decimal(values.type))
    return bool(
        pc.any(pc.not_equal(values, pc.floor(values))).as_py() or not pc.all(pc.is_finite(values)).as_py()
    )


def _is_share(values: pa.ChunkedArray) -> bool:
    ends = pc.min_max(values)
    low, high = ends["min"].as_py(), ends["max"].as_py()
    return low is not None and 0 <= low <= high <= 1


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))
