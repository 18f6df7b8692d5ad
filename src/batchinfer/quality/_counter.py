"""Exact counts of a column's values in bounded memory: past the bound, values go to disk by their hash."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchinfer.core import arrays
from batchinfer.quality._values import missing, ticks

_BITS = 5
_BUCKETS = 1 << _BITS
_CHUNK_BYTES = 1 << 20

Counts = npt.NDArray[np.int64]


class Counter:
    """Counts values; neither null nor NaN counts.

    Args:
        folder: where values go past the bound; exists, and is the caller's to remove.
        limit_bytes: of values and counts in memory. Counting them takes about eight times as much at its peak.
        level: how often the values were divided already: which bits of the hash divide them next.
    """

    def __init__(self, folder: Path, limit_bytes: int, level: int = 0) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._level = level
        self._chunks: list[tuple[pa.Array, Counts]] = []
        self._bytes = 0
        self._writers: dict[int, pa.RecordBatchStreamWriter] = {}
        self._files = ExitStack()

    def add(self, values: pa.Array) -> None:
        """Count the values of a batch."""
        absent = missing(values)
        if absent is not None:
            values = values.filter(arrays.from_numpy(~absent))
        if len(values):
            self._keep(*_counted(canonical(values), None))

    def buckets(self) -> Iterator[tuple[pa.Array, Counts]]:
        """All distinct values, each once, and how often each occurs. Ends the counting.

        What is yielded at a time is within the bound.
        """
        if not self._writers:
            self._compact()
            yield from self._chunks
            return
        self._spill()
        self._files.close()
        for bucket in sorted(self._writers):
            folder = self._folder / str(bucket)
            folder.mkdir()
            part = Counter(folder, self._limit_bytes, self._level + 1)
            with pa.OSFile(str(self._file(bucket))) as file, pa.ipc.open_stream(file) as stream:
                for batch in stream:
                    part._keep(batch.column(0), arrays.to_numpy(batch.column(1))[0])
            yield from part.buckets()
            self._file(bucket).unlink()

    def _keep(self, values: pa.Array, counts: Counts) -> None:
        self._chunks.append((values, counts))
        self._bytes += values.get_total_buffer_size() + counts.nbytes
        if self._bytes > self._limit_bytes:
            if self._writers:  # counting did not help before
                self._spill()
                return
            self._compact()
            # Half full of distinct values, the next compaction would come too soon. One value cannot be divided.
            divisible = len(self._chunks[0][0]) > 1 and (self._level + 1) * _BITS <= 64
            if self._bytes > self._limit_bytes // 2 and divisible:
                self._spill()

    def _compact(self) -> None:
        if len(self._chunks) > 1:
            values = pa.concat_arrays([values for values, _ in self._chunks])
            counts = np.concatenate([counts for _, counts in self._chunks])
            self._chunks = []
            self._chunks = [_counted(values, counts)]
        self._bytes = sum(values.get_total_buffer_size() + counts.nbytes for values, counts in self._chunks)

    def _spill(self) -> None:
        for values, counts in self._chunks:
            bucket_of = (hashes(values) >> np.uint64(self._level * _BITS)) & np.uint64(_BUCKETS - 1)
            order = np.argsort(bucket_of.astype(np.uint8), kind="stable")
            ends = np.searchsorted(bucket_of[order], np.arange(_BUCKETS + 1, dtype=np.uint64))
            for bucket in range(_BUCKETS):
                rows = order[ends[bucket] : ends[bucket + 1]]
                if len(rows):
                    self._write(bucket, values.take(arrays.from_numpy(rows)), counts[rows])
        self._chunks, self._bytes = [], 0

    def _write(self, bucket: int, values: pa.Array, counts: Counts) -> None:
        batch = pa.RecordBatch.from_arrays([values, arrays.from_numpy(counts)], names=["value", "count"])
        if bucket not in self._writers:
            file = self._files.enter_context(pa.OSFile(str(self._file(bucket)), "wb"))
            writer = pa.ipc.new_stream(file, batch.schema)
            self._writers[bucket] = self._files.enter_context(writer)
        rows = max(_CHUNK_BYTES * batch.num_rows // max(batch.nbytes, 1), 1)
        for start in range(0, batch.num_rows, rows):
            self._writers[bucket].write_batch(batch.slice(start, rows))

    def _file(self, bucket: int) -> Path:
        return self._folder / f"{bucket}.arrow"


def canonical(values: pa.Array) -> pa.Array:
    """The values so that equal ones are the same to Arrow: no dictionary, no -0.0, no float16."""
    if isinstance(values, pa.DictionaryArray):
        values = values.dictionary_decode()
    if not pa.types.is_floating(values.type):
        return values
    numbers, _ = arrays.to_numpy(values)
    same = arrays.from_numpy(numbers.astype(np.promote_types(numbers.dtype, np.float32), copy=False) + 0)
    absent = missing(values)
    if absent is None:
        return same
    valid = pa.py_buffer(np.packbits(~absent, bitorder="little"))
    return pa.Array.from_buffers(same.type, len(same), [valid, same.buffers()[1]])


def hashes(values: pa.Array) -> npt.NDArray[np.uint64]:
    """A hash of each value, the same in every process. The values are canonical, and none is null."""
    with np.errstate(over="ignore"):
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            found = _text_hashes(values)
        else:
            numbers = ticks(values)
            width = f"u{numbers.dtype.itemsize}"
            found = np.ascontiguousarray(numbers).view(width).astype(np.uint64)
        for shift, factor in ((32, 0xD6E8FEB86659FD93), (32, 0xD6E8FEB86659FD93), (32, 1)):
            found = (found ^ (found >> np.uint64(shift))) * np.uint64(factor)
    return found


def _text_hashes(values: pa.Array) -> npt.NDArray[np.uint64]:
    """A polynomial of the bytes, by differences of one running sum: an odd base has an inverse modulo 2^64."""
    base = 0x9E3779B97F4A7C15
    inverse = pow(base, -1, 1 << 64)
    width = np.int64 if pa.types.is_large_string(values.type) else np.int32
    _, ends_buffer, data = values.buffers()
    ends = np.frombuffer(ends_buffer, width, len(values) + 1, values.offset * np.dtype(width).itemsize)
    first = int(ends[0])
    size = int(ends[-1]) - first
    octets = np.frombuffer(data, np.uint8, size, first) if size else np.empty(0, np.uint8)
    sums = np.zeros(size + 1, np.uint64)
    np.cumsum((octets.astype(np.uint64) + np.uint64(1)) * _powers(base, size), out=sums[1:])
    places = (ends - first).astype(np.int64)
    return (sums[places[1:]] - sums[places[:-1]]) * _powers(inverse, size + 1)[places[:-1]]


def _powers(base: int, count: int) -> npt.NDArray[np.uint64]:
    factors = np.full(count, base, np.uint64)
    factors[:1] = 1
    return np.cumprod(factors)


def _counted(values: pa.Array, counts: Counts | None) -> tuple[pa.Array, Counts]:
    """The distinct values and the sums of their counts, of ones where there are none."""
    if len(values) == 1:
        return values, np.ones(1, np.int64) if counts is None else counts
    encoded: Any = values.dictionary_encode()
    places = arrays.to_numpy(encoded.indices)[0]
    # As float64 the sums are exact up to 2^53 rows.
    sums = np.bincount(places, counts, minlength=len(encoded.dictionary))
    return encoded.dictionary, sums.astype(np.int64)
