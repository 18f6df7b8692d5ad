"""Pages about drift for people to read: the history's chart, Evidently's report of a run, and that of its labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchinfer.core import RUN_ID, Sensitive, files
from batchinfer.drift import (
    DriftHistory,
    Predictions,
    chart_page,
    join_labels,
    read_labels,
    summarise,
    write_drift_report,
    write_labels_report,
)
from batchinfer.errors import SpecError, UsageError
from batchinfer.model import REFERENCE, Registry, Scorer
from batchinfer.runs._drift import SAMPLE, SAMPLE_ROWS, read_drift, scored_rows
from batchinfer.runs._job import find_rows, open_results
from batchinfer.runs._plan import load_sensitive
from batchinfer.runs._records import RunRecords
from batchinfer.spec import DriftSpec, PipelineSpec


@dataclass(frozen=True, slots=True)
class DriftPages:
    """What was written. `left_out` are columns that Evidently's page does not show, and why.

    `evidently` is None where only windows of a stream have measured drift: no sample of their rows is kept. `labels` is
    None where no labels were given, `unlabelled` the rows that have none.
    """

    history: str
    evidently: str | None
    labels: str | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    unlabelled: int = 0


def drift_history(
    spec: PipelineSpec, output_path: str, parameters: Mapping[str, str] | None = None
) -> DriftHistory:
    """The history of drift beside the results at `output_path`, of all runs or of those with these parameters.

    Raises:
        UsageError: no such run has measured drift there.
    """
    rows = read_drift(output_path)
    found = summarise(rows) if rows is not None else None
    if found is not None and rows is not None and parameters:
        chosen = [r.run_id for r in found.runs if parameters.items() <= r.parameters.items()]
        if not chosen:
            said = " ".join(f"{name}={value}" for name, value in parameters.items())
            raise UsageError(
                f"no run with {said} has measured drift", next_step="batchinfer drift shows those that have"
            )
        found = summarise(rows.filter(pc.is_in(rows["run_id"], pa.array(chosen))))
    if found is None or not found.runs:
        raise UsageError(
            f"no run of {spec.name} has measured drift",
            next_step="add a section 'drift:' to the spec and run the pipeline"
            if spec.drift is None
            else "run the pipeline; where a run had --set output.path=…, give it here too",
        )
    return found


def write_drift_pages(
    spec: PipelineSpec,
    output_path: str,
    folder: str,
    *,
    parameters: Mapping[str, str] | None = None,
    labels: str | None = None,
    label_column: str | None = None,
) -> DriftPages:
    """Write `history.html`, `evidently.html` and, with labels, `labels.html` into a folder.

    Args:
        spec: the pipeline.
        output_path: where its results are.
        folder: local path or URL; made if there is none.
        parameters: the run that Evidently's pages are of; by default the latest that is not a stream's window.
        labels: a Parquet file or folder with `input.key` and the label.
        label_column: the label's name there.

    Raises:
        UsageError: no such run, or its sample is gone; labels, and only windows of a stream or no rows.
        MissingExtra: Evidently is not installed.
        InputError: the labels cannot be joined.
    """
    history = drift_history(spec, output_path)
    runs = drift_history(spec, output_path, parameters).runs
    run = next((run for run in reversed(runs) if run.table_version is not None), None)
    page = files.join(folder, "history.html")
    if run is None:
        if labels is not None:
            raise UsageError(
                "labels are joined to the rows of a run, and these are windows of a stream",
                next_step="run the pipeline, or leave out --labels",
            )
        files.write_bytes(page, chart_page(history).encode())
        return DriftPages(page, None)
    stated = RunRecords().find(run.run_id).drift
    sample = RunRecords().kept(run.run_id, SAMPLE)
    if sample is None:
        raise UsageError(
            f"run {run.run_id} has no sample of its rows in {RunRecords().location}",
            next_step="set BATCHINFER_RUNS to where the run kept its record",
            run_id=run.run_id,
        )
    scorer = Scorer.of(Registry(spec.registry).resolve(run.model))
    drift, sensitive = spec.drift or DriftSpec(), load_sensitive(spec)
    evidently = files.join(folder, "evidently.html")
    files.write_bytes(page, chart_page(history).encode())
    left_out = write_drift_report(
        _reference_sample(drift, scorer, sensitive),
        pq.read_table(pa.BufferReader(sample)),
        measured=stated["columns"],
        drifted_columns=drift.thresholds.drifted_columns,
        path=evidently,
    )
    if labels is None or label_column is None:
        return DriftPages(page, evidently, left_out=left_out)
    path = files.join(folder, "labels.html")
    rows = find_rows(open_results(spec, output_path), {RUN_ID: run.run_id})
    if not rows.num_rows:
        raise UsageError(
            f"the results hold no rows of run {run.run_id}: it scored none, or another run has replaced them",
            next_step="name the run that labels are wanted of by its parameters, with -p",
            run_id=run.run_id,
        )
    key = spec.input.key
    # Both by their hashes, also where the results hold the key as it is: errors name the first of each.
    clear = Sensitive(
        {c: how for c, how in sensitive.columns.items() if c in sensitive.clear}, sensitive.key_id
    )
    of_key = Sensitive({c: how for c, how in sensitive.columns.items() if c in key}, sensitive.key_id)
    known = of_key.hide_table(read_labels(labels, key, label_column))
    joined = join_labels(clear.hide_table(rows), known, key, label_column)
    write_labels_report(joined.table, target=joined.target, predictions=_predictions(scorer), path=path)
    return DriftPages(page, evidently, path, left_out, joined.unlabelled)


def _reference_sample(drift: DriftSpec, scorer: Scorer, sensitive: Sensitive) -> pa.Table:
    if drift.reference != "model":
        tables, rows = [], 0
        for features, predictions, _ in scored_rows(drift.reference, scorer):
            columns = [*features.columns, *predictions.columns]
            tables.append(pa.table(columns, names=[*features.schema.names, *predictions.schema.names]))
            rows += features.num_rows
            if rows >= SAMPLE_ROWS:
                break
        return sensitive.hide_table(pa.concat_tables(tables).slice(0, SAMPLE_ROWS))
    content = scorer.bundle.read(REFERENCE)
    if content is None:
        raise SpecError(
            f"the bundle of {scorer.identity} has no sample of its reference",
            next_step="add the model with --reference PARQUET",
        )
    return pq.read_table(pa.BufferReader(content))


def _predictions(scorer: Scorer) -> Predictions:
    """The model's output columns of one value a row, and which of them are probabilities of a class."""
    probabilities: dict[int | str, str] = {}
    classes: tuple[int | str, ...] = ()
    for output in scorer.bundle.manifest.outputs.values():
        if output.classes is None or output.columns is None:
            continue
        classes = output.classes
        if isinstance(output.columns, dict):
            stated = {str(name): name for name in classes}
            probabilities |= {stated[str(c)]: column for c, column in output.columns.items()}
        else:
            probabilities |= dict(zip(classes, output.columns, strict=True))
    single = tuple(f.name for f in scorer.output_schema if not pa.types.is_nested(f.type))
    return Predictions(single, probabilities, classes)
