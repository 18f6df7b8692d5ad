"""What only all values of a run can tell (uniqueness, distinct values, the most common one), found before it is scored.

One pass reads the columns that such checks are about and counts their values exactly, in bounded memory. Only where
there are duplicates, a second one marks their rows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchinfer.core import Lineage, arrays
from batchinfer.quality._condition import Condition
from batchinfer.quality._counter import Counter, Counts, canonical
from batchinfer.quality._expectation import Check, Expectation, Judgement, State
from batchinfer.quality._marks import Known, Marked, Marks
from batchinfer.quality._rows import RowCheck
from batchinfer.quality._values import Mask, missing, ticks

MEMORY_BYTES = 256 << 20
"""What the counts of a survey may take."""

Read = Callable[[tuple[str, ...]], Iterator[tuple[pa.RecordBatch, str, int]]]
"""Reads columns of the whole run: batches, each with its file and the position of its first row in it."""


class Answer(Protocol):
    """Judges a column by its distinct values, seen bucket by bucket."""

    def see(self, values: pa.Array, counts: Counts) -> None:
        """Some of the distinct values, each seen once in all, and how often each occurs."""

    def judge(self) -> Judgement:
        """The verdict, when all were seen."""


@dataclass(frozen=True, slots=True)
class Distinct:
    """A question about a column's distinct values. `answer` makes what finds the answer."""

    expectation: Expectation
    column: str
    answer: Callable[[], Answer]
    condition: Condition | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns whose values it is about."""
        return (self.column,)

    def counted(self, batch: pa.RecordBatch) -> Mask | None:
        """The rows it is about; None: all."""
        return None if self.condition is None else self.condition.rows(batch)


@dataclass(frozen=True, slots=True)
class Unique:
    """Whether the rows that count differ in some columns. The rule of `check` is not used."""

    check: RowCheck

    @property
    def expectation(self) -> Expectation:
        """What it was compiled from."""
        return self.check.expectation

    @property
    def condition(self) -> Condition | None:
        """The rows it is about."""
        return self.check.condition

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns whose values it is about."""
        return self.check.reads

    def counted(self, batch: pa.RecordBatch) -> Mask | None:
        """The rows that count; None: all."""
        masks = [] if self.condition is None else [self.condition.rows(batch)]
        absent = [missing(batch.column(name)) for name in self.reads]
        some = [mask for mask in absent if mask is not None]
        if self.check.ignores == "any":
            masks += [~mask for mask in some]
        elif self.check.ignores == "all" and len(some) == len(absent):
            masks.append(~np.logical_and.reduce(some))
        return np.logical_and.reduce(masks) if masks else None


@dataclass(frozen=True, slots=True)
class Unsurveyed:
    """A check that can measure nothing before the whole run was surveyed."""

    question: Distinct | Unique

    @property
    def expectation(self) -> Expectation:
        """What it was compiled from."""
        return self.question.expectation

    @property
    def columns(self) -> tuple[str, ...]:
        """The input columns that the survey reads for it."""
        condition = self.question.condition
        return tuple(dict.fromkeys((*self.question.reads, *(condition.columns if condition else ()))))

    def measure(self, batch: pa.RecordBatch, lineage: Lineage) -> NoReturn:
        """Never: see `survey`."""
        raise RuntimeError(f"{self.expectation.name} was not surveyed")

    def merge(self, one: State, other: State) -> NoReturn:
        """Never: see `survey`."""
        raise RuntimeError(f"{self.expectation.name} was not surveyed")

    def judge(self, state: State) -> NoReturn:
        """Never: see `survey`."""
        raise RuntimeError(f"{self.expectation.name} was not surveyed")


def survey(checks: Sequence[Check], read: Read, memory_bytes: int = MEMORY_BYTES) -> list[Check]:
    """The checks, each that needs all values of the run replaced by one that knows what it must.

    Reads the columns of those once, and once more where there are duplicates; nothing where no check needs it.
    Past `memory_bytes` values go to a temporary folder.
    """
    waiting = {place: check for place, check in enumerate(checks) if isinstance(check, Unsurveyed)}
    surveyed = list(checks)
    if not waiting:
        return surveyed
    with tempfile.TemporaryDirectory(prefix="batchinfer-survey-") as folder:
        counters = _count(waiting, read, Path(folder), memory_bytes)
        duplicates = []
        for place, check in waiting.items():
            if isinstance(check.question, Unique):
                marks = Marks()
                surveyed[place] = Marked(check.question.check, marks)
                repeated = Repeated(Path(folder) / f"repeated-{place}.arrow", memory_bytes // len(waiting))
                for values, counts in counters[place].buckets():
                    repeated.see(values, counts)
                duplicates.append((check.question, repeated, marks))
            else:
                answer = check.question.answer()
                for values, counts in counters[place].buckets():
                    answer.see(values, counts)
                surveyed[place] = Known(check.expectation, answer.judge())
        _mark(duplicates, read)
    return surveyed


def _count(waiting: dict[int, Unsurveyed], read: Read, folder: Path, memory_bytes: int) -> dict[int, Counter]:
    counters = {}
    for place in waiting:
        (folder / str(place)).mkdir()
        # An eighth: the hash table that counts values takes so much more than they do (measured with 64-bit integers).
        counters[place] = Counter(folder / str(place), memory_bytes // len(waiting) // 8)
    columns = tuple(dict.fromkeys(name for check in waiting.values() for name in check.columns))
    for batch, _, _ in read(columns):
        for place, check in waiting.items():
            keys, _ = keys_of(check.question, batch)
            counters[place].add(keys)
    return counters


def _mark(duplicates: list[tuple[Unique, Repeated, Marks]], read: Read) -> None:
    for question, repeated, marks in duplicates:
        for some in repeated.portions():
            for batch, source, first in read(Unsurveyed(question).columns):
                keys, rows = keys_of(question, batch)
                found = arrays.to_numpy(pc.is_in(keys, value_set=some))[0]
                mask = found
                if rows is not None:
                    mask = np.zeros(batch.num_rows, np.bool_)
                    mask[rows] = found
                marks.add(source, first, mask)


def keys_of(question: Distinct | Unique, batch: pa.RecordBatch) -> tuple[pa.Array, Mask | None]:
    """The values of the rows that count, those of several columns joined to one text; and which rows count."""
    columns = [batch.column(name) for name in question.reads]
    rows = question.counted(batch)
    if rows is not None:
        kept = arrays.from_numpy(rows)
        columns = [column.filter(kept) for column in columns]
    keys = [canonical(column) for column in columns]
    return keys[0] if len(keys) == 1 else joined(keys), rows


def joined(keys: Sequence[pa.Array]) -> pa.Array:
    """One text for each row, the same for two rows if and only if they are equal in all columns, nulls included."""
    parts = []
    for key in keys:
        if pa.types.is_string(key.type) or pa.types.is_large_string(key.type):
            text = key.cast(pa.large_string())
            length = pc.binary_length(text).cast(pa.large_string())
            part = pc.binary_join_element_wise(length, text, _scalar(":"))
        elif pa.types.is_floating(key.type):
            part = key.cast(pa.large_string())
        else:
            part = _with_nulls(ticks(key), key).cast(pa.large_string())
        parts.append(part.fill_null(_scalar("null")))
    return pc.binary_join_element_wise(*parts, _scalar(","))


def _with_nulls(numbers: Any, values: pa.Array) -> pa.Array:
    absent = missing(values)
    plain = arrays.from_numpy(numbers)
    if absent is None:
        return plain
    valid = pa.py_buffer(np.packbits(~absent, bitorder="little"))
    return pa.Array.from_buffers(plain.type, len(plain), [valid, plain.buffers()[1]])


def _scalar(text: str) -> pa.Scalar:
    return arrays.from_texts([text]).cast(pa.large_string())[0]  # pa.scalar would import pandas


class Repeated:
    """The values that occur more than once: in memory up to a bound, past it in a file."""

    def __init__(self, path: Path, limit_bytes: int) -> None:
        self._path = path
        self._limit_bytes = limit_bytes
        self._kept: list[pa.Array] = []
        self._bytes = 0
        self._file: pa.OSFile | None = None
        self._writer: pa.RecordBatchStreamWriter | None = None

    def see(self, values: pa.Array, counts: Counts) -> None:
        """Some of the distinct values, and how often each occurs."""
        again = values.filter(arrays.from_numpy(counts > 1))
        if len(again):
            self._kept.append(again)
            self._bytes += again.nbytes
        if self._bytes > self._limit_bytes // 4:
            self._write()

    def portions(self) -> Iterator[pa.Array]:
        """All of them, as many at a time as the bound allows."""
        if self._writer is None:
            if self._kept:
                yield pa.concat_arrays(self._kept)
            return
        self._write()
        self._writer.close()
        assert self._file is not None
        self._file.close()
        with pa.OSFile(str(self._path)) as file, pa.ipc.open_stream(file) as stream:
            for batch in stream:
                yield batch.column(0)

    def _write(self) -> None:
        if not self._kept:
            return
        batch = pa.RecordBatch.from_arrays([pa.concat_arrays(self._kept)], names=["value"])
        if self._writer is None:
            self._file = pa.OSFile(str(self._path), "wb")
            self._writer = pa.ipc.new_stream(self._file, batch.schema)
        self._writer.write_batch(batch)
        self._kept, self._bytes = [], 0
