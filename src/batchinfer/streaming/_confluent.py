"""The Kafka client on confluent-kafka (librdkafka): the default."""

from __future__ import annotations

import gc
import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import repeat
from typing import Any, TypeVar

import confluent_kafka as ck
import numpy as np
import pyarrow as pa
from confluent_kafka import admin

from batchinfer.core import arrays
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
from batchinfer.streaming._ports import Listener
from batchinfer.streaming._records import (
    RECORDS,
    UNREADABLE,
    Offsets,
    Outgoing,
    Records,
    TopicPartition,
    header_array,
)

_log = logging.getLogger("batchinfer.kafka")
_Found = TypeVar("_Found")

_PATIENCE_SECONDS = 30.0
_DEFAULT_LIMIT_BYTES = 1_000_000
_OVERHEAD_BYTES = 512
"""What a batch of one message adds to its value, key and headers, with room to spare."""
_OURS = {
    "group.id": "stream.group",
    "group.instance.id": "stream.instance_id",
    "transactional.id": "stream.instance_id",
    "bootstrap.servers": "stream.bootstrap_servers",
    "enable.auto.commit": None,
    "isolation.level": None,
    "enable.idempotence": None,
    "partition.assignment.strategy": None,
    "delivery.report.only.error": None,
    "enable.partition.eof": None,
}
"""Settings on which the promises rest, and the key of the spec that states them instead."""

_E = ck.KafkaError
_UNAVAILABLE = {
    _E._ALL_BROKERS_DOWN,
    _E._TRANSPORT,
    _E._TIMED_OUT,
    _E._RESOLVE,
    _E._MSG_TIMED_OUT,
    _E.COORDINATOR_NOT_AVAILABLE,
    _E.COORDINATOR_LOAD_IN_PROGRESS,
    _E.NOT_COORDINATOR,
    _E.REQUEST_TIMED_OUT,
    _E.LEADER_NOT_AVAILABLE,
    _E.NOT_LEADER_FOR_PARTITION,
    _E.BROKER_NOT_AVAILABLE,
    _E.CONCURRENT_TRANSACTIONS,
    _E.NETWORK_EXCEPTION,
    _E.UNSTABLE_OFFSET_COMMIT,
}
_GROUP_FENCED = {
    _E.ILLEGAL_GENERATION,
    _E.UNKNOWN_MEMBER_ID,
    _E.FENCED_INSTANCE_ID,
    _E.REBALANCE_IN_PROGRESS,
    _E._ASSIGNMENT_LOST,
    _E._MAX_POLL_EXCEEDED,
}
_DENIED = {_E._AUTHENTICATION, _E._SSL}
_NO_RIGHT = {
    _E.TOPIC_AUTHORIZATION_FAILED,
    _E.GROUP_AUTHORIZATION_FAILED,
    _E.CLUSTER_AUTHORIZATION_FAILED,
    _E.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
}
"""Fatal to a producer too, and yet nothing to do again."""
_PRODUCER_FENCED = {_E._FENCED, _E.INVALID_PRODUCER_EPOCH, _E.PRODUCER_FENCED}
_TOO_LARGE = {_E.MSG_SIZE_TOO_LARGE, _E.RECORD_LIST_TOO_LARGE}


class ConfluentClient:
    """See `batchinfer.streaming.Client`."""

    def __init__(self, spec: StreamSpec) -> None:
        self._spec = spec
        for section in (spec.settings, spec.consumer_settings, spec.producer_settings):
            for name in section:
                if name in _OURS:
                    told = f"state {_OURS[name]} instead" if _OURS[name] else "what it says is fixed"
                    raise SpecError(f"stream: '{name}' cannot be set: {told}", key=name)
        # librdkafka warns of what it does again by itself; what it cannot mend comes as an error.
        # With all brokers gone it would forget them, and a transaction then waits for ever for one it has forgotten
        # (librdkafka 2.16).
        defaults = {"log_level": 3, "metadata.recovery.strategy": "none"}
        self._base = {"bootstrap.servers": spec.bootstrap_servers, **defaults, **spec.settings}
        self._patience_s = min(10.0, int(spec.settings.get("socket.timeout.ms", 60_000)) / 1e3)
        self._admin_client: admin.AdminClient | None = None
        self._denied: list[ck.KafkaError] = []

    def consumer(self, group: str) -> ConfluentConsumer:
        """See `Client.consumer`."""
        if not (group.isascii() and group.isprintable()):  # librdkafka would send no offsets for it
            raise SpecError(
                f"stream.group: '{group}': confluent-kafka takes ASCII characters alone", key="stream.group"
            )
        defaults: dict[str, Any] = {
            "session.timeout.ms": 10_000,
            "partition.assignment.strategy": "cooperative-sticky",
            "auto.offset.reset": "earliest",
            "queued.min.messages": 200_000,
            "queued.max.messages.kbytes": max(1024, int(self._spec.max_queue_mb * 1024)),
            # A backlog comes in answers, one asked for after the other: small ones make the stream wait for each.
            "fetch.message.max.bytes": _fetch_bytes(self._spec.max_queue_mb),
            "fetch.wait.max.ms": 20,  # a broker that does not answer at once when something comes is asked again
            "fetch.queue.backoff.ms": 10,
            "fetch.error.backoff.ms": 100,
        }
        settings = {**self._base, **self._spec.consumer_settings}
        if (
            settings.get("group.protocol") == "consumer"
        ):  # the broker assigns, and holds the session's timeout
            del defaults["session.timeout.ms"], defaults["partition.assignment.strategy"]
        if self._spec.instance_id is not None:
            defaults["group.instance.id"] = self._spec.instance_id
        fixed = {
            "group.id": group,
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
        return ConfluentConsumer(_made(ck.Consumer, {**defaults, **settings, **fixed}))

    def producer(self, transactional_id: str | None) -> ConfluentProducer:
        """See `Client.producer`."""
        defaults: dict[str, Any] = {
            "linger.ms": 2,
            "queue.buffering.max.messages": 500_000,
            "partitioner": "murmur2_random",
            "message.max.bytes": max(_DEFAULT_LIMIT_BYTES, *(self._limit(t) for t in self._outputs())),
        }
        settings = {**defaults, **self._base, **self._spec.producer_settings}
        settings |= {"enable.idempotence": True, "delivery.report.only.error": True}
        if transactional_id is not None:
            settings = {"transaction.timeout.ms": 15_000, **settings, "transactional.id": transactional_id}
        return ConfluentProducer(settings)

    def partitions(self, topic: str) -> int | None:
        """See `Client.partitions`."""
        found = self._metadata(topic).topics.get(topic)
        return len(found.partitions) if found is not None and found.error is None else None

    def _metadata(self, topic: str) -> admin.ClusterMetadata:
        """What the brokers say of all topics. One that turns us away looks like one that is not there: ask why."""
        until = time.monotonic() + self._patience_s
        while True:
            try:
                return self._admin.list_topics(timeout=1)
            except ck.KafkaException as e:
                self._admin.poll(0)
                if self._denied:
                    raise BrokerRefused(
                        f"{self._spec.bootstrap_servers}: {self._denied[0].str()}",
                        next_step="check stream.settings and the secrets in the environment: docs/kafka-security.md",
                        code=self._denied[0].name(),
                    ) from e
                if time.monotonic() > until:
                    what = f"the topic {topic} at {self._spec.bootstrap_servers}"
                    raise _translated(e.args[0], what) from e

    def create_topic(self, topic: str, partitions: int) -> None:
        """See `Client.create_topic`."""
        made = self._admin.create_topics([admin.NewTopic(topic, partitions)])[topic]
        try:
            made.result(_PATIENCE_SECONDS)
        except ck.KafkaException as e:
            if e.args[0].code() != _E.TOPIC_ALREADY_EXISTS:
                raise _translated(e.args[0], f"the topic {topic} cannot be created") from e
        until = time.monotonic() + _PATIENCE_SECONDS
        while self.partitions(topic) is None:
            if time.monotonic() > until:
                raise BrokerUnavailable(f"the topic {topic} was created, but does not appear", topic=topic)
            time.sleep(0.05)

    def message_limit_bytes(self, topic: str) -> int:
        """See `Client.message_limit_bytes`."""
        stated = self._spec.producer_settings.get("message.max.bytes")
        limit = self._limit(topic)
        return (min(limit, int(stated)) if stated is not None else limit) - _OVERHEAD_BYTES

    def _limit(self, topic: str) -> int:
        resource = admin.ConfigResource(admin.ConfigResource.Type.TOPIC, topic)
        try:
            described = self._admin.describe_configs([resource], request_timeout=10)[resource].result(15)
            return int(described["max.message.bytes"].value)
        except (ck.KafkaException, KeyError, ValueError, TypeError):
            return _DEFAULT_LIMIT_BYTES  # not allowed to ask, or a broker that does not tell

    def _outputs(self) -> list[str]:
        return [t for t in (self._spec.output_topic, self._spec.dead_letters) if t is not None]

    @property
    def _admin(self) -> admin.AdminClient:
        if self._admin_client is None:
            settings = {**self._base, "error_cb": self._on_error}
            self._admin_client = _made(admin.AdminClient, settings)
        return self._admin_client

    def _on_error(self, error: ck.KafkaError) -> None:
        if error.code() in _DENIED:
            self._denied.append(error)


class ConfluentConsumer:
    """See `batchinfer.streaming.Consumer`."""

    def __init__(self, consumer: ck.Consumer) -> None:
        self._consumer = consumer
        self._next: dict[TopicPartition, int] = {}
        self._assigned: set[TopicPartition] = set()
        self._rebalances = 0
        self._group: object = None
        self._group_at = 0

    def subscribe(self, topics: Sequence[str], listener: Listener) -> None:
        """See `Consumer.subscribe`."""

        def assigned(consumer: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
            self._rebalances += 1
            ours = _ours(partitions)
            self._assigned.update(ours)
            starts = listener.assigned(ours)
            for partition in ours:
                self._next.pop(partition, None)
            self._next.update(starts)
            told = _theirs({p: starts.get(p, ck.OFFSET_STORED) for p in ours})
            consumer.incremental_assign(told)
            consumer.resume(told)  # librdkafka has not forgotten that it was paused when it went

        def gone(tell: Callable[[Sequence[TopicPartition]], None]) -> Callable[..., None]:
            def call(consumer: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
                self._rebalances += 1
                ours = _ours(partitions)
                self._assigned.difference_update(ours)
                for partition in ours:
                    self._next.pop(partition, None)
                tell(ours)

            return call

        _called(
            lambda: self._consumer.subscribe(
                list(topics),
                on_assign=assigned,
                on_revoke=gone(listener.revoked),
                on_lost=gone(listener.lost),
            ),
            f"the topics {', '.join(topics)}",
        )

    def poll(self, max_records: int, timeout_s: float) -> Records:
        """See `Consumer.poll`."""
        before = self._rebalances
        first = _called(lambda: self._consumer.poll(timeout_s), "polling")
        if first is None:
            self._ask_group()
            return Records.none()
        with _uncollected():
            rest = (
                _called(lambda: self._consumer.consume(max_records - 1, 0), "polling")
                if max_records > 1
                else []
            )
            messages: list[Any] = [first, *rest]
            self._ask_group()
            if any(map(ck.Message.error, messages)):
                messages = [message for message in messages if not self._is_event(message)]
            if self._rebalances != before:  # the batch may hold what came before a partition went
                messages = [m for m in messages if TopicPartition(m.topic(), m.partition()) in self._assigned]
            if not messages:
                return Records.none()
            records = _records(messages)
            del messages, rest, first  # before the collector is back
        for partition, offset in records.next_offsets().items():  # its end may have been told with it
            self._next[partition] = max(offset, self._next.get(partition, 0))
        return records

    def _ask_group(self) -> None:
        """Learn the generation anew after a rebalance.

        Here alone, in the poll thread and after its callbacks: elsewhere the answer may wait for a rebalance to end,
        and that for who asks. One that is out of date is refused by the broker, and all of it is done again.
        """
        if self._group_at != self._rebalances:
            self._group_at = self._rebalances
            self._learn_group()

    def _learn_group(self) -> None:
        group = self._consumer.consumer_group_metadata()
        self._group = group if self._consumer.memberid() else None

    def _is_event(self, message: Any) -> bool:
        error = message.error()
        if error is None:
            return False
        if error.code() == _E._PARTITION_EOF:
            partition = TopicPartition(message.topic(), message.partition())
            if partition in self._assigned:
                self._next[partition] = max(self._next.get(partition, 0), message.offset())
            return True
        if error.retriable() or error.code() in _UNAVAILABLE or error.code() in _GROUP_FENCED:
            _log.warning("polling: %s", error)
            return True
        if error.code() == _E._FATAL and "group.instance.id" in error.str():
            raise BrokerRefused(
                f"polling: {error.str()}", next_step="give each stream its own stream.instance_id"
            )
        raise _translated(error, "polling")

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        """See `Consumer.pause`."""
        self._consumer.pause(_theirs(dict.fromkeys(partitions, 0)))

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        """See `Consumer.resume`."""
        self._consumer.resume(_theirs(dict.fromkeys(partitions, 0)))

    def seek(self, offsets: Offsets) -> None:
        """See `Consumer.seek`."""
        self._learn_group()
        until = time.monotonic() + _PATIENCE_SECONDS
        for each in _theirs(offsets):
            while True:  # a partition that has just come is not to be sought in at once
                try:
                    self._consumer.seek(each)
                    break
                except ck.KafkaException as e:
                    if e.args[0].code() not in {_E._STATE, _E._TIMED_OUT} or time.monotonic() > until:
                        raise _translated(e.args[0], f"seeking in {each.topic}-{each.partition}") from e
                    time.sleep(0.02)
        self._next.update(offsets)

    def assignment(self) -> list[TopicPartition]:
        """See `Consumer.assignment`."""
        return sorted(self._assigned)

    def committed(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """See `Consumer.committed`."""
        if not partitions:
            return {}
        asked = _theirs(dict.fromkeys(partitions, ck.OFFSET_INVALID))
        found = _patiently(lambda: self._consumer.committed(asked, timeout=10), "the group's progress")
        for each in found:  # an error of a partition is told here alone, and its offset is none
            if each.error is not None:
                raise _translated(each.error, f"the group's progress in {each.topic}-{each.partition}")
        return {TopicPartition(f.topic, f.partition): f.offset for f in found if f.offset >= 0}

    def positions(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """See `Consumer.positions`."""
        return {p: self._next[p] for p in partitions if p in self._next}

    def begin_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """See `Consumer.begin_offsets`."""
        return {p: self._watermarks(p)[0] for p in partitions}

    def end_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """See `Consumer.end_offsets`."""
        return {p: self._watermarks(p)[1] for p in partitions}

    def known_ends(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """See `Consumer.known_ends`."""
        ends = {}
        for partition in partitions:
            asked = ck.TopicPartition(partition.topic, partition.partition)
            found = self._consumer.get_watermark_offsets(asked, cached=True)
            if found is not None and found[1] >= 0:
                ends[partition] = int(found[1])
        return ends

    def _watermarks(self, partition: TopicPartition) -> tuple[int, int]:
        asked = ck.TopicPartition(partition.topic, partition.partition)
        found = _patiently(
            lambda: self._consumer.get_watermark_offsets(asked, timeout=10), f"the ends of {partition}"
        )
        low, high = found
        return int(low), int(high)

    def commit(self, offsets: Offsets) -> None:
        """See `Consumer.commit`."""
        if offsets:
            _patiently(
                lambda: self._consumer.commit(offsets=_theirs(offsets), asynchronous=False),
                "committing offsets",
            )

    def group(self) -> object:
        """See `Consumer.group`."""
        group = self._group
        if group is None:  # brokers let what names no member through
            raise GroupFenced("this member is not in the group any more")
        return group

    def close(self) -> None:
        """See `Consumer.close`."""
        self._consumer.close()


class ConfluentProducer:
    """See `batchinfer.streaming.Producer`."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._failed: list[ck.KafkaError] = []
        self._limit = int(settings["message.max.bytes"])
        self._transactional = "transactional.id" in settings
        # The client takes Python's lock for each delivery that is reported; a transaction's commit tells what failed.
        reports = {} if self._transactional else {"on_delivery": self._on_failure}
        self._producer = _made(ck.Producer, {**settings, **reports})
        self._ready = False
        self._usable = True

    def _on_failure(self, error: ck.KafkaError | None, _message: ck.Message) -> None:
        if error is not None:
            self._failed.append(error)

    def prepare(self) -> None:
        """See `Producer.prepare`."""
        if self._transactional and not self._ready:
            _patiently(
                lambda: self._producer.init_transactions(_PATIENCE_SECONDS), "registering the producer"
            )
            self._ready = True

    def begin(self) -> None:
        """See `Producer.begin`."""
        self._failed.clear()
        if not self._transactional:
            return
        self.prepare()
        _called(self._producer.begin_transaction, "beginning a transaction")

    def produce_batch(self, messages: Outgoing) -> None:
        """See `Producer.produce_batch`."""
        topic, produce = messages.topic, self._producer.produce
        headers: Iterable[Any] = repeat(None)
        if messages.headers.null_count < len(messages):
            headers = (
                h and [(each["key"], each["value"]) for each in h] for h in messages.headers.to_pylist()
            )
        # librdkafka's own way for many at once takes neither timestamps nor headers, and is no faster.
        rows = zip(
            messages.values.to_pylist(),
            messages.keys.to_pylist(),
            [stamp or 0 for stamp in messages.timestamps.to_pylist()],  # 0 is now
            headers,
            strict=False,
        )
        for index, (value, key, timestamp, own) in enumerate(rows):
            while True:
                try:
                    if own:
                        produce(topic, value, key, -1, None, None, timestamp, own)
                    else:
                        produce(topic, value, key, -1, None, None, timestamp)
                    break
                except BufferError:  # the queue is full: wait for deliveries
                    self._producer.poll(0.05)
                except ck.KafkaException as e:
                    self._refuse(e.args[0], topic, index)
        self._producer.poll(0)

    def _refuse(self, error: ck.KafkaError, topic: str, index: int) -> None:
        if error.code() in _TOO_LARGE:
            raise MessageTooLarge(
                f"a message for {topic} is larger than {self._limit} bytes",
                index=index,
                limit_bytes=self._limit,
            )
        raise self._failure(error, f"producing to {topic}")

    def _failure(self, error: ck.KafkaError, what: str) -> Exception:
        """Of a producer that cannot go on, `produce` says that alone; a transaction's abort says why."""
        if error.fatal() or error.code() == _E._FATAL:
            self._usable = False
        if error.code() == _E._FATAL:
            return TransactionAborted(f"{what}: {error.str()}", code=error.name())
        return _translated(error, what)

    def send_offsets(self, offsets: Offsets, group: object) -> None:
        """See `Producer.send_offsets`."""
        _patiently(
            lambda: self._producer.send_offsets_to_transaction(_theirs(offsets), group, _PATIENCE_SECONDS),
            "sending offsets to the transaction",
        )

    def commit(self) -> None:
        """See `Producer.commit`."""
        if self._transactional:
            _patiently(
                lambda: self._producer.commit_transaction(_PATIENCE_SECONDS), "committing the transaction"
            )
            return
        while self._producer.flush(1.0):
            if self._failed:
                break
        if self._failed:
            error = self._failed[0]
            self._producer.purge()
            raise self._failure(error, "delivering messages") from ck.KafkaException(error)

    def abort(self) -> None:
        """See `Producer.abort`."""
        if self._transactional:
            _patiently(
                lambda: self._producer.abort_transaction(_PATIENCE_SECONDS), "aborting the transaction"
            )
        else:
            self._producer.purge()
            self._producer.flush(1.0)
            if not self._usable:
                raise TransactionAborted("this producer cannot go on")

    def close(self) -> None:
        """See `Producer.close`."""
        self._producer.purge()
        with warnings.catch_warnings():  # that it could not abort what it had lost already
            warnings.simplefilter("ignore", RuntimeWarning)
            try:
                self._producer.close()
            except ck.KafkaException as e:
                _log.warning("closing a producer: %s", e.args[0].str())


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the garbage collector away: it would look at all of a poll's messages every 700, and none is in a cycle."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _records(messages: Sequence[ck.Message]) -> Records:
    count, message = len(messages), ck.Message
    headers = _headers(messages)
    topics = list(map(message.topic, messages))
    names = sorted(set(topics))
    codes = (
        np.zeros(count, np.int32)
        if len(names) == 1
        else np.fromiter(map(names.index, topics), np.int32, count)
    )
    columns = [
        arrays.from_bytes(list(map(message.value, messages))),
        arrays.from_bytes(list(map(message.key, messages))),
        header_array(headers if any(headers) else None, count),
        arrays.from_numpy(
            np.fromiter(
                (milliseconds for _, milliseconds in map(message.timestamp, messages)), np.int64, count
            )
        ),
        pa.DictionaryArray.from_arrays(arrays.from_numpy(codes), arrays.from_texts(names)),
        arrays.from_numpy(np.fromiter(map(message.partition, messages), np.int32, count)),
        arrays.from_numpy(np.fromiter(map(message.offset, messages), np.int64, count)),
    ]
    return Records(pa.RecordBatch.from_arrays(columns, schema=RECORDS))


def _headers(messages: Sequence[ck.Message]) -> list[Any]:
    """The messages' headers.

    Each is asked once: of a name that is not UTF-8 the client makes an error, and at the second time a list with a hole
    in it, which ends the process of who looks there (confluent-kafka 2.16).
    """
    found: list[Any] = []
    asked = map(ck.Message.headers, messages)
    while len(found) < len(messages):
        try:
            found.extend(asked)
        except SystemError:
            found.append(UNREADABLE)
    return found


def _fetch_bytes(max_queue_mb: float) -> int:
    """The most that a partition sends at once: a part of what the queue may hold."""
    return max(_DEFAULT_LIMIT_BYTES, min(4_000_000, int(max_queue_mb * 1e6 / 8)))


def _ours(partitions: Sequence[ck.TopicPartition]) -> list[TopicPartition]:
    return [TopicPartition(p.topic, p.partition) for p in partitions]


def _theirs(offsets: Mapping[TopicPartition, int]) -> list[ck.TopicPartition]:
    return [ck.TopicPartition(p.topic, p.partition, offset) for p, offset in offsets.items()]


def _made(kind: Callable[..., _Found], settings: dict[str, Any]) -> _Found:
    try:
        return kind(settings, logger=_log)
    except ck.KafkaException as e:
        raise SpecError(
            f"stream: the Kafka client refuses a setting: {e.args[0].str()}",
            next_step="stream.settings are passed to librdkafka under its own names",
        ) from e


def _called(call: Callable[[], _Found], what: str) -> _Found:
    try:
        return call()
    except ck.KafkaException as e:
        raise _translated(e.args[0], what) from e


def _patiently(call: Callable[[], _Found], what: str) -> _Found:
    """Call again what may be called again, for as long as a coordinator may take to come back."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return call()
        except ck.KafkaException as e:
            error = e.args[0]
            again = error.retriable() or (error.code() in _UNAVAILABLE and not error.txn_requires_abort())
            if error.fatal() or not again or time.monotonic() > until:
                raise _translated(error, what) from e
            _log.warning("%s: %s; trying again", what, error)
            time.sleep(0.1)


def _translated(error: ck.KafkaError, what: str) -> Exception:
    said, code = f"{what}: {error.str()}", error.code()
    facts = {"code": error.name()}
    if code in _NO_RIGHT:
        return BrokerRefused(
            said, next_step="docs/kafka-security.md lists the rights that a stream needs", **facts
        )
    if code in _PRODUCER_FENCED:
        return ProducerFenced(
            said, next_step="another stream has the same stream.instance_id: give each its own", **facts
        )
    if code in _GROUP_FENCED:
        return GroupFenced(said, **facts)
    if code in _TOO_LARGE:
        return MessageTooLarge(said, index=None, limit_bytes=None, **facts)
    # `_STATE` is what a transaction says in which something has failed before.
    if error.txn_requires_abort() or error.fatal() or code in {_E._STATE, _E.INVALID_TXN_STATE}:
        return TransactionAborted(said, **facts)
    if error.retriable() or code in _UNAVAILABLE:
        return BrokerUnavailable(
            said, next_step="check stream.bootstrap_servers and that the brokers run", **facts
        )
    return BrokerRefused(said, next_step="check the topic's name, the rights and stream.settings", **facts)
