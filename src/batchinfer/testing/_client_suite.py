"""The promises of a Kafka client's adapter, as a suite that each of them runs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any, ClassVar

import pytest

from batchinfer.errors import (
    BrokerRefused,
    BrokerUnavailable,
    GroupFenced,
    MessageTooLarge,
    ProducerFenced,
    SpecError,
    TransactionAborted,
)
from batchinfer.spec import StreamSpec
from batchinfer.streaming import Client, Producer, TopicPartition, open_client
from batchinfer.testing._client_runs import (
    BrokerUnderTest,
    Member,
    messages,
    murmur2_partition,
    new_name,
    numbered,
    partitions_of,
    send,
    until,
)

Settings = Mapping[str, str | int | float | bool]


class ClientConformance:
    """Subclass it in a test module, set `client`, and give a fixture `broker`: a `BrokerUnderTest`.

    The client's settings are Apache Kafka's own, with `separator` between their words. `tiny_queue` is a setting with
    which 2,000 messages do not fit the producer's queue at once, `small_messages` one with which it takes none of
    5,000 bytes, `impatient` those with which it gives up an absent broker after a second.
    """

    client: ClassVar[str]
    separator: ClassVar[str] = "."
    tiny_queue: ClassVar[dict[str, Any]] = {}
    small_messages: ClassVar[Settings] = {}
    impatient: ClassVar[Settings] = {}

    @pytest.fixture(autouse=True)
    def _on(self, broker: BrokerUnderTest) -> Iterator[None]:
        self._broker = broker
        self._open: list[Any] = []
        yield
        for each in reversed(self._open):
            each.close()

    def open(self, consumer: Settings | None = None, **stream: Any) -> Client:
        """The client under test. Its groups notice within a tenth of a second what becomes of them."""
        fast = {"heartbeat.interval.ms": 100, "session.timeout.ms": 6000, **(consumer or {})}
        document = {
            "bootstrap_servers": self._broker.bootstrap_servers,
            "input_topic": "suite",
            "output_topic": "suite-output",
            "client": self.client,
            "consumer_settings": {name.replace(".", self.separator): value for name, value in fast.items()},
            **stream,
        }
        return open_client(StreamSpec.model_validate(document))

    def member(self, topic: str, group: str | None = None, **options: Any) -> Member:
        """A member of a group, closed with the test."""
        starts = options.pop("starts", None)
        found = Member(self.open(**options), group or new_name("group"), topic, starts)
        self._open.append(found.consumer)
        return found

    def producer(self, transactional_id: str | None = None, **stream: Any) -> Producer:
        """A producer, closed with the test."""
        found = self.open(**stream).producer(transactional_id)
        self._open.append(found)
        return found

    def transactional(self) -> Producer:
        """One with an id of its own."""
        return self.producer(new_name("suite"))

    def needs_apache_kafka(self) -> None:
        """Skip where a stand-in runs that does not keep what is to be proved."""
        if not self._broker.real:
            pytest.skip("the embedded broker does not do this")

    # Topics and settings

    def test_topics_are_created_once_and_told(self) -> None:
        client, topic = self.open(), new_name("suite")
        assert client.partitions(topic) is None
        client.create_topic(topic, 3)
        client.create_topic(topic, 5)
        assert client.partitions(topic) == 3

    def test_the_message_limit_is_the_topics_or_the_producers(self) -> None:
        self.needs_apache_kafka()
        topic = self._broker.topic("suite", max_message_bytes="20000")
        assert 15_000 < self.open().message_limit_bytes(topic) < 20_000
        assert self.open(producer_settings=self.small_messages).message_limit_bytes(topic) < 5_000

    def test_an_absent_broker_is_transient_and_named(self) -> None:
        client = self.open(bootstrap_servers="127.0.0.1:9", settings=self.impatient)
        with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:9"):
            client.partitions("suite")

    @pytest.mark.parametrize("section", ["settings", "consumer_settings", "producer_settings"])
    def test_a_setting_that_there_is_not_is_named(self, section: str) -> None:
        with pytest.raises(SpecError, match=r"no\.such\.setting"):
            client = self.open(**{section: {"no.such.setting": 1}})
            client.partitions("suite")
            client.consumer("suite")
            client.producer(None).begin()

    @pytest.mark.parametrize(
        "name", ["group.id", "isolation.level", "enable.auto.commit", "transactional.id"]
    )
    def test_a_setting_on_which_promises_rest_is_refused(self, name: str) -> None:
        theirs = name.replace(".", self.separator)
        with pytest.raises(SpecError, match=theirs.replace(".", r"\.")):
            self.open(settings={theirs: "mine"})

    def test_a_setting_with_a_wrong_value_is_named(self) -> None:
        theirs = f"security{self.separator}protocol"
        with pytest.raises(SpecError, match=theirs.replace(".", r"\.")):
            self.open(settings={theirs: "none-such"}).partitions("suite")

    def test_settings_come_to_the_client(self) -> None:
        self.needs_apache_kafka()
        topic, group = self._broker.topic("suite"), new_name("group")
        send(self.producer(), messages(topic, numbered(3)))
        late = self.member(topic, group, consumer={"auto.offset.reset": "latest"})
        partition = TopicPartition(topic, 0)
        until(lambda: late.consumer.positions([partition]) == {partition: 3}, late)
        assert not late.records
        small = self.producer(producer_settings=self.small_messages)
        small.begin()
        with pytest.raises(MessageTooLarge):
            small.produce_batch(messages(topic, [b"x" * 6_000]))

    # Messages

    def test_messages_come_as_they_were_sent(self) -> None:
        topic = self._broker.topic("suite")
        sent = messages(
            topic,
            [b"one", None, b"", None, b"\x00\xff"],
            keys=[b"k1", b"k2", b"", None, None],
            headers=[[("a", b"1"), ("b", b""), ("a", b"2")], None, [("ä", b"\xff\x00")], None, None],
            timestamps=[1_000, 1, 1_700_000_000_123, 1_700_000_000_124, None],
        )
        before = int(time.time() * 1e3)
        send(self.producer(), sent)
        member = self.member(topic)
        found = member.until(5)
        assert [r["value"] for r in found] == sent.values.to_pylist()
        assert [r["key"] for r in found] == sent.keys.to_pylist()
        assert [r["headers"] for r in found] == sent.headers.to_pylist()
        assert [r["timestamp_ms"] for r in found[:4]] == sent.timestamps.to_pylist()[:4]
        assert before - 60_000 < found[4]["timestamp_ms"] < before + 120_000
        assert [r["offset"] for r in found] == [0, 1, 2, 3, 4]
        assert {(r["topic"], r["partition"]) for r in found} == {(topic, 0)}

    def test_a_header_without_a_value_stays_without(self) -> None:
        topic = self._broker.topic("suite")
        send(self.producer(), messages(topic, [b"v"], headers=[[("h", None)]]))
        assert self.member(topic).until(1)[0]["headers"] == [{"key": "h", "value": None}]

    def test_keys_go_where_apache_kafkas_own_producer_sends_them(self) -> None:
        topic = self._broker.topic("suite", 5)
        keys = [*(b"%d" % n for n in range(40)), b"foobar", b"\xff\xfe\xfd", b"a-longer-one"]
        send(self.producer(), messages(topic, numbered(len(keys)), keys=keys))
        found = self.member(topic).until(len(keys))
        assert {r["key"]: r["partition"] for r in found} == {k: murmur2_partition(k, 5) for k in keys}

    def test_more_than_the_queue_takes_is_waited_for_and_stays_in_order(self) -> None:
        topic = self._broker.topic("suite")
        send(self.producer(**self.tiny_queue), messages(topic, numbered(2_000)))
        assert [r["value"] for r in self.member(topic).until(2_000)] == numbered(2_000)

    def test_a_message_larger_than_the_client_takes_is_pointed_at(self) -> None:
        topic, producer = self._broker.topic("suite"), self.transactional()
        producer.begin()
        with pytest.raises(MessageTooLarge) as caught:
            producer.produce_batch(messages(topic, [b"small", b"x" * 3_000_000]))
        assert caught.value.fields["index"] == 1
        assert caught.value.fields["limit_bytes"] < 3_000_000
        producer.abort()
        send(producer, messages(topic, [b"after"]))
        assert [r["value"] for r in self.member(topic).until(1)] == [b"after"]

    def test_a_message_larger_than_the_topic_takes_is_told_by_the_commit(self) -> None:
        self.needs_apache_kafka()
        topic, producer = self._broker.topic("suite", max_message_bytes="2000"), self.transactional()
        producer.begin()
        producer.produce_batch(messages(topic, [b"x" * 5_000]))
        with pytest.raises(MessageTooLarge):
            producer.commit()

    # Polls

    def test_a_poll_keeps_its_bounds(self) -> None:
        topic = self._broker.topic("suite", 2)
        member = self.member(topic)
        until(lambda: len(member.owned) == 2, member)
        began = time.monotonic()
        assert member.poll(0.3) == 0
        assert 0.1 < time.monotonic() - began < 5
        send(self.producer(), messages(topic, numbered(50)))
        counts = []
        while len(member.records) < 50:
            counts.append(member.poll(most=7))
        assert max(counts) <= 7
        assert sorted(r["value"] for r in member.records) == sorted(v for v in numbered(50) if v)

    def test_a_paused_partition_sends_nothing_and_goes_on_where_it_was(self) -> None:
        self.needs_apache_kafka()
        topic = self._broker.topic("suite", 2)
        keys = [b"%d" % n for n in range(100)]
        producer = self.producer()
        send(producer, messages(topic, numbered(100), keys=keys))
        member = self.member(topic)
        until(lambda: len(member.owned) == 2, member)
        one, other = partitions_of(topic, 2)
        while not member.records:
            member.poll(most=5)
        before = len(member.offsets(one))
        for _ in range(2):
            member.consumer.pause([one])
        ends = member.consumer.end_offsets([one, other])
        until(lambda: len(member.offsets(other)) == ends[other], member)
        member.poll(0.2)
        assert len(member.offsets(one)) == before
        for _ in range(2):
            member.consumer.resume([one])
        until(lambda: len(member.offsets(one)) == ends[one], member)
        assert member.offsets(one) == list(range(ends[one]))

    def test_reading_goes_on_where_it_is_sent(self) -> None:
        topic = self._broker.topic("suite")
        partition = TopicPartition(topic, 0)
        send(self.producer(), messages(topic, numbered(10)))
        member = self.member(topic, starts={partition: 4})
        member.until(6)
        member.consumer.seek({partition: 7})
        member.until(9)
        assert member.offsets(partition) == [4, 5, 6, 7, 8, 9, 7, 8, 9]

    def test_progress_is_committed_and_kept(self) -> None:
        topic, group = self._broker.topic("suite", 2), new_name("group")
        one, other = partitions_of(topic, 2)
        send(self.producer(), messages(topic, numbered(20), keys=[b"%d" % n for n in range(20)]))
        member = self.member(topic, group)
        member.until(20)
        assert member.consumer.committed([one, other]) == {}
        member.consumer.commit({one: 3})
        assert member.consumer.committed([one, other]) == {one: 3}
        member.consumer.close()
        follower = self.member(topic, group)
        until(lambda: len(follower.records) == 17, follower)
        assert follower.offsets(one)[0] == 3
        assert follower.offsets(other)[0] == 0

    # Transactions

    def test_what_is_committed_is_seen_and_what_is_aborted_is_not(self) -> None:
        topic, producer = self._broker.topic("suite"), self.transactional()
        partition = TopicPartition(topic, 0)
        member = self.member(topic)
        send(producer, messages(topic, numbered(3)))
        producer.begin()
        producer.produce_batch(messages(topic, [b"never"]))
        producer.abort()
        send(producer, messages(topic, numbered(3, 3)))
        assert [r["value"] for r in member.until(6)] == numbered(6)
        ends = member.consumer.end_offsets([partition])
        until(lambda: member.consumer.positions([partition]) == ends, member)
        until(lambda: member.consumer.known_ends([partition]) == ends, member)
        assert member.consumer.begin_offsets([partition]) == {partition: 0}
        assert len(member.records) == 6

    def test_progress_goes_with_the_transaction(self) -> None:
        topic, producer = self._broker.topic("suite"), self.transactional()
        partition = TopicPartition(topic, 0)
        member = self.member(topic)
        send(producer, messages(topic, numbered(9)))
        member.until(9)
        for offset, outcome, kept in (
            (4, producer.commit, 4),
            (7, producer.abort, 4),
            (8, producer.commit, 8),
        ):
            producer.begin()
            producer.produce_batch(messages(topic, [b"more"]))
            producer.send_offsets({partition: offset}, member.consumer.group())
            outcome()
            assert member.consumer.committed([partition]) == {partition: kept}

    def test_progress_that_a_transaction_under_way_may_change_is_never_told_as_none(self) -> None:
        self.needs_apache_kafka()
        topic, producer = self._broker.topic("suite"), self.transactional()
        partition = TopicPartition(topic, 0)
        member = self.member(topic)
        until(lambda: bool(member.owned), member)
        producer.begin()
        producer.produce_batch(messages(topic, [b"more"]))
        producer.send_offsets({partition: 4}, member.consumer.group())
        with ThreadPoolExecutor(1) as beside:
            asked = beside.submit(member.consumer.committed, [partition])
            wait([asked], 3)
            producer.commit()
            with suppress(BrokerUnavailable):
                assert asked.result() == {partition: 4}
        assert member.consumer.committed([partition]) == {partition: 4}

    def test_a_fenced_producer_says_so_and_leaves_nothing(self) -> None:
        self.needs_apache_kafka()
        topic, name = self._broker.topic("suite"), new_name("suite")
        zombie, successor = self.producer(name), self.producer(name)
        zombie.begin()
        zombie.produce_batch(messages(topic, [b"zombie"]))
        successor.begin()
        with pytest.raises(ProducerFenced):
            zombie.commit()
        successor.produce_batch(messages(topic, [b"successor"]))
        successor.commit()
        assert [r["value"] for r in self.member(topic).until(1)] == [b"successor"]

    def test_a_producer_that_is_fenced_while_it_produces_says_that_all_is_to_be_done_again(self) -> None:
        self.needs_apache_kafka()
        topic, name = self._broker.topic("suite"), new_name("suite")
        zombie, successor = self.producer(name), self.producer(name)
        zombie.begin()
        successor.begin()
        end = time.monotonic() + 30
        with pytest.raises((ProducerFenced, TransactionAborted)):
            while time.monotonic() < end:
                zombie.produce_batch(messages(topic, [b"zombie"]))
                time.sleep(0.01)
            zombie.commit()

    def test_the_progress_of_an_old_generation_is_refused(self) -> None:
        self.needs_apache_kafka()
        topic, group, producer = self._broker.topic("suite", 2), new_name("group"), self.transactional()
        one, other = partitions_of(topic, 2)
        first = self.member(topic, group)
        until(lambda: len(first.owned) == 2, first)
        old = first.consumer.group()
        second = self.member(topic, group)
        until(lambda: len(first.owned) == len(second.owned) == 1, first, second)
        producer.begin()
        producer.produce_batch(messages(topic, [b"zombie"], keys=[b"1"]))
        with pytest.raises(GroupFenced):
            producer.send_offsets({one: 1, other: 1}, old)
        producer.abort()

        def is_taken() -> bool:
            producer.begin()
            try:
                producer.send_offsets({one: 2}, first.consumer.group())
            except GroupFenced:  # it has not heard of the last generation yet, and does in a poll
                producer.abort()
                return False
            producer.commit()
            return True

        until(is_taken, first, second)
        assert first.consumer.committed([one, other]) == {one: 2}

    # Groups

    def test_members_join_and_leave_and_each_partition_has_one_owner(self) -> None:
        topic, group = self._broker.topic("suite", 4), new_name("group")
        producer, kept = self.producer(), partitions_of(topic, 4)
        first = self.member(topic, group)
        first.on_revoked = lambda ps: first.consumer.commit({p: len(first.offsets(p)) for p in ps})
        until(lambda: len(first.owned) == 4, first)
        send(producer, messages(topic, numbered(40), keys=[b"%d" % n for n in range(40)]))
        first.until(40)
        second = self.member(topic, group)
        until(lambda: len(first.owned) == len(second.owned) == 2, first, second)
        assert first.told[0] == ("assigned", kept)
        assert first.owned | second.owned == set(kept)
        assert sorted(first.owned) == first.consumer.assignment()
        self.check_cooperation(first)
        send(producer, messages(topic, numbered(40, 40), keys=[b"%d" % n for n in range(40)]))
        until(lambda: len(first.records) + len(second.records) >= 80, first, second)
        values = sorted(int(r["value"]) for r in first.records + second.records)
        assert values == list(range(80)), "nothing twice, as what was revoked was committed in time"
        second.consumer.close()
        until(lambda: len(first.owned) == 4, first)
        assert not second.owned

    def test_a_partition_that_was_paused_and_went_comes_back_without_a_pause(self) -> None:
        topic, group = self._broker.topic("suite", 2), new_name("group")
        first = self.member(topic, group)
        until(lambda: len(first.owned) == 2, first)
        first.consumer.pause(partitions_of(topic, 2))
        second = self.member(topic, group)
        until(lambda: len(first.owned) == len(second.owned) == 1, first, second)
        (went,) = second.owned
        second.consumer.close()
        until(lambda: len(first.owned) == 2, first)
        send(self.producer(), messages(topic, numbered(40), keys=[b"%d" % n for n in range(40)]))
        until(lambda: bool(first.offsets(went)), first)

    def check_cooperation(self, first: Member) -> None:
        """Only what goes to the other member was revoked: the rest went on all the while."""
        assert [(kind, len(found)) for kind, found in first.told] == [("assigned", 4), ("revoked", 2)]

    def test_a_member_that_was_thrown_out_is_told_and_can_commit_nothing(self) -> None:
        self.needs_apache_kafka()
        topic, group, producer = self._broker.topic("suite", 2), new_name("group"), self.transactional()
        partition = TopicPartition(topic, 0)
        stalled = self.member(topic, group, consumer={"session.timeout.ms": 600, "max.poll.interval.ms": 700})
        until(lambda: len(stalled.owned) == 2, stalled)
        other = self.member(topic, group)
        until(lambda: len(other.owned) == 2, other)  # the first does not poll any more
        producer.begin()
        producer.produce_batch(messages(topic, [b"zombie"]))
        with pytest.raises(GroupFenced):
            producer.send_offsets({partition: 1}, stalled.consumer.group())
        producer.abort()
        with pytest.raises(GroupFenced):
            stalled.consumer.commit({partition: 1})
        until(lambda: "lost" in dict(stalled.told), stalled, other)
        assert other.consumer.committed([partition]) == {}
        until(lambda: len(stalled.owned) == len(other.owned) == 1, stalled, other)

    def test_a_static_member_comes_back_to_what_it_had(self) -> None:
        self.needs_apache_kafka()
        topic, group = self._broker.topic("suite", 2), new_name("group")
        one, two = (self.member(topic, group, instance_id=name) for name in ("one", "two"))
        until(lambda: len(one.owned) == len(two.owned) == 1, one, two)
        had, told = set(one.owned), list(two.told)
        one.consumer.close()
        again = self.member(topic, group, instance_id="one")
        until(lambda: again.owned == had, again, two)
        assert two.told == told, "the others were not disturbed"

    def test_the_second_of_one_name_throws_the_first_out(self) -> None:
        self.needs_apache_kafka()
        topic, group = self._broker.topic("suite"), new_name("group")
        first = self.member(topic, group, instance_id="same")
        until(lambda: bool(first.owned), first)
        second = self.member(topic, group, instance_id="same")
        until(lambda: bool(second.owned), second)
        with pytest.raises(BrokerRefused, match=r"stream\.instance_id"):
            until(lambda: False, first)
