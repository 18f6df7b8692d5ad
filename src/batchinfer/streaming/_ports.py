"""The ports of the stream: formats, Kafka clients and sinks. Shapes are those of `_records`.

The service calls a `Consumer` and the sinks' positions from its poll thread alone, and `Producer`s from its commit
thread alone; decoders and encoders from several threads at a time. Adapters are named in tables (`_formats`,
`_clients`) and imported when used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchinfer.core import Tally, arrays
from batchinfer.streaming._records import Offsets, Outgoing, Records, TopicPartition

# Formats ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Decoded:
    """What messages held.

    Attributes:
        batch: the rows, with exactly the columns and types that the decoder was made for.
        rows: for each row of `batch` the index of the message that it came from; int64, ascending. A message may
            give no row, one, or (Arrow IPC) many.
        rejected: messages that gave no row because they cannot be decoded: index, ascending, and why in words
            that do not quote the value (reasons are counted). A message is decoded whole or rejected.
    """

    batch: pa.RecordBatch
    rows: npt.NDArray[np.int64]
    rejected: list[tuple[int, str]]


class Decoder(Protocol):
    """Values to rows of the pipeline's input. Thread-safe. Made with the `pa.Schema` of the rows.

    What becomes of a message depends on its own bytes alone (and on schemas in a registry), not on its neighbours.
    A null value is rejected. A field that the message has and the schema has not is dropped; one that it lacks, or
    that is of another type, rejects it: no value is silently made null, cut or rounded to an integer.
    """

    def decode(self, values: pa.LargeBinaryArray) -> Decoded:
        """Decode messages, in bulk.

        Raises:
            Transient: the schema registry cannot be reached. Never for what a message holds.
        """


class Encoder(Protocol):
    """Result rows to values of messages, one each. Thread-safe. Made with the `pa.Schema` of the results."""

    def encode(self, rows: pa.RecordBatch) -> pa.LargeBinaryArray:
        """As many values as rows."""


# Clients ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Listener:
    """Told of a group's rebalances, within `Consumer.poll` and `Consumer.close`, in the calling thread.

    Attributes:
        assigned: these came, in addition to what there is (all protocols are treated as cooperative). Returns where
            to read them from, for those that are not to be read from the group's committed offset.
        revoked: these go. They may be committed for the last time within the call.
        lost: these are gone: others may have them already, nothing of them may be committed.
    """

    assigned: Callable[[Sequence[TopicPartition]], Offsets]
    revoked: Callable[[Sequence[TopicPartition]], None]
    lost: Callable[[Sequence[TopicPartition]], None]


class Consumer(Protocol):
    """A member of a consumer group. Reads committed messages only; never commits by itself.

    Raises from every method:
        BrokerUnavailable: no broker answers (transient). BrokerRefused: a broker says no, and will again.
    """

    def subscribe(self, topics: Sequence[str], listener: Listener) -> None:
        """Join the group."""

    def poll(self, max_records: int, timeout_s: float) -> Records:
        """What there is, at most so many, waiting at most so long for the first; serves the listener.

        Nothing of a partition comes after `revoked` or `lost` named it, nor while it is paused.
        """

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        """Send nothing of these from the next poll on; the group goes on as before. Idempotent.

        A partition that is assigned, anew or again, is not paused.
        """

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        """Go on where it was paused. Idempotent."""

    def seek(self, offsets: Offsets) -> None:
        """Read assigned partitions from these offsets on, from the next poll."""

    def assignment(self) -> list[TopicPartition]:
        """The partitions that are this member's now."""

    def committed(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """The group's progress, of those that have any. Waits for transactions that are under way.

        Raises:
            BrokerUnavailable: one is under way for too long; where the group is, is not known yet.
        """

    def positions(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Of assigned partitions the next offset to be polled, of those for which it is known.

        It also passes what holds no message for a reader: at the end of a partition it comes to `end_offsets`.
        """

    def begin_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """The first offset that can still be read."""

    def end_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """The offset after the last message that a reader of committed messages can see."""

    def known_ends(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """`end_offsets` as the client last heard of them, without asking; of those it has heard of."""

    def commit(self, offsets: Offsets) -> None:
        """Commit progress outside of transactions, and wait for it.

        Raises:
            GroupFenced: the partitions are another member's by now.
        """

    def group(self) -> object:
        """This member's identity and generation, for `Producer.send_offsets`. The one method for any thread.

        Raises:
            GroupFenced: it is no member any more. Brokers take a transaction's offsets from nobody in particular.
        """

    def close(self) -> None:
        """Leave the group; calls `revoked`."""


class Producer(Protocol):
    """Sends messages: in transactions where it was made with an id, else at least once.

    Raises from every method:
        BrokerUnavailable: no broker answers (transient).
        BrokerRefused: a broker says no, and will again.
        TransactionAborted: `abort`, then do all of it again (transient); also for a `GroupFenced` in `send_offsets`.
        ProducerFenced: another producer has taken the id; this one is of no use any more.
    """

    def prepare(self) -> None:
        """Connect, and with an id register it, which fences others that have it; nothing where it was done."""

    def begin(self) -> None:
        """Begin a transaction, `prepare` before the first; nothing where there are none."""

    def produce_batch(self, messages: Outgoing) -> None:
        """Hand over messages; waits while the client's queue is full.

        Raises:
            MessageTooLarge: with the fields `index` and `limit_bytes`; the client refuses it. The transaction has to
                be aborted, as others may have been handed over.
        """

    def send_offsets(self, offsets: Offsets, group: object) -> None:
        """Make the group's progress part of the transaction. `group` is what `Consumer.group` gave."""

    def commit(self) -> None:
        """Wait until all is delivered, and commit it; without transactions only wait."""

    def abort(self) -> None:
        """Undo all since `begin`, and forget what is queued.

        Raises:
            BatchinferError: this producer cannot go on; a new one can.
        """

    def close(self) -> None:
        """Give up what is under way, and disconnect."""


class Client(Protocol):
    """A way to Kafka: one of the two client libraries with the spec's settings."""

    def consumer(self, group: str) -> Consumer:
        """A new member for a group; reads from the earliest offset where the group has none."""

    def producer(self, transactional_id: str | None) -> Producer:
        """A new producer; exactly-once ones have an id that no other live producer has."""

    def partitions(self, topic: str) -> int | None:
        """How many partitions the topic has; None where there is no such topic."""

    def create_topic(self, topic: str, partitions: int) -> None:
        """Create a topic with the broker's defaults; nothing where there is one."""

    def message_limit_bytes(self, topic: str) -> int:
        """The largest message that topic and producer take."""


# Sinks --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Refused:
    """Messages that become dead letters: indices (ascending, each once), and for each why.

    `expectations` names those that a message's rows failed; empty where it could not be decoded or the model refused
    it. As many of each as messages.
    """

    messages: npt.NDArray[np.int64]
    reasons: list[str]
    expectations: list[tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.messages)


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Messages and what became of them: each is in `results` or in `refused`, or held no row.

    Attributes:
        records: the messages.
        next_offsets: the progress that the batch makes.
        results: the result rows, with lineage: `_source` is topic-partition, `_position` the offset.
        rows: for each result row the index of its message; int64, ascending.
        refused: the messages that get no prediction. A message with several rows is refused as a whole.
        model: `name@version` of the model that scored it.
        profile: of the rows that were scored; None without drift.
        polled_at: when its last message was polled, by `time.monotonic`.
        values: the result rows as the output topic takes them; None where they are not encoded.
    """

    records: Records
    next_offsets: dict[TopicPartition, int]
    results: pa.RecordBatch
    rows: npt.NDArray[np.int64]
    refused: Refused
    model: str
    profile: Tally | None
    polled_at: float
    values: pa.LargeBinaryArray | None = None

    def after(self, offsets: Offsets) -> MicroBatch:
        """Without the messages before these offsets: what a sink does that has come so far already."""
        codes, partitions = self.records.partition_codes()
        floors = np.array([offsets.get(p, 0) for p in partitions] or [0], np.int64)
        found, _ = arrays.to_numpy(self.records.offsets)
        keep = found >= floors[codes]
        if keep.all():
            return self
        places = np.cumsum(keep) - 1
        messages, rows = keep[self.refused.messages], keep[self.rows]
        of_rows = arrays.from_numpy(rows)
        return replace(
            self,
            records=self.records.take(np.flatnonzero(keep)),
            results=self.results.filter(of_rows),
            values=None if self.values is None else self.values.filter(of_rows),
            rows=places[self.rows[rows]],
            refused=Refused(
                places[self.refused.messages[messages]],
                list(compress(self.refused.reasons, messages)),
                list(compress(self.refused.expectations, messages)),
            ),
        )

    def refusing(self, why: Mapping[int, str]) -> MicroBatch:
        """With these messages, by their index, refused too, as a whole; who was refused keeps its own reason."""
        told = dict(zip(self.refused.messages.tolist(), self.refused.reasons, strict=True))
        names = dict(zip(self.refused.messages.tolist(), self.refused.expectations, strict=True))
        told = {**why, **told}
        order = np.array(sorted(told), np.int64)
        whole = ~np.isin(self.rows, order)
        keep = arrays.from_numpy(whole)
        return replace(
            self,
            results=self.results.filter(keep),
            values=None if self.values is None else self.values.filter(keep),
            rows=self.rows[whole],
            refused=Refused(
                order, [told[m] for m in order.tolist()], [names.get(m, ()) for m in order.tolist()]
            ),
        )


class Sink(Protocol):
    """Where micro-batches go. A sink knows for each partition how far it has come, and never takes a message twice.

    The service reads a partition from the least of its sinks' positions; each sink leaves out of a batch what is
    before its own. The topic sink (predictions, dead letters and group offsets in one transaction) is always one of
    them and is called first. All calls come from the commit thread, one at a time, but for `assigned` and `revoked`,
    which come from the poll thread while no other call is under way.
    """

    def assigned(self, partitions: Sequence[TopicPartition]) -> Offsets:
        """Where the sink goes on, for the partitions of which it knows.

        The others are read from where the other sinks go on, else from their beginning: a sink that gathers before it
        is durable has to make its start durable here.
        """

    def deliver(self, batches: Sequence[MicroBatch]) -> Offsets:
        """Take batches, in order. Returns how far the sink is durable now, which may be less: it may gather.

        Raises:
            Transient: nothing of it was taken; the service reads again from `assigned`.
        """

    def tick(self) -> Offsets:
        """Called at least each 100 ms between deliveries: get ready, and commit what was gathered long enough ago."""

    def flush(self) -> Offsets:
        """Commit all that was gathered."""

    def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        """Forget these: what is gathered of them and not durable is another member's. `flush` was called before,
        where there was time."""

    def close(self) -> None:
        """Let go of everything; what is not durable is lost, and will be read again."""
