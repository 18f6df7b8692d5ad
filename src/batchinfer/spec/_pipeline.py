"""What a pipeline spec may say, key by key."""

from __future__ import annotations

import hashlib
import json
from datetime import date
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, Field, model_validator

from batchinfer.errors import SpecError
from batchinfer.spec._section import FROZEN, Count, Name, Number
from batchinfer.spec._stream import StreamSpec
from batchinfer.spec._template import parameters_of
from batchinfer.spec._urls import holds_password, is_database

_Column = Annotated[str, Field(min_length=1)]
_Provider = Literal["tensorrt", "cuda"]


class _Section(BaseModel):
    model_config = FROZEN


class InputSpec(_Section):
    """Where the rows come from, which columns name a row, and which hold secrets of people.

    `sensitive` says of columns whether `hash` or nothing (`drop`) is kept of their values outside of scoring.
    """

    path: Annotated[str, Field(min_length=1)]
    key: Annotated[tuple[_Column, ...], Field(min_length=1, strict=False)]
    sensitive: dict[_Column, Literal["hash", "drop"]] = {}


class OutputSpec(_Section):
    """Where the predictions go, and what of the input goes with them.

    Key and carried columns that are sensitive go with them as hashes, those in `clear` as they are.
    `mode: upsert`, of the postgres store alone, makes `input.key` the primary key of the whole table.
    """

    store: Literal["delta", "parquet", "postgres"] = "delta"
    path: Annotated[str, Field(min_length=1)]
    partition_by: Annotated[tuple[_Column, ...], Field(strict=False)] = ()
    carry: Annotated[tuple[_Column, ...], Field(strict=False)] = ()
    clear: Annotated[tuple[_Column, ...], Field(strict=False)] = ()
    mode: Literal["replace", "upsert"] = "replace"

    @model_validator(mode="after")
    def _path_is_of_the_store(self) -> OutputSpec:
        if holds_password(self.path):
            raise ValueError("output.path: states a password; set PGPASSWORD or write it into ~/.pgpass")
        if is_database(self.path) != (self.store == "postgres"):
            raise ValueError(
                "output.path: postgresql://… goes with output.store: postgres, "
                f"found '{self.path}' with output.store: {self.store}"
            )
        if self.store == "postgres" and not self.path.partition("#")[2]:
            raise ValueError(f"output.path: names no table, expected {self.path}#schema.table")
        if self.mode == "upsert" and self.store != "postgres":
            raise ValueError(f"output.mode: upsert needs output.store: postgres, found {self.store}")
        return self


class QualitySpec(_Section):
    """What rows must be, and what becomes of those that are not.

    `suite` is a Great Expectations suite, relative to the spec. `max_quarantined` is a share of the rows read,
    0 to 1; a run with a larger share stops before its commit.
    """

    suite: Annotated[str, Field(pattern=r"\.(json|py)$")] | None = None
    on_failure: Literal["quarantine", "fail", "warn"] = "quarantine"
    max_quarantined: Annotated[float, Number, Field(ge=0, le=1)] = 0.05


class ThresholdsSpec(_Section):
    """From where on a difference is drift: `psi` of a column, `drifted_columns` a share of the features."""

    psi: Annotated[float, Number, Field(gt=0)] = 0.2
    drifted_columns: Annotated[float, Number, Field(ge=0, le=1)] = 0.3


class DriftSpec(_Section):
    """What features and predictions are held against, and what becomes of a run that has drifted.

    `reference` is `model` for the reference in the model's bundle, or the path of a Parquet file or folder.
    """

    reference: Annotated[str, Field(min_length=1)] = "model"
    thresholds: ThresholdsSpec = ThresholdsSpec()
    on_drift: Literal["warn", "fail"] = "warn"


class AlertsSpec(_Section):
    """Who is told when a pipeline's state changes: a URL that JSON is posted to, a command that reads it."""

    webhook: Annotated[str, Field(min_length=1)] | None = None
    command: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] | None = None


_HttpUrl = Annotated[str, Field(pattern=r"^https?://[^/]")]


def _without_password(key: str, url: str | None) -> None:
    if url is not None and holds_password(url):
        raise ValueError(f"{key}: states a password, which would be seen in logs and reports")


class MetricsSpec(_Section):
    """Where each run's metrics go: a folder of Prometheus' textfile collector, a push gateway, or both.

    Where one is not stated, the environment's BATCHINFER_METRICS_TEXTFILE or BATCHINFER_METRICS_PUSH_GATEWAY is
    taken.
    """

    textfile: Annotated[str, Field(min_length=1)] | None = None
    push_gateway: _HttpUrl | None = None

    @model_validator(mode="after")
    def _has_no_password(self) -> MetricsSpec:
        _without_password("metrics.push_gateway", self.push_gateway)
        return self


class LineageSpec(_Section):
    """Who hears of each run as OpenLineage events, and the namespace of the job.

    Without `url` it is the environment's OPENLINEAGE_URL, and nobody where there is none; without `namespace`
    its OPENLINEAGE_NAMESPACE, else batchinfer.
    """

    url: _HttpUrl | None = None
    namespace: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _has_no_password(self) -> LineageSpec:
        _without_password("lineage.url", self.url)
        return self


class EngineSpec(_Section):
    """Which engine maps the worker over the units, and the engines' options.

    An engine reads its own options alone, so that one spec may hold those of several and `kind` chooses.
    `threads` is the number of cores the local engine scores on; by default all that the process may use.
    Spark takes `master` or `remote` and `conf`, unless a session is active already; Dask the `address` of a
    scheduler, or makes a cluster of `n_workers` processes with `threads_per_worker` threads. `gpus_per_task`
    is how much of a GPU a unit takes, on both.

    `device` says what scores: by default the GPU that Spark or Dask assigned, else one that this machine has and
    ONNX Runtime can use, else the CPU. `providers` are tried in order on a GPU, with `provider_options`;
    `fallback` allows the CPU where a GPU that was asked for cannot be used; `tolerance` is how far its scores may
    be from the CPU's, relative to them, and for scores below 1 absolute. See docs/gpu.md.
    """

    kind: Literal["local", "spark", "dask"] = "local"
    threads: Count | None = None
    master: Annotated[str, Field(min_length=1)] | None = None
    remote: Annotated[str, Field(min_length=1)] | None = None
    conf: dict[str, str | int | float | bool] = {}
    address: Annotated[str, Field(min_length=1)] | None = None
    n_workers: Count | None = None
    threads_per_worker: Count | None = None
    gpus_per_task: Annotated[float, Number, Field(gt=0, le=1)] | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    providers: Annotated[tuple[_Provider, ...], Field(min_length=1, strict=False)] = ("cuda",)
    provider_options: dict[_Provider, dict[str, str | int | float | bool]] = {}
    fallback: Literal["fail", "cpu"] = "fail"
    tolerance: Annotated[float, Number, Field(gt=0)] = 1e-3

    @model_validator(mode="after")
    def _options_agree(self) -> EngineSpec:
        if self.master is not None and self.remote is not None:
            raise ValueError("engine.master and engine.remote are two ways to Spark: state one of them")
        gpus = self.gpus_per_task
        if gpus is not None and 0.5 < gpus < 1:  # no second task fits beside such a one
            raise ValueError(f"engine.gpus_per_task: 1, or at most 0.5, found {gpus:g}")
        if len(set(self.providers)) < len(self.providers):
            raise ValueError("engine.providers: a provider is named twice")
        for provider, options in self.provider_options.items():
            if provider not in self.providers:
                raise ValueError(
                    f"engine.provider_options: '{provider}' is not among engine.providers: "
                    f"{', '.join(self.providers)}"
                )
            if "device_id" in options:
                raise ValueError(f"engine.provider_options.{provider}: the engine assigns the device_id")
        return self

    @property
    def changes_scores(self) -> dict[str, object]:
        """What is stated here that can change a score by more than the CPU's and a GPU's rounding do."""
        if self.device == "cpu":
            return {}
        stated = {"providers": self.providers, "provider_options": self.provider_options}
        return {key: value for key, value in stated.items() if value != EngineSpec.model_fields[key].default}


_Preset = r"@(hourly|daily|weekly|monthly|quarterly|yearly)"
_Day = Annotated[date, Field(strict=False)]
_Seconds = Annotated[float, Number, Field(ge=0)]


class ScheduleSpec(_Section):
    """When a scheduler runs the pipeline, and how. Nothing here changes what a run writes.

    `cron` has five fields or is a preset as @daily; each run is of the interval between two of its times, in
    `timezone`, and starts when that ends. `parameters` says how the interval's start becomes the run's
    parameters, in strftime's letters; by default ds is its day. The input has arrived when there is a Parquet
    file in it, or with `marker` when a file of that name is (as _SUCCESS); it may be `wait_s` late and is looked
    for each `poll_s`. `engine` takes the place of the spec's own; with `spark_connection` a Spark run is
    submitted to that connection of the scheduler's. Pages about drift are written below `reports`, which
    browsers reach as `reports_url`.
    """

    cron: Annotated[str, Field(pattern=rf"^({_Preset}|\S+( +\S+){{4}})$")]
    start_date: _Day
    end_date: _Day | None = None
    timezone: str = "UTC"
    catchup: bool = False
    retries: Annotated[int, Number, Field(ge=0, le=100)] = 2
    retry_delay_s: _Seconds = 300
    owner: Annotated[str, Field(min_length=1)] = "batchinfer"
    tags: Annotated[tuple[_Column, ...], Field(strict=False)] = ()
    pool: Annotated[str, Field(min_length=1)] | None = None
    parameters: dict[str, str] = {"ds": "%Y-%m-%d"}
    marker: Annotated[str, Field(pattern=r"^[^/]+$")] | None = None
    wait_s: _Seconds = 86_400
    poll_s: Annotated[float, Number, Field(gt=0)] = 60
    engine: EngineSpec | None = None
    spark_connection: Annotated[str, Field(min_length=1)] | None = None
    reports: Annotated[str, Field(min_length=1)] | None = None
    reports_url: Annotated[str, Field(pattern=r"^https?://")] | None = None

    @model_validator(mode="after")
    def _says_what_can_be(self) -> ScheduleSpec:
        try:
            ZoneInfo(self.timezone)
        except (KeyError, ValueError, OSError) as e:
            raise ValueError(f"schedule.timezone: there is no time zone '{self.timezone}'") from e
        if self.end_date is not None and self.end_date < self.start_date:
            raise ValueError(f"schedule.end_date: {self.end_date} is before start_date, {self.start_date}")
        if self.reports_url is not None and self.reports is None:
            raise ValueError(
                "schedule.reports_url: state reports too, the folder that the pages are written to"
            )
        return self


_NOT_OF_THE_WORK = {"model", "registry", "engine", "alerts", "metrics", "lineage", "schedule", "stream"}
"""Sections that change nothing of what a run writes; see `PipelineSpec.digest`."""


class PipelineSpec(_Section):
    """One pipeline, for batch and stream alike. Made by `load_spec`; see docs/spec.md for every key."""

    name: Name
    model: Annotated[str, Field(min_length=1)]
    registry: str | None = None
    input: InputSpec
    transform: Annotated[str, Field(pattern=r"^[^:]+\.py:[A-Za-z_]\w*$")] | None = None
    output: OutputSpec
    quality: QualitySpec = QualitySpec()
    drift: DriftSpec | None = None
    alerts: AlertsSpec = AlertsSpec()
    metrics: MetricsSpec = MetricsSpec()
    lineage: LineageSpec = LineageSpec()
    engine: EngineSpec = EngineSpec()
    schedule: ScheduleSpec | None = None
    stream: StreamSpec | None = None

    folder: Annotated[Path, Field(exclude=True, strict=False)] = Path()
    """Where the spec lies; `transform` and the suite are relative to it. Set by `load_spec`, no key of the file."""

    @model_validator(mode="after")
    def _names_are_unambiguous(self) -> PipelineSpec:
        kept = [*self.input.key, *self.output.carry]
        for column in [*kept, *self.output.partition_by]:
            if column.startswith("_"):
                raise ValueError(f"column '{column}': names with a leading _ are kept for lineage")
        if twice := sorted({c for c in kept if kept.count(c) > 1}):
            raise ValueError(f"column '{twice[0]}' is named twice in input.key and output.carry")
        by = self.output.partition_by
        if twice := sorted({c for c in by if by.count(c) > 1}):
            raise ValueError(f"column '{twice[0]}' is named twice in output.partition_by")
        both = sorted(set(kept) & set(by))
        if both:
            raise ValueError(
                f"column '{both[0]}' is a partition column already; take it out of input.key and output.carry"
            )
        return self

    @model_validator(mode="after")
    def _no_location_states_a_password(self) -> PipelineSpec:
        locations = {"input.path": self.input.path, "registry": self.registry, "model": self.model}
        if self.drift is not None:
            locations["drift.reference"] = self.drift.reference
        for key, location in locations.items():
            if location is not None and holds_password(location):
                raise ValueError(f"{key}: states a password; credentials come from the environment")
        return self

    @model_validator(mode="after")
    def _sensitive_columns_are_kept_so(self) -> PipelineSpec:
        sensitive, kept = self.input.sensitive, [*self.input.key, *self.output.carry]
        if named := sorted(sensitive.keys() & set(self.output.partition_by)):
            raise ValueError(
                f"input.sensitive: '{named[0]}' is in output.partition_by too, and would stand in the names of folders"
            )
        for column in self.output.clear:
            if column not in sensitive or column not in kept:
                raise ValueError(
                    f"output.clear: '{column}' is no sensitive column of input.key or output.carry, "
                    "and nothing else is hidden in the results"
                )
        for column in kept:
            if sensitive.get(column) == "drop" and (
                column in self.input.key or column not in self.output.clear
            ):
                raise ValueError(
                    f"input.sensitive: '{column}' is to be dropped, but results keep it (input.key, output.carry); "
                    "hash it"
                )
        return self

    @model_validator(mode="after")
    def _schedule_gives_the_parameters(self) -> PipelineSpec:
        if self.schedule is None:
            return self
        needed = {*parameters_of(self.input.path), *parameters_of(self.output.path)}
        given = self.schedule.parameters
        if missing := sorted(needed - given.keys()):
            raise ValueError(f"schedule.parameters: say what '{missing[0]}' is, as {missing[0]}: '%Y-%m-%d'")
        if unknown := sorted(given.keys() - needed - {*self.output.partition_by}):
            takes = ", ".join(sorted(needed)) or "none"
            raise ValueError(f"schedule.parameters: there is no parameter '{unknown[0]}'; it takes {takes}")
        if self.schedule.spark_connection is not None and self.scheduled.engine.kind != "spark":
            raise ValueError("schedule.spark_connection: the engine is not spark; state schedule.engine.kind")
        return self

    @property
    def scheduled(self) -> PipelineSpec:
        """The pipeline as its schedule runs it: with the schedule's engine, where it names one."""
        if self.schedule is None or self.schedule.engine is None:
            return self
        return self.model_copy(update={"engine": self.schedule.engine})

    @property
    def transform_file(self) -> Path | None:
        """The file that holds the transform, or None."""
        return self.folder / self.transform.rpartition(":")[0] if self.transform else None

    @property
    def suite_file(self) -> Path | None:
        """The file that holds the expectation suite, or None."""
        return self.folder / self.quality.suite if self.quality.suite else None

    def digest(self) -> str:
        """sha256 over all that can change what a run writes, the transform's and the suite's source included.

        The model is left out (it has a digest of its own), and so are the registry, the engine, the alerts, the
        metrics, the lineage, the schedule and the stream, which change where, when and how fast a row is scored and
        who hears of it. None of them changes a bit of what a CPU writes; a GPU rounds otherwise, and the options of
        its providers, which can do more, are included.

        Raises:
            SpecError: the transform or the suite cannot be read.
        """
        stated = self.model_dump(mode="json", exclude=_NOT_OF_THE_WORK)
        if self.engine.changes_scores:
            stated["engine"] = self.engine.changes_scores
        for name, file in {"transform": self.transform_file, "quality.suite": self.suite_file}.items():
            if file is not None:
                stated[f"{name} source"] = _source(name, file)
        return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()


def _source(key: str, file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else "not UTF-8 text"
        raise SpecError(f"{file}: cannot read the file that '{key}' names: {reason}", path=str(file)) from e
