"""Flights as messages of each format, as a program that knows nothing of batchinfer would write them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

FORMATS = ("json", "avro", "protobuf", "arrow")
_SCHEMAS = Path(__file__).parent.parent / "pipelines" / "flight_delay"

Message = tuple[datetime, bytes | None, bytes, int]
"""When it is due (the last departure in it), its key and value, and how many flights it holds."""


def messages(table: pa.Table, kind: str, *, registry: str | None, topic: str, rows: int) -> Iterator[Message]:
    """The flights of a table, in its order.

    Args:
        kind: one of `FORMATS`. Avro and Protobuf are those of flight.avsc and flight.proto.
        registry: the URL of a schema registry: Avro and Protobuf then are in its frame, with a schema registered for
            the topic; without one they are plain.
        rows: how many flights go into a message of Arrow IPC; in the others it is one.
    """
    if kind == "arrow":
        for batch in table.to_batches(max_chunksize=rows):
            yield batch.column("sched_dep")[-1].as_py(), None, _stream(batch), batch.num_rows
        return
    encode = {"json": _json, "avro": _avro, "protobuf": _protobuf}[kind](registry, f"{topic}-value")
    for row in table.to_pylist():
        yield row["sched_dep"], str(row["flight_id"]).encode(), encode(row), 1


def _stream(batch: pa.RecordBatch) -> bytes:
    out = io.BytesIO()
    with pa.ipc.new_stream(out, batch.schema) as writer:
        writer.write_batch(batch)
    return out.getvalue()


def _json(_registry: str | None, _subject: str) -> Callable[[dict[str, Any]], bytes]:
    return lambda row: json.dumps(row, default=_as_text).encode()


def _as_text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _avro(registry: str | None, subject: str) -> Callable[[dict[str, Any]], bytes]:
    import fastavro

    text = (_SCHEMAS / "flight.avsc").read_text(encoding="utf-8")
    schema = fastavro.parse_schema(json.loads(text))
    frame = _frame(registry, subject, "AVRO", text)

    def encode(row: dict[str, Any]) -> bytes:
        out = io.BytesIO(frame)
        out.seek(0, io.SEEK_END)
        fastavro.schemaless_writer(out, schema, row)
        return out.getvalue()

    return encode


def _protobuf(registry: str | None, subject: str) -> Callable[[dict[str, Any]], bytes]:
    from google.protobuf import descriptor_pb2, descriptor_pool
    from google.protobuf.message_factory import GetMessageClass

    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString((_SCHEMAS / "flight.desc").read_bytes()).file:
        pool.Add(file)
    flight = GetMessageClass(pool.FindMessageTypeByName("flights.Flight"))
    text = (_SCHEMAS / "flight.proto").read_text(encoding="utf-8")
    frame = _frame(registry, subject, "PROTOBUF", text)
    if frame:
        frame += b"\0"  # the first type of the file

    def encode(row: dict[str, Any]) -> bytes:
        return frame + bytes(
            flight(**{name: value for name, value in row.items() if value is not None}).SerializeToString()
        )

    return encode


def _frame(registry: str | None, subject: str, kind: str, text: str) -> bytes:
    if registry is None:
        return b""
    from batchinfer.streaming.formats import SchemaRegistry

    return b"\0" + SchemaRegistry(registry).register(subject, kind, text).to_bytes(4, "big")
