"""Which JSON messages may have a fault that the bulk reader does not see, found without reading them one by one.

Messages of a topic are written alike: the same names in the same order. One message is read by the letter, and those
that have its names in its order can have no other faults than those that the first byte of a value tells: a number for
a text, something else than null where the reader found nothing, an object that hides names. All others are suspects.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

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
_QUOTED = {"text", "time"}
"""Kinds of fields whose values are JSON strings."""


def suspects(values: pa.LargeBinaryArray, batch: pa.RecordBatch, fields: Mapping[str, Field]) -> Mask:
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
    for _ in range(_MOST_LAYOUTS):
        if not len(left):
            break
        first = int(left[0])
        layout = None if fault(values[first].as_py(), fields) is not None else text.layout(first, fields)
        if layout is None:
            suspect[first], left = True, left[1:]
            continue
        alike = text.alike(left, layout)
        found = left[alike]
        suspect[found[text.odd_values(found, layout, fields, absent)]] = True
        left = left[~alike]
    suspect[left] = True
    return suspect


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

    def alike(self, rows: _Places, layout: list[tuple[bytes, str | None]]) -> Mask:
        """Which of these messages have the layout's names in its order."""
        alike = np.asarray(self._counts[rows] == len(layout), np.bool_)
        ends = self._ends_of(rows[alike], layout)
        same = np.ones(len(ends), np.bool_)
        for place, (name, _) in enumerate(layout):
            same &= self._follows(ends[:, place], name)
        alike[alike] = same
        return alike

    def odd_values(
        self,
        rows: _Places,
        layout: list[tuple[bytes, str | None]],
        fields: Mapping[str, Field],
        absent: Mapping[str, Mask],
    ) -> Mask:
        """Which of these messages, of the layout, have a value that does not begin as it must."""
        ends = self._ends_of(rows, layout)
        odd = np.zeros(len(rows), np.bool_)
        for place, (_, name) in enumerate(layout):
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

    def _ends_of(self, rows: _Places, layout: list[tuple[bytes, str | None]]) -> _Places:
        return np.asarray(self._ends[self._firsts[rows][:, None] + np.arange(len(layout))], np.int64)

    def _follows(self, ends: _Places, name: bytes) -> Mask:
        """Where the bytes before each end are the name, compared eight at a time."""
        if len(name) < _WORD:
            wanted = int.from_bytes(name, "little")
            return np.asarray(
                self._words[ends - _WORD] >> np.uint64(8 * (_WORD - len(name))) == np.uint64(wanted)
            )
        same = np.ones(len(ends), np.bool_)
        for start in {*range(0, len(name) - _WORD, _WORD), len(name) - _WORD}:
            wanted = int.from_bytes(name[start : start + _WORD], "little")
            same &= self._words[ends - (len(name) - start)] == np.uint64(wanted)
        return same
