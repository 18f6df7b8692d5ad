"""What the `stream:` section of a pipeline spec may say."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from batchinfer.spec._section import FROZEN, Count, Name, Number
from batchinfer.spec._urls import holds_password

_Topic = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")]


def _flat(settings: Any) -> Any:
    for name, value in settings.items() if isinstance(settings, dict) else ():
        if not isinstance(value, str | int | float):
            raise ValueError(
                f"stream: the client setting '{name}' takes text, a number, true or false; its name stands whole, "
                "dots and all, as settings: {sasl.mechanism: PLAIN}"
            )
    return settings


_Settings = Annotated[dict[str, str | int | float | bool], BeforeValidator(_flat)]
_Seconds = Annotated[float, Number, Field(gt=0)]


def _kind_alone(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


class _Section(BaseModel):
    model_config = FROZEN


class FormatSpec(_Section):
    """How messages' values hold rows. `format: json` is short for `format: {kind: json}`.

    `registry` is the URL of a Confluent-compatible schema registry, with `registry_settings` as its client takes
    them; without one, Avro and Protobuf read with the schema in the file `schema_file` (relative to the spec), and
    Protobuf the type `message` of it. Arrow IPC carries its own.
    """

    kind: Literal["json", "avro", "protobuf", "arrow"] = "json"
    registry: Annotated[str, Field(pattern=r"^https?://")] | None = None
    registry_settings: _Settings = {}
    schema_file: Annotated[str, Field(min_length=1)] | None = None
    message: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _has_one_schema(self) -> FormatSpec:
        if self.kind in {"json", "arrow"} and (self.registry or self.schema_file):
            raise ValueError(f"format: {self.kind} needs neither a registry nor a schema_file")
        if self.registry and self.schema_file:
            raise ValueError("format: a registry and a schema_file are two sources of schemas: state one")
        if self.message and (self.kind != "protobuf" or not self.schema_file):
            raise ValueError("format: message names a type of Protobuf's schema_file")
        if self.registry and holds_password(self.registry):
            raise ValueError("format.registry: states a password; set SCHEMA_REGISTRY_PASSWORD")
        return self


class BudgetSpec(_Section):
    """When too much is refused: the stream stops where more than `share` of the messages of the last
    `window_seconds` became dead letters, once there are `min_records` of them."""

    share: Annotated[float, Number, Field(ge=0, le=1)] = 0.5
    window_seconds: _Seconds = 60
    min_records: Annotated[int, Number, Field(ge=1)] = 1000


class StreamSpec(_Section):
    """Where messages come from and go to, how fast, and how surely.

    `group` is by default `batchinfer-` and the pipeline's name. `instance_id` makes a member static, and its
    transactional id stable; no two live members may have the same. `settings`, `consumer_settings` and
    `producer_settings` are passed to the client library under its own names (`sasl.mechanism`, or
    `sasl_mechanism` for kafka-python); secrets in them come from the environment, as `${KAFKA_PASSWORD}`.

    `format` is that of the messages, `output_format` that of the predictions.

    A micro-batch is scored when it has `max_batch` messages, its first has waited `max_latency_ms`, or nothing else is
    under way; at most `max_queue_mb` of messages are in memory before the poll pauses. `columns` types input columns as
    Arrow names them (`int64`, `float32`, `string`, `timestamp[us, tz=UTC]`), where the reference in the model's bundle
    does not.

    `sinks` are the topic, the results table of `output`, or both. A table's part is committed when it has
    `sink_max_mb` or its first row has waited `sink_max_seconds`. `sink_partition` says for each of
    `output.partition_by` where its value comes from: `timestamp` (the UTC day of the message's own, which is the
    default), or a column of `input.key` or `output.carry`.

    On SIGTERM what was polled is finished within `drain_seconds`. Each `refresh_seconds` the registry is asked
    whether the model's alias has moved; 0 never asks. Drift is measured over windows of `window_seconds`. Metrics
    and health are served on `metrics_port`, where one is stated.
    """

    bootstrap_servers: Annotated[str, Field(min_length=1)] = "localhost:9092"
    input_topic: _Topic
    output_topic: _Topic | None = None
    dead_letter_topic: _Topic | None = None
    group: Annotated[str, Field(min_length=1)] | None = None
    instance_id: Name | None = None
    delivery: Literal["exactly-once", "at-least-once"] = "exactly-once"
    client: Literal["confluent", "kafka-python"] = "confluent"
    settings: _Settings = {}
    consumer_settings: _Settings = {}
    producer_settings: _Settings = {}
    format: Annotated[FormatSpec, BeforeValidator(_kind_alone)] = FormatSpec()
    output_format: Annotated[FormatSpec, BeforeValidator(_kind_alone)] = FormatSpec()
    columns: dict[str, str] = {}
    max_batch: Annotated[int, Number, Field(ge=1, le=1_000_000)] = 16_384
    max_latency_ms: Annotated[float, Number, Field(ge=0)] = 50
    max_queue_mb: Annotated[float, Number, Field(gt=0)] = 64
    threads: Count | None = None
    sinks: Annotated[tuple[Literal["topic", "store"], ...], Field(min_length=1, strict=False)] = ("topic",)
    sink_max_mb: Annotated[float, Number, Field(gt=0)] = 128
    sink_max_seconds: _Seconds = 30
    sink_partition: dict[str, str] = {}
    drain_seconds: _Seconds = 30
    refresh_seconds: Annotated[float, Number, Field(ge=0)] = 10
    error_budget: BudgetSpec = BudgetSpec()
    window_seconds: _Seconds = 300
    metrics_host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    metrics_port: Annotated[int, Number, Field(ge=0, le=65535)] | None = None

    @model_validator(mode="after")
    def _sinks_have_a_place(self) -> StreamSpec:
        if len(set(self.sinks)) < len(self.sinks):
            raise ValueError("stream.sinks: a sink is named twice")
        if ("topic" in self.sinks) != (self.output_topic is not None):
            raise ValueError("stream.output_topic goes with the sink 'topic' in stream.sinks")
        topics = [self.input_topic, self.dead_letters, *([self.output_topic] if self.output_topic else [])]
        if len(set(topics)) < len(topics):
            raise ValueError("stream: input_topic, output_topic and dead_letter_topic are three topics")
        return self

    @property
    def dead_letters(self) -> str:
        """The dead-letter topic; by default named after the input's."""
        return self.dead_letter_topic or f"{self.input_topic[:236]}-dead-letters"
