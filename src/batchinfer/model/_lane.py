"""A lane: one set of buffers for calls of a fixed number of rows, and the binding over them.

A block is packed into page-locked memory, copied to the device's own, computed, and its results land in
page-locked memory again. All of it is allocated once. Two lanes let one block be packed while the device
works on another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from batchinfer.model._cuda import Runtime
from batchinfer.model._feeds import ConstantFeed, Feed, PaddedFeed
from batchinfer.model._session import Session, TensorSpec

Array = npt.NDArray[Any]
_PIECE_ROWS = 8192
_PIECE_BYTES = 1024 * 1024
"""A block is packed in pieces of no more than that, which stay in the processor's cache."""


class Lane:
    """Buffers for calls of `rows` rows, each; for one thread at a time.

    Every call has exactly this many rows, filled up with copies of the last: a GPU's kernels are chosen by
    shape, and so are a row's bits.

    Args:
        session: what computes.
        outputs: the outputs to compute.
        rows: rows of every call.
        runtime: where the page-locked memory comes from.

    Raises:
        OutOfDeviceMemory: the device has too little memory for the buffers.
    """

    def __init__(self, session: Session, outputs: Sequence[str], rows: int, runtime: Runtime) -> None:
        self.rows = rows
        self._session = session
        self._runtime = runtime
        self._binding = session.binding()
        self._inputs: dict[str, tuple[Array, Any]] = {}
        """Host and device tensor of each input whose shape is the same in every call."""
        self._constants: set[str] = set()
        specs = {spec.name: spec for spec in session.outputs}
        self._outputs = {name: self._bound_output(specs[name]) for name in outputs}

    def _bound_output(self, spec: TensorSpec) -> Array | None:
        """Where an output lands; None where its shape is known only afterwards."""
        row = spec.shape[1:]
        if not spec.shape or any(d is None for d in row):
            self._binding.bind_output(spec.name)
            return None
        shape = (self.rows, *(d for d in row if d is not None))
        host = self._runtime.buffer(shape, spec.dtype)
        self._binding.bind_output(spec.name, "cpu", 0, spec.dtype.type, list(shape), host.ctypes.data)
        return host

    def run(self, feeds: Mapping[str, Feed], start: int, stop: int) -> list[Array]:
        """The outputs of rows [start, stop), at most `rows`; views that the next call writes over.

        Raises:
            SessionRunError: the graph failed on these rows.
            OutOfDeviceMemory: the device has too little memory for the call.
            DeviceUnavailable: the GPU failed.
        """
        for name, feed in feeds.items():
            self._pack(name, feed, start, stop)
        return self.call()

    def call(self) -> list[Array]:
        """Compute what was packed last."""
        for host, device in self._inputs.values():
            device.update_inplace(host)
        landed = [name for name, kept in self._outputs.items() if kept is None]
        for name in landed:  # the last call's tensor is bound now, which need not fit
            self._binding.bind_output(name)
        self._session.run_bound(self._binding)
        given = self._binding.get_outputs() if landed else [None] * len(self._outputs)
        return [
            value.numpy() if kept is None else kept
            for value, kept in zip(given, self._outputs.values(), strict=True)
        ]

    def _pack(self, name: str, feed: Feed, start: int, stop: int) -> None:
        if name in self._constants:
            return
        if isinstance(feed, PaddedFeed) and feed.full_width is None:  # as wide as the longest of the block
            self._binding.bind_cpu_input(name, feed.block(start, stop, self.rows))
            return
        if isinstance(feed, ConstantFeed):
            self._binding.bind_cpu_input(name, feed.block(0, self.rows, self.rows))
            self._constants.add(name)
            return
        if name not in self._inputs:
            self._inputs[name] = self._bound_input(name, feed.block(start, start + 1, 1))
        host, _ = self._inputs[name]
        at_once = max(1, min(_PIECE_ROWS, _PIECE_BYTES // max(host.nbytes // self.rows, 1)))
        for at in range(start, stop, at_once):
            end = min(at + at_once, stop)
            host[at - start : end - start] = feed.block(at, end, end - at)
        rows = stop - start
        host[rows:] = host[rows - 1 : rows]

    def _bound_input(self, name: str, row: Array) -> tuple[Array, Any]:
        shape = (self.rows, *row.shape[1:])
        device = self._session.device_tensor(shape, row.dtype)
        self._binding.bind_ortvalue_input(name, device)
        return self._runtime.buffer(shape, row.dtype), device


def row_bytes(specs: Sequence[TensorSpec]) -> int:
    """About what a row of these tensors takes, where their shapes tell; free dimensions count once."""
    return sum(math.prod(d or 1 for d in spec.shape[1:]) * spec.dtype.itemsize for spec in specs)


def has_text(specs: Sequence[TensorSpec]) -> bool:
    """Whether a tensor holds text, which no device memory does."""
    return any(spec.dtype == np.object_ for spec in specs)
