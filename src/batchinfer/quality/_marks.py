"""Which rows of the run are unexpected, known before they are scored: a bit for each row of each file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchinfer.core import Lineage, arrays
from batchinfer.quality._expectation import Expectation, Judgement, State
from batchinfer.quality._rows import RowCheck
from batchinfer.quality._values import Mask


@dataclass(frozen=True, slots=True)
class Marks:
    """Marked rows by file and position. Built once, then only read."""

    bits: dict[str, npt.NDArray[np.uint8]] = field(default_factory=dict)

    def add(self, source: str, first: int, mask: Mask) -> None:
        """Mark the rows of a file from the position `first` on for which the mask is true."""
        if not mask.any():
            return
        packed = np.packbits(np.concatenate([np.zeros(first % 8, np.bool_), mask]), bitorder="little")
        start, end = first // 8, first // 8 + len(packed)
        bits = self.bits.get(source, np.empty(0, np.uint8))
        if end > len(bits):
            bits = np.concatenate([bits, np.zeros(max(end, 2 * len(bits)) - len(bits), np.uint8)])
        bits[start:end] |= packed
        self.bits[source] = bits

    def of(self, lineage: Lineage) -> Mask | None:
        """Which rows of a batch are marked; None where none is."""
        bits = self.bits.get(lineage.source)
        positions = arrays.to_numpy(lineage.positions)[0]
        if bits is None or not len(positions):
            return None
        octets = positions >> 3
        inside = octets < len(bits)
        found = bits[np.where(inside, octets, 0)] >> (positions & 7).astype(np.uint8)
        marked: Mask = ((found & 1) == 1) & inside
        return marked if marked.any() else None


@dataclass(frozen=True, slots=True)
class Marked:
    """A check of rows whose unexpected ones were found before."""

    check: RowCheck
    marks: Marks

    @property
    def expectation(self) -> Expectation:
        """What it was compiled from."""
        return self.check.expectation

    @property
    def columns(self) -> tuple[str, ...]:
        """The input columns it reads: it counts missing values and shows unexpected ones."""
        return self.check.columns

    def measure(self, batch: pa.RecordBatch, lineage: Lineage) -> tuple[State, Mask | None]:
        """The state of these rows, and which of them are marked."""
        return replace(self.check, rule=_Given(self.marks.of(lineage))).measure(batch, lineage)

    def merge(self, one: State, other: State) -> State:
        """The state of the rows of both."""
        return self.check.merge(one, other)

    def judge(self, state: State) -> Judgement:
        """The verdict on all rows."""
        return self.check.judge(state)


@dataclass(frozen=True, slots=True)
class Known:
    """A check whose verdict on the whole run is known before the rows are scored."""

    expectation: Expectation
    judgement: Judgement
    marks: Marks | None = None
    columns: tuple[str, ...] = ()

    def measure(self, batch: pa.RecordBatch, lineage: Lineage) -> tuple[State, Mask | None]:
        """Nothing to count; which of the rows are marked, if the expectation is about rows."""
        return {}, None if self.marks is None else self.marks.of(lineage)

    def merge(self, one: State, other: State) -> State:
        """Nothing."""
        return {}

    def judge(self, state: State) -> Judgement:
        """The verdict."""
        return self.judgement


@dataclass(frozen=True, slots=True)
class _Given:
    mask: Mask | None

    def __call__(self, columns: Sequence[pa.Array], missing: Mask | None) -> Mask | None:
        return self.mask
