"""Two folders change places in one step, as only the kernel can do it."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path

from batchinfer.errors import StoreError

_CURRENT_FOLDER = -100
_EXCHANGE = 2


def exchange(fresh: Path, live: Path) -> None:
    """`fresh` and `live`, both there and on one filesystem, swap names atomically.

    Raises:
        StoreError: this system or filesystem cannot do it.
        OSError: the kernel refused for another reason.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    one, other = os.fsencode(fresh), os.fsencode(live)
    if sys.platform == "darwin" and hasattr(libc, "renamex_np"):
        failed = libc.renamex_np(one, other, _EXCHANGE)
    elif hasattr(libc, "renameat2"):
        failed = libc.renameat2(_CURRENT_FOLDER, one, _CURRENT_FOLDER, other, _EXCHANGE)
    else:
        raise _unable(live)
    if failed:
        number = ctypes.get_errno()
        if number in {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}:
            raise _unable(live)
        raise OSError(number, os.strerror(number), str(live))


def _unable(live: Path) -> StoreError:
    return StoreError(
        f"{live}: this filesystem cannot exchange two folders in one step, so readers would see a gap",
        next_step="set output.store to delta, or put output.path on a local Linux or macOS filesystem",
        path=str(live),
    )
