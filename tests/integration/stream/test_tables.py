"""The stream into a table: each input once, whoever is killed or races; held against batch, and repaired."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from tests.conftest import Pipeline, flights
from tests.integration.stream.test_stream import add_second_version, running, until
from tests.kafka import Broker
from tests.postgres import drop_tables, table_path
from tests.streams import (
    FIRST_TIMESTAMP,
    Topics,
    committed,
    headers,
    ids,
    message,
    produce,
    score,
    with_stream,
)

from batchinfer.cli import main
from batchinfer.errors import BrokerRefused, SpecError, UsageError
from batchinfer.runs import open_results, parity, repair_stream, run, stream
from batchinfer.spec import PipelineSpec

pytestmark = pytest.mark.xdist_group("kafka")

DAY = datetime.fromtimestamp(FIRST_TIMESTAMP / 1e3, UTC).date().isoformat()
CHILD = Path(__file__).with_name("child.py")
ALL = os.environ.get("BATCHINFER_TORTURE") == "all"
STEPS = (
    "before a part is written",
    "after a part is written",
    "before the table's commit",
    "after the table's commit",
    "before the topics' commit",
    "after the topics' commit",
    "after a start was claimed",
)
DELTA = ["delta", "postgres"] if ALL else ["delta"]
"""The conformance suite holds both stores to the same; CI streams into one where that says nothing more."""
POSTGRES = ["delta", "postgres"] if ALL else ["postgres"]
KILLED = [("delta", STEPS[3]), ("postgres", STEPS[2])]
if ALL:
    KILLED = [(store, step) for store in ("delta", "postgres") for step in STEPS]


@pytest.fixture(params=["delta", "postgres"])
def output(
    request: pytest.FixtureRequest, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """The `output:` of a spec."""
    made = {"store": request.param, "path": str(pipeline.output), "partition_by": ["ds"], "carry": ["note"]}
    if request.param == "delta":
        yield made
        return
    monkeypatch.setenv("BATCHINFER_STAGING", str(pipeline.root / "staging"))
    made["path"] = table_path(request.getfixturevalue("postgres_url"), pipeline.root)
    yield made
    drop_tables(made["path"])


def into_table(pipeline: Pipeline, broker: Broker, topics: Topics, output: Any, **more: Any) -> PipelineSpec:
    quick = {"session.timeout.ms": 1500, "heartbeat.interval.ms": 200}  # who was killed is soon known to be
    more = {
        "consumer_settings": quick,
        "sinks": ["store"],
        "output_topic": None,
        "sink_max_seconds": 0.2,
        **more,
    }
    return with_stream(pipeline, broker, topics, spec__output=output, **more)


def rows_of(spec: PipelineSpec) -> list[dict[str, Any]]:
    results = open_results(spec, spec.output.path)
    return results.dataset().to_table().to_pylist() if results.exists() else []


def row_count(spec: PipelineSpec) -> int:
    results = open_results(spec, spec.output.path)
    return results.dataset().count_rows() if results.exists() else 0


def table_ids(spec: PipelineSpec) -> Counter[int]:
    return Counter(row["id"] for row in rows_of(spec))


@pytest.mark.parametrize("output", POSTGRES, indirect=True)
def test_rows_come_once_with_lineage_and_the_day_of_their_message(
    kafka_broker: Broker, pipeline: Pipeline, output: Any
) -> None:
    topics = Topics.of(kafka_broker)
    spec = into_table(pipeline, kafka_broker, topics, output)
    produce(kafka_broker, topics.input, [message(n) if n % 50 else b"?" for n in range(1000)])
    first = stream(spec, until_end=True)
    assert first.messages == {"read": 1000, "predicted": 980, "dead_letters": 20}
    produce(kafka_broker, topics.input, (message(n) for n in range(1000)))
    assert stream(spec, until_end=True).messages["read"] == 1000
    found = rows_of(spec)
    assert table_ids(spec) == {n: 2 if n % 50 else 1 for n in range(1000)}
    assert len({(row["_source"], row["_position"]) for row in found}) == len(found)
    assert all(row["score"] == score(row["id"]) and row["note"] == f"n{row['id'] % 7}" for row in found)
    assert {(row["ds"], row["_model"], row["_run_id"]) for row in found} == {(DAY, "linear@1", first.run_id)}
    assert ids(committed(kafka_broker, topics.letters)) == dict.fromkeys(range(0, 1000, 50), 1)


@pytest.mark.parametrize("output", ["delta"], indirect=True)  # PostgreSQL's driver imports it
def test_a_stream_into_a_table_imports_no_pandas(
    kafka_broker: Broker, pipeline: Pipeline, output: Any
) -> None:
    topics = Topics.of(kafka_broker)
    into_table(pipeline, kafka_broker, topics, output)
    produce(kafka_broker, topics.input, (message(n) for n in range(100)))
    code = (
        "import sys\n"
        "from batchinfer.runs import stream\n"
        "from batchinfer.spec import load_spec\n"
        f"done = stream(load_spec({str(pipeline.root / 'pipeline.yaml')!r}), until_end=True)\n"
        "print(done.messages['read'], 'pandas' in sys.modules)"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert child.stdout == "100 False\n", child.stderr


@pytest.mark.parametrize("output", DELTA, indirect=True)
def test_a_topic_and_a_table_each_have_all_and_the_table_may_come_later(
    kafka_broker: Broker, pipeline: Pipeline, output: Any
) -> None:
    topics = Topics.of(kafka_broker)
    produce(kafka_broker, topics.input, (message(n) for n in range(300)))
    stream(with_stream(pipeline, kafka_broker, topics, spec__output=output), until_end=True)
    produce(kafka_broker, topics.input, (message(n) for n in range(300, 500)))
    both = {"sinks": ["topic", "store"], "output_topic": topics.output}
    spec = into_table(pipeline, kafka_broker, topics, output, **both)
    stream(spec, until_end=True)
    predicted = Counter(json.loads(each.value())["id"] for each in committed(kafka_broker, topics.output))
    assert predicted == dict.fromkeys(range(500), 1)
    assert table_ids(spec) == dict.fromkeys(range(300, 500), 1)


@pytest.mark.parametrize(("output", "step"), KILLED, indirect=["output"])
def test_killed_at_each_step_each_input_is_there_once(
    kafka_broker: Broker, pipeline: Pipeline, output: Any, step: str
) -> None:
    topics = Topics.of(kafka_broker)
    both = {"sinks": ["topic", "store"], "output_topic": topics.output}
    spec = into_table(pipeline, kafka_broker, topics, output, max_batch=100, sink_max_seconds=0.05, **both)
    produce(kafka_broker, topics.input, [message(n) if n % 50 else b"?" for n in range(1000)])
    killed = start(pipeline, "--die-at", step)
    _, err = killed.communicate()
    assert killed.returncode == -signal.SIGKILL, f"never came to '{step}': {err}"
    stream(spec, until_end=True)
    good = dict.fromkeys((n for n in range(1000) if n % 50), 1)
    assert table_ids(spec) == good
    assert ids(committed(kafka_broker, topics.output)) == good
    assert ids(committed(kafka_broker, topics.letters)) == dict.fromkeys(range(0, 1000, 50), 1)


@pytest.mark.parametrize("output", DELTA, indirect=True)
def test_members_that_come_are_killed_and_race_write_each_input_once(
    kafka_broker: Broker, pipeline: Pipeline, output: Any
) -> None:
    if not kafka_broker.real:
        pytest.skip("rebalances are Apache Kafka's own")
    topics, seed = Topics.of(kafka_broker, 4), random.Random(2013)
    spec = into_table(pipeline, kafka_broker, topics, output, max_batch=50, sink_max_seconds=0.05)
    count = produce(kafka_broker, topics.input, (message(n) for n in range(5000)))
    for _ in range(20 if ALL else 1):
        with running(spec) as (stop, ended):
            child = start(pipeline)
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            before = row_count(spec)
            count += produce(kafka_broker, topics.input, (message(n) for n in range(5000)))
            until_rows(spec, before + 1)
            threading.Event().wait(seed.uniform(0, 0.3))
            child.kill()
            child.communicate()
            until_rows(spec, count)
            stop.set()
            ended()
    found = [(row["_source"], row["_position"]) for row in rows_of(spec)]
    assert len(found) == len(set(found)) == count
    assert set(table_ids(spec).values()) == {count // 5000}


def until_rows(spec: PipelineSpec, count: int) -> None:
    until(lambda: row_count(spec) >= count, f"{count} rows", 60)


def start(pipeline: Pipeline, *arguments: str) -> subprocess.Popen[str]:
    """A process that runs the pipeline's stream."""
    return subprocess.Popen(
        [sys.executable, str(CHILD), str(pipeline.root / "pipeline.yaml"), *arguments],
        env=dict(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_what_a_table_cannot_hold_is_a_dead_letter(
    kafka_broker: Broker, pipeline: Pipeline, postgres_url: str
) -> None:
    path = table_path(postgres_url, pipeline.root)
    output = {"store": "postgres", "path": path, "carry": ["note"]}
    topics = Topics.of(kafka_broker, 1)
    bad = json.dumps({**json.loads(message(1)), "note": "a\0b"}).encode()
    produce(kafka_broker, topics.input, [message(0), bad, message(2)])
    spec = into_table(pipeline, kafka_broker, topics, output)
    stream(spec, until_end=True)
    assert table_ids(spec) == {0: 1, 2: 1}
    [letter] = committed(kafka_broker, topics.letters)
    assert b"NUL" in headers(letter)["batchinfer.reason"]
    assert parity(spec, "begin", "end").equal
    drop_tables(path)


def test_upsert_keeps_the_last_message_of_each_key(
    kafka_broker: Broker, pipeline: Pipeline, postgres_url: str
) -> None:
    path = table_path(postgres_url, pipeline.root)
    output = {"store": "postgres", "path": path, "mode": "upsert"}
    topics = Topics.of(kafka_broker, 1)
    later = [json.dumps({**json.loads(message(n)), "x0": 1000 + n}).encode() for n in range(0, 100, 2)]
    produce(kafka_broker, topics.input, [*(message(n) for n in range(100)), *later])
    spec = into_table(pipeline, kafka_broker, topics, output)
    stream(spec, until_end=True)
    found = {row["id"]: row["_position"] for row in rows_of(spec)}
    assert found == {n: n if n % 2 else 100 + n // 2 for n in range(100)}
    drop_tables(path)


def test_parquet_and_wrong_partitions_are_refused_before_any_message(
    kafka_broker: Broker, pipeline: Pipeline
) -> None:
    topics = Topics("in", "out", "dead")
    parquet = {"store": "parquet", "path": str(pipeline.output)}
    with pytest.raises(SpecError, match="exactly once"):
        stream(into_table(pipeline, kafka_broker, topics, parquet))
    delta = {"path": str(pipeline.output), "partition_by": ["ds"], "carry": ["note"]}
    for stated in ({"day": "timestamp"}, {"ds": "x0"}):
        with pytest.raises(SpecError, match="sink_partition"):
            stream(into_table(pipeline, kafka_broker, topics, delta, sink_partition=stated))


@pytest.mark.parametrize("output", POSTGRES, indirect=True)
def test_a_run_and_a_stream_share_a_partition_and_leave_each_others_rows(
    kafka_broker: Broker, pipeline: Pipeline, output: Any
) -> None:
    topics = Topics.of(kafka_broker, 1)
    pipeline.write_input(flights(5000, 50), ds="n0")
    produce(kafka_broker, topics.input, (message(n) for n in range(0, 70, 7)))
    spec = into_table(pipeline, kafka_broker, topics, output, sink_partition={"ds": "note"})
    run(spec, {"ds": "n0"})
    stream(spec, until_end=True)
    expected = dict.fromkeys([*range(5000, 5050), *range(0, 70, 7)], 1)
    assert table_ids(spec) == expected
    assert run(spec, {"ds": "n0"}).units["reused"] == 1, "the run's rows stand, and are not scored again"
    pipeline.write_input(flights(5000, 40), ds="n0")
    run(spec, {"ds": "n0"})
    assert table_ids(spec) == {n: 1 for n in expected if n not in range(5040, 5050)}


@pytest.mark.parametrize("output", DELTA, indirect=True)
def test_parity_agrees_and_finds_a_planted_difference(
    kafka_broker: Broker, pipeline: Pipeline, output: Any
) -> None:
    topics = Topics.of(kafka_broker)
    both = {"sinks": ["topic", "store"], "output_topic": topics.output}
    spec = into_table(pipeline, kafka_broker, topics, output, **both)
    produce(kafka_broker, topics.input, [message(n) if n % 50 else b"?" for n in range(600)])
    stream(spec, until_end=True)
    report = parity(spec, "begin", "end")
    assert report.equal, report
    assert [(sink.sink, sink.rows, sink.equal) for sink in report.sinks] == [
        ("topic", 588, 588),
        ("store", 588, 588),
    ]
    assert report.messages == 600
    begin = FIRST_TIMESTAMP + 100  # a message each ms
    some = parity(spec, begin, begin + 150, sinks=["store"])
    assert (some.messages, some.equal) == (150, True)
    spoil(spec, output)
    [found] = parity(spec, "begin", "end", sinks=["store"]).sinks
    assert (found.equal, found.different, found.missing, found.extra) == (587, {"score": 1}, 0, 0)
    [example] = found.examples
    command = ["parity", str(pipeline.root / "pipeline.yaml"), "--json", "--sink", "store"]
    said = CliRunner().invoke(main, [*command, "--from", "begin", "--to", "end"])
    assert said.exit_code == 1, said.output
    assert json.loads(said.stdout.splitlines()[-1])["sinks"][0]["different"] == {"score": 1}
    partition, position = example["source"].rpartition("-")[2], example["position"]
    window = ["--from", f"{partition}:{position}", "--to", f"{partition}:{position + 1}"]
    assert CliRunner().invoke(main, [*command, *window]).exit_code == 1
    mended = CliRunner().invoke(main, ["stream", "repair", command[1], *window, "--json"])
    assert mended.exit_code == 0, mended.output
    assert CliRunner().invoke(main, [*command, "--from", "begin", "--to", "end"]).exit_code == 0
    with pytest.raises(UsageError, match="has come to"):
        parity(spec, "begin", {0: 10_000})
    with pytest.raises(UsageError, match="ends before it"):
        parity(spec, {0: 1, 1: 1}, {0: 2})
    with pytest.raises(UsageError, match="no offset"):
        parity(spec, FIRST_TIMESTAMP + 1_000_000, "end")


def spoil(spec: PipelineSpec, output: Any) -> None:
    """Change one bit of one score in the table."""
    if output["store"] == "postgres":
        from tests.postgres import execute

        url, _, name = spec.output.path.partition("#public.")
        execute(url, f'UPDATE "{name}" SET score = score + 0.0001 WHERE id = 77')
        return
    for part in sorted(Path(spec.output.path).rglob("stream-*.parquet")):
        table = pq.read_table(part)
        places = np.flatnonzero(table["id"].to_numpy() == 77)
        if len(places):
            scores = table["score"].to_numpy().copy()
            scores.view(np.uint32)[places[0]] ^= 1
            at = table.schema.get_field_index("score")
            pq.write_table(table.set_column(at, table.schema.field(at), pa.array(scores)), part)


@pytest.mark.parametrize("output", DELTA, indirect=True)
def test_after_a_bad_model_the_window_is_repaired_and_the_rest_stays(
    kafka_broker: Broker, pipeline: Pipeline, output: Any, registry: str, tmp_path: Path
) -> None:
    mine = tmp_path / "models"
    shutil.copytree(registry, mine)
    add_second_version(mine, tmp_path)
    topics = Topics.of(kafka_broker, 2)

    def go(model: str, low: int, high: int) -> PipelineSpec:
        spec = into_table(pipeline, kafka_broker, topics, output, spec__registry=str(mine), spec__model=model)
        produce(kafka_broker, topics.input, (message(n) for n in range(low, high)))
        stream(spec, until_end=True)
        return spec

    low = max_positions(go("linear@1", 0, 200), upto=200)
    spec = go("linear@2", 200, 400)
    assert parity(spec, "begin", "end").equal, "each row by the model that it names"
    report = repair_stream(spec, low, "end", model="linear@1")
    assert (report.messages, report.removed, report.written) == (200, 200, 200)
    found = rows_of(spec)
    assert {row["_model"] for row in found} == {"linear@1"}
    assert Counter(row["id"] for row in found) == dict.fromkeys(range(400), 1)
    assert all(row["score"] == score(row["id"]) for row in found)


def max_positions(spec: PipelineSpec, upto: int) -> dict[int, int]:
    """By partition, the offset after the last row whose id is below."""
    found: dict[int, int] = {}
    for row in rows_of(spec):
        if row["id"] < upto:
            partition = int(row["_source"].rpartition("-")[2])
            found[partition] = max(found.get(partition, 0), row["_position"] + 1)
    return found


def test_a_window_of_an_absent_topic_is_refused(kafka_broker: Broker, pipeline: Pipeline) -> None:
    spec = into_table(pipeline, kafka_broker, Topics("none", "out", "dead"), {"path": str(pipeline.output)})
    with pytest.raises(BrokerRefused, match="none"):
        repair_stream(spec, "begin", "end")
