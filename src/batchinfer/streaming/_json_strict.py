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


@dataclass(frozen=True, slots=True)
class Field:
    """What a field's value has to be. `low` and `high` bound a number."""

    kind: Literal["whole", "number", "truth", "text", "time", "list"]
    type: pa.DataType
    low: float = 0
    high: float = 0

    @classmethod
    def of(cls, field: pa.Field) -> Self:
        """As the Arrow field says."""
        kind = field.type
        if pa.types.is_integer(kind):
            bounds = np.iinfo(kind.to_pandas_dtype())
            return cls("whole", kind, int(bounds.min), int(bounds.max))
        if pa.types.is_floating(kind):
            largest = float(np.finfo(kind.to_pandas_dtype()).max)
            return cls("number", kind, -largest, largest)
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


def fault(value: bytes | None, fields: Mapping[str, Field]) -> str | None:
    """What is wrong with a message, without its text; None where nothing is found."""
    if value is None:
        return "the message has no value"
    if not value.strip(b" \t\r\n"):
        return "the value is empty"
    if value.startswith(b"\xef\xbb\xbf"):
        return "begins with a byte order mark"
    try:
        found = json.loads(value.decode(), object_pairs_hook=_Pairs, parse_constant=_no_number)
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
    if field.kind == "whole":
        if isinstance(content, bool) or not isinstance(content, int):
            return _another(field, content)
        return None if field.low <= content <= field.high else f"a number beyond {field.type}"
    if field.kind == "number":
        if isinstance(content, bool) or not isinstance(content, int | float):
            return _another(field, content)
        fits = field.low <= content <= field.high or _rounds_to_one_that_fits(content, field)
        return None if fits else f"a number beyond {field.type}"
    if field.kind == "truth":
        return None if isinstance(content, bool) else _another(field, content)
    if field.kind == "list":
        if not isinstance(content, list):
            return _another(field, content)
        inner = Field.of(pa.field("item", field.type.value_type))
        size = field.type.list_size if pa.types.is_fixed_size_list(field.type) else len(content)
        if len(content) != size:
            return f"expected {size} values, found {len(content)}"
        return next((why for each in content if each is not None and (why := _wrong(each, inner))), None)
    if not isinstance(content, str):
        return _another(field, content)
    if field.kind == "time":
        try:
            pa.array([content]).cast(field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeEncodeError):
            return f"a text that is no {field.type}"
    return None


def _another(field: Field, content: Any) -> str:
    return f"expected {field.type}, found {_name(content)}"


def _rounds_to_one_that_fits(number: float, field: Field) -> bool:
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
