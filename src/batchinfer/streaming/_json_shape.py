"""Which JSON messages may have a fault that the bulk reader does not see, found without reading them one by one.

Messages of a topic are written alike: the same names in the same order. One message is read by the letter, and those
that have its names in its order can have no other faults than those that the first byte of a value tells, or of a value
in a list: a number for a text, true for a number, something else than null where the reader found nothing, an object
that hides names. All others are suspects.
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
_QUOTE, _COLON, _COMMA, _BACKSLASH, _SPACE, _NULL = (ord(character) for character in '":,\\ n')
_LIST = ord("[")
_WORD = 8
_DIGIT = np.isin(np.arange(256), list(b"0123456789"))
_FRACTION = np.isin(np.arange(256), list(b".eE0123456789"))
_MOST_DIGITS = 20
_BEGINS = {
    "whole": b"-0123456789n",
    "number": b"-0123456789n",
    "truth": b"tfn",
    "text": b'"n',
    "time": b'"n',
    "list": b"[n",
}
"""With which bytes a value of each kind of field may begin. Of other names: all that are no brackets, no spaces."""


def _may_begin(kind: str | None) -> Mask:
    """By byte, whether a value of such a field may begin with it."""
    if kind is not None:
        return np.isin(np.arange(256), list(_BEGINS[kind]))
    may = np.arange(256) > _SPACE
    may[list(b"[{")] = False  # an object may have names in it
    return may


def _may_go_on(inner: str) -> Mask:
    """By byte, whether a list of such values may go on with it after its bracket or a comma."""
    may = _may_begin(inner)
    may[ord("]")] = True
    return may if inner != "list" else np.zeros_like(may)  # lists of lists are read by the letter


@dataclass(frozen=True, slots=True)
class _Layout:
    """The names of a message in order, each as written with its opening quote, and which field it is.

    What is compared are words of eight bytes: of the name at a `place`, those that begin so many bytes before its end
    (`back`), as a number, without the `excess` bits that come before a shorter name. `may_begin` says by place and byte
    whether the value there may begin with it, `whole` where the values are whole numbers.
    """

    names: tuple[tuple[bytes, str | None], ...]
    places: _Places
    back: _Places
    excess: npt.NDArray[np.uint64]
    words: npt.NDArray[np.uint64]
    may_begin: Mask
    whole: _Places

    @classmethod
    def of(cls, names: Sequence[tuple[bytes, str | None]], fields: Mapping[str, Field]) -> Self:
        """With the words of all names."""
        pieces = [
            (place, len(name) - start, 0, int.from_bytes(name[start : start + _WORD], "little"))
            if len(name) >= _WORD
            else (place, _WORD, 8 * (_WORD - len(name)), int.from_bytes(name, "little"))
            for place, (name, _) in enumerate(names)
            for start in _starts(name)
        ]
        places, back, excess, words = np.array(pieces, np.uint64).T
        kinds = [fields[field].kind if field is not None else None for _, field in names]
        return cls(
            tuple(names),
            places.astype(np.int64),
            back.astype(np.int64),
            excess,
            words,
            np.array([_may_begin(kind) for kind in kinds]),
            np.flatnonzero([kind == "whole" for kind in kinds]),
        )


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
        suspect = text.escaped_surrogates() | _infinite(batch)
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
            layout = _Layout.of(found, self._fields)
            self._known = (layout, *self._known)[:_MOST_LAYOUTS]
            left = self._judge(text, left, layout, absent, suspect)
        suspect[left] = True
        return suspect

    def _judge(
        self, text: _Text, left: _Places, layout: _Layout, absent: Mapping[str, Mask], suspect: Mask
    ) -> _Places:
        """Note which messages of the layout are suspects; returns those of other layouts."""
        alike, ends = text.alike(left, layout)
        found = left[alike]
        suspect[found] = text.odd_values(found, ends, layout, self._fields, absent)
        return left[~alike]


def _infinite(batch: pa.RecordBatch) -> Mask:
    """The rows with an infinity, which JSON has not: it was a number beyond the type."""
    found = np.zeros(batch.num_rows, np.bool_)
    numbers = [arrays.to_numpy(column)[0] for column in batch.columns if pa.types.is_floating(column.type)]
    # Python's lock is asked for after each call on much data, so there is one for all columns.
    infinite = np.isinf(np.concatenate(numbers)) if numbers else found
    if infinite.any():
        found |= infinite.reshape(len(numbers), -1).any(axis=0)
    for column in batch.columns:
        if pa.types.is_nested(column.type):
            found |= _infinite_in_lists(column)
    return found


def _infinite_in_lists(column: pa.Array) -> Mask:
    found = np.zeros(len(column), np.bool_)
    values = column.flatten()
    if pa.types.is_nested(values.type):
        inner: Mask = _infinite_in_lists(values)
    elif pa.types.is_floating(values.type):
        inner = np.isinf(arrays.to_numpy(values)[0])
    else:
        return found
    if inner.any():
        found[arrays.to_numpy(pc.list_parent_indices(column))[0][inner]] = True
    return found


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
        self._odd_places: dict[str, _Places] = {}
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

    def alike(self, rows: _Places, layout: _Layout) -> tuple[Mask, _Places]:
        """Which of these messages have the layout's names in its order, and where the names of those end."""
        alike = np.asarray(self._counts[rows] == len(layout.names), np.bool_)
        firsts = self._firsts[rows[alike]]
        ends = np.asarray(self._ends[firsts[:, None] + np.arange(len(layout.names))], np.int64)
        words = self._words[ends[:, layout.places] - layout.back] >> layout.excess
        same = np.equal(words, layout.words).all(axis=1)
        alike[alike] = same
        return alike, ends if same.all() else ends[same]

    def odd_values(
        self,
        rows: _Places,
        ends: _Places,
        layout: _Layout,
        fields: Mapping[str, Field],
        absent: Mapping[str, Mask],
    ) -> Mask:
        """Which of these messages, of the layout, have a value that does not begin as it must."""
        begins, at = self._first_bytes(ends + 2)
        odd = np.asarray(~layout.may_begin[np.arange(len(layout.names)), begins].all(axis=1), np.bool_)
        if len(layout.whole):
            odd |= self._fractions(at[:, layout.whole]).any(axis=1)
        for place, (_, name) in enumerate(layout.names):
            if name is None:
                continue
            if name in absent:
                odd |= absent[name][rows] & (begins[:, place] != _NULL)
            if fields[name].kind == "list":
                inner = Field.of(fields[name].type.field(0)).kind
                odd |= self._odd_in_lists(at[:, place], self._stops(rows, ends, layout, place), inner)
        return odd

    def _stops(self, rows: _Places, ends: _Places, layout: _Layout, place: int) -> _Places:
        """Where the value at a place has ended: at the next name, or the message's end."""
        if place + 1 == len(layout.names):
            return np.asarray(self._bounds[rows + 1], np.int64)
        return np.asarray(ends[:, place + 1] - len(layout.names[place + 1][0]), np.int64)

    def _odd_in_lists(self, starts: _Places, stops: _Places, inner: str) -> Mask:
        """Which lists, between these places, have an odd value. A comma in a text may look like one of the list's."""
        odd = self._odd_places.get(inner)
        if odd is None:
            before = self._bytes[:-_WORD]
            begins, at = self._first_bytes(np.flatnonzero((before == _LIST) | (before == _COMMA)) + 1)
            found = ~_may_go_on(inner)[begins]
            if inner == "whole":
                found |= self._fractions(at)
            odd = self._odd_places[inner] = at[found]
        return np.asarray(np.searchsorted(odd, starts) < np.searchsorted(odd, stops), np.bool_)

    def _fractions(self, at: _Places) -> Mask:
        """Which numbers, by the place of their first byte, do not end with their digits, as 1.0 and 1e2."""
        at = at + 1
        for _ in range(_MOST_DIGITS):
            digits = _DIGIT[self._bytes[at]]
            if not digits.any():
                break
            at += digits
        return np.asarray(_FRACTION[self._bytes[at]], np.bool_)

    def _first_bytes(self, places: _Places) -> tuple[npt.NDArray[np.uint8], _Places]:
        """The bytes at these places, or after a space there, and where they are."""
        begins = self._bytes[places]
        spaced = begins == _SPACE
        if not spaced.any():
            return begins, places
        at = places + spaced
        return self._bytes[at], at
