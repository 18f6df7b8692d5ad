"""A table in PostgreSQL that is only appended to, each entry once: see `append_once`."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from batchinfer.core import constant_label
from batchinfer.store._postgres_names import TableName, listed, quoted, sql_types
from batchinfer.store._postgres_rows import PostgresRows, columns_of
from batchinfer.store._postgres_session import Session, at_work, session, translated, wait_for_others
from batchinfer.store._postgres_shape import TableShape, check_rights

_ENTRY = "_entry"
_APPLICATION = "batchinfer"


def provide_appended(path: str, schema: pa.Schema) -> None:
    """See `batchinfer.store.provide_appended`."""
    name = TableName.parse(path)
    with at_work(path, "open", name.url, _APPLICATION) as opened:
        if columns_of(opened, name):
            check_rights(opened, path, {name.sql(): ["SELECT", "INSERT"]})
            return
        statements = _ddl(path, name, schema)
        TableShape(path, name, (), (), widens=False).check_may_make(opened, statements)
        wait_for_others(opened, name.sql())
        if not columns_of(opened, name):
            _make(opened, statements)
            opened.commit()


def append_once(path: str, rows: pa.Table, entry: str) -> None:
    """See `batchinfer.store.append_once`. The table is made where there is none."""
    name = TableName.parse(path)
    statements = _ddl(path, name, rows.schema)
    rows = rows.append_column(_ENTRY, constant_label(entry, rows.num_rows))
    with at_work(path, "append to", name.url, _APPLICATION) as opened:
        wait_for_others(opened, name.sql())
        if not columns_of(opened, name):
            _make(opened, statements)
        elif opened.rows(f"SELECT 1 AS one FROM {name.sql()} WHERE {quoted(_ENTRY)} = $1 LIMIT 1", entry):
            return
        opened.copy(name.table, rows.to_reader(), name.schema)
        opened.commit()


def read_appended(path: str) -> pa.Table | None:
    """See `batchinfer.store.read_appended`."""
    name = TableName.parse(path)
    with at_work(path, "read", name.url, _APPLICATION) as opened:
        columns = columns_of(opened, name)
    if not columns:
        return None
    found = PostgresRows(lambda: session(name.url, _APPLICATION), name.sql(), columns)
    with translated(path, "read"):
        return found.to_table([column for column in columns if column != _ENTRY])


def _ddl(path: str, name: TableName, schema: pa.Schema) -> list[str]:
    types = sql_types(path, schema.append(pa.field(_ENTRY, pa.string())))
    columns = ", ".join(f"{quoted(column)} {kind}" for column, kind in types.items())
    index = f"CREATE INDEX ON {name.sql()} ({listed([_ENTRY])})"
    return [f"CREATE TABLE {name.sql()} ({columns})", index]


def _make(opened: Session, statements: Sequence[str]) -> None:
    for statement in statements:
        opened.execute(statement)
