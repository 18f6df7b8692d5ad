"""A table in PostgreSQL that is only appended to, each entry once: see `append_once`."""

from __future__ import annotations

import pyarrow as pa

from batchinfer.core import constant_label
from batchinfer.store._postgres_names import TableName, listed, quoted, sql_types
from batchinfer.store._postgres_rows import PostgresRows, columns_of
from batchinfer.store._postgres_session import at_work, session, translated

_ENTRY = "_entry"
_APPLICATION = "batchinfer"


def append_once(path: str, rows: pa.Table, entry: str) -> None:
    """See `batchinfer.store.append_once`. The table is made where there is none."""
    name = TableName.parse(path)
    rows = rows.append_column(_ENTRY, constant_label(entry, rows.num_rows))
    types = sql_types(
        path, pa.schema([*rows.schema.remove(rows.num_columns - 1), pa.field(_ENTRY, pa.string())])
    )
    columns = ", ".join(f"{quoted(column)} {kind}" for column, kind in types.items())
    with at_work(path, "append to", name.url, _APPLICATION) as opened:
        # Of two that append one entry the second waits here, and finds it there.
        opened.rows("SELECT 1 AS one FROM pg_advisory_xact_lock(hashtextextended($1, 0))", name.sql())
        if not columns_of(opened, name):
            opened.execute(f"CREATE TABLE {name.sql()} ({columns})")
            opened.execute(f"CREATE INDEX ON {name.sql()} ({listed([_ENTRY])})")
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
