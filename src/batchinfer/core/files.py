"""Files by local path or URL, through Arrow's filesystems. The one place that knows the difference."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from batchinfer.errors import StoreError, Transient, UsageError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_UNREACHED = ("NETWORK_CONNECTION", "resolve host", "Could not connect", "Couldn't connect")
_folder: ContextVar[str | None] = ContextVar("folder", default=None)


@contextmanager
def relative_to(folder: str) -> Iterator[None]:
    """Within the block, relative paths are below this folder, and not below the working directory.

    A worker on another engine lives in another folder, and rows must be called by the same names there.
    """
    before = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(before)


def locate(path: str) -> tuple[fs.FileSystem, str]:
    """The filesystem of a local path or URL, and the path within it.

    Relative paths stay relative, but for those within `relative_to`.

    Raises:
        UsageError: the URL's scheme is unknown, or there is no such location.
        Transient: the network does not reach it.
    """
    if "://" not in path:
        folder = _folder.get()
        return fs.LocalFileSystem(), path if folder is None else os.path.join(folder, path)  # noqa: PTH118
    try:
        filesystem, inner = fs.FileSystem.from_uri(path)
    except pa.ArrowInvalid as e:
        raise UsageError(f"{path}: cannot open this location: {e}", path=path) from e
    except OSError as e:
        check_reached(path, e)
        raise UsageError(f"{path}: cannot open this location: {e}", path=path) from e
    return filesystem, inner


def check_reached(path: str, error: OSError) -> None:
    """Tell an object store that the network does not reach from one that refuses.

    Raises:
        Transient: the former.
    """
    if any(sign in str(error) for sign in _UNREACHED):
        raise Transient(
            f"{path}: cannot be reached: {error}",
            next_step="check the network and the endpoint's address, and run again",
            path=path,
        ) from error


def is_local(filesystem: fs.FileSystem) -> bool:
    """Whether renames and links work here, as they do not on object stores."""
    return isinstance(filesystem, fs.LocalFileSystem)


def join(folder: str, *names: str) -> str:
    """`folder/name/name`, for paths and URLs alike; empty names are left out."""
    return "/".join([folder.rstrip("/"), *(name for name in names if name)])


def exists(path: str) -> bool:
    """Whether a file or folder is there."""
    filesystem, inner = locate(path)
    return filesystem.get_file_info(inner).type is not fs.FileType.NotFound


def read_bytes(path: str) -> bytes:
    """The whole content of a small file.

    Raises:
        FileNotFoundError: there is none.
    """
    filesystem, inner = locate(path)
    with filesystem.open_input_stream(inner) as stream:
        return bytes(stream.read())


def write_bytes(path: str, data: bytes | pa.Buffer) -> None:
    """Write a file whole or not at all: readers see the old content or the new, never a part.

    Raises:
        StoreError: no space, no permission, or another refusal of the filesystem.
    """
    filesystem, inner = locate(path)
    with storing(path):
        if not is_local(filesystem):
            # An object store shows an object when its upload is complete, and only then.
            filesystem.create_dir(inner.rpartition("/")[0], recursive=True)
            with filesystem.open_output_stream(inner) as stream:
                stream.write(data)
            return
        target = Path(inner)
        target.parent.mkdir(parents=True, exist_ok=True)
        staged = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            with staged.open("wb") as file:
                file.write(data)
            staged.replace(target)
        except BaseException:
            staged.unlink(missing_ok=True)
            raise


def list_files(folder: str, *, recursive: bool = False) -> list[fs.FileInfo]:
    """The files below a folder, by path; empty where there is no such folder."""
    filesystem, inner = locate(folder)
    selector = fs.FileSelector(inner, recursive=recursive, allow_not_found=True)
    found = [info for info in filesystem.get_file_info(selector) if info.is_file]
    return sorted(found, key=lambda info: info.path)


def delete(path: str) -> None:
    """Remove a file or a whole folder; nothing happens where there is none."""
    filesystem, inner = locate(path)
    kind = filesystem.get_file_info(inner).type
    # Someone else may delete the same between the look and the deed; that it is gone is all that was asked.
    with storing(path), suppress(FileNotFoundError):
        if kind is fs.FileType.Directory:
            filesystem.delete_dir(inner)
        elif kind is not fs.FileType.NotFound:
            filesystem.delete_file(inner)


@contextmanager
def storing(path: str) -> Iterator[None]:
    """Say what a failed write means: which location, what is wrong with it, and what to do."""
    try:
        yield
    except OSError as e:
        reason = os.strerror(e.errno) if e.errno else str(e)
        if e.errno in _NO_ROOM:
            step = "free some space and run again: units staged so far are reused"
        elif e.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            step = "make the folder writable for this user, or write elsewhere with output.path"
        else:
            step = "see the reason above, then run again: units staged so far are reused"
        raise StoreError(f"{path}: cannot write: {reason}", next_step=step, path=path, reason=reason) from e
