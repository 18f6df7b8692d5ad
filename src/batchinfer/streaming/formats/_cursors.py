"""Reading many messages at once: a cursor in each, all of them moved by a few NumPy calls.

A message that does not hold what is read from it fails alone, with a reason; its cursor then stands at its end, and
whatever is read from it further on is zero and of no account. Nothing is ever read outside of the message.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Rows = npt.NDArray[np.int64] | slice
"""Messages to read from: their indices, ascending, or a slice of them all."""

ALL = slice(None)

MORE = "there is more in the value than its schema says"
_PADDING = 16
"""Zeros after the last message: the first bytes of a number may be looked at before it is known to end in time."""
_VARINT_BYTES = 10


@dataclass(frozen=True, slots=True)
class Payloads:
    """What messages hold, or a part of it: the bytes from `starts` to `ends` of `octets`, which are padded."""

    octets: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]

    @classmethod
    def of(cls, values: pa.LargeBinaryArray) -> Self:
        """The values, whole; a null is empty."""
        if not len(values):
            nothing = np.empty(0, np.int64)
            return cls(np.zeros(_PADDING, np.uint8), nothing, nothing)
        _, offsets, data = values.buffers()
        bounds = np.frombuffer(offsets, np.int64, len(values) + 1, values.offset * 8)
        first, size = int(bounds[0]), int(bounds[-1] - bounds[0])
        octets = np.empty(size + _PADDING, np.uint8)
        octets[:size] = np.frombuffer(data, np.uint8, size, first) if size else 0
        octets[size:] = 0
        return cls(octets, bounds[:-1] - first, bounds[1:] - first)

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, rows: npt.NDArray[np.int64]) -> Payloads:
        """Those of some of the messages."""
        return Payloads(self.octets, self.starts[rows], self.ends[rows])

    def after(self, starts: npt.NDArray[np.int64]) -> Payloads:
        """What comes from these places on."""
        return Payloads(self.octets, starts, self.ends)

    def singly(self) -> Iterator[bytes]:
        """One after the other."""
        for start, end in zip(self.starts.tolist(), self.ends.tolist(), strict=True):
            yield self.octets[start:end].tobytes()


class Cursors:
    """A place in each of many payloads."""

    def __init__(self, payloads: Payloads) -> None:
        self.octets = payloads.octets
        self.at = payloads.starts.copy()
        self.end = payloads.ends
        self.failed: dict[int, str] = {}
        self._views: dict[str, npt.NDArray[Any]] = {}
        self._last: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.at)

    def fail(self, rows: Rows, which: npt.NDArray[np.bool_], reason: str) -> None:
        """Fail those of the rows that `which` marks; the first reason of a message stands."""
        bad = np.flatnonzero(which)
        if len(bad):
            bad = bad if isinstance(rows, slice) else rows[bad]
            self.at[bad] = self.end[bad]
            for row in bad.tolist():
                self.failed.setdefault(row, reason)

    def varints(self, rows: Rows, what: str) -> npt.NDArray[np.uint64]:
        """Numbers of seven bits a byte, the lowest first, at most 64 bits."""
        values, at, overlong = _varints(self.octets, self.at[rows])
        self._move(rows, at, what)
        if len(overlong):
            wrong = np.zeros(len(at), np.bool_)
            wrong[overlong] = True
            self.fail(rows, wrong, f"{what} is a number of more than 64 bits")
        return values

    def runs(
        self, rows: Rows, counts: npt.NDArray[np.int64], what: str
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        """As many varints as `counts` says in each, one after the other; and how many these are, 0 where it failed."""
        starts, ends = self.at[rows].copy(), self.end[rows]
        last = self._last_octets()
        first = np.searchsorted(last, starts)
        fits = (counts >= 0) & (counts <= ends - starts)
        final = np.minimum(first + np.where(fits, counts, 0) - 1, len(last) - 1)
        stops = np.where(fits & (counts > 0), last[final] + 1, starts)
        fits &= stops <= ends
        self.fail(rows, ~fits, f"{what} is cut short")
        counts = np.where(fits, counts, 0)
        self.at[rows] = np.where(fits, stops, self.at[rows])
        return self._run(rows, starts, first, counts, what), counts

    def packed(
        self,
        rows: npt.NDArray[np.int64],
        starts: npt.NDArray[np.int64],
        sizes: npt.NDArray[np.int64],
        what: str,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]:
        """The varints that fill spans, and the message that each is of."""
        last = self._last_octets()
        first = np.searchsorted(last, starts)
        counts = np.searchsorted(last, starts + sizes) - first
        cut = (sizes > 0) & (self.octets[starts + sizes - 1] >= 0x80)
        self.fail(rows, cut, f"{what} is cut short")
        counts = np.where(cut, 0, counts)
        return np.repeat(rows, counts), self._run(rows, starts, first, counts, what)

    def _last_octets(self) -> npt.NDArray[np.int64]:
        """Where numbers end, in a stretch of nothing but varints."""
        if self._last is None:
            self._last = np.flatnonzero(self.octets < 0x80)
        return self._last

    def _run(
        self,
        rows: Rows,
        starts: npt.NDArray[np.int64],
        first: npt.NDArray[np.int64],
        counts: npt.NDArray[np.int64],
        what: str,
    ) -> npt.NDArray[np.uint64]:
        offsets = np.cumsum(counts) - counts
        places = np.arange(int(counts.sum())) + np.repeat(first - offsets, counts)
        begins = self._last_octets()[places - 1] + 1
        begins[offsets[counts > 0]] = starts[counts > 0]
        values, _, overlong = _varints(self.octets, begins)
        if len(overlong):
            wrong = np.zeros(len(counts), np.bool_)
            wrong[np.searchsorted(offsets + counts, overlong, side="right")] = True
            self.fail(rows, wrong, f"{what} holds a number of more than 64 bits")
        return values

    def fixed(self, rows: Rows, dtype: str, what: str) -> npt.NDArray[Any]:
        """Numbers of a fixed size; `dtype` is NumPy's, of at most 16 bytes."""
        at = self.at[rows]
        size = np.dtype(dtype).itemsize
        if dtype not in self._views:  # a number may begin at any byte
            count = len(self.octets) - size + 1
            self._views[dtype] = np.ndarray((count,), dtype, self.octets, 0, (1,))
        values = self._views[dtype][at]
        self._move(rows, at + size, what)
        return values

    def spans(
        self, rows: Rows, sizes: npt.NDArray[np.int64], what: str
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Pass over `sizes` bytes in each; returns where these begin and how many they are, 0 where it failed."""
        starts = self.at[rows].copy()
        fits = (sizes >= 0) & (sizes <= self.end[rows] - starts)
        if not fits.all():
            self.fail(rows, ~fits, f"{what} is cut short")
            sizes = np.where(fits, sizes, 0)
        self.at[rows] += sizes
        return starts, sizes

    def finish(self) -> None:
        """Fail messages that hold more than was read."""
        self.fail(ALL, self.at < self.end, MORE)

    def gather(
        self, starts: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
        """The bytes of spans, one after the other, and the offsets at which they begin and end."""
        offsets = np.zeros(len(sizes) + 1, np.int64)
        np.cumsum(sizes, out=offsets[1:])
        places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], sizes)
        return offsets, self.octets[places]

    def _move(self, rows: Rows, at: npt.NDArray[np.int64], what: str) -> None:
        over = at > self.end[rows]
        self.at[rows] = at
        if over.any():
            self.fail(rows, over, f"{what} is cut short")


def _varints(
    octets: npt.NDArray[np.uint8], at: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The varints at these places, where each ends, and which are of more than 64 bits."""
    first = octets[at]
    values = (first & np.uint8(0x7F)).astype(np.uint64)
    at = at + 1
    more = np.flatnonzero(first >= 0x80)
    overlong = np.zeros(0, np.int64)
    for place in range(1, _VARINT_BYTES):
        if not len(more):
            break
        each = octets[at[more]]
        values[more] |= (each & np.uint8(0x7F)).astype(np.uint64) << np.uint64(7 * place)
        at[more] += 1
        if place == _VARINT_BYTES - 1:
            overlong = more[each > 1]
        more = more[each >= 0x80]
    return values, at, overlong


def zigzag(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Signed numbers, as Avro and Protobuf's sint fold them into unsigned ones."""
    one = np.uint64(1)
    return (values >> one).view(np.int64) ^ -(values & one).view(np.int64)


def strings(offsets: npt.NDArray[np.int64], octets: npt.NDArray[np.uint8], kind: pa.DataType) -> pa.Array:
    """A large_string or large_binary array of the bytes; UTF-8 is not verified here."""
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(octets)]
    return pa.Array.from_buffers(kind, len(offsets) - 1, buffers)


def spread(values: pa.Array, there: npt.NDArray[np.bool_], *, whole: bool = False) -> pa.Array:
    """The values at the places that are `there`, and nulls elsewhere; `whole` values have something at every place."""
    bits = pa.py_buffer(np.packbits(there, bitorder="little"))
    indices = np.arange(len(there)) if whole else np.cumsum(there) - 1
    return values.take(pa.Array.from_buffers(pa.int64(), len(there), [bits, pa.py_buffer(indices)]))


def badly_encoded(texts: pa.LargeBinaryArray) -> npt.NDArray[np.bool_]:
    """Which texts are not UTF-8."""
    bad = np.zeros(len(texts), np.bool_)
    try:
        texts.view(pa.large_string()).validate(full=True)
    except pa.ArrowInvalid:  # rare, so that one by one will do
        for row, text in enumerate(texts.to_pylist()):
            try:
                text.decode()
            except UnicodeDecodeError:
                bad[row] = True
    return bad
