"""Drift of a run: profiled by the workers, measured before the commit, kept in the history after it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce

import pyarrow as pa
import pyarrow.parquet as pq

from batchinfer import source
from batchinfer.core import HASH_SECRET, RowSample, Sensitive, UnitReport, arrays, unpack_rows
from batchinfer.drift import (
    HISTORY,
    DriftReport,
    MeasuredRun,
    Profile,
    Profiler,
    Reference,
    ScoredRows,
    Thresholds,
    build_reference,
    history_rows,
    measure,
)
from batchinfer.errors import DriftGate, SpecError
from batchinfer.model import PROFILE, REFERENCE, Scorer
from batchinfer.runs._report import RunReport
from batchinfer.spec import DriftSpec, PipelineSpec
from batchinfer.store import append_once, provide_appended, read_appended

SAMPLE = "sample.parquet"
"""The run's artefact that holds a deterministic sample of its scored rows."""
SAMPLE_ROWS = 5_000


@dataclass(frozen=True, slots=True)
class DriftPlan:
    """What a run is held against. `digest` stands for the reference in the run's id."""

    reference: Reference
    profiler: Profiler
    digest: str

    def sample(self, rows: int, key: tuple[str, ...], sensitive: Sensitive) -> RowSample:
        """Which of the run's `rows` to keep aside, and of which columns hashes: those of the reference too.

        The key comes from the results, which may hold its hashes already.
        """
        features = [c.column.field for c in self.reference.columns if c.column.kind == "feature"]
        kept = tuple(name for name in features if name not in key)
        hidden = {**self.reference.sensitive.columns, **sensitive.columns}
        hashed = {name for name in key if name in sensitive.in_results}
        hides = Sensitive(
            {name: how for name, how in hidden.items() if name not in hashed},
            sensitive.key_id or self.reference.sensitive.key_id,
        )
        return RowSample(SAMPLE_ROWS, rows, key, kept, hides)


def load_drift(spec: PipelineSpec, scorer: Scorer, sensitive: Sensitive) -> DriftPlan | None:
    """The reference that the spec names, with a profiler on its bins; None where the spec asks for no drift.

    Raises:
        SpecError: the model's bundle has no reference, or one that shows sensitive columns, or with other hashes.
        InputError: the reference's rows cannot be read or scored.
    """
    if spec.drift is None:
        return None
    if spec.drift.reference == "model":
        text = scorer.bundle.read(PROFILE)
        if text is None:
            raise SpecError(
                f"drift.reference: the bundle of {scorer.identity} has no reference",
                next_step="add the model with --reference PARQUET, or name a Parquet path in drift.reference",
                key="drift.reference",
            )
        reference = Reference.from_json(text)
        _check_hidden(reference, scorer, sensitive)
    else:
        path = spec.drift.reference
        reference = build_reference(lambda: scored_rows(path, scorer), sensitive=sensitive)
        text = reference.to_json().encode()
    return DriftPlan(reference, reference.profiler, hashlib.sha256(text).hexdigest())


def _check_hidden(reference: Reference, scorer: Scorer, sensitive: Sensitive) -> None:
    """Hold what the bundle keeps of sensitive columns against what the spec lets anyone keep."""
    held = reference.sensitive
    columns = {c.column.field for c in reference.columns if c.column.kind == "feature"}
    columns |= set(_sampled(scorer)) if sensitive else set()
    for name, handling in sensitive.columns.items():
        if name in columns and held.columns.get(name) not in {handling, "drop"}:
            shown = "hashes" if name in held else "values"
            raise SpecError(
                f"input.sensitive: '{name}' is to be kept as {handling}, but the reference in the bundle of "
                f"{scorer.identity} has its {shown}",
                next_step=f"add the model again with --reference and --sensitive {name}={handling}",
                column=name,
            )
    if held.key_id is not None:
        own = Sensitive.of(held.columns).key_id
        if own != held.key_id:
            raise SpecError(
                f"the reference in the bundle of {scorer.identity} was hashed with another {HASH_SECRET} than this "
                f"one: its id is {own}, expected {held.key_id}",
                next_step="set the key that the model was added with, or add it again with this one",
                expected=held.key_id,
                found=own,
            )


def _sampled(scorer: Scorer) -> list[str]:
    content = scorer.bundle.read(REFERENCE)
    return [] if content is None else pq.read_schema(pa.BufferReader(content)).names


def scored_rows(path: str, scorer: Scorer) -> Iterator[ScoredRows]:
    """The rows of a reference that is given as a path, scored, in bounded batches."""
    found = source.discover(path)
    source.check_columns(found, scorer.columns, scorer.check_columns)
    for unit in source.plan_units(found.files, {file.input.path: () for file in found.files}, scorer.columns):
        for batch, _, _ in source.read_unit(unit, scorer.columns):
            predictions, refused = scorer.score_rows(batch)
            yield batch.take(arrays.from_numpy(refused.others(batch))), predictions, None


def measure_drift(plan: DriftPlan, spec: DriftSpec, reports: Sequence[UnitReport]) -> DriftReport | None:
    """The drift of all rows that the units scored; None where they scored none."""
    profiles = [plan.profiler.tally(unit.profile) for unit in reports if unit.profile is not None]
    if not profiles:
        return None
    thresholds = Thresholds(spec.thresholds.psi, spec.thresholds.drifted_columns)
    return measure(plan.reference, reduce(Profile.merge, profiles), thresholds)


def packed_sample(reports: Sequence[UnitReport]) -> pa.Buffer | None:
    """The sampled rows of all units as a Parquet file; None for none."""
    rows = unpack_rows(unit.sample for unit in sorted(reports, key=lambda report: report.unit))
    if rows is None:
        return None
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd")
    return sink.getvalue()


def drift_path(output_path: str) -> str:
    """The history of drift, a Delta table beside the results."""
    return f"{output_path.rstrip('/')}_drift"


def provide_drift(output_path: str) -> None:
    """Called before the work whose drift is measured: where it could not be kept, this is said now.

    Raises:
        StoreError, Transient: see `provide_appended`.
    """
    provide_appended(drift_path(output_path), HISTORY)


def keep_drift(output_path: str, report: RunReport) -> None:
    """Append a run's drift to the history, once, however often it is called.

    Raises:
        StoreError, Transient: see `append_once`.
    """
    if not report.drift:
        return
    model = f"{report.model['name']}@{report.model['version']}"
    run = MeasuredRun(
        report.run_id, report.pipeline, report.parameters, model, report.table_version, datetime.now(UTC)
    )
    append_once(drift_path(output_path), history_rows(run, report.drift), report.run_id)


def read_drift(output_path: str) -> pa.Table | None:
    """The history of drift beside the results at `output_path`; None where no run has measured any."""
    return read_appended(drift_path(output_path))


def hold_drift(spec: PipelineSpec, report: RunReport) -> None:
    """Say that the world has changed, where the spec wants a failure of it. The results are committed.

    Raises:
        DriftGate: an alarm, and `on_drift` is fail.
    """
    if spec.drift is None or spec.drift.on_drift != "fail" or not report.drift.get("alarm"):
        return
    raise DriftGate(
        f"{said_drift(report)}; the results are committed as version {report.table_version}",
        next_step=f"batchinfer drift {spec.folder} shows what changed; retrain, or raise drift.thresholds",
        report=report,
    )


def said_drift(report: RunReport) -> str:
    """A run's drift in one sentence, the most drifted columns first."""
    columns = report.drift.get("columns", {})
    drifted = sorted((n for n, c in columns.items() if c["drifted"]), key=lambda n: -columns[n]["psi"])
    share = report.drift.get("drifted_columns", 0.0)
    if not drifted:
        return "no column has drifted"
    named = ", ".join(f"{name} (PSI {columns[name]['psi']:.2f})" for name in drifted[:3])
    more = f" and {len(drifted) - 3} more" if len(drifted) > 3 else ""
    return f"{share:.0%} of the features have drifted: {named}{more}"
