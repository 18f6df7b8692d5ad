"""The rows of staged parts on their way into a table, and which of them PostgreSQL does not take."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchinfer.core import POSITION, SOURCE, Partition, StagedPart, constant_label, files
from batchinfer.errors import StoreError
from batchinfer.store._postgres_names import sql_type
from batchinfer.store._postgres_session import NO_SUCH_TEXT, sqlstate

_BATCH_ROWS = 1 << 16
_KEY_TWICE = "21000"


class PartRows:
    """The rows of a commit's parts with their partition columns, in bounded batches.

    Args:
        root: where the parts lie.
        parts: what to read, in this order.
        schema: the run's.
        partition_by: the partition columns, which the parts do not hold.
    """

    def __init__(
        self,
        root: str,
        parts: Sequence[tuple[Partition, StagedPart]],
        schema: pa.Schema,
        partition_by: Sequence[str],
    ) -> None:
        self._root = root
        self._parts = parts
        self._labels = [field.name for field in schema if pa.types.is_dictionary(field.type)]
        label = pa.dictionary(pa.int32(), pa.string())
        stored = [
            f if f.name in self._labels or sql_type(f.type) else f.with_type(pa.string()) for f in schema
        ]
        self.schema = pa.schema([*stored, *(pa.field(name, label) for name in partition_by)])
        self._failure: Exception | None = None

    def reader(self) -> pa.RecordBatchReader:
        """All rows, once."""
        return pa.RecordBatchReader.from_batches(self.schema, self._watched())

    def check(self, table: str, copied: int) -> None:
        """Hold what arrived against what was staged.

        Raises:
            StoreError: they differ.
        """
        staged = sum(part.rows for _, part in self._parts)
        if copied != staged:
            raise StoreError(
                f"{table}: {copied} rows arrived of {staged} that were staged; nothing was changed",
                next_step="look for triggers and rules on the table; the server must count rows (track_counts)",
                table=table,
                expected=staged,
                found=copied,
            )

    def explain(self, table: str, error: Exception, key: Sequence[str]) -> None:
        """Raise what a failed COPY was about, where the rows themselves can say it.

        Raises:
            StoreError: a part cannot be read, a text holds a NUL, or a key comes twice; names the part or the row.
        """
        if self._failure is not None:
            raise StoreError(
                f"{self._root}: cannot read a staged part: {self._failure}",
                next_step="run again: the unit is scored anew",
                path=self._root,
            ) from self._failure
        if sqlstate(error) == NO_SUCH_TEXT:
            self._explain_text(table, error)
        if sqlstate(error) == _KEY_TWICE:
            self._explain_key(table, error, key)

    def _watched(self) -> Iterator[pa.RecordBatch]:
        try:
            for partition, part in self._parts:
                yield from self._read(partition, part)
        except Exception as e:  # on its way through the driver it would lose its type
            self._failure = e
            raise

    def _read(self, partition: Partition, part: StagedPart) -> Iterator[pa.RecordBatch]:
        filesystem, path = files.locate(files.join(self._root, part.path))
        stored = self.schema.names[: len(self.schema) - len(partition)]
        with filesystem.open_input_file(path) as source:
            parquet = pq.ParquetFile(source, read_dictionary=self._labels)
            for batch in parquet.iter_batches(_BATCH_ROWS):
                columns = [batch.column(name) for name in stored]
                columns += [constant_label(value, batch.num_rows) for _, value in partition]
                typed = [_as(column, field.type) for column, field in zip(columns, self.schema, strict=True)]
                yield pa.RecordBatch.from_arrays(typed, schema=self.schema)

    def _explain_text(self, table: str, error: Exception) -> None:
        for partition, part in self._parts:
            for batch in self._read(partition, part):
                for name, column in zip(batch.schema.names, batch.columns, strict=True):
                    if (row := _first_nul(column)) is not None:
                        where = {n: batch.column(n)[row].as_py() for n in (SOURCE, POSITION)}
                        raise StoreError(
                            f"{table}: column '{name}' of {where[SOURCE]}, row {where[POSITION]}, holds a NUL "
                            "character, which PostgreSQL text cannot hold; nothing was changed",
                            next_step="mend the input, do not carry the column, or set output.store to delta",
                            table=table,
                            column=name,
                            source=where[SOURCE],
                            position=where[POSITION],
                        ) from error

    def _explain_key(self, table: str, error: Exception, key: Sequence[str]) -> None:
        columns = [*key, SOURCE, POSITION]
        batches = [b.select(columns) for partition, part in self._parts for b in self._read(partition, part)]
        rows = pa.Table.from_batches(batches).unify_dictionaries()
        rows = rows.set_column(len(key), SOURCE, rows[SOURCE].cast(pa.string()))
        told = [(name, kind) for name in (SOURCE, POSITION) for kind in ("min", "max")]
        groups = rows.group_by(list(key)).aggregate([(POSITION, "count"), *told])
        for twice in groups.filter(pc.field(f"{POSITION}_count") > 1).slice(0, 1).to_pylist():
            said = ", ".join(key)  # and not its value, which may be of a sensitive column
            raise StoreError(
                f"{table}: one key ({said}) comes {twice[f'{POSITION}_count']} times in this run, as in "
                f"{twice[f'{SOURCE}_min']}, row {twice[f'{POSITION}_min']}, and {twice[f'{SOURCE}_max']}, row "
                f"{twice[f'{POSITION}_max']}; nothing was changed",
                next_step="make input.key name one row, or set output.mode to replace",
                table=table,
                key=list(key),
            ) from error


def _as(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """A column as its table holds it: of a type that PostgreSQL has not, in a quarantine, as JSON text."""
    if pa.types.is_nested(column.type) and not pa.types.is_nested(kind):
        return pa.array([None if v is None else json.dumps(v, default=str) for v in column.to_pylist()], kind)
    return column.cast(kind)


def _first_nul(column: pa.Array) -> int | None:
    kind: Any = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
    places = None
    if pa.types.is_list(column.type):
        places, column = pc.list_parent_indices(column), column.flatten()
    if not pa.types.is_string(column.type):
        return None
    found = pc.index(pc.match_substring(column, "\0"), True).as_py()
    if found < 0:
        return None
    return int(found if places is None else places[found].as_py())
