"""Feeds: the values of a model's inputs for a batch of clean rows, made into tensors block by block.

Nothing here loops over rows. The one copy of a number is the block that the model takes, made while it fits
the processor's cache.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from batchinfer.model._manifest import Scalar

Array = npt.NDArray[Any]


class Feed(Protocol):
    """The values of one ONNX input for a batch of clean rows."""

    def block(self, start: int, stop: int, padded: int) -> Array:
        """The tensor of rows [start, stop), filled up to `padded` rows with copies of the last.

        It lies on a boundary of 64 bytes: see `_aligned`.
        """


def _padded(block: Array, padded: int) -> Array:
    short = padded - len(block)
    if not short:
        return block
    return np.concatenate([block, np.repeat(block[-1:], short, axis=0)])


_PACKED_ROWS = 8192
"""Rows packed at once, whatever the model's batch size: few calls into NumPy, and still in the cache."""


@dataclass(frozen=True, slots=True)
class PackFeed:
    """Columns packed into [N, F].

    Each thread packs ahead into tensors that it keeps and writes over: a session has read its inputs when it
    returns. Columns are laid side by side first and then transposed in one sweep, which is faster than writing
    them with a stride one by one.
    """

    name: str
    views: tuple[Array, ...]
    dtype: np.dtype[Any]
    identity: object = field(default_factory=object)

    def block(self, start: int, stop: int, padded: int) -> Array:
        """One row of the tensor is one row of the batch. Valid until the thread's next call."""
        if padded != stop - start:
            return self._pack(start, stop, padded)
        kept: dict[str, Any] = _workspace.__dict__
        whose, first, last, tensor = kept.get(f"{self.name}, ahead", (None, 0, 0, None))
        if whose is not self.identity or not first <= start <= stop <= last:
            first, last = start, min(max(start + _PACKED_ROWS, stop), len(self.views[0]))
            tensor = self._pack(first, last, last - first)
            kept[f"{self.name}, ahead"] = self.identity, first, last, tensor
        block: Array = tensor[start - first : stop - first]
        # The tensor is aligned, so most often its blocks are; asking each costs as much as a small call.
        return block if (start - first) * tensor.strides[0] % _ALIGNMENT_BYTES == 0 else _aligned(block)

    def _pack(self, start: int, stop: int, padded: int) -> Array:
        _workspace.__dict__.pop(f"{self.name}, ahead", None)  # it is about to be written over
        rows, width = stop - start, len(self.views)
        side_by_side = _scratch(f"{self.name}, columns", (width, padded), self.dtype)
        for i, view in enumerate(self.views):
            side_by_side[i, :rows] = view[start:stop]
        side_by_side[:, rows:] = side_by_side[:, rows - 1 : rows]
        tensor = _scratch(self.name, (padded, width), self.dtype)
        tensor[...] = side_by_side.T
        return tensor


_workspace = threading.local()


def _scratch(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    kept: dict[Any, Array] = _workspace.__dict__
    array = kept.get(name)
    if array is None or array.shape != shape or array.dtype != dtype:
        array = kept[name] = _empty_aligned(shape, dtype)
    return array


_ALIGNMENT_BYTES = 64


def _aligned(tensor: Array) -> Array:
    """The tensor, where it does not lie on a boundary of 64 bytes a copy that does.

    Kernels that sum along a row start with single values up to the next boundary of a register, so the bits of
    a row depend on where in memory it lies. They shall not depend on where a batch was cut.
    """
    if tensor.dtype.kind == "O" or tensor.__array_interface__["data"][0] % _ALIGNMENT_BYTES == 0:
        return tensor
    copy = _empty_aligned(tensor.shape, tensor.dtype)
    copy[...] = tensor
    return copy


def _empty_aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    size_bytes = math.prod(shape) * dtype.itemsize
    raw = np.empty(size_bytes + _ALIGNMENT_BYTES, np.uint8)
    skip = -raw.__array_interface__["data"][0] % _ALIGNMENT_BYTES
    tensor: Array = raw[skip : skip + size_bytes].view(dtype).reshape(shape)
    return tensor


@dataclass(frozen=True, slots=True)
class ColumnFeed:
    """One value a row ([N] or [N, 1]), or one fixed-size list a row ([N, *shape])."""

    view: Array
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def block(self, start: int, stop: int, padded: int) -> Array:
        """A view where dtype and size fit already."""
        width = int(np.prod(self.shape, dtype=np.int64))
        flat = self.view[start * width : stop * width].reshape(stop - start, *self.shape)
        return _aligned(_padded(np.ascontiguousarray(flat, self.dtype), padded))


@dataclass(frozen=True, slots=True)
class PaddedFeed:
    """Lists of varying size, padded to [N, T]; T is the longest of the block, or always `full_width`."""

    values: Array
    offsets: Array
    dtype: np.dtype[Any]
    pad: float
    full_width: int | None
    mask_dtype: np.dtype[Any] | None = None

    def block(self, start: int, stop: int, padded: int) -> Array:
        """The padded lists, or with `mask_dtype` the mask over them."""
        offsets = self.offsets[start : stop + 1]
        lengths = np.diff(offsets)
        width = self.full_width or max(int(lengths.max(initial=0)), 1)
        real = np.arange(width) < lengths[:, None]
        if self.mask_dtype is not None:
            return _aligned(_padded(real.astype(self.mask_dtype), padded))
        tensor = np.full(real.shape, self.pad, self.dtype)
        tensor[real] = self.values[offsets[0] : offsets[-1]]
        return _aligned(_padded(tensor, padded))


@dataclass(frozen=True, slots=True)
class ConstantFeed:
    """The same value for every call."""

    value: Scalar
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]

    def block(self, start: int, stop: int, padded: int) -> Array:
        """`shape` filled with the value; None stands for the batch size."""
        return _aligned(np.full([padded if d is None else d for d in self.shape], self.value, self.dtype))
