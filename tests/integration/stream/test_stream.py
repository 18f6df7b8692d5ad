"""The stream against a broker: what goes in comes out once, as it should."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests import streams
from tests.conftest import Pipeline, flights
from tests.kafka import Broker
from tests.ports import free_ports
from tests.streams import FIRST_TIMESTAMP, Topics, committed, headers, ids, message, produce, with_stream

from batchinfer.errors import BatchinferError, BrokerRefused, ErrorBudgetSpent, SpecError, UsageError
from batchinfer.runs import (
    RunReport,
    StreamReport,
    add_model,
    parity,
    read_drift,
    replay_dead_letters,
    stream,
)
from batchinfer.spec import PipelineSpec

pytestmark = pytest.mark.xdist_group("kafka")
"""One worker has all tests that need a broker, so that one starts."""

_ = RunReport
GOOD = {"id": 1, "note": "n", "x0": 1, "x1": 2, "x2": 3}


def _bad(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


MALFORMED: dict[str, tuple[bytes | None, str]] = {
    "no value": (None, "no value"),
    "an empty value": (b"", "empty"),
    "blanks": (b" \n ", "empty"),
    "text": (b"hello", "not JSON"),
    "null": (b"null", "not a JSON object"),
    "a number": (b"17", "not a JSON object"),
    "an array": (b"[" + _bad() + b"]", "not a JSON object"),
    "a quoted object": (json.dumps(_bad().decode()).encode(), "not a JSON object"),
    "truncated": (_bad()[:-9], "not JSON"),
    "truncated in a string": (_bad()[:14], "not JSON"),
    "two objects": (_bad() + _bad(), "not JSON"),
    "two lines": (_bad() + b"\n" + _bad(), "not JSON"),
    "trailing text": (_bad() + b"}", "not JSON"),
    "single quotes": (_bad().replace(b'"', b"'"), "not JSON"),
    "a trailing comma": (_bad()[:-1] + b",}", "not JSON"),
    "a comment": (_bad()[:-1] + b"/* x */}", "not JSON"),
    "a byte order mark": (b"\xef\xbb\xbf" + _bad(), "byte order mark"),
    "UTF-16": (_bad().decode().encode("utf-16"), "not"),
    "bad UTF-8": (_bad(note="@").replace(b"@", b"\xff\xfe"), "UTF-8"),
    "half a surrogate pair": (_bad(note="@").replace(b"@", b"\\ud800"), "surrogate"),
    "a control character": (_bad(note="@").replace(b"@", b"\x01"), "control character"),
    "NaN": (_bad(x0=float("nan")), "NaN"),
    "Infinity": (_bad(x0=float("inf")), "Infinity"),
    "a number beyond float32": (_bad(x0=1e39), "'x0'"),
    "a number beyond float64": (_bad(x0=0).replace(b'"x0": 0', b'"x0": 1e999'), "'x0'"),
    "a number beyond int64": (_bad(id=2**70), "'id'"),
    "a number of 5,000 digits": (_bad(id=0).replace(b'"id": 0', b'"id": ' + b"9" * 5000), "digits"),
    "a fraction for an integer": (_bad(id=1.5), "'id'"),
    "text for a number": (_bad(x1="2"), "'x1'"),
    "a number for text": (_bad(note=5), "'note'"),
    "true for a number": (_bad(x1=True), "'x1'"),
    "an object for text": (_bad(note={"a": 1}), "'note'"),
    "a missing field": (b'{"id": 1, "note": "n", "x0": 1, "x1": 2}', "no field 'x2'"),
    "no field at all": (b"{}", "no field"),
    "a field that stands twice": (_bad()[:-1] + b', "x0": 2}', "'x0' stands twice"),
    "deep nesting": (b'{"a":' * 5000 + b"1" + b"}" * 5000, "nested too deeply"),
    "2 MB of text": (b"x" * 2_000_000, "not JSON"),
    "2 MB of text for a number": (_bad(x0="y" * 2_000_000), "'x0'"),
    "a null that the model does not take": (_bad(x0=None), "null"),
}


@contextmanager
def running(spec: PipelineSpec) -> Iterator[tuple[threading.Event, Callable[[], StreamReport]]]:
    """A stream in a thread: the event stops it, the function waits for its report."""
    stop = threading.Event()
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(stream(spec, stop=stop))
        except BatchinferError as e:
            found.append(e)

    thread = threading.Thread(target=run)
    thread.start()

    def ended() -> StreamReport:
        thread.join(60)
        assert found, "the stream did not end"
        if isinstance(found[0], BaseException):
            raise found[0]
        return found[0]  # type: ignore[no-any-return]

    try:
        yield stop, ended
    finally:
        stop.set()
        thread.join(60)


def until(holds: Callable[[], Any], what: str, patience_s: float = 30) -> None:
    end = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.05)


@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
def test_every_message_becomes_one_prediction_or_one_dead_letter(
    kafka_broker: Broker, pipeline: Pipeline, delivery: str
) -> None:
    topics = Topics.of(kafka_broker)
    values: list[bytes | None] = [message(n) for n in range(3000)]
    places = {70 * place + 11: (value, reason) for place, (value, reason) in enumerate(MALFORMED.values())}
    for place, (value, _) in places.items():
        values[place] = value
    produce(kafka_broker, topics.input, values)
    report = stream(with_stream(pipeline, kafka_broker, topics, delivery=delivery), until_end=True)
    assert report.messages == {"read": 3000, "predicted": 3000 - len(places), "dead_letters": len(places)}
    predictions, letters = committed(kafka_broker, topics.output), committed(kafka_broker, topics.letters)
    assert ids(predictions) == dict.fromkeys(set(range(3000)) - set(places), 1)
    for each in predictions:
        number, row = int(each.key()), json.loads(each.value())
        assert (row["id"], row["score"]) == (number, streams.score(number))
        assert row["_model"] == "linear@1"
        assert row["_run_id"] == report.run_id
        assert row["_source"].startswith(f"{topics.input}-")
        assert headers(each) == {"n": str(number).encode()}
        assert each.timestamp()[1] == FIRST_TIMESTAMP + number
    assert ids(letters) == dict.fromkeys(places, 1)
    sources = set()
    for each in letters:
        value, reason = places[int(each.key())]
        told = headers(each)
        assert each.value() == value
        assert reason in told["batchinfer.reason"].decode(), told
        assert told["n"] == each.key()
        assert told["batchinfer.model"] == b"linear@1"
        assert each.timestamp()[1] == FIRST_TIMESTAMP + int(each.key())
        sources.add((told["batchinfer.source_partition"], told["batchinfer.source_offset"]))
    assert len(sources) == len(places)


def test_a_stream_imports_nothing_that_scoring_does_not_need(
    kafka_broker: Broker, pipeline: Pipeline
) -> None:
    topics = Topics.of(kafka_broker)
    produce(kafka_broker, topics.input, [b"{", *(message(n) for n in range(99))])
    with_stream(pipeline, kafka_broker, topics)
    code = (
        "import sys\n"
        "from batchinfer.runs import stream\n"
        "from batchinfer.spec import load_spec\n"
        f"done = stream(load_spec({str(pipeline.root / 'pipeline.yaml')!r}), until_end=True)\n"
        "print(done.messages['read'], sorted({'pandas', 'rich', 'great_expectations'} & sys.modules.keys()))"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert child.stdout == "100 []\n", child.stderr


def test_a_stream_that_is_stopped_goes_on_where_it_was(kafka_broker: Broker, pipeline: Pipeline) -> None:
    topics = Topics.of(kafka_broker)
    spec = with_stream(pipeline, kafka_broker, topics, max_batch=50)
    produce(kafka_broker, topics.input, (message(n) for n in range(5000)))
    with running(spec) as (stop, ended):
        until(lambda: committed(kafka_broker, topics.output), "a first prediction")
        stop.set()
        first = ended()
    assert first.drained
    second = stream(spec, until_end=True)
    assert first.messages["read"] + second.messages["read"] == 5000
    assert ids(committed(kafka_broker, topics.output)) == dict.fromkeys(range(5000), 1)


_HANGS = """
import sys, threading
from batchinfer import runs
from batchinfer.cli import _stream, main
runs.stream = lambda *_, **__: print("up", flush=True) or threading.Event().wait()
_stream._CLOSE_SECONDS = 0.2
main(["stream", "run", sys.argv[1], "--set", "stream.drain_seconds=0.1"])
"""


def test_a_message_does_not_wait_for_others_where_nothing_else_is_under_way(
    kafka_broker: Broker, pipeline: Pipeline
) -> None:
    topics = Topics.of(kafka_broker)
    spec = with_stream(pipeline, kafka_broker, topics, max_latency_ms=60_000)
    produce(kafka_broker, topics.input, [message(0)])
    with running(spec) as (stop, ended):
        until(lambda: committed(kafka_broker, topics.output), "the prediction")
        stop.set()
        assert ended().messages["predicted"] == 1


def test_a_stop_that_brokers_keep_waiting_ends_all_the_same(pipeline: Pipeline) -> None:
    file = pipeline.write_spec(stream={"input_topic": "in", "output_topic": "out"})
    command = [sys.executable, "-c", _HANGS, str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            process.terminate()
            _, said = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 75, said
    assert "not stopped within" in said


def test_what_is_for_trying_says_plainly_what_is_wrong(tmp_path: Any) -> None:
    from click.testing import CliRunner

    from batchinfer.cli import main

    for wrong in (["--port", "99999"], ["--partitions", "0"]):
        said = CliRunner().invoke(main, ["kafka", "dev", *wrong])
        assert said.exit_code == 2, said.output
        assert wrong[1] in said.output
    program = str(Path(streams.__file__).parents[1] / "streaming" / "produce_flights.py")
    command = [sys.executable, program, "--data", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr


def test_members_share_a_topic_and_hand_partitions_over(kafka_broker: Broker, pipeline: Pipeline) -> None:
    if not kafka_broker.real:
        pytest.skip("rebalances are Apache Kafka's own")
    topics = Topics.of(kafka_broker, 4)
    spec = with_stream(pipeline, kafka_broker, topics, max_batch=50, max_latency_ms=5)
    count = 0
    with running(spec) as (stop_one, end_one):
        count += produce(kafka_broker, topics.input, (message(n) for n in range(count, count + 2000)))
        until(lambda: committed(kafka_broker, topics.output), "a first prediction")
        with running(spec) as (_stop_two, end_two):
            # Keys are numbered anew by each call, so every number is there once for each.
            for _ in range(4):
                produce(kafka_broker, topics.input, (message(n) for n in range(2000)))
            until(lambda: len(committed(kafka_broker, topics.output)) >= 6000, "the second member's start")
            stop_one.set()
            end_one()
            produce(kafka_broker, topics.input, (message(n) for n in range(2000)))
            until(lambda: len(committed(kafka_broker, topics.output)) >= 12000, "all predictions")
            _stop_two.set()
            end_two()
    assert ids(committed(kafka_broker, topics.output)) == dict.fromkeys(range(2000), 6)


def test_a_second_stream_of_the_same_instance_ends_the_first(
    kafka_broker: Broker, pipeline: Pipeline
) -> None:
    if not kafka_broker.real:
        pytest.skip("fencing is Apache Kafka's own")
    topics = Topics.of(kafka_broker)
    spec = with_stream(pipeline, kafka_broker, topics, instance_id="one")
    produce(kafka_broker, topics.input, (message(n) for n in range(500)))
    with running(spec) as (_stop, ended):
        until(lambda: committed(kafka_broker, topics.output), "a first prediction")
        with running(spec) as (stop_two, end_two):
            produce(kafka_broker, topics.input, (message(n) for n in range(500)))
            with pytest.raises(BatchinferError, match=r"fenced|instance"):
                ended()
            until(lambda: len(committed(kafka_broker, topics.output)) >= 1000, "all predictions")
            stop_two.set()
            end_two()
    assert ids(committed(kafka_broker, topics.output)) == dict.fromkeys(range(500), 2)


def test_a_dead_letter_too_large_for_its_topic_says_where_its_value_is(
    kafka_broker: Broker, pipeline: Pipeline
) -> None:
    if not kafka_broker.real:
        pytest.skip("the embedded broker knows no limits")
    small = kafka_broker.topic("dead", 1, max_message_bytes="20000")
    topics = Topics(kafka_broker.topic("in", 1), kafka_broker.topic("out", 1), small)
    produce(kafka_broker, topics.input, [message(0), b"x" * 100_000, message(2)])
    report = stream(with_stream(pipeline, kafka_broker, topics), until_end=True)
    assert report.messages == {"read": 3, "predicted": 2, "dead_letters": 1}
    [letter] = committed(kafka_broker, topics.letters)
    told = headers(letter)
    assert letter.value() is None
    assert told["batchinfer.value_bytes"] == b"100000"
    assert told["batchinfer.source_offset"] == b"1"


def test_predictions_too_large_for_their_topic_become_dead_letters(
    kafka_broker: Broker, pipeline: Pipeline
) -> None:
    if not kafka_broker.real:
        pytest.skip("the embedded broker knows no limits")
    small = kafka_broker.topic("out", 1, max_message_bytes="20000")
    topics = Topics(kafka_broker.topic("in", 1), small, kafka_broker.topic("dead", 1))
    produce(kafka_broker, topics.input, [message(0), _bad(note="z" * 50_000), message(2)])
    report = stream(with_stream(pipeline, kafka_broker, topics), until_end=True)
    assert set(ids(committed(kafka_broker, topics.output))) == {0, 2}
    [letter] = committed(kafka_broker, topics.letters)
    assert b"larger than" in headers(letter)["batchinfer.reason"]
    assert (report.messages, report.rows) == ({"read": 3, "predicted": 2, "dead_letters": 1}, 2)
    assert report.dead_letters == {headers(letter)["batchinfer.reason"].decode(): 1}


def test_rows_that_fail_a_check_name_the_expectation(kafka_broker: Broker, pipeline: Pipeline) -> None:
    suite = {
        "name": "s",
        "expectations": [
            {"type": "expect_column_values_to_be_between", "kwargs": {"column": "x0", "max_value": 50}},
            {"type": "expect_column_mean_to_be_between", "kwargs": {"column": "x1", "max_value": -1}},
        ],
    }
    (pipeline.root / "suite.json").write_text(json.dumps(suite))
    topics = Topics.of(kafka_broker)
    produce(kafka_broker, topics.input, (message(n) for n in range(97)))
    spec = with_stream(pipeline, kafka_broker, topics, spec__quality={"suite": "suite.json"})
    report = stream(spec, until_end=True)
    name = "expect_column_values_to_be_between(x0)"
    assert report.messages["dead_letters"] == 46
    assert report.expectations[name] == 46
    letters = committed(kafka_broker, topics.letters)
    assert {int(each.key()) for each in letters} == set(range(51, 97))
    assert all(name in json.loads(headers(each)["batchinfer.expectations"]) for each in letters)


def test_checks_that_a_stream_cannot_make_are_refused_by_name(
    kafka_broker: Broker, pipeline: Pipeline
) -> None:
    suite = {
        "name": "s",
        "expectations": [{"type": "expect_column_values_to_be_unique", "kwargs": {"column": "id"}}],
    }
    (pipeline.root / "suite.json").write_text(json.dumps(suite))
    spec = with_stream(
        pipeline, kafka_broker, Topics("in", "out", "dead"), spec__quality={"suite": "suite.json"}
    )
    with pytest.raises(SpecError, match=r"expect_column_values_to_be_unique\(id\)"):
        stream(spec)


def test_an_absent_topic_is_named(kafka_broker: Broker, pipeline: Pipeline) -> None:
    spec = with_stream(pipeline, kafka_broker, Topics("nowhere", "out", "dead"))
    with pytest.raises(BrokerRefused, match="nowhere"):
        stream(spec)


def test_too_many_dead_letters_stop_the_stream_after_their_commit(
    kafka_broker: Broker, pipeline: Pipeline
) -> None:
    topics = Topics.of(kafka_broker, 1)
    produce(kafka_broker, topics.input, [message(n) for n in range(100)] + [b"?"] * 300)
    budget = {"share": 0.2, "min_records": 100, "window_seconds": 60}
    with pytest.raises(ErrorBudgetSpent) as caught:
        stream(with_stream(pipeline, kafka_broker, topics, error_budget=budget), until_end=True)
    counted = caught.value.fields["report"].messages
    seen = committed(kafka_broker, topics.output, topics.letters)
    assert len(seen) == counted["read"]
    assert counted["dead_letters"] > 20


def test_dead_letters_are_sent_again_once(kafka_broker: Broker, pipeline: Pipeline) -> None:
    topics = Topics.of(kafka_broker)
    spec = with_stream(pipeline, kafka_broker, topics)
    produce(kafka_broker, topics.input, [message(0), b"?", message(2), _bad(x0=None)])
    stream(spec, until_end=True)
    assert replay_dead_letters(spec).sent == 2
    assert replay_dead_letters(spec).sent == 0
    again = [each for each in committed(kafka_broker, topics.input) if "batchinfer.replayed" in headers(each)]
    assert {each.value() for each in again} == {b"?", _bad(x0=None)}
    assert all(set(headers(each)) == {"n", "batchinfer.replayed"} for each in again)
    report = stream(spec, until_end=True)
    assert report.messages == {"read": 2, "predicted": 0, "dead_letters": 2}
    counts = [headers(each).get("batchinfer.replayed") for each in committed(kafka_broker, topics.letters)]
    assert sorted(filter(None, counts)) == [b"1", b"1"]


class _Name(str):
    """A header's name as some clients write it."""

    def encode(self, *_: Any) -> bytes:
        return b"\xff"


def test_headers_of_any_kind_stop_neither_stream_nor_replay(kafka_broker: Broker, pipeline: Pipeline) -> None:
    from kafka import KafkaProducer

    topics = Topics.of(kafka_broker, 1)
    spec = with_stream(pipeline, kafka_broker, topics)
    producer = KafkaProducer(bootstrap_servers=kafka_broker.bootstrap_servers)
    odd = [("", b"1"), ("twice", b"1"), ("twice", b""), ("é", b"\xff")]
    told = [odd, [(_Name("x"), b"1")], odd, [("batchinfer.replayed", b"often"), *odd]]
    for number, headers_ in enumerate(told):
        value = b"?" if number == 3 else message(number)
        producer.send(topics.input, value=value, key=str(number).encode(), headers=headers_)
    producer.flush()
    producer.close()
    report = stream(spec, until_end=True)
    assert report.dead_letters == {"a header's name is not UTF-8": 1, "not JSON: Expecting value": 1}
    predictions = committed(kafka_broker, topics.output)
    assert {each.key(): each.headers() for each in predictions} == {b"0": odd, b"2": odd}
    letters = committed(kafka_broker, topics.letters)
    assert [each.value() for each in letters] == [message(1), b"?"]
    assert [header for header in letters[1].headers() if "batchinfer." not in header[0]] == odd
    assert replay_dead_letters(spec).sent == 2
    again = stream(spec, until_end=True)
    assert again.messages == {"read": 2, "predicted": 1, "dead_letters": 1}


def test_when_the_alias_moves_the_next_micro_batch_has_the_new_version(
    kafka_broker: Broker, pipeline: Pipeline, registry: str, tmp_path: Any
) -> None:
    import shutil

    from batchinfer.model import Registry

    mine = tmp_path / "models"
    shutil.copytree(registry, mine)
    topics = Topics.of(kafka_broker)
    spec = with_stream(
        pipeline, kafka_broker, topics, refresh_seconds=0.1, max_latency_ms=5, spec__registry=str(mine)
    )
    with running(spec) as (stop, ended):
        produce(kafka_broker, topics.input, (message(n) for n in range(300)))
        until(lambda: len(committed(kafka_broker, topics.output)) == 300, "predictions of the first version")
        add_second_version(mine, tmp_path)
        Registry(str(mine)).set_alias("linear", "champion", "2")
        sent = 300
        while not any(b"linear@2" in each.value() for each in committed(kafka_broker, topics.output)):
            produce(kafka_broker, topics.input, (message(n) for n in range(100)))
            sent += 100
            assert sent < 30_000, "the new version never came"
        until(lambda: len(committed(kafka_broker, topics.output)) == sent, "all predictions")
        stop.set()
        report = ended()
    assert set(report.models) == {"linear@1", "linear@2"}
    for each in committed(kafka_broker, topics.output):
        row = json.loads(each.value())
        times = 2 if row["_model"] == "linear@2" else 1
        assert row["score"] == times * streams.score(row["id"])


def test_parity_names_the_model_whose_predictions_have_other_columns(
    kafka_broker: Broker, pipeline: Pipeline, registry: str, tmp_path: Any
) -> None:
    import shutil

    from batchinfer.model import Registry

    mine = tmp_path / "models"
    shutil.copytree(registry, mine)
    topics = Topics.of(kafka_broker, 1)
    spec = with_stream(pipeline, kafka_broker, topics, spec__registry=str(mine))
    produce(kafka_broker, topics.input, [message(0)])
    stream(spec, until_end=True)
    add_second_version(mine, tmp_path, "other")
    Registry(str(mine)).set_alias("linear", "champion", "2")
    with pytest.raises(UsageError, match=r"predictions of linear@1, whose columns .* linear@2"):
        parity(spec, "begin", "end")
    assert parity(spec.model_copy(update={"model": "linear@1"}), "begin", "end").equal


def add_second_version(registry: Any, folder: Any, output: str = "score") -> None:
    """`linear@2`, which scores twice as much; the next version, where there is one."""
    import numpy as np
    import pyarrow.parquet as pq
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "w"], [output])],
        "linear",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", 1])],
        [numpy_helper.from_array(np.array([[2], [4], [-2]], np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (folder / "twice.onnx").write_bytes(model.SerializeToString())
    pq.write_table(flights(0, 64), folder / "sample.parquet")
    add_model(
        "linear",
        onnx=folder / "twice.onnx",
        sample=folder / "sample.parquet",
        config={"inputs": {"input": {"pack": ["x0", "x1", "x2"]}}},
        registry=str(registry),
    )


def test_metrics_health_and_drift_tell_what_was_committed(kafka_broker: Broker, pipeline: Pipeline) -> None:
    topics = Topics.of(kafka_broker)
    port = free_ports(1)[0]
    spec = with_stream(
        pipeline,
        kafka_broker,
        topics,
        metrics_port=port,
        window_seconds=0.5,
        spec__drift={"reference": "model"},
    )

    def get(path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as e:
            return e.code, ""
        except OSError:
            return 0, ""

    with running(spec) as (stop, ended):
        produce(kafka_broker, topics.input, [*(message(n) for n in range(400)), b"?"])
        until(
            lambda: 'messages_total{pipeline="scores"} 401.0' in get("/metrics")[1],
            "the messages are counted",
        )
        assert get("/healthz")[0] == 200
        assert get("/readyz")[0] == 200
        assert get("/else")[0] == 404
        until(lambda: 'drift_psi{column="x0"' in get("/metrics")[1], "drift is measured")
        text = get("/metrics")[1]
        assert 'dead_letters_total{pipeline="scores",reason="not JSON: Expecting value"} 1.0' in text
        assert 'model_info{model="linear@1"' in text
        lag = f'lag_messages{{partition="0",pipeline="scores",topic="{topics.input}"}} 0.0'
        until(lambda: lag in get("/metrics")[1], "the lag is read again")
        stop.set()
        ended()
    history = read_drift(str(pipeline.output))
    assert history is not None
    rows = history.filter(pa.compute.equal(history["column"], "x0"))
    assert sum(rows["rows"].to_pylist()) == 400
