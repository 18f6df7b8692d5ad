"""The few calls of CUDA that ONNX Runtime makes for nobody: which GPUs are there, and page-locked memory.

Through ctypes, on libraries that a machine with a GPU has: the driver's, and the runtime that ONNX Runtime
itself has loaded. Where they are absent there is no GPU, and memory is ordinary memory.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
import uuid
import weakref
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

_log = logging.getLogger("batchinfer.model")
_PAGE_BYTES = 4096
_HOST_REGISTER_PORTABLE = 1


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as this process sees it: `ordinal` counts from 0 over those that it may use.

    `uuid` is what `nvidia-smi -L` shows after "GPU-" or "MIG-".
    """

    ordinal: int
    name: str
    uuid: str


@cache
def visible_gpus() -> tuple[Gpu, ...]:
    """The GPUs that this process may use, asked of the driver once; none where there is no driver.

    `CUDA_VISIBLE_DEVICES` counts. Their order is that of `nvidia-smi`, by which schedulers name them, and not
    CUDA's own (fastest first). No memory is taken on any of them.
    """
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    driver = None
    for name in ("libcuda.so.1", "nvcuda.dll"):
        with suppress(OSError):
            driver = ctypes.CDLL(name)
            break
    count = ctypes.c_int()
    if driver is None or driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    return tuple(_gpu(driver, ordinal) for ordinal in range(count.value))


def _gpu(driver: Any, ordinal: int) -> Gpu:
    device, name, identity = ctypes.c_int(), ctypes.create_string_buffer(256), (ctypes.c_ubyte * 16)()
    tell_uuid = getattr(driver, "cuDeviceGetUuid_v2", driver.cuDeviceGetUuid)  # v2 knows the slices of a GPU
    failed = (
        driver.cuDeviceGet(ctypes.byref(device), ordinal)
        or driver.cuDeviceGetName(name, len(name), device)
        or tell_uuid(identity, device)
    )
    if failed:
        raise OSError(f"the CUDA driver does not tell about GPU {ordinal}: error {failed}")
    return Gpu(ordinal, name.value.decode(), str(uuid.UUID(bytes=bytes(identity))))


class Runtime:
    """The CUDA runtime that ONNX Runtime has loaded, for one GPU. Without it, buffers are ordinary memory.

    Args:
        ordinal: the GPU; None for none.
        version: the CUDA version that ONNX Runtime was built with, as "13.0".
    """

    def __init__(self, ordinal: int | None, version: str) -> None:
        self._ordinal = ordinal
        self._library: Any = None
        if ordinal is None:
            return
        try:
            self._library = ctypes.CDLL(f"libcudart.so.{version.partition('.')[0]}")
        except OSError as e:
            _log.warning("buffers are not page-locked, so copies to the GPU are slower: %s", e)

    def enter(self) -> None:
        """Make the GPU the calling thread's own: else its first call would take memory on the first one."""
        if self._library is not None:
            self._library.cudaSetDevice(self._ordinal)

    def buffer(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """An array on a page of its own, page-locked where that can be had; released with its last view."""
        size_bytes = max(math.prod(shape) * dtype.itemsize, 1)
        whole_bytes = -(-size_bytes // _PAGE_BYTES) * _PAGE_BYTES
        raw = np.empty(whole_bytes + _PAGE_BYTES, np.uint8)
        skip = -raw.ctypes.data % _PAGE_BYTES
        memory = raw[skip : skip + whole_bytes]
        if self._library is not None:
            self._lock(memory, raw)
        tensor: npt.NDArray[Any] = memory[: math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
        return tensor

    def _lock(self, memory: npt.NDArray[Any], owner: npt.NDArray[Any]) -> None:
        self.enter()
        address = ctypes.c_void_p(memory.ctypes.data)
        failed = self._library.cudaHostRegister(
            address, ctypes.c_size_t(memory.nbytes), _HOST_REGISTER_PORTABLE
        )
        if failed:
            self._library.cudaGetLastError()  # else the next call that looks finds this one's error
            _log.warning("%d bytes cannot be page-locked (CUDA error %d)", memory.nbytes, failed)
            return
        # Every view refers to `owner`, which lives as long as they do. A process that ends gives all back.
        weakref.finalize(owner, self._library.cudaHostUnregister, address).atexit = False
