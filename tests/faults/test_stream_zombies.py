"""Members that come back from the dead, and models that go bad, while messages flow: each message ends up once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from batchinfer.model import Registry
from tests.conftest import Pipeline
from tests.faults.test_stream import (
    CLIENTS,
    RATE,
    SESSION_MS,
    SLOWER,
    WHOLE,
    Flow,
    _reader,
    await_progress,
    finish,
    nursery,
    progress_of,
    quick,
)
from tests.integration.stream.test_stream import add_second_version, running, until
from tests.kafka import Broker
from tests.streams import Topics, committed, message, produce, score, section, with_stream

pytestmark = pytest.mark.xdist_group("kafka")


@pytest.mark.skipif(not WHOLE, reason="make stream-torture; the clients' suite holds the same of one client")
@pytest.mark.parametrize("client", CLIENTS)
def test_a_member_that_was_given_up_for_dead_commits_nothing_when_it_wakes(
    kafka_broker: Broker, pipeline: Pipeline, client: str
) -> None:
    if not kafka_broker.real:
        pytest.skip("rebalances are Apache Kafka's own")
    topics = Topics.of(kafka_broker, 4)
    spec = pipeline.write_spec(stream=section(kafka_broker, topics, **quick(client)))
    reader = _reader(kafka_broker)
    with nursery(spec) as members:
        members.start()
        members.start()
        end = progress_of(reader, topics.output)
        rate = RATE / SLOWER if client == "kafka-python" else RATE / 2
        with Flow(kafka_broker, topics, 0, rate) as sending:
            for turn in range(10):
                await_progress(end, members)
                zombie = members.members[turn % 2]
                os.kill(zombie, signal.SIGSTOP)
                time.sleep(2 * SESSION_MS / 1e3)  # a zombie is one only after its session
                await_progress(end, members)
                os.kill(zombie, signal.SIGCONT)
                await_progress(end, members)
            count = sending.stop()
    reader.close()
    finish(kafka_broker, spec, topics, count)


def test_a_model_that_goes_bad_in_the_registry_leaves_the_one_that_scores(
    kafka_broker: Broker, pipeline: Pipeline, registry: str, tmp_path: Path
) -> None:
    mine = tmp_path / "models"
    shutil.copytree(registry, mine)
    topics = Topics.of(kafka_broker)
    spec = with_stream(pipeline, kafka_broker, topics, refresh_seconds=0.05, spec__registry=str(mine))
    sent = 0

    def scored() -> None:
        nonlocal sent
        produce(kafka_broker, topics.input, (message(n) for n in range(sent, sent + 200)))
        sent += 200
        until(lambda: len(committed(kafka_broker, topics.output)) == sent, "all predictions")

    with running(spec) as (stop, ended):
        scored()
        model = mine / "linear" / "1" / "model.onnx"
        good = model.read_bytes()
        model.write_bytes(good[:-7])  # cut off under the stream's feet
        scored()
        model.write_bytes(good)
        add_second_version(mine, tmp_path)
        worse = mine / "linear" / "2" / "model.onnx"
        changed = bytearray(worse.read_bytes())
        changed[len(changed) // 2] ^= 1
        worse.write_bytes(changed)
        Registry(str(mine)).set_alias("linear", "champion", "2")
        time.sleep(0.5)  # ten looks at what is not what was added
        scored()
        stop.set()
        report = ended()
    assert report.models == {"linear@1": sent}
    for each in committed(kafka_broker, topics.output):
        row = json.loads(each.value())
        assert (row["_model"], row["score"]) == ("linear@1", score(row["id"]))
