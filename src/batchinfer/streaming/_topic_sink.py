"""The topic sink: predictions, dead letters and the group's progress, in one Kafka transaction."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from batchinfer.core import arrays
from batchinfer.errors import (
    BatchinferError,
    BrokerRefused,
    MessageTooLarge,
    ProducerFenced,
    TransactionAborted,
)
from batchinfer.streaming._dead_letters import dead_letters
from batchinfer.streaming._flight import Score
from batchinfer.streaming._ports import Encoder, MicroBatch, Producer
from batchinfer.streaming._records import Offsets, Outgoing, Records, TopicPartition

_log = logging.getLogger("batchinfer.stream")
_LEAST_LIMIT_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """Where the sink writes. `output` is None where another sink takes the predictions.

    `output_limit_bytes` and `letter_limit_bytes` are the largest messages that the topics take.
    """

    output: str | None
    dead_letters: str
    pipeline: str
    exactly_once: bool
    output_limit_bytes: int
    letter_limit_bytes: int


class TopicSink:
    """See `batchinfer.streaming.Sink`.

    Without transactions progress is committed by the service, after `deliver` said how far it has come.

    Args:
        plan: where to write.
        producer: makes a new producer; called again where one has become unusable.
        own_id: whether nobody else can have the producers' transactional id, so that a fenced one only timed out.
        committed: the group's progress: `Consumer.committed`.
        group: `Consumer.group`.
    """

    def __init__(
        self,
        plan: TopicPlan,
        producer: Callable[[], Producer],
        *,
        own_id: bool,
        committed: Callable[[Sequence[TopicPartition]], dict[TopicPartition, int]],
        group: Callable[[], object],
    ) -> None:
        self._plan = plan
        self._make = producer
        self._own_id = own_id
        self._producer: Producer | None = None
        self._committed = committed
        self._group = group
        self._done: dict[TopicPartition, int] = {}
        self._letter_limit = plan.letter_limit_bytes
        self._output_limit = plan.output_limit_bytes

    def encoded(self, score: Score, encoder: Encoder | None) -> Score:
        """Score, and encode the predictions in the scoring thread too: the commit thread has enough to do.

        A message whose prediction is larger than the topic takes is refused. Without an encoder, `score` as it is.
        """
        if encoder is None:
            return score

        def scored(records: Records, polled_at: float) -> MicroBatch:
            batch = score(records, polled_at)
            return self._within_limit(replace(batch, values=encoder.encode(batch.results)))

        return scored

    def _within_limit(self, batch: MicroBatch) -> MicroBatch:
        messages = batch.records
        own = arrays.sizes(messages.keys)
        if messages.headers.null_count < len(messages):
            own = own + np.array([_bytes(each) for each in messages.headers.to_pylist()], np.int64)
        assert batch.values is not None, "they were encoded"
        large = batch.rows[arrays.sizes(batch.values) + own[batch.rows] > self._output_limit]
        if not len(large):
            return batch
        return batch.refusing(
            dict.fromkeys(large.tolist(), f"the prediction is larger than {self._plan.output} takes")
        )

    def assigned(self, partitions: Sequence[TopicPartition]) -> Offsets:
        """See `Sink.assigned`."""
        for partition in partitions:
            self._done.pop(partition, None)
        found = self._committed(partitions)
        self._done.update(found)
        return found

    def deliver(self, batches: Sequence[MicroBatch]) -> Offsets:
        """See `Sink.deliver`: steps 5 to 7."""
        fresh = [batch.after(self._done) for batch in batches]
        offsets: dict[TopicPartition, int] = {}
        for batch in fresh:
            for partition, offset in batch.next_offsets.items():
                offsets[partition] = max(offset, self._done.get(partition, 0), offsets.get(partition, 0))
        try:
            producer = self._opened()
            producer.begin()  # 5
            for batch in fresh:
                self._produce(producer, batch)
            if self._plan.exactly_once:
                producer.send_offsets(offsets, self._group())  # 6
            producer.commit()  # 7
        except BatchinferError as e:
            self._give_up(e)
            raise
        self._done.update(offsets)
        return offsets

    def _produce(self, producer: Producer, batch: MicroBatch) -> None:
        if self._plan.output is not None and batch.results.num_rows:
            assert batch.values is not None, "what is delivered was scored by `encoded`"
            messages = batch.records
            if len(batch.rows) != len(messages) or not np.array_equal(batch.rows, np.arange(len(messages))):
                messages = messages.take(batch.rows)
            producer.produce_batch(
                Outgoing(
                    self._plan.output, batch.values, messages.keys, messages.headers, messages.timestamps
                )
            )
        if len(batch.refused):
            letters = dead_letters(self._plan.dead_letters, batch, self._plan.pipeline, self._letter_limit)
            producer.produce_batch(letters)

    def _give_up(self, error: BatchinferError) -> None:
        """Undo the transaction; a producer that cannot even do that is left behind."""
        if isinstance(error, ProducerFenced):
            self._drop()
            if self._own_id:  # the broker timed the transaction out: nobody else has this id
                raise TransactionAborted(error.message, **error.fields) from error
            return
        if self._producer is None:
            return
        try:
            self._producer.abort()
        except BatchinferError as e:
            _log.warning("aborting the transaction: %s", e)
            self._drop()
        if isinstance(error, MessageTooLarge):
            if self._letter_limit < _LEAST_LIMIT_BYTES:
                raise BrokerRefused(
                    error.message, next_step="raise max.message.bytes of the topics"
                ) from error
            # A topic takes less than it said: what is larger than half goes to the dead letters without its value.
            self._letter_limit //= 2
            self._output_limit //= 2
            raise TransactionAborted(error.message, **error.fields) from error

    def _opened(self) -> Producer:
        self._producer = self._producer or self._make()
        return self._producer

    def _drop(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            try:
                producer.close()
            except BatchinferError as e:
                _log.warning("closing a producer: %s", e)

    def tick(self) -> Offsets:
        """See `Sink.tick`: registers the producer before the first message has to wait for it; gathers nothing."""
        self._opened().prepare()
        return {}

    def flush(self) -> Offsets:
        """See `Sink.flush`."""
        return {}

    def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        """See `Sink.revoked`."""
        for partition in partitions:
            self._done.pop(partition, None)

    def close(self) -> None:
        """See `Sink.close`."""
        self._drop()


def _bytes(headers: list[dict[str, Any]] | None) -> int:
    return sum(len(h["key"]) + len(h["value"] or b"") + 10 for h in headers or ())
