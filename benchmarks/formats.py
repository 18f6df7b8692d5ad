"""What decoding a micro-batch costs in each format, and what the libraries for it take for the same.

python -m benchmarks.formats [--rows N] [--rounds N]

Messages of 14 fields as a flight has them: some 220 bytes as JSON, 60 as Avro or Protobuf. All ways give the same
record batch from the same messages, in turns on one thread; the best round of each counts. pyruhvro and ptars take
part where they are installed.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
from tests.messages import arrow, avro, avro_schema, protobuf_file, protobuf_type

from batchinfer.spec import FormatSpec
from batchinfer.streaming import open_decoder
from batchinfer.streaming.formats import arrow_decoder

TEXTS, WHOLES = ("origin", "dest"), ("day_of_week", "departure", "arrival", "departures")
FLOATS = ("distance", "temp", "humid", "wind_speed", "pressure", "visib", "precip")
ROW = pa.schema(
    [
        ("id", pa.int64()),
        *((name, pa.string()) for name in TEXTS),
        *((name, pa.int32()) for name in WHOLES),
        *((name, pa.float32()) for name in FLOATS),
    ]
)
AVRO = avro_schema(
    {
        "id": "long",
        **dict.fromkeys(TEXTS, "string"),
        **dict.fromkeys(WHOLES, "int"),
        **{name: ["null", "float"] for name in FLOATS},
    }
)
PROTOBUF = protobuf_file(
    [
        "int64 id = 1",
        *(f"string {name} = {number}" for number, name in enumerate(TEXTS, 2)),
        *(f"int32 {name} = {number}" for number, name in enumerate(WHOLES, 4)),
        *(f"optional float {name} = {number}" for number, name in enumerate(FLOATS, 8)),
    ]
)
Way = Callable[[], object]


def flights(rows: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(2013)
    texts = np.array(["EWR", "JFK", "LGA", "SFO", "BOS"])[random.integers(0, 5, (rows, len(TEXTS)))]
    wholes = random.integers(0, 1440, (rows, len(WHOLES)))
    floats = random.normal(50, 20, (rows, len(FLOATS))).astype(np.float32).round(2)
    return [
        {"id": row}
        | dict(zip(TEXTS, texts[row].tolist(), strict=True))
        | dict(zip(WHOLES, wholes[row].tolist(), strict=True))
        | {name: round(float(x), 2) for name, x in zip(FLOATS, floats[row], strict=True)}
        | ({"wind_speed": None} if row % 10 == 0 else {})
        for row in range(rows)
    ]


def ours(rows: list[dict[str, Any]], folder: Path) -> dict[str, Way]:
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    (folder / "flight.avsc").write_text(AVRO)
    (folder / "flight.desc").write_bytes(FileDescriptorSet(file=[PROTOBUF]).SerializeToString())
    messages = {
        "json": [json.dumps(row, separators=(",", ":")).encode() for row in rows],
        "avro": [avro(AVRO, row) for row in rows],
        "protobuf": protobufs(rows),
    }
    files = {"json": None, "avro": "flight.avsc", "protobuf": "flight.desc"}
    ways: dict[str, Way] = {}
    for kind, contents in messages.items():
        spec = FormatSpec.model_validate({"kind": kind, "schema_file": files[kind]})
        decoder, values = open_decoder(ROW, spec, folder), pa.array(contents, pa.large_binary())
        size = sum(map(len, contents)) / len(rows)
        ways[f"{kind}: batchinfer, {size:.0f} bytes a row"] = partial(decoder.decode, values)
    whole = pa.RecordBatch.from_pylist(rows, schema=ROW)
    many = pa.array([arrow(whole.slice(at, 100)) for at in range(0, len(rows), 100)], pa.large_binary())
    ipc = arrow_decoder(ROW, FormatSpec(kind="arrow"), folder)
    ways["arrow: batchinfer, 100 rows a message"] = partial(ipc.decode, many)
    return ways


def protobufs(rows: list[dict[str, Any]]) -> list[bytes]:
    flight = protobuf_type(PROTOBUF)
    return [
        bytes(flight(**{name: value for name, value in row.items() if value is not None}).SerializeToString())
        for row in rows
    ]


def libraries(rows: list[dict[str, Any]]) -> dict[str, Way]:
    schema = fastavro.parse_schema(json.loads(AVRO))
    records, messages = [avro(AVRO, row) for row in rows], protobufs(rows)
    flight = protobuf_type(PROTOBUF)

    def by_fastavro() -> object:
        found = [fastavro.schemaless_reader(io.BytesIO(record), schema, None) for record in records]
        return pa.RecordBatch.from_pylist(found, schema=ROW)

    def by_polars() -> object:
        import polars as pl

        return pl.read_avro(io.BytesIO(container(records))).to_arrow()

    def by_protobuf() -> object:
        found = [flight.FromString(message) for message in messages]
        there = {f.name: f.has_presence for f in flight.DESCRIPTOR.fields}
        return [
            pa.array(
                [getattr(m, n) if not there[n] or m.HasField(n) else None for m in found], ROW.field(n).type
            )
            for n in ROW.names
        ]

    ways: dict[str, Way] = {
        "avro: fastavro, record by record": by_fastavro,
        "avro: Polars, framed as a file": by_polars,
        "protobuf: protobuf, message by message": by_protobuf,
    }
    if find_spec("pyruhvro"):
        ways["avro: pyruhvro"] = partial(import_module("pyruhvro").deserialize_array, records, AVRO)
    if find_spec("ptars"):
        from google.protobuf import timestamp_pb2, wrappers_pb2

        known = [timestamp_pb2.DESCRIPTOR, wrappers_pb2.DESCRIPTOR, flight.DESCRIPTOR.file]
        handler = import_module("ptars").HandlerPool(known).get_for_message(flight.DESCRIPTOR)
        ways["protobuf: ptars"] = partial(handler.array_to_record_batch, pa.array(messages, pa.binary()))
    return ways


def container(records: list[bytes]) -> bytes:
    """Records as one block of an Avro file. One that is cut or too long would shift all that follow."""
    out = io.BytesIO()
    fastavro.writer(out, fastavro.parse_schema(json.loads(AVRO)), [])
    header, body = out.getvalue(), b"".join(records)

    def number(value: int) -> bytes:
        octets, rest = bytearray(), value << 1
        while rest >= 0x80:
            octets.append(rest & 0x7F | 0x80)
            rest >>= 7
        return bytes([*octets, rest])

    return header + number(len(records)) + number(len(body)) + body + header[-16:]


def best(ways: Mapping[str, Way], rounds: int) -> dict[str, float]:
    seconds = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds + 1):  # the first warms up
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name] = min(seconds[name], time.perf_counter() - started)
    return seconds


def main() -> None:
    import tempfile

    parser = argparse.ArgumentParser(description="Decode a micro-batch in each format.")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    rows = flights(arguments.rows)
    with tempfile.TemporaryDirectory() as folder:
        seconds = best({**ours(rows, Path(folder)), **libraries(rows)}, arguments.rounds)
    unit = next(took for name, took in seconds.items() if name.startswith("json"))
    print(f"{arguments.rows:,} rows of {len(ROW)} columns, one thread, best of {arguments.rounds}\n")
    print("| | rows/s | × JSON |\n|---|---:|---:|")
    for name, took in sorted(seconds.items(), key=lambda item: item[0]):
        print(f"| {name} | {arguments.rows / took:,.0f} | {unit / took:.2f} |")


if __name__ == "__main__":
    main()
