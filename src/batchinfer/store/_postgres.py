"""Results in a PostgreSQL table: workers stage Parquet parts, and one transaction replaces a run's partitions.

Beside the table stand `NAME_commits`, a row for each commit, and `NAME_fence`, a row for each partition with the
token that every commit of ours moves on. The transaction moves the tokens first: of two that began on the same
ones, the second waits at that row for the first, and is refused. See docs/adr/0008-postgres.md.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pyarrow as pa

from batchinfer.core import (
    SOURCE,
    CommitInfo,
    Fence,
    Partition,
    StagedPart,
    StagingArea,
    files,
    partition_path,
)
from batchinfer.errors import BatchinferError, CommitUnknown, StoreError
from batchinfer.store import _rules, _runs
from batchinfer.store._postgres_names import TableName, listed, quoted
from batchinfer.store._postgres_parts import PartRows
from batchinfer.store._postgres_rows import PostgresRows, columns_of
from batchinfer.store._postgres_session import (
    Session,
    at_work,
    meaning,
    said_by,
    session,
    sqlstate,
    wait_for_others,
)
from batchinfer.store._postgres_shape import TableShape, exists

_PATIENCE_SECONDS = 60.0
_STAGED = "staged"
_NOT_YET_A_TRANSACTION = "22023"


class PostgresStore:
    """A PostgreSQL table as a results store: the `Store` and `StoreHistory` ports, and reading.

    Args:
        path: `postgresql://[user@]host[:port]/database#schema.table`. The password comes from PGPASSWORD or ~/.pgpass.
        partition_by: the table's partition columns, all text.
        pipeline: PostgreSQL shows its sessions under this name.
        widens: columns that a run brings and the table lacks are added to it.
        upsert: the columns of the primary key. A row replaces that of the same key, whosever partition it was in.
        staging: folder or URL where workers stage; by default BATCHINFER_STAGING, else `staging` here.

    Raises:
        StoreError: `path` names no table, or states a password.
    """

    def __init__(
        self,
        path: str,
        partition_by: Sequence[str],
        pipeline: str,
        *,
        widens: bool = False,
        upsert: Sequence[str] = (),
        staging: str | None = None,
    ) -> None:
        self.path = path
        self._name = TableName.parse(path)
        self._partition_by = tuple(partition_by)
        self._application = f"batchinfer {pipeline}"
        self._key = tuple(upsert)
        self._shape = TableShape(path, self._name, self._partition_by, self._key, widens)
        root = _runs.absolute(staging or os.environ.get("BATCHINFER_STAGING") or "staging")
        name = self._name
        self._state = files.join(root, f"{name.database}.{name.schema}.{name.table}")

    # The ports

    def begin(self, run_id: str, schema: pa.Schema, partitions: Sequence[Partition]) -> Fence:
        """See `Store.begin`. Without the right to create or to write, it ends here, before any work."""
        _rules.check_partitions(self.path, self._partition_by, partitions)
        types = self._shape.types(schema)
        with self._session("open") as opened:
            self._shape.check_grants(opened)
            self._shape.check_may_make(opened, self._shape.check(opened, types))
            held = self._held(opened, partitions)
        _runs.begin(self._state, run_id, schema)
        return Fence(
            {p: str(held[label]["token"] if (label := _label(p)) in held else 0) for p in partitions}
        )

    def staging(self, run_id: str) -> StagingArea:
        """Parts lie outside the database: workers need no way into it, and no late one can touch it."""
        return StagingArea(files.join(self._state, _STAGED, run_id), _runs.receipts(self._state, run_id))

    def commit(self, fence: Fence, parts: Sequence[tuple[Partition, StagedPart]], info: CommitInfo) -> int:
        """See `Store.commit`. Done twice with the same fence and run, it is done once.

        Raises:
            StoreError: also where a value cannot be stored (a NUL in text), or, with `upsert`, a key comes twice.
            Transient: the database went away before the commit. Nothing has changed.
        """
        _rules.check_staged(self.path, fence, parts)
        schema = _runs.schema_of(self._state, info.run_id)
        types = self._shape.types(schema)
        area = self.staging(info.run_id).parts
        rows = PartRows(area, parts, schema, self._partition_by)
        transaction, version, ending = "", 0, False
        try:
            with session(self._name.url, self._application) as opened:
                if self._shape.check(opened, types):
                    self._prepare(types)
                transaction = opened.value("SELECT pg_current_xact_id()::text")
                version = self._announce(opened, info)
                if self._move_fence(opened, fence, parts, version):
                    _runs.check_present(area, parts)
                    self._replace(opened, fence, rows)
                    ending = True
                    _end(opened)
                    return version
        except BatchinferError:
            raise
        except Exception as e:
            rows.explain(self.path, e, self._key)
            if ending and self._took_place(transaction, version, info.run_id, e):
                return version
            raise meaning(self.path, "commit to", e) from e
        with self._session("read the history of") as opened:
            return self._standing(opened, fence, info.run_id)

    def committed(self, run_id: str, partitions: Sequence[Partition]) -> tuple[int, CommitInfo] | None:
        """See `StoreHistory.committed`. Rows that others deleted since count, but not in a table of `upsert`."""
        with self._session("read the history of") as opened:
            return self._committed(opened, run_id, partitions)

    def history(self, limit: int) -> list[dict[str, Any]]:
        """See `StoreHistory.history`."""
        columns = (
            "version, run_id, pipeline, operation, report, extract(epoch FROM committed_at)::float8 AS at"
        )
        query = f"SELECT {columns} FROM {self._name.sql(self._name.commits)} ORDER BY version DESC LIMIT {int(limit)}"
        with self._session("read the history of") as opened:
            found = opened.rows(query) if exists(opened, self._name, self._name.commits) else []
        return [
            {**row, "timestamp_ms": int(row.pop("at") * 1000), "report": json.loads(row["report"])}
            for row in found
        ]

    def sweep(self, older_than_seconds: float, *, dry_run: bool) -> list[str]:
        """See `StoreHistory.sweep`. No commit refers to staged files: age alone decides."""
        before = time.time() - older_than_seconds
        swept: list[str] = []
        for run_id, folder, changed in _runs.all_runs(self._state):
            staged = files.join(self._state, _STAGED, run_id)
            parts = files.list_files(staged, recursive=True)
            if max([*changed, *(part.mtime.timestamp() for part in parts)], default=0) > before:
                continue
            swept += [*(part.path for part in parts), folder]
            for path in () if dry_run else (staged, folder):
                files.delete(path)
        return swept

    # What `ResultsStore` asks besides

    def exists(self) -> bool:
        """Whether there is a table."""
        with self._session("open") as opened:
            return exists(opened, self._name, self._name.table)

    def provide(self, schema: pa.Schema) -> None:
        """Make the table. Columns that it cannot have are told by `begin`, when there are rows for them."""
        try:
            types = self._shape.types(schema)
        except StoreError:
            return
        with self._session("open") as opened:
            statements = self._shape.check(opened, types)
            self._shape.check_may_make(opened, statements)
        if statements:
            self._prepare(types)

    def clear(self, run_id: str) -> None:
        """Delete what the run staged: the table has the rows."""
        files.delete(_runs.receipts(self._state, run_id))
        files.delete(self.staging(run_id).parts)

    def dataset(self) -> PostgresRows:
        """What readers see, as a dataset is read: `schema`, `to_table`, `to_batches`, `count_rows`.

        Raises:
            StoreError: there is no table.
        """
        with self._session("read") as opened:
            columns = columns_of(opened, self._name)
        if not columns:
            raise StoreError(f"{self.path}: no table here", table=self.path)
        return PostgresRows(lambda: self._session("read"), self._name.sql(), columns)

    def find(self, equal: Mapping[str, pa.Scalar]) -> pa.Table:
        """The rows whose columns have these values."""
        return self.dataset().where(equal)

    # The steps of a commit, in their order

    def _prepare(self, types: Mapping[str, str]) -> None:
        """Create the table, or widen it. A transaction of its own: the lock that this takes is not held for long."""
        with self._session("create") as opened:
            wait_for_others(opened, self._name.sql())
            for statement in self._shape.check(opened, types):
                opened.execute(statement)
            opened.commit()

    def _announce(self, opened: Session, info: CommitInfo) -> int:
        """Write the commit's own row; returns its version."""
        version: int = opened.value(
            f"INSERT INTO {self._name.sql(self._name.commits)} (run_id, pipeline, operation, report) "
            "VALUES ($1, $2, $3, $4) RETURNING version",
            info.run_id,
            info.pipeline,
            "upsert" if self._key else "replace",
            json.dumps(info.report),
        )
        return version

    def _move_fence(
        self, opened: Session, fence: Fence, parts: Sequence[tuple[Partition, StagedPart]], version: int
    ) -> bool:
        """Move each partition's token on; False where another moved one first.

        A commit under way holds the rows of its partitions: this waits for its end, and knows then.
        """
        moves = [
            {"p": _label(p), "t": int(token), "n": sum(part.rows for q, part in parts if q == p)}
            for p, token in fence.tokens.items()
        ]
        # In the partitions' order, as every commit moves them: two that share several cannot wait for each other.
        moved = opened.rows(
            f"INSERT INTO {self._name.sql(self._name.fence)} AS held (partition, token, version, rows) "
            "SELECT p, t + 1, $1, n FROM json_to_recordset($2::json) AS moves(p text, t bigint, n bigint) "
            'ORDER BY p COLLATE "C" '
            "ON CONFLICT (partition) DO UPDATE "
            "SET token = excluded.token, version = excluded.version, rows = excluded.rows "
            "WHERE held.token = excluded.token - 1 RETURNING partition",
            version,
            json.dumps(moves),
        )
        return len(moved) == len(moves)

    def _replace(self, opened: Session, fence: Fence, rows: PartRows) -> None:
        table = self._name.sql()
        not_streamed = self._not_streamed(opened)
        if self._partition_by:
            equal = " AND ".join(f"{quoted(c)} = ${i}" for i, c in enumerate(self._partition_by, 1))
            for partition in fence.tokens:
                values = (value for _, value in partition)
                opened.execute(f"DELETE FROM {table} WHERE {equal} AND {not_streamed}", *values)
        elif not self._key:
            opened.execute(f"DELETE FROM {table} WHERE {not_streamed}")
        if self._key:
            self._upsert(opened, rows)
        else:
            opened.copy(self._name.table, rows.reader(), self._name.schema)
        # What arrived, by the server's own count: a trigger or a rule can swallow rows, and COPY does not say so.
        arrived = opened.value(
            "SELECT sum(pg_stat_get_xact_tuples_inserted(t) + pg_stat_get_xact_tuples_updated(t))::bigint AS rows FROM "
            "(SELECT to_regclass($1)::oid AS t UNION SELECT relid FROM pg_partition_tree(to_regclass($1))) AS found",
            table,
        )
        rows.check(self.path, int(arrived))

    def _upsert(self, opened: Session, rows: PartRows) -> None:
        table = self._name.sql()
        opened.execute(f"CREATE TEMPORARY TABLE {quoted(_STAGED)} (LIKE {table}) ON COMMIT DROP")
        opened.copy(_STAGED, rows.reader(), None)
        columns = listed(rows.schema.names)
        others = [quoted(name) for name in rows.schema.names if name not in self._key]
        opened.execute(
            f"INSERT INTO {table} ({columns}) SELECT {columns} FROM pg_temp.{quoted(_STAGED)} "
            f"ON CONFLICT ({listed(self._key)}) DO UPDATE SET "
            + ", ".join(f"{column} = excluded.{column}" for column in others)
        )

    def _took_place(self, transaction: str, version: int, run_id: str, error: Exception) -> bool:
        """Whether the transaction whose end was not heard of is committed. Waits while it is still under way."""
        commits = self._name.sql(self._name.commits)
        until = time.monotonic() + _PATIENCE_SECONDS
        looked = error
        while time.monotonic() < until:
            try:
                if not self._under_way(transaction):
                    with session(self._name.url, self._application) as opened:
                        query = f"SELECT 1 AS one FROM {commits} WHERE version = $1 AND run_id = $2"
                        return bool(opened.rows(query, version, run_id))
            except Exception as e:
                looked = e
            time.sleep(0.2)
        raise CommitUnknown(
            f"{self.path}: run {run_id} may or may not be committed: {said_by(error)}; nor could it be learnt "
            f"afterwards: {said_by(looked)}",
            next_step="run again when the database can be reached: it asks the table of commits first",
            table=self.path,
            run_id=run_id,
        ) from error

    def _under_way(self, transaction: str) -> bool:
        try:
            with session(self._name.url, self._application) as opened:
                status = opened.value("SELECT pg_xact_status($1::xid8) AS status", transaction)
                return bool(status == "in progress")
        except Exception as e:
            if sqlstate(e) == _NOT_YET_A_TRANSACTION:  # a standby took over that never heard of it
                return False
            raise

    def _standing(self, opened: Session, fence: Fence, run_id: str) -> int:
        """The version if this run's rows stand already; else the commit is refused."""
        if (done := self._committed(opened, run_id, list(fence.tokens))) is not None:
            return done[0]
        held = self._held(opened, list(fence.tokens))
        for partition, token in fence.tokens.items():
            holder = held.get(_label(partition), {"token": 0, "run_id": None})
            if str(holder["token"]) != token:
                raise _rules.refusal(self.path, partition, run_id, holder["run_id"])
        raise _rules.refusal(self.path, next(iter(fence.tokens)), run_id, None)

    # What the database holds

    def _held(self, opened: Session, partitions: Sequence[Partition]) -> dict[str, dict[str, Any]]:
        """The fence's row of each partition that has one, with the commit that wrote it."""
        if not exists(opened, self._name, self._name.fence):
            return {}
        rows = opened.rows(
            f"SELECT partition, token, rows, version, run_id, pipeline, report FROM {self._name.sql(self._name.fence)} "
            f"JOIN {self._name.sql(self._name.commits)} USING (version) "
            "WHERE partition IN (SELECT json_array_elements_text($1::json))",
            json.dumps([_label(partition) for partition in partitions]),
        )
        return {row["partition"]: row for row in rows}

    def _committed(
        self, opened: Session, run_id: str, partitions: Sequence[Partition]
    ) -> tuple[int, CommitInfo] | None:
        held = self._held(opened, partitions)
        for partition in partitions:
            found = held.get(_label(partition))
            if found is None or found["run_id"] != run_id:
                return None
            # With a primary key, the runs of other partitions may have taken rows over since.
            if not self._key and self._count(opened, partition) != found["rows"]:
                return None
        if not held:
            return None
        latest = max(held.values(), key=lambda row: int(row["version"]))
        return latest["version"], CommitInfo(run_id, latest["pipeline"], json.loads(latest["report"]))

    def _not_streamed(self, opened: Session) -> str:
        """A run replaces what runs wrote, and leaves alone what a stream did."""
        if not exists(opened, self._name, self._name.offsets):
            return "true"
        return f"{quoted(SOURCE)} NOT IN (SELECT source FROM {self._name.sql(self._name.offsets)})"

    def _count(self, opened: Session, partition: Partition) -> int:
        terms = [f"{quoted(name)} = ${i}" for i, (name, _) in enumerate(partition, 1)]
        where = " AND ".join([*terms, self._not_streamed(opened)])
        query = f"SELECT count(*) AS rows FROM {self._name.sql()} WHERE {where}"
        return int(opened.value(query, *(value for _, value in partition)))

    # Sessions

    def _session(self, doing: str) -> AbstractContextManager[Session]:
        return at_work(self.path, doing, self._name.url, self._application)


def _end(opened: Session) -> None:
    """The one step that makes a commit so; before it nothing has changed, and after it all has."""
    opened.commit()


def _label(partition: Partition) -> str:
    return partition_path(partition) or "-"
