"""Which adapter a spec's word stands for. Each is imported when it is used, and needs no other."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from batchinfer.errors import SpecError, needs
from batchinfer.spec import FormatSpec, StreamSpec
from batchinfer.streaming._ports import Client, Decoder, Encoder

CLIENTS = {
    "confluent": "batchinfer.streaming._confluent:ConfluentClient",
    "kafka-python": "batchinfer.streaming._kafka_python:KafkaPythonClient",
}
"""By `stream.client`: called with the `StreamSpec`."""
DECODERS = {
    "json": "batchinfer.streaming._json:JsonDecoder",
    "avro": "batchinfer.streaming.formats:avro_decoder",
    "protobuf": "batchinfer.streaming.formats:protobuf_decoder",
    "arrow": "batchinfer.streaming.formats:arrow_decoder",
}
"""By `stream.format.kind`: called with the rows' `pa.Schema`, the `FormatSpec` and the spec's folder."""
ENCODERS = {
    "json": "batchinfer.streaming._json:JsonEncoder",
    "avro": "batchinfer.streaming.formats:avro_encoder",
    "protobuf": "batchinfer.streaming.formats:protobuf_encoder",
}
"""By `stream.output_format.kind`: called with the `pa.Schema` of the results, the `FormatSpec` and the topic."""


def open_client(spec: StreamSpec) -> Client:
    """The Kafka client that the spec names.

    Raises:
        MissingExtra: its package is not installed.
        SpecError: a setting is not one of the client's.
    """
    return cast(Client, _adapter(CLIENTS, spec.client)(spec))


def open_decoder(schema: pa.Schema, spec: FormatSpec, folder: Path) -> Decoder:
    """The decoder of a format.

    Raises:
        MissingExtra: its package is not installed.
        SpecError: the format cannot hold such rows, or a file that it names cannot be read.
        RegistryUnavailable: the schema registry does not answer.
    """
    return cast(Decoder, _adapter(DECODERS, spec.kind)(schema, spec, folder))


def open_encoder(schema: pa.Schema, spec: FormatSpec, topic: str) -> Encoder:
    """What makes the values of predictions. Avro's and Protobuf's schemas are registered for the topic.

    Raises:
        MissingExtra: its package is not installed.
        SpecError: the format cannot hold such rows.
        InputError: the schema registry holds the schema to be incompatible with what the topic has.
        RegistryUnavailable, RegistryRefused: it does not answer, or does not want to.
    """
    if spec.kind not in ENCODERS:
        raise SpecError(
            f"stream.output_format: predictions are not written as {spec.kind}, a message has one",
            next_step=f"state one of {', '.join(ENCODERS)}",
        )
    return cast(Encoder, _adapter(ENCODERS, spec.kind)(schema, spec, topic))


def _adapter(table: Mapping[str, str], name: str) -> Any:
    module, _, attribute = table[name].partition(":")
    with needs("kafka", f"'{name}'"):
        return getattr(import_module(module), attribute)
