"""The rows of a table in PostgreSQL, read as a `pyarrow.dataset.Dataset` is: in bounded batches, by COPY."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from batchinfer.store._postgres_names import TableName, arrow_type, quoted
from batchinfer.store._postgres_session import Session

Open = Callable[[], AbstractContextManager[Session]]


class PostgresRows:
    """What readers see, scanned anew at each call: one snapshot a scan, and memory for a few batches.

    Args:
        open_: opens a session; errors of a scan are its affair.
        table: the table in SQL.
        columns: each column's PostgreSQL type. One that no run of ours makes is read as text.
    """

    def __init__(self, open_: Open, table: str, columns: Mapping[str, str]) -> None:
        self._open = open_
        self._table = table
        self._columns = dict(columns)
        self.schema = pa.schema([(name, arrow_type(kind) or pa.string()) for name, kind in columns.items()])

    def to_batches(
        self,
        columns: Sequence[str] | None = None,
        filter: Any = None,  # noqa: A002 - as a Dataset has it
    ) -> Iterator[pa.RecordBatch]:
        """The rows in bounded batches, in no order. A filter is applied here, so all columns travel."""
        if filter is None:
            return self._scan(self.schema.names if columns is None else list(columns))
        return iter(self._scanner(columns, filter).to_batches())

    def to_table(self, columns: Sequence[str] | None = None, filter: Any = None) -> pa.Table:  # noqa: A002
        """The rows as one table, in no order."""
        if filter is not None:
            return self._scanner(columns, filter).to_table()
        chosen = self.schema.names if columns is None else list(columns)
        schema = pa.schema([self.schema.field(name) for name in chosen])
        return pa.Table.from_batches(self._scan(chosen), schema)

    def count_rows(self, filter: Any = None) -> int:  # noqa: A002
        """How many rows there are."""
        if filter is not None:
            return sum(batch.num_rows for batch in self.to_batches(filter=filter))
        with self._open() as session:
            return int(session.value(f"SELECT count(*) FROM {self._table}"))

    def where(self, equal: Mapping[str, pa.Scalar]) -> pa.Table:
        """The rows whose columns have these values: PostgreSQL finds them, by an index where there is one."""
        return pa.Table.from_batches(self._scan(self.schema.names, equal), self.schema)

    def _scanner(self, columns: Sequence[str] | None, filter_: Any) -> ds.Scanner:
        rows = self._scan(self.schema.names)
        return ds.Scanner.from_batches(
            rows, schema=self.schema, columns=None if columns is None else list(columns), filter=filter_
        )

    def _scan(
        self, columns: Sequence[str], equal: Mapping[str, pa.Scalar] | None = None
    ) -> Iterator[pa.RecordBatch]:
        schema = pa.schema([self.schema.field(name) for name in columns])
        query = f"SELECT {', '.join(map(self._selected, columns))} FROM {self._table}"
        values = None
        if equal:
            terms = [f"{quoted(name)} = ${place}" for place, name in enumerate(equal, 1)]
            query += f" WHERE {' AND '.join(terms)}"
            arrays = [pa.array([value.as_py()], value.type) for value in equal.values()]
            values = pa.RecordBatch.from_arrays(arrays, names=list(equal))
        with self._open() as session, closing(session.stream(query, values)) as batches:
            for batch in batches:
                arrays = [
                    _plain(column).cast(f.type) for f, column in zip(schema, batch.columns, strict=True)
                ]
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _selected(self, column: str) -> str:
        known = arrow_type(self._columns[column]) is not None
        return quoted(column) if known else f"{quoted(column)}::text AS {quoted(column)}"


def columns_of(opened: Session, name: TableName) -> dict[str, str]:
    """The table's columns with their types as PostgreSQL spells them; empty where there is no table."""
    rows = opened.rows(
        "SELECT attname::text AS name, format_type(atttypid, atttypmod) AS type FROM pg_attribute "
        "WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        name.sql(),
    )
    return {row["name"]: row["type"] for row in rows}


def _plain(column: pa.Array) -> pa.Array:
    """Without extension types: numbers of any precision come as text, marked as such."""
    if pa.types.is_list(column.type) and isinstance(column.type.value_type, pa.BaseExtensionType):
        texts = pa.list_(column.type.value_type.storage_type)
        return pa.Array.from_buffers(
            texts, len(column), column.buffers()[:2], offset=column.offset, children=[column.values.storage]
        )
    return column.storage if isinstance(column, pa.ExtensionArray) else column
