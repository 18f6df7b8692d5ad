"""Finding the Parquet files at a path, and whether one of them is still the same."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urlsplit

from pyarrow import fs

from batchinfer.core import InputFile, files
from batchinfer.errors import InputError, NoInput, Transient
from batchinfer.source._footer import SHOWN, SourceFile, read_footers, reason_of, unreadable

_SUFFIXES = (".parquet", ".parq")
_TABLE_LOGS = {"_delta_log": "Delta table", ".hoodie": "Hudi table"}
_IN_URL = "/=:@!$&'()*+,;-._~"


@dataclass(frozen=True, slots=True)
class Discovered:
    """The Parquet files at a path, sorted by path; at least one."""

    path: str
    files: tuple[SourceFile, ...]


def discover(path: str) -> Discovered:
    """Find the Parquet files at a local path or URL: one file, or all below a folder, and read their footers.

    Names that start with `_` or `.` are skipped, folders too, as every reader of Parquet folders does.

    Raises:
        NoInput: no such path, or no Parquet file in it.
        InputError: files that are not whole; names them all. Also a folder of a table format with a log of
            its own: among its files are some that readers of the table do not see, and their rows would be
            scored too.
    """
    _refuse_secrets(path)
    filesystem, inner = files.locate(path)
    try:
        info = filesystem.get_file_info(inner)
        if info.type is fs.FileType.NotFound:
            raise _no_such_path(path, filesystem, inner)
        if info.type is fs.FileType.Unknown:
            raise InputError(f"{path}: neither a file nor a folder", path=path)
        found = [info] if info.is_file else _below(path, filesystem, inner)
    except UnicodeDecodeError as e:
        raise InputError(
            f"{path}: holds a name that is not UTF-8: {e.object!r}",
            next_step="rename it: results name the file that each row comes from",
            path=path,
        ) from e
    except OSError as e:
        files.check_reached(path, e)
        raise InputError(
            f"{path}: cannot be listed: {reason_of(e)}",
            next_step="check the permissions of the folder and of those below it",
            path=path,
        ) from e
    if info.is_file:
        return Discovered(path, read_footers(filesystem, [(path, info)]))
    parquet = [i for i in found if _is_parquet(i.base_name)]
    if not parquet:
        others = _some([i.base_name for i in found])
        raise NoInput(
            f"{path}: no Parquet file in this folder (it holds {others})",
            next_step="check the run's parameters, and that the files are named *.parquet",
            path=path,
        )
    return Discovered(path, read_footers(filesystem, [(_name(path, inner, i.path), i) for i in parquet]))


def has_parquet(path: str) -> bool:
    """Whether `discover` would find a file at a path; none is opened, and nothing is said of what is wrong there.

    Raises:
        UsageError: no such kind of location.
        OSError: it cannot be looked at just now.
    """
    filesystem, inner = files.locate(path)
    if filesystem.get_file_info(inner).is_file:
        return True
    folder = PurePosixPath(inner)
    return any(
        _is_parquet(info.base_name) and not _is_hidden(PurePosixPath(info.path).relative_to(folder))
        for info in files.list_files(path, recursive=True)
    )


def changed(file: InputFile) -> str | None:
    """How a file differs from what the plan saw, or None.

    Raises:
        Transient: the filesystem does not answer.
    """
    filesystem, inner = files.locate(file.path)
    try:
        info = filesystem.get_file_info(inner)
    except OSError as e:
        raise Transient(f"{file.path}: cannot be looked up: {reason_of(e)}", path=file.path) from e
    if info.type is fs.FileType.NotFound:
        return "was removed"
    if info.size != file.size_bytes:
        verb = "was cut" if info.size < file.size_bytes else "has grown"
        return f"{verb} from {file.size_bytes:,} to {info.size:,} bytes"
    if (info.mtime_ns or 0) != file.modified_ns:
        return "was replaced"
    return None


def _is_parquet(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES)


def _is_hidden(below: PurePosixPath) -> bool:
    return any(part.startswith(("_", ".")) for part in below.parts)


def _below(path: str, filesystem: fs.FileSystem, folder: str) -> list[fs.FileInfo]:
    """The visible files of a folder and all below it, by path."""
    infos = filesystem.get_file_info(fs.FileSelector(folder, recursive=True))
    below = {info.path: PurePosixPath(info.path).relative_to(PurePosixPath(folder)) for info in infos}
    _refuse_table_formats(path, filesystem, folder, list(below.values()))
    if files.is_local(filesystem):
        _refuse_broken_links(folder, len(infos))
    visible = [info for info in infos if info.is_file and not _is_hidden(below[info.path])]
    return sorted(visible, key=lambda info: info.path)


def _refuse_table_formats(
    path: str, filesystem: fs.FileSystem, folder: str, below: Sequence[PurePosixPath]
) -> None:
    logs = {part for found in below for part in found.parts if part in _TABLE_LOGS}
    above = PurePosixPath(folder)
    while "=" in above.name and not logs:  # a partition's folder: the table's root is further up
        above = above.parent
        roots = filesystem.get_file_info([str(above / name) for name in _TABLE_LOGS])
        logs = {info.base_name for info in roots if info.type is fs.FileType.Directory}
    kind = _TABLE_LOGS[min(logs)] if logs else ""
    if any(p.parent.name == "metadata" and p.name.endswith(".metadata.json") for p in below):
        kind = "Iceberg table"
    if kind:
        raise InputError(
            f"{path}: belongs to a {kind}; read as plain Parquet files, rows that the table has deleted or "
            "replaced would be scored too",
            next_step="write the rows to be scored to a folder of Parquet files, and name that in input.path",
            path=path,
        )


def _refuse_broken_links(folder: str, files_found: int) -> None:
    """Arrow does not list a link to nowhere. It stands for rows, so it is no less than a missing file."""
    bad = [
        InputError(f"{link}: a link to nowhere", path=str(link))
        for link in sorted(Path(folder).rglob("*"))
        if _is_parquet(link.name)
        and link.is_symlink()
        and not link.exists()
        and not _is_hidden(PurePosixPath(link.relative_to(folder)))
    ]
    if bad:
        raise unreadable(bad, files_found + len(bad))


def _no_such_path(path: str, filesystem: fs.FileSystem, inner: str) -> NoInput:
    """Say how far the path exists, and what lies where it ends."""
    missing = PurePosixPath(inner)
    parent = missing.parent
    while filesystem.get_file_info(str(parent)).type is fs.FileType.NotFound and parent != parent.parent:
        missing, parent = parent, parent.parent
    where = _name(path, inner, str(parent))
    kind = filesystem.get_file_info(str(parent)).type
    if kind is fs.FileType.Directory:
        infos = filesystem.get_file_info(fs.FileSelector(str(parent)))
        names = [i.base_name for i in infos if not i.base_name.startswith(".")]
        near = f"; {where} holds {_some(names, like=missing.name)}"
    elif kind is fs.FileType.File:
        near = f"; {where} is a file, not a folder"
    else:
        near = ""
    return NoInput(
        f"{path}: no such file or folder{near}",
        next_step="check input.path and the run's parameters",
        path=path,
    )


def _some(names: Sequence[str], like: str | None = None) -> str:
    """A few of the names, those most like the one that was asked for first."""
    near = difflib.get_close_matches(like, names, n=SHOWN, cutoff=0.5) if like else []
    shown = [*near, *(n for n in sorted(names, reverse=like is not None) if n not in near)][:SHOWN]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return (", ".join(shown) or "nothing") + more


def _name(path: str, inner: str, other: str) -> str:
    """How to call `other`, a path in the filesystem of `path`, so that anyone finds it again."""
    if "://" not in path:
        return other
    url, mark, query = path.partition("?")
    root = inner.rstrip("/")
    if not other.startswith(root):
        return other  # above the URL's own path: for messages only
    return url.rstrip("/") + quote(other[len(root) :], safe=_IN_URL) + mark + query


def _refuse_secrets(path: str) -> None:
    if "://" in path and (secret := urlsplit(path).password):
        raise InputError(
            f"{path.replace(secret, '***')}: a password in a path would be written into every result row",
            next_step="take it out of the path: credentials come from the environment",
        )
