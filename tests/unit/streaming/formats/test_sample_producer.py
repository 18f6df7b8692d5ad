"""The sample producer writes each format as the pipeline reads it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.messages import values
from tests.schema_registry import TestRegistry, schema_registry

from batchinfer.spec import FormatSpec
from batchinfer.streaming import open_decoder

ROOT = Path(__file__).parents[4]
PIPELINE = ROOT / "pipelines" / "flight_delay"


@pytest.fixture(scope="module")
def flights() -> pa.Table:
    table: pa.Table = pq.read_table(
        ROOT / "data/samples/flights/ds=2013-01-08/part-0.parquet", partitioning=None
    )
    return table.slice(0, 250)


@pytest.fixture(scope="module")
def producer() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "flight_messages", ROOT / "streaming" / "flight_messages.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def registry() -> Iterator[TestRegistry]:
    with schema_registry() as registry:
        yield registry


@pytest.mark.parametrize(
    ("kind", "file", "framed"),
    [
        ("json", None, False),
        ("avro", "flight.avsc", False),
        ("avro", None, True),
        ("protobuf", "flight.desc", False),
        ("arrow", None, False),
    ],
)
def test_flights_are_read_as_they_were_sent(
    flights: pa.Table, producer: ModuleType, registry: TestRegistry, kind: Any, file: str | None, framed: bool
) -> None:
    url = registry.url if framed else None
    sent = list(producer.messages(flights, kind, registry=url, topic="flights", rows=100))
    decoder = open_decoder(flights.schema, FormatSpec(kind=kind, schema_file=file, registry=url), PIPELINE)
    decoded = decoder.decode(values([value for _, _, value, _ in sent]))
    assert decoded.rejected == []
    assert decoded.batch.to_pylist() == flights.to_pylist()
    assert sum(count for *_, count in sent) == flights.num_rows
    assert len(sent) == (3 if kind == "arrow" else flights.num_rows)
