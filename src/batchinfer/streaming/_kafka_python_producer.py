"""A producer on kafka-python, with and without transactions.

kafka-python 3.0 may tell a commit for done that was not: where a batch of it fails in a way that takes a new epoch,
the epoch's change forgets the transaction, and a commit that waits for the batch is then told that there was nothing
to commit. So nothing is ever left to that: before offsets are sent and before a commit, all messages are delivered,
and each delivery is looked at.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import kafka
from kafka import errors as ke
from kafka.serializer import Serializer
from kafka.structs import OffsetAndMetadata

from batchinfer.core import arrays
from batchinfer.errors import BatchinferError, BrokerUnavailable, MessageTooLarge, TransactionAborted
from batchinfer.streaming._kafka_python_errors import translated
from batchinfer.streaming._records import Offsets, Outgoing, TopicPartition

_log = logging.getLogger("batchinfer.kafka")

_PATIENCE_SECONDS = 30.0
_CLOSE_SECONDS = 5.0


class KafkaPythonProducer:
    """See `batchinfer.streaming.Producer`.

    Args:
        make: connects a producer with the serializer that it is given.
        address: the brokers, for errors.
        transactional: whether there are transactions.
        max_queue_bytes: what may wait to be delivered; kafka-python has no bound of its own.
        max_message_bytes: the largest message, for errors.
    """

    def __init__(
        self,
        make: Callable[[Serializer], kafka.KafkaProducer],
        *,
        address: str,
        transactional: bool,
        max_queue_bytes: int,
        max_message_bytes: int,
    ) -> None:
        self._make, self._address, self._transactional = make, address, transactional
        self._max_queue_bytes, self._max_message_bytes = max_queue_bytes, max_message_bytes
        self._producer: kafka.KafkaProducer | None = None
        self._ready = self._stuck = False
        self._queued: list[Any] = []
        self._queued_bytes = 0

    def prepare(self) -> None:
        """See `Producer.prepare`."""
        producer = self._producer = self._producer or self._make(_Whole())
        if self._transactional and not self._ready:
            self._called(producer.init_transactions, "registering the producer")
            self._ready = True

    def begin(self) -> None:
        """See `Producer.begin`."""
        self._forget()
        self.prepare()
        if not self._transactional:
            return
        assert self._producer is not None, "it was prepared"
        self._called(self._producer.begin_transaction, "beginning a transaction")

    def produce_batch(self, messages: Outgoing) -> None:
        """See `Producer.produce_batch`."""
        assert self._producer is not None, "begin comes first"
        send, topic = self._producer.send, messages.topic
        rows = zip(
            messages.values.to_pylist(),
            messages.keys.to_pylist(),
            messages.timestamps.to_pylist(),
            messages.headers.to_pylist(),
            arrays.sizes(messages.values).tolist(),
            strict=True,
        )
        for index, (value, key, timestamp, own, size) in enumerate(rows):
            headers = [(h["key"], h["value"] or b"") for h in own] if own else ()
            try:
                future = send(topic, (value, headers), key, None, None, timestamp)
            except ke.MessageSizeTooLargeError as e:
                raise MessageTooLarge(
                    f"a message for {topic} is larger than {self._max_message_bytes} bytes",
                    index=index,
                    limit_bytes=self._max_message_bytes,
                ) from e
            except ke.KafkaError as e:
                raise self._translated(e, f"producing to {topic}") from e
            self._queued.append(future)
            self._queued_bytes += size + 64
            if self._queued_bytes >= self._max_queue_bytes:
                self._deliver()

    def send_offsets(self, offsets: Offsets, group: object) -> None:
        """See `Producer.send_offsets`."""
        self._deliver()
        producer = self._begun()
        told = {_theirs(p): OffsetAndMetadata(offset, "", -1) for p, offset in offsets.items()}
        self._waited(
            lambda: producer.send_offsets_to_transaction(told, group), "sending offsets to the transaction"
        )

    def commit(self) -> None:
        """See `Producer.commit`."""
        self._deliver()
        if self._transactional:
            self._waited(self._begun().commit_transaction, "committing the transaction")

    def abort(self) -> None:
        """See `Producer.abort`. What comes after it begins with a new producer, which fences this one.

        kafka-python 3.0 keeps offsets that a transaction was refused, and sends them with the next.
        """
        try:
            if self._transactional and self._producer is not None and not self._stuck:
                self._waited(self._producer.abort_transaction, "aborting the transaction")
        except BatchinferError as e:
            _log.warning("%s; its successor will", e.message)
        finally:
            self.close()

    def close(self) -> None:
        """See `Producer.close`."""
        self._forget()
        self._drop()

    def _begun(self) -> kafka.KafkaProducer:
        assert self._producer is not None, "begin comes first"
        return self._producer

    def _deliver(self) -> None:
        """Wait until all that is queued is delivered.

        Raises:
            BatchinferError: what befell the first message that was not.
        """
        if not self._queued:
            return
        self._called(lambda: self._begun().flush(_PATIENCE_SECONDS), "delivering messages")
        for future in self._queued:
            if not future.succeeded():
                raise self._translated(future.exception or ke.KafkaTimeoutError(), "delivering messages")
        self._forget()

    def _forget(self) -> None:
        self._queued, self._queued_bytes = [], 0

    def _drop(self) -> None:
        producer, self._producer, self._ready, self._stuck = self._producer, None, False, False
        if producer is None:
            return
        producer._sender.force_close()  # `close` itself delivers what is queued first, or does not close at all
        try:
            producer.close(_CLOSE_SECONDS)
        except ke.KafkaError as e:
            _log.warning("closing a producer: %s", e)

    def _waited(self, call: Callable[[], None], what: str) -> None:
        """Call what waits for brokers without an end of its own; it is left behind when it takes too long."""
        failure: list[BaseException] = []
        done = threading.Event()

        def run() -> None:
            try:
                call()
            except BaseException as e:
                failure.append(e)
            finally:
                done.set()

        threading.Thread(target=run, name="kafka-transaction", daemon=True).start()
        if not done.wait(_PATIENCE_SECONDS):
            self._stuck = True
            raise BrokerUnavailable(
                f"{what}: no answer from {self._address} for {_PATIENCE_SECONDS:.0f} s",
                next_step="check stream.bootstrap_servers and that the brokers run",
                address=self._address,
            )
        if failure:
            raise self._translated(failure[0], what) from failure[0]

    def _called(self, call: Callable[[], Any], what: str) -> None:
        try:
            call()
        except ke.KafkaError as e:
            raise self._translated(e, what) from e

    def _translated(self, error: BaseException, what: str) -> BatchinferError:
        """The error as ours: that which the producer's state has its name from, where it says only that."""
        if not isinstance(error, ke.KafkaError):
            raise error
        found = translated(error, what, self._address)
        state = self._producer._transaction_manager if self._producer is not None else None
        if isinstance(found, TransactionAborted) and state is not None and state.last_error is not None:
            return translated(state.last_error, what, self._address)
        return found


class _Whole(Serializer):  # type: ignore[misc]
    """Takes a message's value together with its headers, since `send` itself takes no null value without a key.

    A header without a value, which Kafka has, is sent as an empty one: kafka-python cannot send it.
    """

    def serialize(self, topic: str, headers: list[Any], data: Any) -> bytes | None:
        value, own = data
        headers.extend(own)
        return value  # type: ignore[no-any-return]


def _theirs(partition: TopicPartition) -> Any:
    return kafka.TopicPartition(partition.topic, partition.partition)
