"""Members of a stream killed, joining and leaving while messages flow: each message ends up once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from batchinfer.runs import open_results, stream
from batchinfer.spec import load_spec
from batchinfer.store import open_stream_table
from tests import kafka
from tests.conftest import Pipeline
from tests.kafka import Broker
from tests.streams import Topics, committed, ids, message, produce, score, section

pytestmark = pytest.mark.xdist_group("kafka")

WHOLE = os.environ.get("BATCHINFER_TORTURE") == "all"
KILLS, LEAST_MESSAGES = (100, 1_000_000) if WHOLE else (10, 50_000)
RATE = 10_000 if WHOLE else 5_000
SLOWER = 10
"""By so much less is done in a time with kafka-python."""
CLIENTS = ["confluent", "kafka-python"]
SESSION_MS = 1000


def quick(client: str = "confluent") -> dict[str, Any]:
    """A stream whose members are soon given up for dead."""
    consumer: dict[str, Any] = {"session.timeout.ms": SESSION_MS, "heartbeat.interval.ms": 200}
    producer: dict[str, Any] = {"transaction.timeout.ms": 2000}
    if client == "kafka-python":
        consumer, producer = ({k.replace(".", "_"): v for k, v in s.items()} for s in (consumer, producer))
    return {
        "client": client,
        "consumer_settings": consumer,
        "producer_settings": producer,
        "max_batch": 1000,
        "drain_seconds": 10,
    }


class Nursery:
    """Members as processes, forked from one that has imported everything."""

    def __init__(self, spec: Path) -> None:
        script = Path(__file__).parent / "stream_nursery.py"
        self._process = subprocess.Popen(
            [sys.executable, str(script), str(spec)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.members: list[int] = []

    def start(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print("one more", file=self._process.stdin, flush=True)
        self.members.append(int(self._process.stdout.readline()))

    def end(self, number: int, place: int = 0) -> None:
        pid = self.members.pop(place % len(self.members))
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    def tell(self) -> None:
        """Have each member write to stderr where its threads are."""
        for pid in self.members:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)
        time.sleep(1)

    def close(self) -> None:
        while self.members:
            self.end(signal.SIGKILL)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


@contextmanager
def nursery(spec: Path) -> Iterator[Nursery]:
    opened = Nursery(spec)
    try:
        yield opened
    finally:
        opened.close()


class Flow:
    """Sends messages at a rate until it is told to stop, and at least so many; one in a hundred is not JSON.

    It ends with its block, however that ends.
    """

    def __init__(self, broker: Broker, topics: Topics, least: int, rate: float = RATE) -> None:
        self._least, self._rate, self._stop, self.count = least, rate, threading.Event(), 0
        self._thread = threading.Thread(target=produce, args=(broker, topics.input, self._values()))
        self._thread.start()

    def _values(self) -> Iterator[bytes]:
        began = time.monotonic()
        while not self._stop.is_set() or self.count < self._least:
            if self.count % 500 == 0:
                ahead = self.count / self._rate - (time.monotonic() - began)
                self._stop.wait(max(0.0, ahead))
            yield b"?" if self.count % 100 == 99 else message(self.count)
            self.count += 1

    def await_share(self, share: float) -> None:
        """Wait until it has sent this share of what it is to send."""
        while self.count < share * self._least and self._thread.is_alive():
            time.sleep(0.02)

    def stop(self) -> int:
        """How many it sent."""
        self._stop.set()
        self._thread.join()
        return self.count

    def __enter__(self) -> Flow:
        return self

    def __exit__(self, *_: object) -> None:
        self._least = 0
        self.stop()


Progress = Callable[[], int]
Predicted = Callable[[], "Counter[int]"]


def progress_of(reader: Consumer, topic: str) -> Progress:
    """How far committed messages of a topic have come."""

    def end() -> int:
        partitions = reader.list_topics(topic, 10).topics[topic].partitions
        return sum(reader.get_watermark_offsets(TopicPartition(topic, n))[1] for n in partitions)

    return end


def await_progress(end: Progress, members: Nursery, patience_s: float = 60) -> None:
    """Wait until more is committed than was when this was called; members say where they are if that is long."""
    before, until = end(), time.monotonic() + patience_s
    while end() <= before:
        if time.monotonic() > until:
            members.tell()
            raise AssertionError("the members get nothing done")
        time.sleep(0.02)


def finish(
    broker: Broker, spec: Path, topics: Topics, count: int, predicted: Predicted | None = None
) -> None:
    """Let a last member come to the end, and see that all messages came once, where they belong.

    It comes to the end of its own partitions; those of the dead are its own when their sessions have ended.
    """
    predicted = predicted or (lambda: ids(committed(broker, topics.output)))
    until = time.monotonic() + 60
    counts = []
    while True:
        report = stream(load_spec(spec), until_end=True)
        assert report.drained
        counts.append(report.messages["read"])
        predictions, letters = predicted(), ids(committed(broker, topics.letters))
        if predictions.total() + letters.total() >= count or time.monotonic() > until:
            break
    wrong = {n: times for n, times in (predictions + letters).items() if times != 1}
    assert not wrong, f"{len(wrong)} messages came several times, as {dict(list(wrong.items())[:5])}"
    missing = Counter(range(count)) - predictions - letters
    progress = Consumer(
        {"bootstrap.servers": broker.bootstrap_servers, "group.id": f"g-{topics.input}"}
    ).committed([TopicPartition(topics.input, n) for n in range(4)], 10)
    told = f"{len(missing)} of {count} messages are missing, as {sorted(missing)[:5]}; {counts}; {progress}"
    assert not missing, told
    assert set(letters) == set(range(99, count, 100))


@pytest.mark.parametrize("client", CLIENTS if WHOLE else CLIENTS[:1])
def test_members_that_are_killed_join_and_leave_lose_and_double_nothing(
    kafka_broker: Broker, pipeline: Pipeline, client: str
) -> None:
    if not kafka_broker.real:
        pytest.skip("rebalances are Apache Kafka's own")
    topics = Topics.of(kafka_broker, 4)
    spec = pipeline.write_spec(stream=section(kafka_broker, topics, **quick(client)))
    reader = _reader(kafka_broker)
    slower = SLOWER if client == "kafka-python" else 1
    count = torment(kafka_broker, spec, topics, progress_of(reader, topics.output), slower)
    reader.close()
    finish(kafka_broker, spec, topics, count)


def torment(broker: Broker, spec: Path, topics: Topics, end: Progress, slower: int = 1) -> int:
    """Kill members all the while that messages flow, let others leave and come; how many messages there were."""
    chance = random.Random(20130108)
    with nursery(spec) as members:
        members.start()
        members.start()
        with Flow(broker, topics, LEAST_MESSAGES // slower, RATE / slower) as sending:
            for kill in range(KILLS):
                sending.await_share(kill / KILLS)
                await_progress(end, members)
                time.sleep(chance.uniform(0, 0.3))
                members.end(signal.SIGKILL, chance.randrange(4))
                # Some leave in good order, and one that dies is not always replaced at once.
                if len(members.members) > 2 and chance.random() < 0.3:
                    members.end(signal.SIGTERM, chance.randrange(4))
                while len(members.members) < 2 or (len(members.members) < 4 and chance.random() < 0.5):
                    members.start()
            return sending.stop()


@pytest.mark.skipif(not WHOLE, reason="make stream-torture; tests/integration/stream kills one member")
@pytest.mark.parametrize("sinks", [["store"], ["topic", "store"]], ids=["table", "topic and table"])
def test_members_that_are_killed_join_and_leave_lose_and_double_nothing_in_a_delta_table(
    kafka_broker: Broker, pipeline: Pipeline, sinks: list[str]
) -> None:
    if not kafka_broker.real:
        pytest.skip("rebalances are Apache Kafka's own")
    topics = Topics.of(kafka_broker, 4)
    output_topic = topics.output if "topic" in sinks else None
    more = {**quick(), "sinks": sinks, "sink_max_seconds": 0.3, "output_topic": output_topic}
    spec = pipeline.write_spec(stream=section(kafka_broker, topics, **more))
    results = load_spec(spec).output
    table = open_stream_table(results.store, results.path, results.partition_by, "scores")
    sources = [f"{topics.input}-{number}" for number in range(4)]
    count = torment(kafka_broker, spec, topics, lambda: sum(table.positions(sources).values()))

    def predicted() -> Counter[int]:
        if not (found := open_results(load_spec(spec), results.path)).exists():
            return Counter()
        rows = found.dataset().to_table(["id", "score", "_source", "_position"])
        assert rows.group_by(["_source", "_position"]).aggregate([]).num_rows == rows.num_rows
        assert all(
            s == score(i) for i, s in zip(rows["id"].to_pylist(), rows["score"].to_pylist(), strict=True)
        )
        return Counter(rows["id"].to_pylist())

    finish(kafka_broker, spec, topics, count, predicted)
    if output_topic is not None:
        assert ids(committed(kafka_broker, topics.output)) == predicted()


def _reader(broker: Broker) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": broker.bootstrap_servers,
            "group.id": "progress",
            "isolation.level": "read_committed",
        }
    )


@pytest.mark.parametrize("client", CLIENTS if WHOLE else CLIENTS[:1])
def test_a_broker_that_is_killed_and_comes_back_costs_no_message(pipeline: Pipeline, client: str) -> None:
    with kafka.broker(controller_apart=True) as broker:
        if not broker.real:
            pytest.skip("the embedded broker keeps nothing")
        topics = Topics.of(broker, 2)
        spec = pipeline.write_spec(stream=section(broker, topics, **quick(client)))
        with nursery(spec) as members:
            members.start()
            members.start()
            reader = _reader(broker)
            end = progress_of(reader, topics.output)
            slower = SLOWER if client == "kafka-python" else 1
            with Flow(broker, topics, (50_000 if WHOLE else 10_000) // slower, RATE / slower) as sending:
                for _ in range(3 if WHOLE else 1):
                    await_progress(end, members)
                    broker.kill()
                    time.sleep(1)
                    broker.restart()
                await_progress(end, members)
                count = sending.stop()
            reader.close()
        finish(broker, spec, topics, count)
