"""Writing many messages at once: each is made of pieces, and a piece is written into all messages together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Octets = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of every message: how many bytes it takes in each, and what puts them there.

    `put` is given the bytes of all messages and where in them this piece begins, message by message.
    """

    sizes: Places
    put: Callable[[Octets, Places], None]


def constant(octets: bytes, there: npt.NDArray[np.bool_]) -> Piece:
    """The same bytes, in the messages that are `there`."""

    def put(out: Octets, at: Places) -> None:
        for place, octet in enumerate(octets):
            out[at[there] + place] = octet

    return Piece(np.where(there, len(octets), 0), put)


def fixed(values: npt.NDArray[Any], there: npt.NDArray[np.bool_]) -> Piece:
    """Numbers as they are in memory; little-endian ones should be."""
    width = values.dtype.itemsize

    def put(out: Octets, at: Places) -> None:
        octets = np.ascontiguousarray(values[there]).view(np.uint8).reshape(-1, width)
        out[at[there][:, None] + np.arange(width)] = octets

    return Piece(np.where(there, width, 0), put)


def varints(values: npt.NDArray[np.uint64], there: npt.NDArray[np.bool_]) -> Piece:
    """Numbers of seven bits a byte, the lowest first."""
    sizes = varint_sizes(values)

    def put(out: Octets, at: Places) -> None:
        put_varints(out, at[there], values[there], sizes[there])

    return Piece(np.where(there, sizes, 0), put)


def spans(offsets: Places, octets: Octets) -> Piece:
    """Bytes of any number: those of message i lie from `offsets[i]` to `offsets[i + 1]`."""
    sizes = np.diff(offsets)

    def put(out: Octets, at: Places) -> None:
        out[np.arange(len(octets)) + np.repeat(at - offsets[:-1], sizes)] = octets

    return Piece(sizes, put)


def together(pieces: Sequence[Piece]) -> Piece:
    """Pieces that follow each other."""

    def put(out: Octets, at: Places) -> None:
        for piece in pieces:
            piece.put(out, at)
            at = at + piece.sizes

    return Piece(np.sum([piece.sizes for piece in pieces], axis=0), put)


def written(piece: Piece) -> pa.LargeBinaryArray:
    """The messages."""
    offsets = np.zeros(len(piece.sizes) + 1, np.int64)
    np.cumsum(piece.sizes, out=offsets[1:])
    out = np.empty(int(offsets[-1]), np.uint8)
    piece.put(out, offsets[:-1])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(out)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(piece.sizes), buffers)


def varint_sizes(values: npt.NDArray[np.uint64]) -> Places:
    """How many bytes each takes."""
    sizes = np.ones(len(values), np.int64)
    for place in range(1, 10):
        longer = values >= np.uint64(1 << (7 * place))
        if not longer.any():
            break
        sizes += longer
    return sizes


def put_varints(out: Octets, at: Places, values: npt.NDArray[np.uint64], sizes: Places) -> None:
    """Write numbers at their places."""
    for place in range(int(sizes.max(initial=0))):
        more = sizes > place
        octets = ((values[more] >> np.uint64(7 * place)) & np.uint64(0x7F)).astype(np.uint8)
        out[at[more] + place] = octets | np.where(sizes[more] > place + 1, np.uint8(0x80), np.uint8(0))


def folded(values: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Signed numbers as unsigned ones that are small where these are near zero (zigzag)."""
    signed = values.astype(np.int64)
    return ((signed << 1) ^ (signed >> 63)).view(np.uint64)
