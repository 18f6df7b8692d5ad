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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from batchinfer.runs import stream
from batchinfer.spec import load_spec
from tests import kafka
from tests.conftest import Pipeline
from tests.kafka import Broker
from tests.streams import Topics, committed, ids, message, produce, section

pytestmark = pytest.mark.xdist_group("kafka")

WHOLE = os.environ.get("BATCHINFER_TORTURE") == "all"
KILLS, MESSAGES = (100, 1_000_000) if WHOLE else (10, 100_000)
QUICK = {
    "consumer_settings": {"session.timeout.ms": 1500, "heartbeat.interval.ms": 300},
    "producer_settings": {"transaction.timeout.ms": 2000},
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


def flow(broker: Broker, topics: Topics, count: int, seconds: float) -> threading.Thread:
    """Send so many messages, spread over so much time; one in a hundred is not JSON."""

    def values() -> Iterator[bytes]:
        began = time.monotonic()
        for number in range(count):
            if number % 1000 == 0:
                time.sleep(max(0.0, began + seconds * number / count - time.monotonic()))
            yield b"?" if number % 100 == 99 else message(number)

    thread = threading.Thread(target=produce, args=(broker, topics.input, values()))
    thread.start()
    return thread


def finish(broker: Broker, spec: Path, topics: Topics, count: int) -> None:
    """Let a last member come to the end, and see that all messages came once, where they belong."""
    report = stream(load_spec(spec), until_end=True)
    assert report.drained
    predictions, letters = ids(committed(broker, topics.output)), ids(committed(broker, topics.letters))
    wrong = {n: times for n, times in (predictions + letters).items() if times != 1}
    assert not wrong, f"{len(wrong)} messages came several times, as {dict(list(wrong.items())[:5])}"
    missing = Counter(range(count)) - predictions - letters
    assert not missing, f"{len(missing)} messages are missing, as {sorted(missing)[:5]}"
    assert set(letters) == set(range(99, count, 100))


def test_members_that_are_killed_join_and_leave_lose_and_double_nothing(
    kafka_broker: Broker, pipeline: Pipeline
) -> None:
    if not kafka_broker.real:
        pytest.skip("rebalances are Apache Kafka's own")
    chance = random.Random(20130108)
    topics = Topics.of(kafka_broker, 4)
    spec = pipeline.write_spec(stream=section(kafka_broker, topics, **QUICK))
    with nursery(spec) as members:
        members.start()
        members.start()
        sending = flow(kafka_broker, topics, MESSAGES, KILLS)
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.2, 1.5))
            # A member that dies is not always replaced at once, and some leave in good order.
            members.end(signal.SIGKILL, chance.randrange(4))
            if len(members.members) > 2 and chance.random() < 0.3:
                members.end(signal.SIGTERM, chance.randrange(4))
            while len(members.members) < 2 or (len(members.members) < 4 and chance.random() < 0.5):
                members.start()
        sending.join()
    before = len(committed(kafka_broker, topics.output))
    assert before > MESSAGES // 10, "the members were killed before they did anything"
    finish(kafka_broker, spec, topics, MESSAGES)


@pytest.mark.skipif(not WHOLE, reason="make stream-torture")
def test_a_broker_that_is_killed_and_comes_back_costs_no_message(pipeline: Pipeline) -> None:
    with kafka.broker() as broker:
        if not broker.real:
            pytest.skip("the embedded broker keeps nothing")
        topics = Topics.of(broker, 2)
        spec = pipeline.write_spec(stream=section(broker, topics, **QUICK))
        with nursery(spec) as members:
            members.start()
            members.start()
            sending = flow(broker, topics, 50_000, 20)
            for _ in range(3):
                time.sleep(4)
                broker.kill()
                time.sleep(1)
                broker.restart()
            sending.join()
        finish(broker, spec, topics, 50_000)
