"""What a process is told that does nothing but stream."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_KEPT_BYTES = 32 << 20
_MOST_KEPT_BYTES = 256 << 20
_USUAL_SWITCH_SECONDS = sys.getswitchinterval()
_SWITCH_SECONDS = 0.0002
"""Who comes back from Arrow, NumPy, Polars or the model waits so long at most for a thread that works in Python."""


@contextmanager
def tuned_process() -> Iterator[None]:
    """Keep freed memory for the next micro-batch, and hand Python's lock over sooner than by default, until it is left.

    A micro-batch takes buffers of some megabytes, and glibc by default maps and clears each of them anew: a tenth of a
    stream's processor time. That it keeps them outlasts the stream; where the C library is another, it does as it did.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)
        mallopt(_TRIM_THRESHOLD, _MOST_KEPT_BYTES)
    try:
        yield
    finally:
        sys.setswitchinterval(_USUAL_SWITCH_SECONDS)
