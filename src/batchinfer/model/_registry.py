"""A registry: a folder (or URL) of `NAME/VERSION/` bundles, and `NAME/aliases.yaml`."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass

import yaml
from pyarrow import fs

from batchinfer.core import files
from batchinfer.errors import ModelError
from batchinfer.model._bundle import MANIFEST, Bundle, read_bundle
from batchinfer.spec import read_yaml

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

    def models(self) -> list[RegisteredModel]:
        """All models, by name."""
        return [self.model(name) for name in _folders(self.location)]

    def model(self, name: str) -> RegisteredModel:
        """One model's versions and aliases; without versions where there is no such model."""
        folder = files.join(self.location, name)
        versions = [v for v in _folders(folder) if files.exists(files.join(folder, v, MANIFEST))]
        return RegisteredModel(name, tuple(sorted(versions, key=_version_order)), self._aliases(name))

    def resolve(self, reference: str) -> Bundle:
        """The bundle that a spec's `model` means: NAME@ALIAS, NAME@VERSION, or a bundle's own path.

        Raises:
            ModelError: there is none; says what there is instead.
        """
        if files.exists(files.join(reference, MANIFEST)):
            return read_bundle(reference)
        name, _, wanted = reference.partition("@")
        model = self.model(name) if name and "/" not in name else RegisteredModel(name, (), {})
        if not model.versions:
            raise self._no_model(reference, name)
        if not wanted:
            raise ModelError(
                f"model '{reference}' names no version",
                next_step=f"write {name}@ALIAS or {name}@VERSION; there are {_offers(model)}",
                model=reference,
            )
        version = model.aliases.get(wanted, wanted)
        if version not in model.versions:
            raise ModelError(
                f"model '{reference}': no such version or alias in {self.location}",
                next_step=f"there are {_offers(model)}",
                model=reference,
            )
        return read_bundle(files.join(self.location, name, version))

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
        if alias in model.versions or not alias.replace("-", "").replace("_", "").isalnum():
            raise ModelError(f"'{alias}' cannot be an alias: use letters, digits, - and _, and no version")
        document = {**model.aliases, alias: version}
        text = yaml.safe_dump(document, sort_keys=True)
        files.write_bytes(files.join(self.location, name, _ALIASES), text.encode())

    def _aliases(self, name: str) -> dict[str, str]:
        path = files.join(self.location, name, _ALIASES)
        if not files.exists(path):
            return {}
        text = files.read_bytes(path).decode()
        return {str(k): str(v) for k, v in read_yaml(text, name=path, error=ModelError).items()}

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


def _offers(model: RegisteredModel) -> str:
    aliases = [f"{model.name}@{alias}" for alias in model.aliases]
    return ", ".join([*aliases, *(f"{model.name}@{v}" for v in model.versions[-5:])])


def _folders(location: str) -> list[str]:
    filesystem, inner = files.locate(location)
    selector = fs.FileSelector(inner, allow_not_found=True)
    found = filesystem.get_file_info(selector)
    names = [i.base_name for i in found if i.type is fs.FileType.Directory]
    return sorted(n for n in names if not n.startswith((".", "_")))


def _version_order(version: str) -> tuple[int, str]:
    return (int(version), "") if version.isdecimal() else (0, version)
