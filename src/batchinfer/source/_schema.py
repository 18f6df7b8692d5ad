"""Holding every input file's columns against what the pipeline takes, before a row is read."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Sequence

import pyarrow as pa

from batchinfer.core import arrays, storable
from batchinfer.errors import InputError
from batchinfer.source._files import Discovered
from batchinfer.source._footer import SourceFile, first_of


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

    Further columns and another order are fine.

    Args:
        found: the files.
        names: the columns that are needed.
        accept: raises InputError for types that cannot be taken; called once for files alike.

    Raises:
        InputError: all that is wrong, file by file.
    """
    problems: list[str] = []
    for file in _unlike(found):
        types = column_types(file)
        wrong = [_missing(file, name, types) for name in names if name not in types]
        wrong += [
            f"{file.input.path}: column '{name}' stands twice; which one is meant?"
            for name in names
            if file.schema.names.count(name) > 1
        ]
        if not wrong:
            try:
                accept(types)
            except InputError as e:
                wrong.append(f"{file.input.path}: {e.message}")
        problems += wrong
    if problems:
        raise InputError(
            first_of(problems),
            next_step="batchinfer check PIPELINE shows what the model takes",
            path=found.path,
        )


def kept_fields(
    found: Discovered, key: Sequence[str], carry: Sequence[str]
) -> tuple[tuple[pa.Field, ...], tuple[pa.Field, ...]]:
    """The fields of key and carried columns as results hold them: one type for all files.

    Numbers of different width meet in the wider one; text, bytes and numbers do not meet.

    Raises:
        InputError: columns are missing, cannot be stored, or differ between files; names them all.
    """
    check_columns(found, [*key, *carry], lambda types: None)
    files = _unlike(found)
    fields: dict[str, pa.Field] = {}
    problems: list[InputError] = []
    for column in [*key, *carry]:
        try:
            fields[column] = _one_field(files, column)
        except InputError as e:
            problems.append(e)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise InputError(
            first_of([problem.message for problem in problems]),
            next_step=problems[0].next_step,
            path=found.path,
            columns=[problem.fields["column"] for problem in problems],
        )
    return tuple(fields[c] for c in key), tuple(fields[c] for c in carry)


def original_fields(found: Discovered, without: Collection[str]) -> tuple[pa.Field, ...]:
    """All columns of all files, of types that a results store holds: for rows that are kept as they came.

    Columns that no store can hold, or whose types do not meet, become text. `without` is left out.
    """
    files = _unlike(found)
    names = dict.fromkeys(name for file in files for name in column_types(file))
    fields = []
    for name in names:
        if name not in without:
            try:
                fields.append(_one_field([file for file in files if name in column_types(file)], name))
            except InputError:
                fields.append(pa.field(name, pa.string()))
    return tuple(fields)


def schema_of(found: Discovered) -> pa.Schema:
    """All columns of all files; those of folders come last.

    Where files type a column differently it has the type that holds the values of all, or the first file's, where
    they do not meet.
    """
    types: dict[str, pa.DataType] = {}
    for file in _unlike(found):
        for name, kind in column_types(file).items():
            before = types.setdefault(name, kind)
            if before != kind:
                types[name] = _wider(_plain(before), _plain(kind)) or before
    folders = {name for file in found.files for name in file.hive}
    return pa.schema(sorted(types.items(), key=lambda item: item[0] in folders))


def _unlike(found: Discovered) -> list[SourceFile]:
    """The first file of each sort: files of the same columns and the same folders' names are alike."""
    sorts: dict[tuple[int, frozenset[str]], SourceFile] = {}
    for file in found.files:
        sorts.setdefault((id(file.schema), frozenset(file.hive)), file)
    return list(sorts.values())


def _missing(file: SourceFile, name: str, types: dict[str, pa.DataType]) -> str:
    near = difflib.get_close_matches(name, types, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(list(types)[:20]) or 'none'}"
    return f"{file.input.path}: no column '{name}'; {hint}"


def _one_field(files: Sequence[SourceFile], column: str) -> pa.Field:
    kind, source = _plain(column_types(files[0])[column]), files[0].input.path
    for file in files[1:]:
        other = _plain(column_types(file)[column])
        wider = _wider(kind, other)
        if wider is None:
            raise InputError(
                f"{file.input.path}: column '{column}' is {other}, but in {source} it is {kind}",
                next_step="write the column with one type in all files",
                path=file.input.path,
                column=column,
                expected=str(kind),
                found=str(other),
            )
        if wider != kind:
            kind, source = wider, file.input.path
    try:
        return pa.field(column, storable(kind, f"{source}: column '{column}'"))
    except InputError as e:
        raise InputError(e.message, next_step=e.next_step, column=column, **e.fields) from e


def _wider(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type that holds the values of both, or None."""
    if one == other:
        return one
    if (
        arrays.is_text(one) != arrays.is_text(other)
        and not pa.types.is_null(one)
        and not pa.types.is_null(other)
    ):
        return None  # Arrow would take text for bytes
    try:
        pair = [pa.schema([pa.field("", kind)]) for kind in (one, other)]
        return pa.unify_schemas(pair, promote_options="permissive").field(0).type
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        return None


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind
