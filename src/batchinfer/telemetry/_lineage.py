"""A run as OpenLineage events: START with what it reads and is to write, then COMPLETE, FAIL or ABORT with counts.

The run's id in OpenLineage follows from batchinfer's own, so that the same work is the same run there, whoever runs
it again. The model stands in a facet of the run, `batchinfer_model`; how the work went in `batchinfer_run`.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import urlsplit

from batchinfer.errors import UsageError
from batchinfer.spec import LineageSpec, is_database
from batchinfer.telemetry._delivery import TIMEOUT_S, Delivery, deliver, need, origin

if TYPE_CHECKING:
    from openlineage.client.event_v2 import InputDataset, OutputDataset, RunEvent
    from openlineage.client.generated.base import DatasetFacet, RunFacet

_IDS = uuid.uuid5(uuid.NAMESPACE_DNS, "batchinfer")
_PRODUCER = "urn:batchinfer"

Kind = Literal["START", "COMPLETE", "FAIL", "ABORT"]


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a dataset: name and type; of an output also which input columns each comes from.

    `copied` are the same as the input column of their name, those in `hashed` are hashes of it; `computed` follow
    from all of `computed_from`.
    """

    types: Mapping[str, str]
    copied: tuple[str, ...] = ()
    hashed: frozenset[str] = frozenset()
    computed: tuple[str, ...] = ()
    computed_from: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Dataset:
    """Something that a run reads or writes. What is not known, before or after a failure, is None.

    Attributes:
        location: a path, a URL or a `postgresql://…#schema.table`.
        layer: delta, parquet or postgres.
        columns: its schema.
        rows: read, or written by this run.
        size_bytes: of the files with these rows.
        files: how many there are.
        version: of the table with these rows.
        failed: expectations that failed on it, with their severity.
    """

    location: str
    layer: Literal["delta", "parquet", "postgres"]
    columns: Columns
    rows: int | None = None
    size_bytes: int | None = None
    files: int | None = None
    version: str | None = None
    failed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LineageRun:
    """A run at its start or end.

    Attributes:
        kind: which event.
        time: UTC, ISO 8601.
        run_id: batchinfer's own, or what stands for it where there was no plan.
        namespace: of the job.
        pipeline: the job's name.
        parameters: the run's.
        model: name, version and digest; empty where there was no plan.
        details: of the run, as plain values: engine, attempt, rows, status …
        inputs: what it reads.
        outputs: what it writes; the first is the results.
        error: why it failed.
    """

    kind: Kind
    time: str
    run_id: str
    namespace: str
    pipeline: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    model: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[Dataset, ...] = ()
    outputs: tuple[Dataset, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class LineageReceiver:
    """Who hears of runs, and the namespace of their jobs."""

    url: str
    namespace: str

    @classmethod
    def of(cls, spec: LineageSpec, environment: Mapping[str, str] = os.environ) -> Self | None:
        """The receiver that a spec names, else the environment; None for nobody, or where lineage is disabled."""
        url = spec.url or environment.get("OPENLINEAGE_URL") or None
        if url is None or environment.get("OPENLINEAGE_DISABLED", "").strip().lower() == "true":
            return None
        namespace = spec.namespace or environment.get("OPENLINEAGE_NAMESPACE") or "batchinfer"
        return cls(url, namespace)


def lineage_id(run_id: str) -> str:
    """The UUID that stands for a run in OpenLineage: the same for the same run id."""
    return str(uuid.uuid5(_IDS, run_id))


def emit(url: str, run_id: str, run: Callable[[], LineageRun]) -> Delivery:
    """Send a run's event to an OpenLineage receiver. OPENLINEAGE_API_KEY and OPENLINEAGE_ENDPOINT are heeded.

    Args:
        url: the receiver's.
        run_id: for the log.
        run: gives what is told.
    """

    def send() -> None:
        need("openlineage.client", "openlineage-python", "lineage", "an OpenLineage URL")
        if not url.startswith(("http://", "https://")):
            raise UsageError("it is no URL", next_step="write OPENLINEAGE_URL as http://HOST:5000")
        from openlineage.client.transport.http import ApiKeyTokenProvider, HttpConfig, HttpTransport

        options: dict[str, Any] = {"timeout": TIMEOUT_S, "retry": {"total": 0}}
        if key := os.environ.get("OPENLINEAGE_API_KEY"):
            options["auth"] = ApiKeyTokenProvider({"api_key": key})
        if endpoint := os.environ.get("OPENLINEAGE_ENDPOINT"):
            options["endpoint"] = endpoint
        transport = HttpTransport(HttpConfig(url=url, **options))
        try:
            transport.emit(event_of(run()))
        finally:
            transport.close()

    return deliver("lineage", origin(url), send, run_id)


def name_of(location: str) -> tuple[str, str]:
    """Namespace and name of a dataset, as OpenLineage's naming conventions have them."""
    if is_database(location):
        url, _, table = location.partition("#")
        parts = urlsplit(url)
        schema, _, name = table.rpartition(".")
        host = parts.hostname or os.environ.get("PGHOST") or "localhost"
        port = parts.port or os.environ.get("PGPORT") or 5432
        database = parts.path.strip("/") or os.environ.get("PGDATABASE") or "postgres"
        return f"postgres://{host}:{port}", f"{database}.{schema or 'public'}.{name}"
    if "://" not in location:
        return "file", str(Path(location).absolute())
    parts = urlsplit(location)
    if parts.scheme == "file":
        return "file", parts.path.rstrip("/")
    scheme = {"abfs": "abfss", "s3a": "s3", "gcs": "gs"}.get(parts.scheme, parts.scheme)
    keyed = scheme in {"s3", "gs"}  # an object's key; others have a path
    return f"{scheme}://{parts.netloc}", parts.path.strip("/") if keyed else parts.path.rstrip("/") or "/"


def event_of(run: LineageRun) -> RunEvent:
    """The event in openlineage-python's own classes."""
    from openlineage.client.event_v2 import Job, Run, RunEvent, RunState
    from openlineage.client.facet_v2 import job_type_job

    kind = job_type_job.JobTypeJobFacet(
        processingType="BATCH", integration="BATCHINFER", jobType="JOB", producer=_PRODUCER
    )
    inputs = tuple(_input(dataset) for dataset in run.inputs)
    sources = tuple(name_of(dataset.location) for dataset in run.inputs)
    return RunEvent(
        eventType=RunState(run.kind),
        eventTime=run.time,
        run=Run(runId=lineage_id(run.run_id), facets=_run_facets(run)),
        job=Job(namespace=run.namespace, name=run.pipeline, facets={"jobType": kind}),
        inputs=list(inputs),
        outputs=[_output(dataset, sources) for dataset in run.outputs],
        producer=_PRODUCER,
    )


def _run_facets(run: LineageRun) -> dict[str, RunFacet]:
    import importlib.metadata

    from openlineage.client.facet_v2 import (
        RunFacet,
        error_message_run,
        execution_parameters_run,
        parent_run,
        processing_engine_run,
    )

    version = importlib.metadata.version("batchinfer")
    facets: dict[str, Any] = {
        "processing_engine": processing_engine_run.ProcessingEngineRunFacet(
            version=version, name="batchinfer", openlineageAdapterVersion=version, producer=_PRODUCER
        ),
        "executionParameters": execution_parameters_run.ExecutionParametersRunFacet(
            parameters=[
                execution_parameters_run.ExecutionParameter(key=name, value=value)
                for name, value in run.parameters.items()
            ],
            producer=_PRODUCER,
        ),
        "batchinfer_run": RunFacet(producer=_PRODUCER).with_additional_properties(
            run_id=run.run_id, **run.details
        ),
    }
    if run.model:
        facets["batchinfer_model"] = RunFacet(producer=_PRODUCER).with_additional_properties(**run.model)
    if run.error is not None:
        facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(
            message=run.error, programmingLanguage="python", producer=_PRODUCER
        )
    # As dbt and Spark are told of the task that started them: NAMESPACE/JOB/RUN.
    parent = os.environ.get("OPENLINEAGE_PARENT_ID", "").rsplit("/", 2)
    if len(parent) == 3:
        facets["parent"] = parent_run.ParentRunFacet(
            run=parent_run.Run(runId=parent[2]),
            job=parent_run.Job(namespace=parent[0], name=parent[1]),
            producer=_PRODUCER,
        )
    return facets


def _facets(dataset: Dataset) -> dict[str, DatasetFacet]:
    from openlineage.client.facet_v2 import dataset_version_dataset, schema_dataset, storage_dataset

    facets: dict[str, Any] = {
        "schema": schema_dataset.SchemaDatasetFacet(
            fields=[
                schema_dataset.SchemaDatasetFacetFields(name=name, type=kind)
                for name, kind in dataset.columns.types.items()
            ],
            producer=_PRODUCER,
        )
    }
    if dataset.layer != "postgres":
        facets["storage"] = storage_dataset.StorageDatasetFacet(
            storageLayer=dataset.layer, fileFormat="parquet", producer=_PRODUCER
        )
    if dataset.version is not None:
        facets["version"] = dataset_version_dataset.DatasetVersionDatasetFacet(
            datasetVersion=dataset.version, producer=_PRODUCER
        )
    return facets


def _input(dataset: Dataset) -> InputDataset:
    from openlineage.client.event_v2 import InputDataset
    from openlineage.client.facet_v2 import (
        data_quality_assertions_dataset,
        input_statistics_input_dataset,
    )

    facets: dict[str, Any] = {
        "inputStatistics": input_statistics_input_dataset.InputStatisticsInputDatasetFacet(
            rowCount=dataset.rows, size=dataset.size_bytes, fileCount=dataset.files, producer=_PRODUCER
        )
    }
    if dataset.failed:
        facets["dataQualityAssertions"] = data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet(
            assertions=[
                data_quality_assertions_dataset.Assertion(assertion=name, success=False, severity=severity)
                for name, severity in dataset.failed.items()
            ],
            producer=_PRODUCER,
        )
    namespace, name = name_of(dataset.location)
    return InputDataset(namespace=namespace, name=name, facets=_facets(dataset), inputFacets=facets)


def _output(dataset: Dataset, sources: tuple[tuple[str, str], ...]) -> OutputDataset:
    from openlineage.client.event_v2 import OutputDataset
    from openlineage.client.facet_v2 import column_lineage_dataset as lineage
    from openlineage.client.facet_v2 import output_statistics_output_dataset

    def of(columns: tuple[str, ...], subtype: str, masking: bool = False) -> lineage.Fields:
        how = lineage.Transformation(type="DIRECT", subtype=subtype, masking=masking)
        return lineage.Fields(
            inputFields=[
                lineage.InputField(namespace, name, column, transformations=[how])
                for namespace, name in sources
                for column in columns
            ]
        )

    facets: dict[str, Any] = dict(_facets(dataset))
    columns = dataset.columns
    fields = {
        name: of((name,), "TRANSFORMATION", masking=True)
        if name in columns.hashed
        else of((name,), "IDENTITY")
        for name in columns.copied
    }
    fields |= {name: of(columns.computed_from, "TRANSFORMATION") for name in columns.computed}
    if fields:
        facets["columnLineage"] = lineage.ColumnLineageDatasetFacet(fields=fields, producer=_PRODUCER)
    written: dict[str, Any] = {}
    if dataset.rows is not None:
        written["outputStatistics"] = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
            rowCount=dataset.rows, size=dataset.size_bytes, fileCount=dataset.files, producer=_PRODUCER
        )
    namespace, name = name_of(dataset.location)
    return OutputDataset(namespace=namespace, name=name, facets=facets, outputFacets=written)
