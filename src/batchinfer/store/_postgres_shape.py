"""What a results table in PostgreSQL must be: its columns, its key, and what the role may do with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

import pyarrow as pa

from batchinfer.core import table_schema
from batchinfer.errors import StoreError
from batchinfer.store import _rules
from batchinfer.store._postgres_names import TableName, ddl, listed, quoted, sql_types, widening
from batchinfer.store._postgres_rows import columns_of
from batchinfer.store._postgres_session import Session


@dataclass(frozen=True, slots=True)
class TableShape:
    """What a run asks of a table. With a `key` that is its primary key; one that `widens` takes any new columns."""

    path: str
    name: TableName
    partition_by: tuple[str, ...]
    key: tuple[str, ...]
    widens: bool

    def types(self, schema: pa.Schema) -> dict[str, str]:
        """The table's columns for rows of `schema`. Raises StoreError where PostgreSQL has no such type."""
        return sql_types(self.path, table_schema(schema, self.partition_by), as_json=self.widens)

    def check(self, opened: Session, types: Mapping[str, str]) -> list[str]:
        """Hold the table against a run's columns; returns the statements that make it fit."""
        name = self.name
        columns = columns_of(opened, self.name)
        if not columns or not all(exists(opened, name, table) for table in (name.commits, name.fence)):
            return ddl(name, types, self.partition_by, self.key)
        labels = opened.rows(f"SELECT partition FROM {name.sql(name.fence)} LIMIT 1")
        for label in (row["partition"] for row in labels):
            found = [] if label == "-" else [unquote(p.partition("=")[0]) for p in label.split("/")]
            _rules.check_partition_columns(self.path, self.partition_by, found)
        _rules.check_schema(self.path, types, columns, widens=self.widens)
        if self.key:
            self._check_key(opened)
        return widening(name, {column: kind for column, kind in types.items() if column not in columns})

    def _check_key(self, opened: Session) -> None:
        indices = opened.rows(
            "SELECT array_agg(attname::text) AS columns FROM pg_index "
            "JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY (indkey) "
            "WHERE indrelid = to_regclass($1) AND indisunique AND indpred IS NULL AND indexprs IS NULL "
            "GROUP BY indexrelid",
            self.name.sql(),
        )
        if not any(sorted(index["columns"]) == sorted(self.key) for index in indices):
            raise StoreError(
                f"{self.path}: output.mode is upsert, and the table has no unique index on {listed(self.key)}",
                next_step=f"ALTER TABLE {self.name.sql()} ADD PRIMARY KEY ({listed(self.key)}), or write elsewhere",
                table=self.path,
                expected=list(self.key),
            )

    def check_may_make(self, opened: Session, statements: Sequence[str]) -> None:
        """Refuse before any work what PostgreSQL would refuse after it: a table that this role cannot make."""
        if not statements:
            return
        name = self.name
        schema = quoted(name.schema)
        (found,) = opened.rows(
            "SELECT current_user::text AS role, to_regnamespace($2) IS NOT NULL AS schema, "
            "(SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass($1)) AS owns, "
            "coalesce(has_schema_privilege(to_regnamespace($2)::oid, 'CREATE'), false) AS may",
            name.sql(),
            schema,
        )
        if found["may"] if found["owns"] is None else found["owns"]:
            return
        wanted = list(statements)
        if not found["schema"]:
            why, step = f"there is no schema {schema}", "let an owner"
            wanted.insert(0, f"CREATE SCHEMA {schema}")
        elif found["owns"] is None:
            why = f"the table is not there, and the role {found['role']} lacks CREATE on the schema {schema}"
            step = f"GRANT CREATE ON SCHEMA {schema} TO {quoted(found['role'])}, or let an owner"
        else:
            why, step = f"the table lacks columns, and {found['role']} is not its owner", "let its owner"
        raise StoreError(
            f"{self.path}: {why}",
            next_step=f"{step} run: {'; '.join(wanted)}; see docs/postgres.md, Rights",
            table=self.path,
            statements=wanted,
        )

    def check_grants(self, opened: Session) -> None:
        """Refuse before any work a table that this role may not read or write."""
        name = self.name
        wanted = {name.table: ["SELECT", "INSERT", "DELETE"], name.commits: ["SELECT", "INSERT"]}
        wanted[name.fence] = ["SELECT", "INSERT", "UPDATE"]
        if self.key:
            wanted[name.table].append("UPDATE")
        check_rights(opened, self.path, {name.sql(table): rights for table, rights in wanted.items()})


def check_rights(opened: Session, path: str, wanted: Mapping[str, Sequence[str]]) -> None:
    """Refuse tables, by their names in SQL, on which this role lacks rights that it has a use for."""
    pairs = [{"t": table, "p": right} for table, rights in wanted.items() for right in rights]
    lacking = opened.rows(
        "SELECT t, p FROM json_to_recordset($1::json) AS pairs(t text, p text) "
        "WHERE NOT has_table_privilege(to_regclass(t)::oid, p)",
        json.dumps(pairs),
    )
    if lacking:
        raise StoreError(
            f"{path}: this role lacks " + ", ".join(f"{row['p']} on {row['t']}" for row in lacking),
            next_step="; ".join(f"GRANT {row['p']} ON {row['t']} TO ROLE" for row in lacking),
            table=path,
        )


def exists(opened: Session, name: TableName, table: str) -> bool:
    """Whether this table, or the one beside it, is there."""
    return bool(opened.value("SELECT to_regclass($1) IS NOT NULL AS there", name.sql(table)))
