"""The plan: from a spec and parameters to a loaded model, work units and a run id. Writes nothing."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import pyarrow as pa

from batchinfer import source
from batchinfer.core import (
    EXPECTATIONS,
    LINEAGE,
    NULL_TO_READERS,
    REASON,
    InputFile,
    Partition,
    Sensitive,
    Transform,
    WorkUnit,
    result_schema,
    run_id,
)
from batchinfer.errors import InputError, SpecError, UsageError
from batchinfer.model import Registry, Scorer
from batchinfer.quality import Suite
from batchinfer.runs._drift import DriftPlan, load_drift
from batchinfer.runs._quality import SuitePlan, plan_checks, read_suite
from batchinfer.spec import PipelineSpec, fill_parameters, parameters_of
from batchinfer.telemetry import check_telemetry

_OWN_COLUMNS = {EXPECTATIONS, REASON, *(field.name for field in LINEAGE)}
"""What the quarantine says of a row. An input column of such a name could not be told from it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a run will do. `columns` are read from each file; None means all of them.

    `key` and `carry` are fields as the results hold them, `originals` all columns as the quarantine holds
    them; `partitions` are replaced by the commit.
    """

    spec: PipelineSpec
    parameters: dict[str, str]
    run_id: str
    input_path: str
    output_path: str
    scorer: Scorer
    transform: Transform | None
    key: tuple[pa.Field, ...]
    carry: tuple[pa.Field, ...]
    originals: tuple[pa.Field, ...]
    columns: tuple[str, ...] | None
    inputs: tuple[InputFile, ...]
    units: tuple[WorkUnit, ...]
    partitions: tuple[Partition, ...]
    sensitive: Sensitive
    suite: SuitePlan | None = None
    drift: DriftPlan | None = None

    @property
    def result_schema(self) -> pa.Schema:
        """The columns of the results' parts."""
        return result_schema([*self.key, *self.carry], self.scorer.output_schema)

    @property
    def rows(self) -> int:
        """Rows to read, by the Parquet footers."""
        return sum(file.rows for file in self.inputs)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What all runs of one spec share: loaded once, and the same for each, whatever becomes of its files."""

    transform: Transform | None
    scorer: Scorer
    suite: Suite | None
    drift: DriftPlan | None
    sensitive: Sensitive
    spec_digest: str


def load(spec: PipelineSpec) -> Loaded:
    """Load what a spec names, but the input.

    Raises:
        SpecError, ModelError, TransformError: one of them does not exist, or cannot be loaded.
        SpecError: columns are to be hashed, and there is no key, or not that of the model's reference.
        InputError: the reference of drift cannot be read or scored.
    """
    transform = load_transform(spec)
    scorer = load_model(spec)
    sensitive = load_sensitive(spec)
    drift = load_drift(spec, scorer, sensitive)
    digest = spec.digest() + (sensitive.key_id or "")  # another key writes other hashes
    return Loaded(transform, scorer, read_suite(spec), drift, sensitive, digest)


def load_sensitive(spec: PipelineSpec) -> Sensitive:
    """The spec's sensitive columns, with the key of this process.

    Raises:
        SpecError: columns are to be hashed, and there is no key.
    """
    return Sensitive.of(spec.input.sensitive, spec.output.clear)


def make_plan(spec: PipelineSpec, parameters: Mapping[str, str], loaded: Loaded | None = None) -> Plan:
    """Plan a run: read the inputs' footers, hold their columns against the model, cut the work into units.

    Args:
        spec: the pipeline.
        parameters: values for the `{…}` blanks of the spec.
        loaded: what `load` gave for this spec, where several runs share it.

    Raises:
        UsageError: a parameter is missing, unknown or empty, or contradicts the folders of the input.
        SpecError: the transform, the suite, the reference or a partition column does not exist, or the results are to
            be written where the input lies.
        ModelError: no such model, or it cannot be loaded.
        NoInput: there is nothing to score.
        InputError: the input is not what the pipeline takes.
        MissingExtra: metrics or lineage are asked for, and what takes them is not installed.
    """
    check_parameters(spec, parameters)
    if spec.alerts.webhook is not None:
        from batchinfer.drift import check_webhook

        check_webhook(spec.alerts.webhook)
    check_telemetry(spec)
    input_path = fill_parameters(spec.input.path, parameters, key="input.path")
    output_path = fill_parameters(spec.output.path, parameters, key="output.path")
    loaded = loaded or load(spec)
    transform, scorer, drift = loaded.transform, loaded.scorer, loaded.drift
    found = source.discover(input_path)
    _check_apart(output_path, found)
    sensitive = loaded.sensitive
    _check_sensitive(found, sensitive, scorer)
    key, carry = source.kept_fields(found, spec.input.key, spec.output.carry)
    key, carry = sensitive.in_results.fields(key), sensitive.in_results.fields(carry)
    suite = plan_checks(loaded.suite, source.schema_of(found), sensitive)
    checked = suite.columns if suite is not None else ()
    source.check_columns(found, checked, lambda types: None)
    columns = None
    if transform is None:
        source.check_columns(found, scorer.columns, scorer.check_columns)
        columns = tuple(dict.fromkeys([*spec.input.key, *spec.output.carry, *checked, *scorer.columns]))
    partitions = _partitions(spec, parameters, found, scorer.output_schema.names)
    return Plan(
        spec=spec,
        parameters=dict(parameters),
        run_id=run_id(
            pipeline=spec.name,
            parameters=parameters,
            spec_digest=loaded.spec_digest + (drift.digest if drift is not None else ""),
            model_digest=scorer.bundle.manifest.digest,
            inputs=[file.input for file in found.files],
        ),
        input_path=input_path,
        output_path=output_path,
        scorer=scorer,
        transform=transform,
        key=key,
        carry=carry,
        originals=sensitive.fields(source.original_fields(found, {*spec.output.partition_by, *_OWN_COLUMNS})),
        columns=columns,
        inputs=tuple(file.input for file in found.files),
        units=source.plan_units(found.files, partitions, columns),
        partitions=tuple(sorted(set(partitions.values()))),
        sensitive=sensitive,
        suite=suite,
        drift=drift,
    )


def load_model(spec: PipelineSpec) -> Scorer:
    """The model that the spec names, verified and loaded.

    Raises:
        ModelError: there is none, or it cannot be loaded.
    """
    return Scorer.of(Registry(spec.registry).resolve(spec.model))


def load_transform(spec: PipelineSpec) -> Transform | None:
    """The spec's transform, imported.

    Raises:
        TransformError: no such file or function, or importing it failed.
    """
    if spec.transform is None or spec.transform_file is None:
        return None
    return Transform.load(spec.transform_file, spec.transform)


def check_parameters(spec: PipelineSpec, parameters: Mapping[str, str]) -> None:
    """Hold the parameters' names and values against the spec.

    Raises:
        UsageError: the spec has no such parameter, or its value is no text, or empty.
    """
    known = {
        *parameters_of(spec.input.path),
        *parameters_of(spec.output.path),
        *spec.output.partition_by,
    }
    for name, value in parameters.items():
        if name not in known:
            raise UsageError(
                f"the pipeline has no parameter '{name}'",
                next_step=f"it takes {', '.join(sorted(known)) or 'none'}",
                parameter=name,
            )
        if not isinstance(value, str):
            raise UsageError(
                f"the parameter '{name}' is of the type {type(value).__name__}, expected a text",
                next_step="write it as the input's path has it, as {'ds': '2013-01-08'}",
                parameter=name,
            )
        if not value:
            raise UsageError(f"the parameter '{name}' is empty", parameter=name)


def _check_apart(output_path: str, found: source.Discovered) -> None:
    """A table among the input's files would make them unreadable, and be read as input itself."""
    table = f"{_whole(output_path).rstrip('/')}/"
    for file in found.files:
        if _whole(file.input.path).startswith(table):
            raise SpecError(
                f"output.path = '{output_path}': the input's files lie in it, as {file.input.path}",
                next_step="write the results to a folder of their own",
                path=file.input.path,
            )


def _whole(path: str) -> str:
    path = path.removeprefix("file://")
    return path if "://" in path else os.path.abspath(path)  # noqa: PTH100  # many files: no look at the disk


def _check_sensitive(found: source.Discovered, sensitive: Sensitive, scorer: Scorer) -> None:
    """A column that is misspelt would be kept as it is."""
    known = [*source.schema_of(found).names, *scorer.columns]
    for column in sensitive.columns:
        if column not in known:
            near = difflib.get_close_matches(column, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known[:20])}"
            raise SpecError(
                f"input.sensitive: neither the input nor the model has a column '{column}'; {hint}",
                column=column,
            )
        if any(column in file.hive for file in found.files):
            raise SpecError(
                f"input.sensitive: '{column}' stands in the names of the input's folders, which every result row names",
                next_step="partition the input by another column",
                column=column,
            )


def _partitions(
    spec: PipelineSpec, parameters: Mapping[str, str], found: source.Discovered, outputs: Collection[str]
) -> dict[str, Partition]:
    """The result partition of each input file: from run parameters, else from its folders' `name=value`.

    Where all partition columns are parameters there is one partition, also without a file.
    """
    columns = spec.output.partition_by
    if twice := [column for column in columns if column in outputs]:
        raise SpecError(
            f"output.partition_by: '{twice[0]}' is an output of the model too",
            next_step="rename the model's output in its config, or partition by another column",
            column=twice[0],
        )
    partitions: dict[str, Partition] = {}
    for file in found.files:
        known = {**file.hive, **parameters}
        for column in columns:
            if column not in known:
                raise SpecError(
                    f"output.partition_by: '{column}' is neither a run parameter nor a folder {column}=… "
                    f"above {file.input.path}",
                    next_step=f"write {{{column}}} into input.path, or partition the input's folders by it",
                    column=column,
                )
            if file.hive.get(column) in NULL_TO_READERS:
                raise InputError(
                    f"{file.input.path}: lies in {column}={file.hive[column]}, which readers take for null: no "
                    "partition of the results can hold its rows",
                    next_step=f"give the folder a value, or take {column} out of output.partition_by",
                    column=column,
                    path=file.input.path,
                )
            if file.hive.get(column, known[column]) != known[column]:
                raise UsageError(
                    f"{file.input.path}: lies in {column}={file.hive[column]}, but the run's parameter says "
                    f"{column}={known[column]}: its rows would replace another partition's",
                    next_step=f"write {{{column}}} into input.path, or leave out -p {column}=…",
                    column=column,
                    path=file.input.path,
                )
        partitions[file.input.path] = tuple((column, known[column]) for column in columns)
    return partitions
