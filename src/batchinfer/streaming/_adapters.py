"""Which adapter a spec's word stands for. Each is imported when it is used, and needs no other."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from batchinfer.errors import MissingExtra
from batchinfer.spec import FormatSpec, StreamSpec
from batchinfer.streaming._ports import Client, Decoder

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


def _adapter(table: Mapping[str, str], name: str) -> Any:
    module, _, attribute = table[name].partition(":")
    try:
        return getattr(import_module(module), attribute)
    except ModuleNotFoundError as e:
        raise MissingExtra(
            f"'{name}' needs the package {e.name}, which is not installed",
            next_step="pip install 'batchinfer[kafka]'",
            package=e.name,
        ) from e
