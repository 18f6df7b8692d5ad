"""The reports that Evidently writes of a sample, for people who know them. The verdict on a run is not taken here."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from batchinfer.core import files
from batchinfer.drift._task import Predictions, Task, choose_task, class_texts
from batchinfer.errors import BatchinferError, InputError, needs

if TYPE_CHECKING:
    import pandas as pd

_Kind = Literal["number", "category"]


def write_drift_report(
    reference: pa.Table,
    current: pa.Table,
    *,
    measured: Mapping[str, Mapping[str, Any]],
    drifted_columns: float,
    path: str,
) -> dict[str, str]:
    """Write Evidently's data drift reports of the predictions and the features, and its data summary, as one page.

    Distributions and statistics are the samples'. The score, limit and verdict of each column are those measured on
    all rows: Evidently's own tests know no natural variation and would call most days drifted, and two reports that
    contradict each other help nobody. The page needs no network to be read, and none is used to write it.

    Args:
        reference: a sample of the reference's rows, with predictions.
        current: a sample of the run's.
        measured: `columns` of the run's `DriftReport.to_dict()`; of each `kind`, `psi`, `limit` and `drifted` are used.
        drifted_columns: the pipeline's threshold for the share of drifted features.
        path: the HTML file, or its URL.

    Returns:
        The columns that are left out, with the reason.

    Raises:
        InputError: a sample has no rows, or no column can be shown.
        MissingExtra: Evidently is not installed.
        BatchinferError: Evidently failed.
    """
    for table, name in ((reference, "reference"), (current, "run")):
        if not table.num_rows:
            raise InputError(f"the sample of the {name} has no rows: there is nothing to report")
    kinds, left_out = _kinds(reference, current, list(measured))
    if not kinds:
        raise InputError(f"no column can be shown: {_listed(left_out)}", left_out=left_out)
    predictions = [name for name in kinds if measured[name]["kind"] == "prediction"]
    features = [name for name in kinds if name not in predictions]
    with _evidently():
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset, DataSummaryPreset

        definition = DataDefinition(
            numerical_columns=[name for name, kind in kinds.items() if kind == "number"],
            categorical_columns=[name for name, kind in kinds.items() if kind == "category"],
        )
        datasets = [
            Dataset.from_pandas(_frame(table, kinds), data_definition=definition)
            for table in (current, reference)
        ]
        verdicts = {name: _verdict(name, measured[name]) for name in kinds}
        limits = {name: measured[name]["limit"] for name in kinds}
        # One drifted prediction raises the alarm. For features Evidently asks for the share or more, we for more.
        shares = ((predictions, 1 / max(len(predictions), 1)), (features, round(drifted_columns + 1e-6, 6)))
        presets = [
            DataDriftPreset(
                columns=names,
                per_column_method=verdicts,
                per_column_threshold=limits,
                drift_share=drift_share,
            )
            for names, drift_share in shares
            if names
        ]
        _write(Report([*presets, DataSummaryPreset()]).run(*datasets), path)
    return left_out


def _verdict(name: str, measured: Mapping[str, Any]) -> Any:
    """What was measured on all rows, in the shape of a statistical test of Evidently's."""
    from evidently.legacy.calculations.stattests import StatTest, register_stattest
    from evidently.legacy.core import ColumnType

    kinds = [ColumnType.Numerical, ColumnType.Categorical]
    found = StatTest(f"psi_of_all_rows_{name}", "PSI of all rows", kinds, measured["limit"])
    register_stattest(found, lambda *_: (measured["psi"], measured["drifted"]))
    return found


def write_labels_report(rows: pa.Table, *, target: str, predictions: Predictions, path: str) -> Task:
    """Write Evidently's classification or regression report of rows whose label is known, as one page.

    Args:
        rows: with the predictions and the label.
        target: the label's column.
        predictions: the model's outputs; which report it is follows from them and the labels, see `choose_task`.
        path: the HTML file, or its URL.

    Returns:
        What was reported.

    Raises:
        UsageError: outputs and labels fit no report, or all labels are the same.
        MissingExtra: Evidently is not installed.
        BatchinferError: Evidently failed.
    """
    task = choose_task(rows, target, predictions)
    with _evidently():
        from evidently import (
            BinaryClassification,
            DataDefinition,
            Dataset,
            MulticlassClassification,
            Regression,
            Report,
        )
        from evidently.presets import ClassificationPreset, RegressionPreset

        frame, numeric, classes = _task_frame(rows, target, task)
        columns = {"numerical_columns": numeric, "categorical_columns": classes}
        if task.kind == "regression":
            mapping = Regression(target=target, prediction=task.value)
            definition = DataDefinition(**columns, regression=[mapping])
            preset = RegressionPreset()
        else:
            if task.kind == "binary":
                mapping = BinaryClassification(
                    target=target,
                    prediction_labels=task.value,
                    prediction_probas=next(iter(task.probabilities.values()), None),
                    pos_label=task.positive,
                )
            else:
                mapping = MulticlassClassification(
                    target=target,
                    prediction_labels=task.value,
                    prediction_probas=list(task.probabilities) or None,
                )
            definition = DataDefinition(**columns, classification=[mapping])
            preset = ClassificationPreset()
        dataset = Dataset.from_pandas(frame, data_definition=definition)
        _write(Report([preset]).run(dataset, None), path)
    return task


def _kinds(
    reference: pa.Table, current: pa.Table, names: Sequence[str]
) -> tuple[dict[str, _Kind], dict[str, str]]:
    kinds: dict[str, _Kind] = {}
    left_out: dict[str, str] = {}
    for name in names:
        absent = [
            where
            for table, where in ((reference, "reference"), (current, "run"))
            if name not in table.column_names
        ]
        if absent:
            left_out[name] = f"not in the sample of the {absent[0]}"
            continue
        here, there = _kind(current[name].type), _kind(reference[name].type)
        if here is None or here != there:
            left_out[name] = f"{current[name].type} in the run, {reference[name].type} in the reference"
            continue
        empty = [
            where
            for table, where in ((reference, "reference"), (current, "run"))
            if _plain(table[name], here).null_count == table.num_rows
        ]
        if empty:
            left_out[name] = f"no values in the sample of the {empty[0]}"
        else:
            kinds[name] = here
    return kinds, left_out


def _kind(kind: pa.DataType) -> _Kind | None:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number"
    texts = (pa.types.is_boolean, pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return "category" if any(is_text(kind) for is_text in texts) else None


def _plain(values: pa.ChunkedArray, kind: _Kind) -> pa.ChunkedArray:
    """Text, or float64 with NaN and infinities as null: Evidently's histograms stop at an infinity."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if kind == "category":
        return values.cast(pa.string())
    numbers = values.cast(pa.float64())
    return pc.if_else(pc.is_finite(numbers), numbers, pa.scalar(None, pa.float64()))


def _frame(table: pa.Table, kinds: Mapping[str, _Kind]) -> pd.DataFrame:
    frame: pd.DataFrame = pa.table(
        {name: _plain(table[name], kind) for name, kind in kinds.items()}
    ).to_pandas()
    return frame


def _task_frame(rows: pa.Table, target: str, task: Task) -> tuple[pd.DataFrame, list[str], list[str]]:
    """The columns of the task, and the names of the numeric and of the class columns among them."""
    if task.kind == "regression":
        assert task.value is not None
        names = [target, task.value]
        table = pa.table({name: _plain(rows[name], "number") for name in names})
        return table.drop_null().to_pandas(), names, []
    classes = [target, *([task.value] if task.value is not None else [])]
    # Evidently knows a probability of several by the class it is named after.
    probabilities = {
        (column if task.kind == "binary" else name): column for name, column in task.probabilities.items()
    }
    columns = {name: class_texts(rows[name]) for name in classes}
    columns |= {name: _plain(rows[column], "number") for name, column in probabilities.items()}
    return pa.table(columns).drop_null().to_pandas(), list(probabilities), classes


@contextmanager
def _evidently() -> Iterator[None]:
    """Evidently, quiet: without telemetry, without its dependencies' warnings, its errors translated."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Its reports send nothing today; this holds for its releases to come.
            os.environ.setdefault("DO_NOT_TRACK", "1")
            with needs("drift", "this report by Evidently"):
                import evidently  # noqa: F401
                import pandas as pd  # noqa: F401
            yield
    except BatchinferError:
        raise
    except Exception as e:
        raise BatchinferError(
            f"Evidently could not write its report: {type(e).__name__}: {e}",
            next_step="the history of drift does not depend on it: batchinfer drift PIPELINE",
        ) from e


def _write(snapshot: Any, path: str) -> None:
    files.write_bytes(path, snapshot.get_html_str(as_iframe=False).encode())


def _listed(reasons: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items()) or "none is named"
