"""Between Arrow and NumPy by their buffers, without a copy and without pandas.

`pa.array`, `pa.scalar` and `Array.to_numpy` import pandas wherever it is installed, to ask whether they have to do
with one of its objects: most of a second at the start of every run, under Python's lock. These do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def from_numpy(values: npt.NDArray[Any]) -> pa.Array:
    """A one-dimensional array of numbers (or bools), without a copy for numbers in native order."""
    values = values.astype(values.dtype.newbyteorder("="), copy=False)  # Arrow would misread the other order
    kind = pa.from_numpy_dtype(values.dtype)
    if pa.types.is_boolean(kind):
        bits = np.packbits(values, bitorder="little")
        return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(bits)])
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def from_texts(texts: Sequence[str]) -> pa.Array:
    """A string array."""
    encoded = [text.encode() for text in texts]
    offsets = np.zeros(len(encoded) + 1, np.int32)
    np.cumsum([len(piece) for piece in encoded], out=offsets[1:])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(encoded), buffers)


def from_bytes(values: Sequence[bytes | None]) -> pa.LargeBinaryArray:
    """A binary array; None is null."""
    present, given = None, cast(Sequence[bytes], values)
    if None in values:
        given = [value or b"" for value in values]
        present = pa.py_buffer(np.packbits([value is not None for value in values], bitorder="little"))
    offsets = np.zeros(len(given) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, given), np.int64, len(given)), out=offsets[1:])
    buffers = [present, pa.py_buffer(offsets), pa.py_buffer(b"".join(given))]
    return pa.Array.from_buffers(pa.large_binary(), len(given), buffers)


def is_text(kind: pa.DataType) -> bool:
    """Whether an array of this type holds texts, however they are laid out."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_bytes(kind: pa.DataType) -> bool:
    """Whether an array of this type holds byte strings, however they are laid out."""
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def repeated(text: str, count: int) -> pa.Array:
    """A string array of one text, `count` times."""
    encoded = text.encode()
    offsets = np.arange(count + 1, dtype=np.int32) * np.int32(len(encoded))
    return pa.Array.from_buffers(
        pa.string(), count, [None, pa.py_buffer(offsets), pa.py_buffer(encoded * count)]
    )


def to_numpy(values: pa.Array) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_] | None]:
    """The values of an array of numbers or bools, and which of them are no nulls (None: none is null).

    Numbers are a read-only view of Arrow's memory; what a view holds at a null is anything.
    """
    _, data = values.buffers()
    start, rows = values.offset, len(values)
    if pa.types.is_boolean(values.type):
        view = _bits(data, start, rows)
    else:
        dtype = np.dtype(values.type.to_pandas_dtype())
        view = np.frombuffer(data, dtype, rows, start * dtype.itemsize) if rows else np.empty(0, dtype)
        view.flags.writeable = False  # memory that came from NumPy would be writable, and is shared
    return view, valid(values)


def sizes(values: pa.LargeBinaryArray) -> npt.NDArray[np.int64]:
    """How many bytes each value has; 0 for null."""
    bounds = np.frombuffer(values.buffers()[1], np.int64, len(values) + 1, values.offset * 8)
    lengths: npt.NDArray[np.int64] = bounds[1:] - bounds[:-1]
    present = valid(values)
    return lengths if present is None else np.where(present, lengths, 0)


def valid(values: pa.Array) -> npt.NDArray[np.bool_] | None:
    """Which values of an array of any type are no nulls; None where none is null."""
    if not values.null_count:
        return None
    if isinstance(values, pa.NullArray):
        return np.zeros(len(values), np.bool_)
    return _bits(values.buffers()[0], values.offset, len(values))


def _bits(buffer: pa.Buffer, start: int, count: int) -> npt.NDArray[np.bool_]:
    if not count:
        return np.empty(0, np.bool_)
    first, shift = divmod(start, 8)  # a slice must not unpack all that lies before it
    octets = np.frombuffer(buffer, np.uint8, -(-(shift + count) // 8), first)
    return np.unpackbits(octets, count=shift + count, bitorder="little")[shift:].view(np.bool_)
