"""What a results table and its columns are called in PostgreSQL, and of which types they are. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

import pyarrow as pa

from batchinfer.errors import StoreError
from batchinfer.spec import holds_password, is_database

_NAME_BYTES = 63
"""PostgreSQL cuts longer names short, silently."""


def quoted(name: str) -> str:
    """A name as an SQL identifier, whatever characters it has."""
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True, slots=True)
class TableName:
    """Where a results table is: `postgresql://[user@][host][:port][/database][?options]#[schema.]table`.

    `url` is the part before the `#`, for libpq: what it leaves out comes from libpq's environment.
    """

    url: str
    schema: str
    table: str

    @classmethod
    def parse(cls, path: str) -> Self:
        """Read an `output.path`.

        Raises:
            StoreError: it names no table, or states a password. The message does not repeat it.
        """
        if holds_password(path):
            raise StoreError(
                "output.path: states a password, which would be seen in logs and reports",
                next_step="take it out, and set PGPASSWORD or write it into ~/.pgpass",
            )
        url, _, name = path.partition("#")
        schema, _, table = name.rpartition(".")
        if not is_database(path) or not table or "/" in name:
            raise StoreError(
                f"{path}: the postgres store takes postgresql://[user@]host[:port]/database#schema.table",
                next_step="name the database and the table in output.path",
                path=path,
            )
        found = cls(url, schema or "public", table)
        longest = max(found.commits, found.offsets, found.schema, key=_bytes)
        if _bytes(longest) > _NAME_BYTES:
            raise StoreError(
                f"{path}: '{longest}' is longer than {_NAME_BYTES} bytes, where PostgreSQL cuts names short",
                next_step="give the table a shorter name in output.path",
                path=path,
            )
        return found

    @property
    def database(self) -> str:
        """Host and database, for the names of folders."""
        parts = urlsplit(self.url)
        return f"{parts.hostname or 'default'}{parts.path.replace('/', '.')}"

    @property
    def commits(self) -> str:
        """The table of commits beside it."""
        return f"{self.table}_commits"

    @property
    def fence(self) -> str:
        """The table that holds each partition's token."""
        return f"{self.table}_fence"

    @property
    def offsets(self) -> str:
        """The table that holds each stream's positions."""
        return f"{self.table}_offsets"

    def sql(self, table: str | None = None) -> str:
        """This table (or one beside it) in SQL."""
        return f"{quoted(self.schema)}.{quoted(self.table if table is None else table)}"


def _bytes(name: str) -> int:
    return len(name.encode())


_SIMPLE = {
    pa.int8(): "smallint",
    pa.int16(): "smallint",
    pa.int32(): "integer",
    pa.int64(): "bigint",
    pa.float32(): "real",
    pa.float64(): "double precision",
    pa.bool_(): "boolean",
    pa.string(): "text",
    pa.binary(): "bytea",
    pa.date32(): "date",
    pa.timestamp("us"): "timestamp without time zone",
}
_ARROW = {sql: kind for kind, sql in _SIMPLE.items()} | {
    "timestamp with time zone": pa.timestamp("us", "UTC"),
    "character varying": pa.string(),
}
_NUMERIC = re.compile(r"numeric\((\d+),(\d+)\)")


def sql_types(table: str, columns: pa.Schema, *, as_json: bool = False) -> dict[str, str]:
    """Each column's type, spelled as PostgreSQL itself spells it; `as_json`, what has none is JSON text.

    Raises:
        StoreError: a column has no such type, or too long a name; names it.
    """
    types = {}
    for field in columns:
        found = sql_type(field.type) or ("text" if as_json else None)
        if found is None or _bytes(field.name) > _NAME_BYTES or "\0" in field.name:
            why = f"has the type {field.type}" if found is None else f"has a name over {_NAME_BYTES} bytes"
            raise StoreError(
                f"{table}: column '{field.name}' {why}, which PostgreSQL has not",
                next_step="leave it out of input.key and output.carry, or set output.store to delta",
                table=table,
                column=field.name,
                found=str(field.type),
            )
        types[field.name] = found
    return types


def sql_type(kind: pa.DataType) -> str | None:
    """The type that holds every value of `kind` unchanged; None where there is none."""
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return "timestamp with time zone"
    if pa.types.is_decimal128(kind) and 0 <= kind.scale <= kind.precision:
        return f"numeric({kind.precision},{kind.scale})"
    if pa.types.is_list(kind) and not pa.types.is_list(
        kind.value_type
    ):  # arrays of arrays must be rectangular
        element = sql_type(kind.value_type)
        return f"{element}[]" if element else None
    return _SIMPLE.get(kind)


def arrow_type(sql: str) -> pa.DataType | None:
    """The Arrow type that rows come back as; None where the table has a column that no run of ours makes."""
    if sql.endswith("[]"):
        element = arrow_type(sql.removesuffix("[]"))
        return pa.list_(element) if element is not None else None
    if match := _NUMERIC.fullmatch(sql):
        return pa.decimal128(int(match[1]), int(match[2]))
    return _ARROW.get(sql)


def ddl(
    name: TableName, types: Mapping[str, str], partition_by: Sequence[str], key: Sequence[str]
) -> list[str]:
    """The statements that make a results table and what stands beside it; each does nothing where it is there."""
    columns = [
        f"{quoted(column)} {kind}" + (" NOT NULL" if column in partition_by else "")
        for column, kind in types.items()
    ]
    if key:
        columns.append(f"PRIMARY KEY ({listed(key)})")
    made = [f"CREATE TABLE IF NOT EXISTS {name.sql()} (" + ", ".join(columns) + ")"]
    if partition_by:
        index = quoted(f"{name.table}_index")
        made.append(f"CREATE INDEX IF NOT EXISTS {index} ON {name.sql()} ({listed(partition_by)})")
    about_commits = (
        "version bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, run_id text NOT NULL, pipeline text NOT NULL, "
        "operation text NOT NULL, report text NOT NULL, "
        "committed_at timestamptz NOT NULL DEFAULT clock_timestamp()"
    )
    about_fence = (
        "partition text PRIMARY KEY, token bigint NOT NULL, version bigint NOT NULL, rows bigint NOT NULL"
    )
    return [
        *made,
        f"CREATE TABLE IF NOT EXISTS {name.sql(name.commits)} ({about_commits})",
        f"CREATE TABLE IF NOT EXISTS {name.sql(name.fence)} ({about_fence})",
    ]


def widening(name: TableName, types: Mapping[str, str]) -> list[str]:
    """The statements that add columns; no row changes by them."""
    return [
        f"ALTER TABLE {name.sql()} ADD COLUMN IF NOT EXISTS {quoted(column)} {kind}"
        for column, kind in types.items()
    ]


def listed(columns: Sequence[str]) -> str:
    """Columns, as SQL lists them."""
    return ", ".join(map(quoted, columns))
