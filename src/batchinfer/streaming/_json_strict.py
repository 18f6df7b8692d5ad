"""One JSON message read by the letter: to say what is wrong with it, and to find what the bulk reader lets pass."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa

from batchinfer.errors import SpecError

_MOST_WORDS = 60


class Unreadable(Exception):
    """The message is no JSON object; says why, without its text."""


@dataclass(frozen=True, slots=True)
class Field:
    """What a field's value has to be. `low` and `high` bound a whole number."""

    kind: Literal["whole", "number", "truth", "text", "time", "list"]
    type: pa.DataType
    low: int = 0
    high: int = 0

    @classmethod
    def of(cls, field: pa.Field) -> Self:
        """As the Arrow field says."""
        kind = field.type
        if pa.types.is_integer(kind):
            bounds = np.iinfo(kind.to_pandas_dtype())
            return cls("whole", kind, int(bounds.min), int(bounds.max))
        if pa.types.is_floating(kind):
            return cls("number", kind)
        if pa.types.is_boolean(kind):
            return cls("truth", kind)
        if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            return cls("list", kind)
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            return cls("text", kind)
        if pa.types.is_temporal(kind) and not pa.types.is_duration(kind):
            return cls("time", kind)
        raise SpecError(
            f"stream.columns: '{field.name}' is {kind}, which JSON messages cannot hold here",
            next_step="another format may hold it: stream.format",
            column=field.name,
        )


class _Twice(ValueError):
    pass


def normal(value: bytes | None) -> bytes:
    """The same object on one line, beginning and ending with its braces.

    Raises:
        Unreadable: it is none.
    """
    if value is None:
        raise Unreadable("the message has no value")
    trimmed = value.strip(b" \t\r\n")
    if not trimmed:
        raise Unreadable("the value is empty")
    if b"\n" in trimmed:  # in a string it would be no JSON; between tokens it is a space
        try:
            json.loads(trimmed)
        except (ValueError, RecursionError) as e:
            raise Unreadable(_said(e)) from e
        trimmed = trimmed.replace(b"\n", b" ")
    if trimmed.startswith(b"\xef\xbb\xbf"):
        raise Unreadable("begins with a byte order mark")
    if not trimmed.startswith(b"{") or not trimmed.endswith(b"}"):
        try:
            found = _name(json.loads(trimmed))
        except (ValueError, RecursionError) as e:
            raise Unreadable(_said(e)) from e
        raise Unreadable(f"not a JSON object but {found}")
    return trimmed


def fault(value: bytes, fields: Mapping[str, Field]) -> str | None:
    """What is wrong with a message; None where nothing is found."""
    try:
        found = json.loads(value, object_pairs_hook=_Pairs, parse_constant=_no_number)
    except (ValueError, RecursionError) as e:
        return _said(e)
    if not isinstance(found, _Pairs):
        return f"not a JSON object but {_name(found)}"
    once: dict[str, Any] = {}
    for name, content in found.pairs:
        if name in once and name in fields:
            return f"field '{name}' stands twice"
        once[name] = content
    for name, field in fields.items():
        if name not in once:
            return f"no field '{name}'"
        if once[name] is not None and (why := _wrong(once[name], field)):
            return f"field '{name}': {why}"
    return _surrogates(value)


@dataclass(frozen=True, slots=True)
class _Pairs:
    """An object as it stands: a name may be there twice."""

    pairs: list[tuple[str, Any]]


def _wrong(content: Any, field: Field) -> str | None:
    expected = str(field.type)
    if field.kind == "whole":
        if isinstance(content, bool) or not isinstance(content, int):
            return f"expected {expected}, found {_name(content)}"
        return None if field.low <= content <= field.high else f"a number beyond {expected}"
    if field.kind == "number":
        if isinstance(content, bool) or not isinstance(content, int | float):
            return f"expected {expected}, found {_name(content)}"
        return None if _fits(content, field) else f"a number beyond {expected}"
    if field.kind == "truth":
        return None if isinstance(content, bool) else f"expected {expected}, found {_name(content)}"
    if field.kind == "list":
        if not isinstance(content, list):
            return f"expected {expected}, found {_name(content)}"
        inner = Field.of(pa.field("item", field.type.value_type))
        size = field.type.list_size if pa.types.is_fixed_size_list(field.type) else len(content)
        if len(content) != size:
            return f"expected {size} values, found {len(content)}"
        return next((why for each in content if each is not None and (why := _wrong(each, inner))), None)
    if not isinstance(content, str):
        return f"expected {expected}, found {_name(content)}"
    if field.kind == "time":
        try:
            pa.array([content]).cast(field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return f"a text that is no {expected}"
    return None


def _fits(number: float, field: Field) -> bool:
    try:
        with np.errstate(over="ignore"):
            return bool(np.isfinite(field.type.to_pandas_dtype()(number)))
    except OverflowError:
        return False


def _surrogates(value: bytes) -> str | None:
    if b"\\ud" not in value and b"\\uD" not in value:
        return None
    try:
        json.dumps(json.loads(value), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "half a surrogate pair in a text"
    return None


def _no_number(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON number")


def _name(content: Any) -> str:
    if content is None:
        return "null"
    names = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "an array"}
    return names.get(type(content), "an object")


def _said(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg[:_MOST_WORDS]}"
    if "digits" in str(error):
        return "a number of too many digits"
    return f"not JSON: {str(error)[:_MOST_WORDS]}"
