"""A registry: a folder (or URL) of `NAME/VERSION/` bundles, and `NAME/aliases.yaml`."""

from __future__ import annotations

import difflib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import yaml
from pyarrow import fs

from batchinfer.core import files
from batchinfer.errors import ModelError, UsageError
from batchinfer.model._bundle import MANIFEST, Bundle, read_bundle
from batchinfer.spec import holds_password, read_yaml

try:
    import fcntl as _fcntl
except ImportError:  # Windows
    fcntl: ModuleType | None = None
else:
    fcntl = _fcntl

_ALIASES = "aliases.yaml"


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """One model of a registry: its versions in order and its aliases."""

    name: str
    versions: tuple[str, ...]
    aliases: dict[str, str]


class Registry:
    """Finds bundles by `NAME@ALIAS` or `NAME@VERSION`.

    Args:
        location: the registry's folder or URL; by default BATCHINFER_REGISTRY, else `models` here.
    """

    def __init__(self, location: str | None = None) -> None:
        self.location = location or os.environ.get("BATCHINFER_REGISTRY") or "models"
        if holds_password(self.location):
            raise UsageError(
                "the registry's URL states a password", next_step="credentials come from the environment"
            )

    def models(self) -> list[RegisteredModel]:
        """All models, by name."""
        found = [self.model(name) for name in _folders(self.location)]
        return [model for model in found if model.versions]

    def model(self, name: str) -> RegisteredModel:
        """One model's versions and aliases; without versions where there is no such model."""
        folder = files.join(self.location, name)
        versions = [v for v in _folders(folder) if files.exists(files.join(folder, v, MANIFEST))]
        return RegisteredModel(name, tuple(sorted(versions, key=_version_order)), _read_aliases(folder))

    def resolve(self, reference: str) -> Bundle:
        """The bundle that a spec's `model` means: NAME@ALIAS, NAME@VERSION, or a bundle's own path.

        Raises:
            ModelError: there is none; says what there is instead.
        """
        if files.exists(files.join(reference, MANIFEST)):
            return read_bundle(reference)
        name, _, wanted = reference.partition("@")
        if "/" in name or name in {"", ".", ".."}:
            raise ModelError(
                f"'{reference}' is no bundle: there is no {MANIFEST} in it",
                next_step="name a bundle's folder, or NAME@ALIAS or NAME@VERSION of the registry",
                model=reference,
            )
        model = self.model(name)
        if not model.versions:
            raise self._no_model(reference, name)
        if not wanted:
            raise ModelError(
                f"model '{reference}' names no version",
                next_step=f"write {name}@ALIAS or {name}@VERSION; there are {_offers(model)}",
                model=reference,
            )
        version = wanted if wanted in model.versions else model.aliases.get(wanted)
        if version not in model.versions:
            gone = f", since the alias means version {version}, which is gone" if version else ""
            raise ModelError(
                f"model '{reference}': no such version or alias in {self.location}{gone}",
                next_step=f"there are {_offers(model)}",
                model=reference,
            )
        bundle = read_bundle(files.join(self.location, name, version))
        if bundle.identity != f"{name}@{version}":
            raise ModelError(
                f"{bundle.location}: this bundle was made as {bundle.identity}, and copied here",
                next_step="put it back under its own name and version, or name the folder itself",
                path=bundle.location,
            )
        return bundle

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias at a version, atomically.

        Raises:
            ModelError: no such model or version, or the alias looks like a version.
        """
        model = self.model(name)
        if version not in model.versions:
            raise ModelError(
                f"model '{name}' has no version '{version}' in {self.location}",
                next_step=f"there are {_offers(model)}" if model.versions else "batchinfer model list",
            )
        check_alias(alias)
        with self._one_writer(name):
            document = {**_read_aliases(files.join(self.location, name)), alias: version}
            text = yaml.safe_dump(document, sort_keys=True)
            files.write_bytes(files.join(self.location, name, _ALIASES), text.encode())

    def put(self, name: str, write: Callable[[Path, str], None]) -> Bundle:
        """Add the next version of a model, whole or not at all, whoever else adds one at the same time.

        Args:
            name: the model's name.
            write: called with a folder and a version, to write the bundle there, and perhaps again with the
                same folder and a higher version, if another process took the first.

        Raises:
            StoreError: the registry cannot be written to.
        """
        home = files.join(self.location, name)
        filesystem, inner = files.locate(home)
        with files.storing(home):
            version = (
                _rename_as_next(Path(inner), write)
                if files.is_local(filesystem)
                else _upload_as_next(home, write)
            )
        return self.resolve(f"{name}@{version}")

    @contextmanager
    def _one_writer(self, name: str) -> Iterator[None]:
        """Keep other processes of this machine from changing the same aliases; an object store has no locks."""
        filesystem, inner = files.locate(files.join(self.location, name))
        if fcntl is None or not files.is_local(filesystem):
            yield
            return
        with files.storing(inner), (Path(inner) / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                yield
            finally:
                # Closing would not do: a process that was forked meanwhile has the open file too, and lives on.
                fcntl.flock(lock, fcntl.LOCK_UN)

    def _no_model(self, reference: str, name: str) -> ModelError:
        known = _folders(self.location)
        near = difflib.get_close_matches(name, known, n=1)
        if near:
            step = f"did you mean {near[0]}@…?"
        elif known:
            step = f"the registry holds {', '.join(known[:10])}"
        else:
            step = "make a bundle: batchinfer model add NAME --onnx FILE --sample PARQUET"
        return ModelError(
            f"model '{reference}' is not in the registry {self.location}",
            next_step=step,
            model=reference,
        )


def check_alias(alias: str) -> None:
    """Hold a name against the rules for aliases.

    Raises:
        ModelError: it is no name, or could be a version's.
    """
    if alias.isdecimal() or not alias.replace("-", "").replace("_", "").isalnum():
        raise ModelError(f"'{alias}' cannot be an alias: use letters, digits, - and _, and not digits alone")


def _read_aliases(home: str) -> dict[str, str]:
    path = files.join(home, _ALIASES)
    if not files.exists(path):
        return {}
    text = files.read_bytes(path).decode(errors="replace")
    return {str(k): str(v) for k, v in read_yaml(text, name=path, error=ModelError).items()}


def _next_version(home: str) -> str:
    # Folders without a manifest count too: an upload that was cut off must not be mixed with another. And an
    # alias whose version was deleted must not come to mean a new one.
    taken = [*_folders(home), *_read_aliases(home).values()]
    return str(max((int(v) for v in taken if v.isdecimal()), default=0) + 1)


def _rename_as_next(home: Path, write: Callable[[Path, str], None]) -> str:
    """Write the bundle beside the versions, under a name that no reader looks at, then rename it: the one step."""
    home.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=".adding-", dir=home))
    try:
        while True:
            version = _next_version(str(home))
            write(staged, version)
            staged.chmod(0o755)  # a temporary folder is for its owner alone, a registry for all
            try:
                # Never onto an existing bundle: a folder that holds files cannot be replaced by a rename.
                staged.rename(home / version)
                return version
            except OSError as e:
                if e.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise


def _upload_as_next(home: str, write: Callable[[Path, str], None]) -> str:
    """An object store has no renames: the manifest goes last, since it makes the bundle."""
    version = _next_version(home)
    with tempfile.TemporaryDirectory(prefix="batchinfer-model-") as temporary:
        folder = Path(temporary)
        write(folder, version)
        paths = [path for path in folder.rglob("*") if path.is_file()]
        for path in sorted(paths, key=lambda path: path == folder / MANIFEST):
            name = path.relative_to(folder).as_posix()
            files.write_bytes(files.join(home, version, name), path.read_bytes())
    return version


def _offers(model: RegisteredModel) -> str:
    aliases = [f"{model.name}@{alias}" for alias in model.aliases]
    return ", ".join([*aliases, *(f"{model.name}@{v}" for v in model.versions[-5:])])


def _folders(location: str) -> list[str]:
    filesystem, inner = files.locate(location)
    selector = fs.FileSelector(inner, allow_not_found=True)
    try:
        found = filesystem.get_file_info(selector)
    except OSError as e:
        files.check_reached(location, e)
        raise ModelError(
            f"{location}: the registry cannot be listed: {e}",
            next_step="check its address, the credentials in the environment and the permissions",
            path=location,
        ) from e
    names = [i.base_name for i in found if i.type is fs.FileType.Directory]
    return sorted(n for n in names if not n.startswith((".", "_")))


def _version_order(version: str) -> tuple[int, str]:
    return (int(version), "") if version.isdecimal() else (0, version)
