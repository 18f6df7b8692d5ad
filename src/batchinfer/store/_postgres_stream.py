"""A PostgreSQL table that a stream appends to: rows and offsets in one transaction.

Beside the table stands `NAME_offsets`, a row for each source of each pipeline. A transaction moves those rows first,
from where its writer expects them: of two writers of one source the second waits there for the first, and is refused.
That also makes an unknown outcome harmless: whoever goes on reads the positions, and cannot move them twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from batchinfer.core import POSITION, SOURCE
from batchinfer.errors import BatchinferError, StoreError
from batchinfer.store._postgres_names import TableName, listed, quoted
from batchinfer.store._postgres_session import Session, at_work, meaning, session, wait_for_others
from batchinfer.store._postgres_shape import TableShape, exists
from batchinfer.store._streamed import Move, Replaced, refusal

_STAGED = "staged"
_BATCH_ROWS = 1 << 16


class PostgresStreamTable:
    """See `StreamTable` and `StreamRepair`.

    Args:
        path: `postgresql://[user@]host[:port]/database#schema.table`.
        partition_by: columns that the rows bring as text.
        pipeline: whose positions these are.
        upsert: the columns of the primary key: a row replaces that of its key, and the later message wins.
    """

    def __init__(
        self, path: str, partition_by: Sequence[str], pipeline: str, *, upsert: Sequence[str] = ()
    ) -> None:
        self.path = path
        self._name = TableName.parse(path)
        self._pipeline = pipeline
        self._key = tuple(upsert)
        self._shape = TableShape(path, self._name, tuple(partition_by), self._key, False)

    def begin(self, schema: pa.Schema) -> None:
        """See `StreamTable.begin`."""
        types = self._shape.types(schema)
        name, offsets = self._name, self._name.sql(self._name.offsets)
        make = (
            f"CREATE TABLE IF NOT EXISTS {offsets} (pipeline text, source text, position bigint NOT NULL, "
            "PRIMARY KEY (pipeline, source))"
        )
        with self._session("open") as opened:
            self._shape.check_grants(opened)
            statements = self._shape.check(opened, types)
            if not exists(opened, name, name.offsets):
                statements.append(make)
            self._shape.check_may_make(opened, statements)
            if statements:
                wait_for_others(opened, name.sql())
                for statement in [*self._shape.check(opened, types), make]:
                    opened.execute(statement)
                opened.commit()

    def positions(self, sources: Sequence[str]) -> dict[str, int]:
        """See `StreamTable.positions`."""
        with self._session("read the positions of") as opened:
            return self._positions(opened, sources)

    def append(self, rows: pa.Table, moves: Mapping[str, Move], told: Mapping[str, Any]) -> int:
        """See `StreamTable.append`."""
        try:
            with session(self._name.url, self._application) as opened:
                if not self._move(opened, moves):
                    found = self._positions(opened, list(moves))
                    source = next(s for s, move in moves.items() if found.get(s) != move.at)
                    raise refusal(self.path, source, moves[source].at, found.get(source))
                version = self._announce(opened, "stream", moves, told)
                if rows.num_rows:
                    self._add(opened, rows, "UPDATE")
                _end(opened)
                return version
        except BatchinferError:
            raise
        except Exception as e:
            raise meaning(self.path, "commit to", e) from e

    def unstorable(self, rows: pa.RecordBatch) -> Mapping[int, str]:
        """See `StreamRepair.unstorable`: PostgreSQL's text holds no NUL character."""
        found: dict[int, str] = {}
        for field, column in zip(rows.schema, rows.columns, strict=True):
            if pa.types.is_string(field.type):
                bad = pc.match_substring(column, "\0")
                if pc.any(bad).as_py():
                    why = f"'{field.name}' holds a NUL character, which PostgreSQL text cannot hold"
                    places = pc.indices_nonzero(pc.fill_null(bad, False)).to_pylist()
                    found |= {place: why for place in places if place not in found}
        return found

    def replace(
        self, rows: Iterable[pa.Table], window: Mapping[str, tuple[int, int]], told: Mapping[str, Any]
    ) -> Replaced:
        """See `StreamRepair.replace`. With `upsert`, a key that has a later row by now keeps that."""
        table, removed, written = self._name.sql(), 0, 0
        with self._session("repair") as opened:
            opened.rows(  # of two repairs the second waits here, and then sees what the first wrote
                f"SELECT source FROM {self._name.sql(self._name.offsets)} WHERE pipeline = $1 "
                'ORDER BY source COLLATE "C" FOR UPDATE',
                self._pipeline,
            )
            for source, (low, high) in sorted(window.items()):
                where = f"{quoted(SOURCE)} = $1 AND {quoted(POSITION)} >= $2 AND {quoted(POSITION)} < $3"
                removed += opened.value(f"SELECT count(*) FROM {table} WHERE {where}", source, low, high)
                opened.execute(f"DELETE FROM {table} WHERE {where}", source, low, high)
            for piece in rows:
                if piece.num_rows:
                    written += self._add(opened, piece, "NOTHING")
            moves = {source: Move(low, high) for source, (low, high) in window.items()}
            version = self._announce(opened, "repair", moves, told)
            _end(opened)
        return Replaced(removed, written, version)

    def _positions(self, opened: Session, sources: Sequence[str]) -> dict[str, int]:
        rows = opened.rows(
            f"SELECT source, position FROM {self._name.sql(self._name.offsets)} WHERE pipeline = $1 "
            "AND source IN (SELECT json_array_elements_text($2::json))",
            self._pipeline,
            json.dumps(list(sources)),
        )
        return {row["source"]: int(row["position"]) for row in rows}

    def _move(self, opened: Session, moves: Mapping[str, Move]) -> bool:
        """Move each position on; False where another writer moved one first.

        In the sources' order, as every writer moves them: two that share several cannot wait for each other.
        """
        stated = [{"s": source, "at": move.at, "to": move.to} for source, move in moves.items()]
        offsets = self._name.sql(self._name.offsets)
        known = 'json_to_recordset($2::json) AS moves(s text, "at" bigint, "to" bigint)'
        moved = opened.rows(
            f'INSERT INTO {offsets} AS held (pipeline, source, position) SELECT $1, s, "to" FROM {known} '
            'WHERE "at" IS NULL ORDER BY s COLLATE "C" ON CONFLICT DO NOTHING RETURNING source',
            self._pipeline,
            json.dumps(stated),
        )
        opened.rows(
            f"SELECT source FROM {offsets} WHERE pipeline = $1 AND source IN (SELECT s FROM {known}) "
            'ORDER BY source COLLATE "C" FOR UPDATE',
            self._pipeline,
            json.dumps(stated),
        )
        moved += opened.rows(
            f'UPDATE {offsets} AS held SET position = "to" FROM {known} WHERE pipeline = $1 AND source = s '
            'AND position = "at" RETURNING source',
            self._pipeline,
            json.dumps(stated),
        )
        return len(moved) == len(moves)

    def _announce(
        self, opened: Session, operation: str, moves: Mapping[str, Move], told: Mapping[str, Any]
    ) -> int:
        report = {**told, "offsets": {source: [move.at, move.to] for source, move in moves.items()}}
        version: int = opened.value(
            f"INSERT INTO {self._name.sql(self._name.commits)} (run_id, pipeline, operation, report) "
            "VALUES ($1, $2, $3, $4) RETURNING version",
            str(told.get("run_id", "")),
            self._pipeline,
            operation,
            json.dumps(report),
        )
        return version

    def _add(self, opened: Session, rows: pa.Table, known_keys: str) -> int:
        """Copy rows in; with a primary key through a temporary table, the last of each key. Returns how many came."""
        reader = rows.unify_dictionaries().to_reader(_BATCH_ROWS)
        table = self._name.sql()
        if not self._key:
            before = self._inserted(opened)
            opened.copy(self._name.table, reader, self._name.schema)
            arrived = self._inserted(opened) - before
            if arrived != rows.num_rows:
                raise StoreError(
                    f"{self.path}: {arrived} rows arrived of {rows.num_rows}; nothing was changed",
                    next_step="look for triggers and rules on the table; the server must count rows (track_counts)",
                    table=self.path,
                )
            return arrived
        opened.execute(f"CREATE TEMPORARY TABLE IF NOT EXISTS {_STAGED} (LIKE {table}) ON COMMIT DROP")
        opened.execute(f"DELETE FROM pg_temp.{_STAGED}")
        opened.copy(_STAGED, reader, None)
        names = rows.schema.names
        others = ", ".join(f"{quoted(n)} = excluded.{quoted(n)}" for n in names if n not in self._key)
        then = f"UPDATE SET {others}" if known_keys == "UPDATE" else "NOTHING"
        return len(
            opened.rows(
                f"INSERT INTO {table} ({listed(names)}) SELECT DISTINCT ON ({listed(self._key)}) {listed(names)} "
                f"FROM pg_temp.{_STAGED} ORDER BY {listed(self._key)}, ctid DESC "
                f"ON CONFLICT ({listed(self._key)}) DO {then} RETURNING 1 AS one"
            )
        )

    def _inserted(self, opened: Session) -> int:
        """How many rows this transaction put into the table, by the server's own count."""
        return int(
            opened.value(
                "SELECT coalesce(sum(pg_stat_get_xact_tuples_inserted(t)), 0)::bigint AS rows FROM (SELECT "
                "to_regclass($1)::oid AS t UNION SELECT relid FROM pg_partition_tree(to_regclass($1))) AS found",
                self._name.sql(),
            )
        )

    @property
    def _application(self) -> str:
        return f"batchinfer {self._pipeline}"

    def _session(self, doing: str) -> AbstractContextManager[Session]:
        return at_work(self.path, doing, self._name.url, self._application)


def _end(opened: Session) -> None:
    """The one step that makes a commit so."""
    opened.commit()
