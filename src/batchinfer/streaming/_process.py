"""What a process is told that does nothing but stream."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_KEPT_BYTES = 32 << 20
_MOST_KEPT_BYTES = 256 << 20
_SWITCH_SECONDS = 0.0002


def tune_process() -> None:
    """Keep freed memory for the next micro-batch, and hand Python's lock over sooner than by default.

    A micro-batch takes buffers of some megabytes, and glibc by default maps and clears each of them anew: a tenth of a
    stream's processor time. Where the C library is another, that part does nothing.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)
        mallopt(_TRIM_THRESHOLD, _MOST_KEPT_BYTES)
