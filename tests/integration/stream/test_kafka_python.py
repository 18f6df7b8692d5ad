"""The whole service on kafka-python."""

from __future__ import annotations

import json

import pytest
from tests import streams
from tests.conftest import Pipeline
from tests.kafka import Broker
from tests.streams import FIRST_TIMESTAMP, Topics, committed, headers, ids, message, produce, with_stream

from batchinfer.runs import replay_dead_letters, stream

pytestmark = pytest.mark.xdist_group("kafka")


def test_each_message_ends_up_once_and_goes_on_from_there(kafka_broker: Broker, pipeline: Pipeline) -> None:
    topics = Topics.of(kafka_broker)
    spec = with_stream(
        pipeline,
        kafka_broker,
        topics,
        client="kafka-python",
        consumer_settings={"session_timeout_ms": 6000, "heartbeat_interval_ms": 500},
    )
    bad = {17: b"?", 333: None, 600: b"x" * 1_200_000}
    values = [message(number) for number in range(1000)]
    first: list[bytes | None] = [bad.get(number, value) for number, value in enumerate(values)]
    produce(kafka_broker, topics.input, first)
    report = stream(spec, until_end=True)
    assert report.messages == {"read": 1000, "predicted": 997, "dead_letters": 3}
    predictions, letters = committed(kafka_broker, topics.output), committed(kafka_broker, topics.letters)
    assert ids(predictions) == dict.fromkeys(set(range(1000)) - set(bad), 1)
    for each in predictions:
        number, row = int(each.key()), json.loads(each.value())
        assert (row["id"], row["score"]) == (number, streams.score(number))
        assert headers(each) == {"n": str(number).encode()}
        assert each.timestamp()[1] == FIRST_TIMESTAMP + number
    assert {int(each.key()): each.value() for each in letters} == bad
    assert replay_dead_letters(spec).sent == 3
    report = stream(spec, until_end=True)
    assert report.messages == {"read": 3, "predicted": 0, "dead_letters": 3}, "the others are not read again"
