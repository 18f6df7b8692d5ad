"""Holding every input file's columns against what the pipeline takes, before a row is read."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

import pyarrow as pa

from batchinfer.core import storable
from batchinfer.errors import InputError
from batchinfer.source._files import Discovered, SourceFile

_SHOWN = 5


def column_types(file: SourceFile) -> dict[str, pa.DataType]:
    """The columns that a file can give: its own, and its folders' `name=value` as text."""
    return {
        **dict.fromkeys(file.hive, pa.string()),
        **dict(zip(file.schema.names, file.schema.types, strict=True)),
    }


def check_columns(
    found: Discovered, names: Sequence[str], accept: Callable[[dict[str, pa.DataType]], None]
) -> None:
    """Check that each file has the named columns, of types that `accept` lets pass.

    Args:
        found: the files.
        names: the columns that are needed.
        accept: raises InputError for types that cannot be taken.

    Raises:
        InputError: all that is wrong, file by file; identical schemas are checked once.
    """
    problems: list[str] = []
    seen: set[tuple[int, frozenset[str]]] = set()
    for file in found.files:
        look = (id(file.schema), frozenset(file.hive))
        if look in seen:
            continue
        seen.add(look)
        types = column_types(file)
        missing = [_missing(file, name, types) for name in names if name not in types]
        problems += missing
        if not missing:
            try:
                accept(types)
            except InputError as e:
                problems.append(f"{file.input.path}: {e.message}")
    if problems:
        more = f"\n… and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise InputError(
            "\n".join(problems[:_SHOWN]) + more,
            next_step="batchinfer check PIPELINE shows what the model takes",
            path=found.path,
        )


def _missing(file: SourceFile, name: str, types: dict[str, pa.DataType]) -> str:
    near = difflib.get_close_matches(name, types, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(list(types)[:20])}"
    return f"{file.input.path}: no column '{name}'; {hint}"


def kept_fields(
    found: Discovered, key: Sequence[str], carry: Sequence[str]
) -> tuple[tuple[pa.Field, ...], tuple[pa.Field, ...]]:
    """The fields of key and carried columns as results hold them: one type for all files.

    Numbers of different width meet in the wider one; text and numbers do not meet.

    Raises:
        InputError: a column is missing, cannot be stored, or differs between files.
    """
    check_columns(found, [*key, *carry], lambda types: None)
    return tuple(_field(found, c) for c in key), tuple(_field(found, c) for c in carry)


def _field(found: Discovered, column: str) -> pa.Field:
    first = found.files[0]
    kind = column_types(first)[column]
    for file in found.files[1:]:
        other = column_types(file)[column]
        if other == kind:
            continue
        try:
            pair = [pa.schema([pa.field(column, _plain(k))]) for k in (kind, other)]
            kind = pa.unify_schemas(pair, promote_options="permissive").field(0).type
        except (pa.ArrowTypeError, pa.ArrowInvalid) as e:
            raise InputError(
                f"{file.input.path}: column '{column}' is {other}, but in {first.input.path} it is {kind}",
                next_step="write the column with one type in all files",
                path=file.input.path,
                column=column,
                expected=str(kind),
                found=str(other),
            ) from e
    return pa.field(column, storable(kind, f"{first.input.path}: column '{column}'"))


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind
