"""One look at many Protobuf messages of a type: where each field is that is wanted, or its value.

A pass over the type's fields reads each from all messages that have it next, as serializers write them in order.
Messages with fields in another order, or with fields that the type has not, take further passes. What no pass gets at
(groups, a submessage in two pieces, a list in many) is `odd`, and left to protobuf itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchinfer.core import arrays
from batchinfer.streaming.formats._cursors import (
    ALL,
    Cursors,
    Payloads,
    badly_encoded,
    spread,
    strings,
    zigzag,
)
from batchinfer.streaming.formats._protobuf_schema import (
    END_GROUP,
    FIXED32,
    FIXED64,
    SIZED,
    VARINT,
    ProtobufField,
)

NO_MESSAGE = "the value is no Protobuf message"
_PASSES = 16
_RUN = 64
_SECOND_NS = 10**9


def wrong_wire(field: str) -> str:
    """The reason of a message with a field of another type."""
    return f"field '{field}' is of another type than its schema says"


def no_symbol(field: str) -> str:
    """The reason of a message with a number that stands for no symbol."""
    return f"field '{field}' is of a symbol that its enum has not"


class Scan:
    """What was found in messages of a type.

    Args:
        payloads: the messages.
        fields: all fields of the type.
        wanted: the numbers of those to read; the others are passed over.

    Attributes:
        failed: which messages are none, and why. Complete when all columns were asked for.
        odd: which messages have to be read otherwise.
    """

    def __init__(self, payloads: Payloads, fields: Sequence[ProtobufField], wanted: Sequence[int]) -> None:
        count = len(payloads)
        self._cursors = Cursors(payloads)
        self.failed = self._cursors.failed
        self.odd = np.zeros(count, np.bool_)
        self._fields = {field.number: field for field in fields}
        self._seen = {number: np.zeros(count, np.bool_) for number in wanted}
        self._values: dict[int, npt.NDArray[Any]] = {}
        self._sizes: dict[int, npt.NDArray[np.int64]] = {}
        self._lists: dict[int, list[tuple[npt.NDArray[np.int64], npt.NDArray[Any]]]] = {}
        for number in wanted:
            self._prepare(self._fields[number], count)
        self._run(count)

    def _prepare(self, field: ProtobufField, count: int) -> None:
        if field.repeated:
            self._lists[field.number] = []
        elif field.kind.wire == SIZED:
            self._values[field.number] = np.zeros(count, np.int64)
            self._sizes[field.number] = np.zeros(count, np.int64)
        else:
            self._values[field.number] = np.zeros(count, field.kind.dtype)

    def _run(self, count: int) -> None:
        cursors = self._cursors
        tags = [(tag, field) for field in self._fields.values() for tag in field.tags]
        pending = np.arange(count)
        for _ in range(_PASSES):
            pending = pending[cursors.at[pending] < cursors.end[pending]]
            if not len(pending):
                return
            for tag, field in tags:
                rows = pending
                for _ in range(_RUN if field.repeated else 1):  # items of a list follow each other
                    rows = rows[self._is_next(rows, tag)]
                    if not len(rows):
                        break
                    cursors.at[rows] += len(tag)
                    self._read(field, tag[0] & 7, rows)
            self._skip_foreign(pending[cursors.at[pending] < cursors.end[pending]])
        left = pending[cursors.at[pending] < cursors.end[pending]]
        self.odd[left] = True

    def _is_next(self, rows: npt.NDArray[np.int64], tag: bytes) -> npt.NDArray[np.bool_]:
        cursors = self._cursors
        at = cursors.at[rows]
        match: npt.NDArray[np.bool_] = (cursors.octets[at] == tag[0]) & (at + len(tag) <= cursors.end[rows])
        for place in range(1, len(tag)):
            match &= cursors.octets[at + place] == tag[place]
        return match

    def _read(self, field: ProtobufField, wire: int, rows: npt.NDArray[np.int64]) -> None:
        what = f"field '{field.name}'"
        number = field.number
        if number not in self._seen:
            self._skip(wire, rows, what)
            return
        seen = self._seen[number]
        if field.repeated:
            self._lists[number].append(self._items(field, wire, rows, what))
        elif wire == SIZED:
            # Submessages are merged, and of texts each has to be UTF-8: protobuf knows how.
            if field.inner or field.type != pa.large_binary():
                self.odd[rows[seen[rows]]] = True
            starts, sizes = self._spans(rows, what)
            self._values[number][rows], self._sizes[number][rows] = starts, sizes
        elif wire == VARINT:
            self._values[number][rows] = _numbers(field, self._cursors.varints(rows, what))
        else:
            self._values[number][rows] = self._cursors.fixed(rows, field.kind.dtype, what)
        seen[rows] = True

    def _spans(
        self, rows: npt.NDArray[np.int64], what: str
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        sizes = self._cursors.varints(rows, what)
        return self._cursors.spans(rows, np.minimum(sizes, np.uint64(2**62)).astype(np.int64), what)

    def _items(
        self, field: ProtobufField, wire: int, rows: npt.NDArray[np.int64], what: str
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
        """The messages that own some items of a list of numbers, and these."""
        cursors = self._cursors
        if wire == VARINT:
            return rows, _numbers(field, cursors.varints(rows, what))
        if wire != SIZED:
            return rows, cursors.fixed(rows, field.kind.dtype, what)
        starts, sizes = self._spans(rows, what)
        if field.kind.wire == VARINT:
            owners, packed = cursors.packed(rows, starts, sizes, what)
            return owners, _numbers(field, packed)
        width = np.dtype(field.kind.dtype).itemsize
        cursors.fail(rows, sizes % width != 0, f"{what} is cut short")
        whole = np.where(sizes % width, 0, sizes)
        _, octets = cursors.gather(starts, whole)
        return np.repeat(rows, whole // width), octets.view(field.kind.dtype)

    def _skip(self, wire: int, rows: npt.NDArray[np.int64], what: str) -> None:
        if wire == VARINT:
            self._cursors.varints(rows, what)
        elif wire == FIXED64:
            self._cursors.fixed(rows, "<u8", what)
        elif wire == FIXED32:
            self._cursors.fixed(rows, "<u4", what)
        elif wire == SIZED:
            self._spans(rows, what)
        elif wire <= END_GROUP:
            self.odd[rows] = True
            self._cursors.at[rows] = self._cursors.end[rows]
        else:
            self._cursors.fail(rows, np.ones(len(rows), np.bool_), NO_MESSAGE)

    def _skip_foreign(self, rows: npt.NDArray[np.int64]) -> None:
        """Pass over fields that the type has not; refuse those that it has of another type."""
        if not len(rows):
            return
        cursors = self._cursors
        before = cursors.at[rows]
        tags = cursors.varints(rows, "the value")
        wires, numbers = (tags & np.uint64(7)).astype(np.int64), (tags >> np.uint64(3)).astype(np.int64)
        cursors.fail(rows, (numbers < 1) | (numbers >= 1 << 29), NO_MESSAGE)
        known = np.isin(numbers, list(self._fields))
        for number in np.unique(numbers[known]).tolist():
            field = self._fields[number]
            here = numbers == number
            own = here & np.isin(wires, [END_GROUP, *(tag[0] & 7 for tag in field.tags)])
            cursors.at[rows[own]] = before[own]  # for the next pass
            cursors.fail(rows, here & ~own, wrong_wire(field.name))
        foreign = ~known
        for wire in np.unique(wires[foreign]).tolist():
            self._skip(wire, rows[foreign & (wires == wire)], "the value")

    def column(self, field: ProtobufField) -> pa.Array:
        """A field's values in all messages."""
        number = field.number
        seen = self._seen[number]
        if field.required:
            self._cursors.fail(ALL, ~seen & ~self.odd, f"no field '{field.name}'")
        if field.repeated:
            return self._list(field)
        if field.inner:
            return self._inner(field)
        if field.kind.wire == SIZED:
            values = self._texts(field)
        else:
            numbers = self._values[number]
            if not field.nullable and field.default:
                numbers[~seen] = field.default
            values = arrays.from_numpy(numbers)
            if field.enum:
                values = self._symbols(field, numbers)
        return spread(values, seen, whole=True) if field.nullable and not seen.all() else values

    def _texts(self, field: ProtobufField) -> pa.Array:
        starts, sizes = self._values[field.number], self._sizes[field.number]
        values = strings(*self._cursors.gather(starts, sizes), pa.large_binary())
        if field.type == pa.large_binary():
            return values
        if (bad := badly_encoded(values)).any():
            self._cursors.fail(ALL, bad, f"field '{field.name}' is not UTF-8 text")
            values = strings(*self._cursors.gather(starts, np.where(bad, 0, sizes)), pa.large_binary())
        return values.view(pa.large_string())

    def _symbols(self, field: ProtobufField, numbers: npt.NDArray[Any]) -> pa.Array:
        known = np.array(sorted(dict(field.enum)), np.int32)
        names = [dict(reversed(field.enum))[number] for number in known.tolist()]
        places = np.minimum(np.searchsorted(known, numbers), len(known) - 1)
        unknown = known[places] != numbers
        if field.nullable:
            unknown &= self._seen[field.number]
        self._cursors.fail(ALL, unknown & ~self.odd, no_symbol(field.name))
        return arrays.from_texts(names).cast(pa.large_string()).take(arrays.from_numpy(places))

    def _list(self, field: ProtobufField) -> pa.Array:
        count = len(self.odd)
        pieces = self._lists[field.number]
        owners = np.concatenate([np.empty(0, np.int64), *(owner for owner, _ in pieces)])
        items = np.concatenate([np.empty(0, field.kind.dtype), *(item for _, item in pieces)])
        if len(pieces) > 1:
            order = np.argsort(owners, kind="stable")
            owners, items = owners[order], items[order]
        offsets = np.zeros(count + 1, np.int64)
        np.cumsum(np.bincount(owners, minlength=count), out=offsets[1:])
        return pa.LargeListArray.from_arrays(
            arrays.from_numpy(offsets), arrays.from_numpy(items), type=field.type
        )

    def _inner(self, field: ProtobufField) -> pa.Array:
        """The values within submessages: of a wrapper, or of a timestamp."""
        seen = np.flatnonzero(self._seen[field.number])
        starts, sizes = self._values[field.number][seen], self._sizes[field.number][seen]
        within = Scan(
            Payloads(self._cursors.octets, starts, starts + sizes),
            field.inner,
            [each.number for each in field.inner],
        )
        columns = [within.column(each) for each in field.inner]
        values = columns[0]
        if pa.types.is_timestamp(field.type):
            seconds, nanos = (arrays.to_numpy(column)[0] for column in columns)
            far = np.abs(seconds) > np.iinfo(np.int64).max // _SECOND_NS - 1
            wrong = far | (nanos < 0) | (nanos >= _SECOND_NS)
            within._cursors.fail(ALL, wrong & ~within.odd, f"field '{field.name}' is no time that has a name")
            whole = np.where(wrong, 0, seconds) * _SECOND_NS + np.where(wrong, 0, nanos)
            values = pa.Array.from_buffers(field.type, len(whole), [None, pa.py_buffer(whole)])
        self.odd[seen[within.odd]] = True
        for row, reason in within.failed.items():
            self.failed.setdefault(int(seen[row]), reason)
        return spread(values, self._seen[field.number])


def _numbers(field: ProtobufField, values: npt.NDArray[np.uint64]) -> npt.NDArray[Any]:
    """Varints as the field's type has them: cut to its size, as protobuf does."""
    size = np.dtype(field.kind.dtype).itemsize
    if field.kind.dtype == "?":
        found: npt.NDArray[Any] = values != 0
    elif field.kind.zigzag:
        found = zigzag(values & np.uint64(2**32 - 1) if size == 4 else values).astype(field.kind.dtype)
    else:
        found = values.astype(f"<u{size}").view(field.kind.dtype)
    return found
