"""Both Kafka clients keep the promises of the port, against Apache Kafka and, where it can, the embedded broker."""

from __future__ import annotations

import os
from contextlib import ExitStack
from contextlib import closing as closed
from typing import ClassVar

import pytest
from tests import kafka

from batchinfer.errors import Transient
from batchinfer.streaming import TopicPartition
from batchinfer.testing import ClientConformance
from batchinfer.testing._client_runs import Member, messages, new_name, numbered, until

pytestmark = pytest.mark.xdist_group("kafka")


class TestConfluent(ClientConformance):
    client = "confluent"
    tiny_queue: ClassVar = {"producer_settings": {"queue.buffering.max.messages": 100}}
    small_messages: ClassVar = {"message.max.bytes": 5_000}
    impatient: ClassVar = {"socket.timeout.ms": 1_000}

    @pytest.fixture
    def broker(self, kafka_broker: kafka.Broker) -> kafka.Broker:
        return kafka_broker


class TestKafkaPython(ClientConformance):
    client = "kafka-python"
    separator = "_"
    tiny_queue: ClassVar = {"max_queue_mb": 0.01}
    small_messages: ClassVar = {"max_request_size": 5_000}
    impatient: ClassVar = {"bootstrap_timeout_ms": 1_000}

    @pytest.fixture
    def broker(self, kafka_broker: kafka.Broker) -> kafka.Broker:
        return kafka_broker

    def test_a_partition_that_has_just_gone_is_passed_over(self) -> None:
        member = self.member(self._broker.topic("suite"))
        until(lambda: bool(member.owned), member)
        gone = TopicPartition("gone", 7)
        member.consumer.seek({gone: 1})
        member.consumer.pause([gone])
        member.consumer.resume([gone])
        assert member.consumer.known_ends([gone]) == member.consumer.positions([gone]) == {}

    @pytest.mark.xfail(reason="kafka-python sends it as an empty one")
    def test_a_header_without_a_value_stays_without(self) -> None:
        super().test_a_header_without_a_value_stays_without()


@pytest.mark.skipif(os.environ.get("BATCHINFER_TORTURE") != "all", reason="make stream-torture")
@pytest.mark.parametrize("suite", [TestConfluent, TestKafkaPython])
def test_a_broker_that_restarts_in_mid_flight_costs_no_message_and_doubles_none(
    suite: type[ClientConformance],
) -> None:
    with kafka.broker(controller_apart=True) as broker:
        if not broker.real:
            pytest.skip("the embedded broker keeps nothing")
        costs_no_message_and_doubles_none(broker, suite())


def costs_no_message_and_doubles_none(broker: kafka.Broker, under_test: ClientConformance) -> None:
    topic, group, name = broker.topic("restart", 2), new_name("group"), new_name("restart")
    progress = TopicPartition(broker.topic("progress"), 0)
    under_test._broker = broker
    client = under_test.open()
    member = Member(client, group, topic)
    until(lambda: len(member.owned) == 2, member)
    with ExitStack() as closing:
        closing.callback(member.consumer.close)
        producer = closing.enter_context(closed(client.producer(name)))
        for batch in range(6):
            values = messages(topic, numbered(50, 50 * batch))
            for attempt in range(20):
                try:
                    producer.begin()
                    done = member.consumer.committed([progress]).get(progress, 0) > batch
                    if not done:
                        producer.produce_batch(values)
                        if batch == 3 and attempt == 0:
                            broker.kill()
                            broker.restart()
                        producer.send_offsets({progress: batch + 1}, member.consumer.group())
                    producer.commit()
                    break
                except Transient:  # a successor ends what was under way, and then the group's progress tells
                    producer = closing.enter_context(closed(client.producer(name)))
                    member.poll(0.5)
            else:
                pytest.fail("the broker is back, and nothing can be committed")
        until(lambda: len(member.owned) == 2, member)
        reader = Member(client, new_name("reader"), topic)
        closing.callback(reader.consumer.close)
        reader.until(300)
        reader.poll(0.5)
    assert sorted(int(r["value"]) for r in reader.records) == list(range(300))
