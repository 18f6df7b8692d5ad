"""A bundle: a folder that holds a model and all that is known of it, under one digest."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pyarrow import fs

from batchinfer.core import files
from batchinfer.errors import DigestMismatch, ModelError
from batchinfer.model._manifest import Manifest
from batchinfer.spec import read_yaml, validate

MANIFEST, GRAPH = "model.yaml", "model.onnx"
PROFILE, REFERENCE = "profile.json", "reference.parquet"
"""What training data looked like: the profile of all its rows, and a sample of them. A bundle may lack both."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle. `location` is the folder or URL it was opened from."""

    location: str
    manifest: Manifest

    @property
    def identity(self) -> str:
        """`name@version`."""
        return f"{self.manifest.name}@{self.manifest.version}"

    def read(self, file: str) -> bytes | None:
        """The bytes of one of the bundle's files, verified; None where the bundle has no such file.

        Raises:
            DigestMismatch: the file is missing, or not the one that the digest covers.
        """
        expected = self.manifest.files.get(file)
        if expected is None:
            return None
        try:
            content = files.read_bytes(files.join(self.location, file))
        except FileNotFoundError as e:
            raise _mismatch(self.location, file, "is missing") from e
        if hashlib.sha256(content).hexdigest() != expected:
            raise _mismatch(self.location, file, "is not the file that the bundle was made with")
        return content


def read_bundle(location: str) -> Bundle:
    """Read a bundle's manifest and hold the manifest's own digest against it; files are not read yet.

    Raises:
        ModelError: no bundle there, or its model.yaml is wrong.
        DigestMismatch: model.yaml was changed after the bundle was made.
    """
    path = files.join(location, MANIFEST)
    try:
        text = files.read_bytes(path).decode("utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise ModelError(
            f"{location}: no bundle here: cannot read {MANIFEST}",
            next_step="make one with: batchinfer model add NAME --onnx FILE --sample PARQUET",
            path=location,
        ) from e
    manifest = validate(Manifest, read_yaml(text, name=path, error=ModelError), name=path, error=ModelError)
    if manifest.digest != manifest.computed_digest():
        raise _mismatch(location, MANIFEST, "is not the file that the bundle was made with")
    return Bundle(location, manifest)


@contextmanager
def local_files(bundle: Bundle) -> Iterator[Path]:
    """The bundle's folder on local disk (a copy, where it is remote), each file verified.

    Raises:
        DigestMismatch: a file is missing, was added, or is not the one that the digest covers.
    """
    filesystem, inner = files.locate(bundle.location)
    if files.is_local(filesystem):
        folder = Path(inner)
        _verify(bundle, folder)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="batchinfer-model-") as temporary:
        fs.copy_files(inner, temporary, source_filesystem=filesystem)
        folder = Path(temporary)
        _verify(bundle, folder)
        yield folder


def _verify(bundle: Bundle, folder: Path) -> None:
    stated = bundle.manifest.files
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {MANIFEST}
    for name in sorted(stated.keys() - present):
        raise _mismatch(bundle.location, name, "is missing")
    for name in sorted(present - stated.keys()):
        raise _mismatch(bundle.location, name, "was added after the bundle was made")
    for name, expected in stated.items():
        if file_digest(folder / name) != expected:
            raise _mismatch(bundle.location, name, "is not the file that the bundle was made with")


def _mismatch(location: str, name: str, what: str) -> DigestMismatch:
    return DigestMismatch(
        f"{location}: '{name}' {what} (digest mismatch)",
        next_step="restore the bundle, or add the changed model as a new version: batchinfer model add",
        path=location,
        file=name,
    )


def file_digest(path: Path) -> str:
    """sha256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Seal a bundle: write `model.yaml` with the digest over it; returns the manifest as written."""
    sealed = manifest.model_copy(update={"digest": manifest.computed_digest()})
    stated: dict[str, Any] = sealed.model_dump(mode="json", exclude_none=True)
    text = yaml.safe_dump(stated, sort_keys=False, allow_unicode=True, width=100)
    if yaml.safe_load(text) != stated:  # YAML takes some characters for line breaks
        text = yaml.safe_dump(stated, sort_keys=False, width=100)
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    return sealed
