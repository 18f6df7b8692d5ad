"""What polls gave and what is to be sent, column-wise in Arrow: no object per message on the way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchinfer.core import arrays

HEADERS = pa.list_(pa.struct([pa.field("key", pa.string()), pa.field("value", pa.large_binary())]))
"""The headers of a message: in order, a key may stand several times. Null where there are none."""
UNREADABLE: list[tuple[str | None, bytes | None]] = [(None, None)]
"""In the place of headers that a client cannot read, as one of them has a name that is not UTF-8."""
RECORDS = pa.schema(
    [
        pa.field("value", pa.large_binary()),
        pa.field("key", pa.large_binary()),
        pa.field("headers", HEADERS),
        pa.field("timestamp_ms", pa.int64()),
        pa.field("topic", pa.dictionary(pa.int32(), pa.string())),
        pa.field("partition", pa.int32()),
        pa.field("offset", pa.int64()),
    ]
)
"""The columns of `Records`. `timestamp_ms` is null where the broker has none."""


@dataclass(frozen=True, slots=True, order=True)
class TopicPartition:
    """A partition of a topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        """As the lineage column `_source` has it."""
        return f"{self.topic}-{self.partition}"


Offsets = Mapping[TopicPartition, int]
"""By partition, an offset: where it stands for progress, that of the next message to come."""


@dataclass(frozen=True, slots=True)
class Records:
    """Messages as they were polled: a batch with the columns of `RECORDS`.

    Within a partition offsets ascend, perhaps with gaps; partitions may alternate.
    """

    batch: pa.RecordBatch

    @classmethod
    def none(cls) -> Self:
        """No message."""
        return cls(pa.RecordBatch.from_arrays([pa.nulls(0, f.type) for f in RECORDS], schema=RECORDS))

    @classmethod
    def of(
        cls,
        *,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None],
        headers: Sequence[Sequence[tuple[str | None, bytes | None]] | None] | None,
        timestamps: Sequence[int | None],
        partitions: Sequence[TopicPartition],
        offsets: Sequence[int],
    ) -> Self:
        """From lists of a client's own objects; `headers` is None where no message has any."""
        return cls(
            pa.RecordBatch.from_arrays(
                [
                    arrays.from_bytes(values),
                    arrays.from_bytes(keys),
                    header_array(headers, len(values)),
                    pa.array(timestamps, pa.int64()),
                    pa.array([p.topic for p in partitions], pa.string()).dictionary_encode(),
                    pa.array([p.partition for p in partitions], pa.int32()),
                    pa.array(offsets, pa.int64()),
                ],
                schema=RECORDS,
            )
        )

    @classmethod
    def joined(cls, pieces: Iterable[Self]) -> Self:
        """The messages of all pieces, in order."""
        batches = [piece.batch for piece in pieces if len(piece)]
        if not batches:
            return cls.none()
        if len(batches) == 1:
            return cls(batches[0])
        table = pa.Table.from_batches(batches).unify_dictionaries().combine_chunks()
        return cls(table.to_batches()[0])

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    @property
    def nbytes(self) -> int:
        """The memory that the messages refer to, in bytes."""
        return int(self.batch.nbytes)

    @property
    def values(self) -> pa.LargeBinaryArray:
        """The messages' values; null is a tombstone."""
        return self.batch.column("value")

    @property
    def decodable(self) -> pa.LargeBinaryArray:
        """The values, null where the headers cannot be read: who cannot give them back refuses the message."""
        if self.headers.null_count == len(self):
            return self.values
        unreadable = self.unreadable()
        if not unreadable.any():
            return self.values
        return pc.if_else(arrays.from_numpy(unreadable), pa.scalar(None, self.values.type), self.values)

    def unreadable(self) -> npt.NDArray[np.bool_]:
        """Which messages have headers that cannot be read."""
        found = np.zeros(len(self), np.bool_)
        names = self.headers.flatten().field("key")
        if names.null_count:
            found[arrays.to_numpy(pc.list_parent_indices(self.headers).filter(pc.is_null(names)))[0]] = True
        return found

    @property
    def keys(self) -> pa.LargeBinaryArray:
        """The messages' keys."""
        return self.batch.column("key")

    @property
    def headers(self) -> pa.ListArray:
        """The messages' headers: see `HEADERS`."""
        return self.batch.column("headers")

    @property
    def timestamps(self) -> pa.Int64Array:
        """Milliseconds since 1970."""
        return self.batch.column("timestamp_ms")

    @property
    def offsets(self) -> pa.Int64Array:
        """Each message's offset in its partition."""
        return self.batch.column("offset")

    def take(self, places: npt.NDArray[np.int64]) -> Records:
        """The messages at these places."""
        return Records(self.batch.take(arrays.from_numpy(places)))

    def slice(self, start: int, length: int) -> Records:
        """Consecutive messages, without a copy."""
        return Records(self.batch.slice(start, length))

    def partition_codes(self) -> tuple[npt.NDArray[np.int64], list[TopicPartition]]:
        """For each message the place of its partition in the list, and the list, in order of appearance."""
        starts, of_runs, partitions = self._runs()
        return np.repeat(of_runs, np.diff(starts, append=len(self))), partitions

    def next_offsets(self) -> dict[TopicPartition, int]:
        """By partition, the offset after the last message."""
        starts, of_runs, partitions = self._runs()
        offsets, _ = arrays.to_numpy(self.offsets)
        lasts = offsets[np.append(starts[1:], len(self)) - 1] if len(self) else offsets
        return {
            partitions[place]: last + 1 for place, last in zip(of_runs.tolist(), lasts.tolist(), strict=True)
        }

    def _runs(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], list[TopicPartition]]:
        """Where runs of messages of one partition start, each run's place in the list, and the list.

        Brokers send long runs: what is done for each costs less than for each message.
        """
        topic = self.batch.column("topic")
        topics, _ = arrays.to_numpy(topic.indices)
        partitions, _ = arrays.to_numpy(self.batch.column("partition"))
        combined = topics.astype(np.int64) << 32 | partitions
        starts = np.flatnonzero(combined[1:] != combined[:-1]) + 1
        starts = np.concatenate([[0], starts]) if len(combined) else starts
        places: dict[int, int] = {}
        of_runs = [places.setdefault(one, len(places)) for one in combined[starts].tolist()]
        names = topic.dictionary.to_pylist()
        found = [TopicPartition(names[one >> 32], one & 0xFFFFFFFF) for one in places]
        return starts, np.array(of_runs, np.int64), found


@dataclass(frozen=True, slots=True)
class Outgoing:
    """Messages for one topic, column-wise: as many values as keys, headers and timestamps.

    `keys`, `headers` and `timestamps` are null where the message has none; then the broker's default holds. A
    message goes to the partition that its key chooses as Apache Kafka's own producer does (murmur2).
    """

    topic: str
    values: pa.LargeBinaryArray
    keys: pa.LargeBinaryArray
    headers: pa.ListArray
    timestamps: pa.Int64Array

    def __len__(self) -> int:
        return len(self.values)


def header_array(
    headers: Sequence[Sequence[tuple[str | None, bytes | None]] | None] | None, rows: int
) -> pa.ListArray:
    """Headers of so many messages as `HEADERS`; None for none at all."""
    if headers is None:
        return pa.nulls(rows, HEADERS)
    pairs = [pair for each in headers if each for pair in each]
    offsets = np.zeros(rows + 1, np.int32)
    np.cumsum([len(each or ()) for each in headers], out=offsets[1:])
    structs = pa.StructArray.from_arrays(
        [_names([key for key, _ in pairs]), arrays.from_bytes([value for _, value in pairs])],
        fields=list(HEADERS.value_type),
    )
    none = arrays.from_numpy(np.diff(offsets) == 0)
    return pa.ListArray.from_arrays(arrays.from_numpy(offsets), structs, type=HEADERS, mask=none)


def _names(names: Sequence[str | None]) -> pa.StringArray:
    texts = arrays.from_texts([name or "" for name in names])
    if None not in names:
        return texts
    known = arrays.from_numpy(np.array([name is not None for name in names]))
    return pc.if_else(known, texts, pa.scalar(None, texts.type))
