"""Messages of a schema registry's formats through the stream, against a broker."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests import streams
from tests.conftest import Pipeline
from tests.integration.stream.test_stream import add_second_version, running, until
from tests.kafka import Broker
from tests.messages import arrow, avro, avro_schema, framed, values
from tests.schema_registry import schema_registry
from tests.streams import Topics, committed, headers, ids, produce, with_stream

from batchinfer.model import Registry
from batchinfer.runs import stream
from batchinfer.spec import FormatSpec
from batchinfer.streaming import open_decoder

pytestmark = pytest.mark.xdist_group("kafka")

RECORD = avro_schema({"id": "long", "note": "string", **dict.fromkeys(("x0", "x1", "x2"), "float")})
PREDICTION = pa.schema([("id", pa.int64()), ("score", pa.float32()), ("_model", pa.string())])


def row(number: int) -> dict[str, Any]:
    return {"id": number, "note": "n", "x0": number % 97, "x1": number % 31, "x2": number % 5}


def test_a_registry_that_is_away_for_a_while_costs_no_message(
    kafka_broker: Broker, pipeline: Pipeline
) -> None:
    topics = Topics.of(kafka_broker)
    with schema_registry() as registry:
        first = registry.add(f"{topics.input}-value", RECORD)
        wrong_schema = avro_schema(
            {"id": "long", "note": "string", "x0": "string", "x1": "float", "x2": "float"}
        )
        wrong = registry.add(f"{topics.input}-value", wrong_schema)
        sent = [framed(first, avro(RECORD, row(n))) for n in range(1000)]
        sent[10] = framed(wrong, avro(wrong_schema, row(10) | {"x0": "ten"}))
        sent[20] = sent[20][:-1]
        sent[30] = b'{"id": 30}'
        produce(kafka_broker, topics.input, sent)
        formats = {"kind": "avro", "registry": registry.url}
        spec = with_stream(pipeline, kafka_broker, topics, format=formats, output_format=formats)
        registry.failures += [0] + [
            503
        ] * 5  # the first registers the predictions' schema; then more than one try takes
        report = stream(spec, until_end=True)
        assert report.messages == {"read": 1000, "predicted": 997, "dead_letters": 3}
        predictions = committed(kafka_broker, topics.output)
        assert ids(predictions) == dict.fromkeys(set(range(1000)) - {10, 20, 30}, 1)
        decoder = open_decoder(PREDICTION, FormatSpec(kind="avro", registry=registry.url), Path())
        decoded = decoder.decode(values([each.value() for each in predictions]))
    assert decoded.rejected == []
    scores = {each["id"]: each["score"] for each in decoded.batch.to_pylist()}
    assert scores == {n: streams.score(n) for n in scores}
    assert set(decoded.batch.column("_model").to_pylist()) == {"linear@1"}
    reasons = {
        int(each.key()): headers(each)["batchinfer.reason"].decode()
        for each in committed(kafka_broker, topics.letters)
    }
    place = f"schema {wrong} ({topics.input}-value, version 2)"
    assert reasons == {
        10: f"{place}: field 'x0': expected float, found string",
        20: "field 'x2' is cut short",
        30: "the value does not begin with the id of a schema (a zero byte and four more)",
    }


def test_each_row_of_a_message_of_arrow_is_predicted(kafka_broker: Broker, pipeline: Pipeline) -> None:
    topics = Topics.of(kafka_broker)
    batches = [pa.RecordBatch.from_pylist([row(n) for n in range(at, at + 50)]) for at in range(0, 500, 50)]
    produce(kafka_broker, topics.input, [*(arrow(batch) for batch in batches), b"no stream"])
    report = stream(with_stream(pipeline, kafka_broker, topics, format="arrow"), until_end=True)
    assert (report.messages["read"], report.messages["dead_letters"]) == (11, 1)
    assert len(committed(kafka_broker, topics.output)) == 500


def test_predictions_have_the_columns_of_the_model_that_the_alias_moves_to(
    kafka_broker: Broker,
    pipeline: Pipeline,
    registry: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mine = tmp_path / "models"
    shutil.copytree(registry, mine)
    topics = Topics.of(kafka_broker, 1)
    told: dict[str, Any] = {"spec__registry": str(mine), "refresh_seconds": 0.05, "max_latency_ms": 5}
    with schema_registry() as schemas, caplog.at_level(logging.INFO, "batchinfer.stream"):
        told["output_format"] = {"kind": "avro", "registry": schemas.url}
        with running(with_stream(pipeline, kafka_broker, topics, **told)) as (stop, ended):

            def sent(count: int) -> None:
                produce(kafka_broker, topics.input, (json.dumps(row(n)).encode() for n in range(count)))

            def came(count: int) -> None:
                until(lambda: len(committed(kafka_broker, topics.output)) == count, f"{count} predictions")

            sent(3)
            came(3)
            for version, output, says in (("2", "other", "goes on scoring"), ("3", "twice", "from now on")):
                schemas.incompatible = version == "2"
                add_second_version(mine, tmp_path, output)
                Registry(str(mine)).set_alias("linear", "champion", version)
                until(lambda says=says: says in caplog.text, says)  # type: ignore[misc]
                sent(3)
                came(3 * int(version))
            stop.set()
            report = ended()
        found = [json.loads(schema["schema"]) for schema in schemas.schemas]
        read = pa.schema([("id", pa.int64()), ("twice", pa.float32()), ("_run_id", pa.string())])
        decoder = open_decoder(read, FormatSpec(kind="avro", registry=schemas.url), Path())
        decoded = decoder.decode(values([each.value() for each in committed(kafka_broker, topics.output)]))
    assert report.models == {"linear@1": 6, "linear@3": 3}
    assert [[field["name"] for field in schema["fields"]][2] for schema in found] == ["score", "twice"]
    rows = decoded.batch.to_pylist()[-3:]
    assert [each["twice"] for each in rows] == [2 * streams.score(n) for n in range(3)]
    assert {each["_run_id"] for each in rows} == {report.run_id}
