"""From a YAML file to a frozen `PipelineSpec`, or to an error that says which key and what instead."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from batchinfer.errors import BatchinferError, SpecError
from batchinfer.spec._pipeline import PipelineSpec
from batchinfer.spec._template import fill_environment
from batchinfer.spec._yaml import read_yaml

_CLIENT_SETTINGS = ("settings", "consumer_settings", "producer_settings")
_SECRET_SETTING = re.compile(r"password|secret|jaas|(?:key[._]pem|token)$")
_FROM_ENVIRONMENT = re.compile(r"\$\{[A-Za-z_]\w*\}")
_MAY_BE_SECRET = {
    *("alerts", "lineage", "metrics", "conf", "registry_settings"),
    *_CLIENT_SETTINGS,
}
"""Keys below which an error shows no value: URLs and settings that hold tokens and passwords."""
_Document = TypeVar("_Document", bound=BaseModel)


def load_spec(path: str | Path, **overrides: Any) -> PipelineSpec:
    """Read the pipeline spec at `path`: a YAML file, or a folder that holds a `pipeline.yaml`.

    Args:
        path: the spec's file or folder.
        overrides: values by dotted key, as `**{"output.path": "elsewhere"}`; they win over the file.

    Raises:
        SpecError: no such file, not YAML, an unknown key, a wrong value or an unset variable.
    """
    file = Path(path)
    try:
        if file.is_dir():
            file = file / "pipeline.yaml"
        text = file.read_text(encoding="utf-8")
    except OSError as e:
        raise SpecError(
            f"{file}: cannot read the pipeline spec: {e.strerror}",
            next_step="name a pipeline.yaml, or the folder that holds one",
            path=str(file),
        ) from e
    except UnicodeDecodeError as e:
        raise SpecError(f"{file}: not UTF-8 text (byte {e.start})", path=str(file)) from e
    return parse_spec(read_yaml(text, name=file), file=file, overrides=overrides)


def parse_spec(
    document: dict[str, Any], *, file: Path, overrides: Mapping[str, Any] | None = None
) -> PipelineSpec:
    """Build the spec from a parsed document; see `load_spec`."""
    for key, value in (overrides or {}).items():
        _override(document, key, value, file)
    if "folder" in document:  # a field of the object, not a key of the file
        raise _unknown_key(["folder"], PipelineSpec, file, SpecError)
    _refuse_secrets(document, file)
    filled = fill_environment(document, os.environ)
    return validate(PipelineSpec, {**filled, "folder": file.parent}, name=file)


def _refuse_secrets(document: Mapping[str, Any], file: Path) -> None:
    """Refuse a Kafka client's secret that stands in the spec itself: all of it comes from the environment."""
    stream = document.get("stream")
    for section in _CLIENT_SETTINGS:
        settings = stream.get(section) if isinstance(stream, dict) else None
        for name, value in settings.items() if isinstance(settings, dict) else ():
            if _SECRET_SETTING.search(str(name)) and not _FROM_ENVIRONMENT.fullmatch(str(value)):
                key = f"stream.{section}.{name}"
                raise SpecError(
                    f"{file}: {key}: a secret comes from the environment alone, as ${{KAFKA_PASSWORD}}",
                    key=key,
                )


def validate(
    kind: type[_Document],
    document: Mapping[str, Any],
    *,
    name: str | Path,
    error: type[BatchinferError] = SpecError,
) -> _Document:
    """Turn pydantic's findings about `document`, read from the file `name`, into one error of ours.

    Raises:
        SpecError (or `error`): every wrong key with what was allowed and found, nearest name first.
    """
    try:
        return kind.model_validate(document)
    except ValidationError as e:
        # Of a list whose items are wrong pydantic says that it is too short, too.
        findings = [each for each in e.errors() if not (each["type"] == "too_short" and each["input"])]
        lines = [_finding(kind, finding) for finding in findings]
        # Not `from e`: a traceback would quote pydantic's error, which quotes the values.
        raise error("\n".join(f"{name}: {line}" for line in lines), path=str(name)) from None


def _finding(kind: type[BaseModel], finding: Any) -> str:
    location = [str(part) for part in finding["loc"]]
    key = ".".join(location) or "the spec"
    if finding["type"] == "extra_forbidden":
        return str(_unknown_key(location, kind, None, SpecError))
    if finding["type"] == "missing":
        return f"'{key}' is missing"
    found = finding["input"]
    secret = not isinstance(found, int | float | None) and not _MAY_BE_SECRET.isdisjoint(location)
    said = "something that may be a secret" if secret else repr(found)
    if finding["type"] in {"tuple_type", "list_type"}:
        example = f", as [{found}]" if isinstance(found, str) and not secret else ""
        return f"'{key}': takes a list{example}, found {said}"
    if finding["type"] in {"model_type", "dict_type"}:
        return f"'{key}': takes keys of its own, found {'nothing' if found is None else said}"
    message = finding["msg"].removeprefix("Value error, ")
    if finding["type"] == "value_error":
        return str(message)
    return f"'{key}': {message[0].lower()}{message[1:]}, found {said}"


def _unknown_key(
    location: Sequence[str], kind: type[BaseModel], file: Path | None, error: type[BatchinferError]
) -> BatchinferError:
    *path, last = location
    key = ".".join(location)
    allowed = _keys_at(kind, path)
    near = difflib.get_close_matches(last, allowed, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"allowed here: {', '.join(allowed)}"
    where = f"{file}: " if file else ""
    return error(f"{where}unknown key '{key}'; {hint}", key=key)


def _keys_at(kind: type[BaseModel], path: list[str]) -> list[str]:
    current: Any = kind
    for part in path:
        if get_origin(current) is dict:
            current = get_args(current)[1]
        else:
            field = getattr(current, "model_fields", {}).get(part)
            current = field.annotation if field else None
        if get_origin(current) is UnionType:  # an optional section
            current = next(each for each in get_args(current) if each is not type(None))
    return sorted(n for n, f in getattr(current, "model_fields", {}).items() if not f.exclude)


def _override(document: dict[str, Any], key: str, value: Any, file: Path) -> None:
    *path, last = key.split(".")
    section = document
    for part in path:
        section = section.setdefault(part, {})
        if not isinstance(section, dict):
            raise SpecError(f"{file}: cannot set '{key}': '{part}' holds a value, not keys", key=key)
    section[last] = value
