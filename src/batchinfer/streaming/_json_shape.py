"""Which JSON messages may have a fault that the bulk reader does not see, found without reading them one by one.

Messages of a topic are written alike: the same names in the same order. One message is read by the letter, and those
that have its names in its order can have no other faults than those that the first byte of a value tells: a number for
a text, something else than null where the reader found nothing, an object that hides names. All others are suspects.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchinfer.core import arrays
from batchinfer.streaming._json_strict import Field, fault

Mask = npt.NDArray[np.bool_]
_Places = npt.NDArray[np.int64]

_MOST_LAYOUTS = 8
_QUOTE, _COLON, _BACKSLASH, _SPACE, _NULL = (ord(character) for character in '":\\ n')
_OPENING = np.array([ord("{"), ord("[")], np.uint8)
_WORD = 8
_BLOCK_ROWS = 1024
"""Messages whose names are compared at once: so few that what is compared stays in the processor's cache."""
_QUOTED = {"text", "time"}
"""Kinds of fields whose values are JSON strings."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """The names of a message in order, each as written with its opening quote, and which field it is.

    What is compared are words of eight bytes: of the name at a `place`, those that begin so many bytes before its end
    (`back`), as a number, without the `excess` bits that come before a shorter name.
    """

    names: tuple[tuple[bytes, str | None], ...]
    places: _Places
    back: _Places
    excess: npt.NDArray[np.uint64]
    words: npt.NDArray[np.uint64]

    @classmethod
    def of(cls, names: Sequence[tuple[bytes, str | None]]) -> Self:
        """With the words of all names."""
        pieces = [
            (place, len(name) - start, 0, int.from_bytes(name[start : start + _WORD], "little"))
            if len(name) >= _WORD
            else (place, _WORD, 8 * (_WORD - len(name)), int.from_bytes(name, "little"))
            for place, (name, _) in enumerate(names)
            for start in _starts(name)
        ]
        places, back, excess, words = np.array(pieces, np.uint64).T
        return cls(tuple(names), places.astype(np.int64), back.astype(np.int64), excess, words)


def _starts(name: bytes) -> list[int]:
    """Where the words of a name begin; the last one ends with it, and may overlap the one before."""
    last = max(0, len(name) - _WORD)
    return sorted({*range(0, last, _WORD), last})


class Layouts:
    """The layouts of a topic's messages, learned as they come. Thread-safe: which are known changes the work alone."""

    def __init__(self, fields: Mapping[str, Field]) -> None:
        self._fields = fields
        self._known: tuple[_Layout, ...] = ()

    def suspects(self, values: pa.LargeBinaryArray, batch: pa.RecordBatch) -> Mask:
        """The messages to be read by the letter. `batch` has the row that the reader made of each."""
        rows = len(values)
        if not rows:
            return np.zeros(0, np.bool_)
        text = _Text(values)
        suspect = text.escaped_surrogates()
        for column in batch.columns:
            if pa.types.is_floating(column.type):  # JSON has no infinity: it was a number beyond the type
                suspect |= np.isinf(arrays.to_numpy(column)[0])
        absent = {
            name: arrays.to_numpy(pc.is_null(column))[0]
            for name, column in zip(batch.schema.names, batch.columns, strict=True)
            if column.null_count
        }
        left = np.flatnonzero(~suspect)
        for layout in self._known:
            left = self._judge(text, left, layout, absent, suspect)
        for _ in range(_MOST_LAYOUTS):
            if not len(left):
                break
            first = int(left[0])
            found = fault(values[first].as_py(), self._fields) is None and text.layout(first, self._fields)
            if not found:
                suspect[first], left = True, left[1:]
                continue
            layout = _Layout.of(found)
            self._known = (layout, *self._known)[:_MOST_LAYOUTS]
            left = self._judge(text, left, layout, absent, suspect)
        suspect[left] = True
        return suspect

    def _judge(
        self, text: _Text, left: _Places, layout: _Layout, absent: Mapping[str, Mask], suspect: Mask
    ) -> _Places:
        """Note which messages of the layout are suspects; returns those of other layouts."""
        if not len(left):
            return left
        alike = text.alike(left, layout)
        found = left[alike]
        suspect[found[text.odd_values(found, layout, self._fields, absent)]] = True
        return left[~alike]


class _Text:
    """The bytes of messages, and where the names in them end: at a quote that a colon follows."""

    def __init__(self, values: pa.LargeBinaryArray) -> None:
        _, offsets, data = values.buffers()
        bounds = np.frombuffer(offsets, np.int64)[values.offset : values.offset + len(values) + 1]
        bytes_ = np.frombuffer(data, np.uint8)[bounds[0] : bounds[-1]]
        margin = np.zeros(_WORD, np.uint8)
        self._bytes = np.concatenate([margin, bytes_, margin])  # so that no look-around leaves it
        self._bounds = bounds - bounds[0] + _WORD
        self._ends = np.flatnonzero((self._bytes[:-1] == _QUOTE) & (self._bytes[1:] == _COLON))
        self._firsts = np.searchsorted(self._ends, self._bounds)
        self._counts = np.diff(self._firsts)
        # The eight bytes from each byte on, as one number.
        shape = (len(self._bytes) - _WORD + 1,)
        self._words: npt.NDArray[np.uint64] = np.ndarray(shape, "<u8", self._bytes, strides=(1,))

    def escaped_surrogates(self) -> Mask:
        r"""The messages with a \ud… in them: half a pair would be read as a zero byte."""
        found = np.zeros(len(self._bounds) - 1, np.bool_)
        places = np.flatnonzero(self._bytes == _BACKSLASH)
        if len(places):
            # In lower case; a letter's case is one bit.
            is_one = (self._bytes[places + 1] == ord("u")) & ((self._bytes[places + 2] | 32) == ord("d"))
            found[np.searchsorted(self._bounds, places[is_one], "right") - 1] = True
        return found

    def layout(self, row: int, fields: Mapping[str, Field]) -> list[tuple[bytes, str | None]] | None:
        """The names of a message in order, each as written with its opening quote, and which field it is.

        None where some field's name is not there exactly once, as written plainly.
        """
        begin = int(self._bounds[row])
        content = self._bytes[begin : int(self._bounds[row + 1])].tobytes()
        ends = self._ends[self._firsts[row] : self._firsts[row + 1]] - begin
        names = [content[content.rfind(b'"', 0, end) : end] for end in ends.tolist()]
        places: dict[int, str] = {}
        for field in fields:
            written = {
                b'"' + json.dumps(field, ensure_ascii=ascii_)[1:-1].encode() for ascii_ in (True, False)
            }
            of_field = [place for place, name in enumerate(names) if name in written]
            if len(of_field) != 1:
                return None
            places[of_field[0]] = field
        return [(name, places.get(place)) for place, name in enumerate(names)]

    def alike(self, rows: _Places, layout: _Layout) -> Mask:
        """Which of these messages have the layout's names in its order."""
        alike = np.asarray(self._counts[rows] == len(layout.names), np.bool_)
        some = rows[alike]
        same = np.empty(len(some), np.bool_)
        for start in range(0, len(some), _BLOCK_ROWS):
            ends = self._ends_of(some[start : start + _BLOCK_ROWS], layout)
            words = self._words[ends[:, layout.places] - layout.back] >> layout.excess
            np.equal(words, layout.words).all(axis=1, out=same[start : start + _BLOCK_ROWS])
        alike[alike] = same
        return alike

    def odd_values(
        self,
        rows: _Places,
        layout: _Layout,
        fields: Mapping[str, Field],
        absent: Mapping[str, Mask],
    ) -> Mask:
        """Which of these messages, of the layout, have a value that does not begin as it must."""
        ends = self._ends_of(rows, layout)
        odd = np.zeros(len(rows), np.bool_)
        for place, (_, name) in enumerate(layout.names):
            if name is not None and fields[name].kind not in _QUOTED and name not in absent:
                continue  # the reader took it for what it must be
            at = ends[:, place] + 2
            begins = self._bytes[at]
            begins = np.where(begins == _SPACE, self._bytes[at + 1], begins)
            if name is None:  # an object may have names in it
                odd |= (begins <= _SPACE) | np.isin(begins, _OPENING)
                continue
            if fields[name].kind in _QUOTED:
                odd |= (begins != _QUOTE) & (begins != _NULL)
            if name in absent:
                odd |= absent[name][rows] & (begins != _NULL)
        return odd

    def _ends_of(self, rows: _Places, layout: _Layout) -> _Places:
        firsts = self._firsts[rows]
        return np.asarray(self._ends[firsts[:, None] + np.arange(len(layout.names))], np.int64)
