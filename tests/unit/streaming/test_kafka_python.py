"""What is done about kafka-python where it does not keep a promise, in moments that brokers do not give at will."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from batchinfer.errors import GroupFenced, SpecError, TransactionAborted
from batchinfer.spec import StreamSpec
from batchinfer.streaming import Listener, Offsets, Outgoing, TopicPartition, header_array, open_client

pytest.importorskip("kafka")

import kafka
from kafka import errors as ke
from kafka.coordinator.base import MemberState

from batchinfer.streaming._kafka_python_consumer import Assignor, KafkaPythonConsumer
from batchinfer.streaming._kafka_python_producer import KafkaPythonProducer

PARTITION = TopicPartition("t", 0)


class FakeConsumer:
    """A member of a group of one partition, whose name the test changes."""

    def __init__(self) -> None:
        self.name, self.sought = "first", [0]
        self._coordinator = SimpleNamespace(
            need_rejoin=lambda: False, state=MemberState.STABLE, _heartbeat_enabled=True
        )
        self._fetcher = SimpleNamespace(_next_partition_records=None)

    def group_metadata(self) -> Any:
        return SimpleNamespace(generation_id=5, member_id=self.name)

    def assignment(self) -> set[Any]:
        return {kafka.TopicPartition("t", 0)}

    def committed(self, _partition: Any, timeout_ms: int) -> int:
        assert timeout_ms > 0
        return 7

    def beginning_offsets(self, partitions: list[Any], timeout_ms: int) -> dict[Any, int]:
        assert timeout_ms > 0
        return dict.fromkeys(partitions, 0)

    def seek(self, _partition: Any, offset: int) -> None:
        self.sought.append(offset)

    def poll(self, _timeout_ms: float, _most: int) -> dict[Any, list[Any]]:
        return {}

    def close(self, **_options: Any) -> None:
        pass


def test_a_member_that_came_back_under_another_name_has_lost_what_it_had() -> None:
    fake, told = FakeConsumer(), []

    def assigned(partitions: Any) -> Offsets:
        told.append(("assigned", list(partitions)))
        return {}

    consumer = KafkaPythonConsumer(fake, Assignor(), "broker:9092")
    consumer._listener = Listener(assigned, lambda ps: None, lambda ps: told.append(("lost", list(ps))))
    consumer.poll(10, 0)
    assert (told, fake.sought[-1]) == ([("assigned", [PARTITION])], 7)
    assert consumer.group() is not None
    fake.name = "second"
    with pytest.raises(GroupFenced):
        consumer.group()
    told.clear()
    fake.sought.clear()
    consumer.poll(10, 0)
    assert told == [("lost", [PARTITION]), ("assigned", [PARTITION])]
    assert fake.sought == [7]
    assert consumer.group() is not None
    consumer.close()


def test_a_member_under_another_name_claims_nothing() -> None:
    assignor, name = Assignor(), ["first"]
    assignor.name_now = lambda: name[0]
    assignment = SimpleNamespace(partitions=lambda: [kafka.TopicPartition("t", 0)])
    assignor.on_assignment(assignment, 1)
    assert [owned.topic for owned in assignor.metadata(["t"]).owned_partitions] == ["t"]
    name[0] = ""
    assert not assignor.metadata(["t"]).owned_partitions


def test_nothing_is_committed_when_a_message_was_not_delivered() -> None:
    called: list[str] = []
    failed = SimpleNamespace(succeeded=lambda: False, exception=ke.OutOfOrderSequenceNumberError())
    fake = SimpleNamespace(
        init_transactions=lambda: None,
        begin_transaction=lambda: None,
        send=lambda *_: failed,
        flush=lambda _: None,
        send_offsets_to_transaction=lambda *_: called.append("offsets"),
        commit_transaction=lambda: called.append("commit"),
        _transaction_manager=SimpleNamespace(last_error=None),
    )
    producer = KafkaPythonProducer(
        lambda _: fake,
        address="broker:9092",
        transactional=True,
        max_queue_bytes=1000,
        max_message_bytes=1000,
    )
    value, nothing = pa.array([b"v"], pa.large_binary()), pa.nulls(1, pa.large_binary())
    for finish in (producer.commit, lambda: producer.send_offsets({PARTITION: 1}, None)):
        producer.begin()
        producer.produce_batch(Outgoing("t", value, nothing, header_array(None, 1), pa.nulls(1, pa.int64())))
        with pytest.raises(TransactionAborted):
            finish()
    assert not called


def test_a_token_provider_is_named_by_its_class() -> None:
    def opened(name: str) -> Any:
        spec = StreamSpec(
            input_topic="t",
            output_topic="o",
            client="kafka-python",
            bootstrap_servers="127.0.0.1:9",
            settings={"sasl_oauth_token_provider": name, "bootstrap_timeout_ms": 1},
        )
        return open_client(spec).partitions("t")

    with pytest.raises(SpecError, match="sasl_oauth_token_provider"):
        opened("no_such_module:Provider")
    with pytest.raises(SpecError, match="NoSuchClass"):
        opened("batchinfer.errors:NoSuchClass")
