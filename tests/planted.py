"""Looking for planted values in everything that a run left: every file, decoded as far as anyone can decode it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def leaks(folder: Path, planted: Iterable[str], *, but: Iterable[Path] = ()) -> dict[str, list[str]]:
    """The planted texts that stand below a folder, by file; folders in `but` are not looked into."""
    found: dict[str, list[str]] = {}
    wanted, left_out = list(planted), list(but)
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(path.is_relative_to(each) for each in left_out):
            text = "\n".join(texts_of(path))
            if shown := [value for value in wanted if value in text]:
                found[str(path.relative_to(folder))] = shown
    return found


def texts_of(path: Path) -> Iterator[str]:
    """The file's bytes as text; of Parquet its rows and footer too, of a receipt its sample too."""
    content = path.read_bytes()
    yield content.decode("latin-1")
    if content[:4] == b"PAR1":
        yield str(pq.read_table(pa.BufferReader(content)).to_pylist())
        yield str(pq.read_metadata(pa.BufferReader(content)).to_dict())
    elif path.suffix == ".json" and "receipts" in path.parts:
        yield from _samples(json.loads(content))


def _samples(document: Any) -> Iterator[str]:
    packed = document.get("sample") if isinstance(document, dict) else None
    if packed is not None:
        with pa.ipc.open_stream(base64.b64decode(packed)) as stream:
            yield str(stream.read_all().to_pylist())
