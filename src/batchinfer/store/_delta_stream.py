"""A Delta table that a stream appends to: each source's position is the version of an application transaction.

Rows and positions are one commit. It is made from the snapshot in which the positions were what the writer expects,
and commits that share an application transaction conflict, so of two writers of one source one is refused, whatever
generation it thinks it is of. The outcome of a commit is always told by the positions: nothing else is kept.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from batchinfer.core import POSITION, SOURCE, Partition, StagedPart, StagingArea, arrays, files
from batchinfer.errors import BatchinferError, StoreError, Transient
from batchinfer.store import _rules, _runs
from batchinfer.store._delta_log import METADATA, commits
from batchinfer.store._delta_table import (
    MOST_TURNS,
    STREAMED,
    active_files,
    app_id_of,
    check_table,
    claim_of,
    created,
    delta_schema,
    is_conflict,
    opened,
    position_of,
    said_by,
    statistics_of,
    token_of,
    transact,
    translated,
    tried,
    turns,
)
from batchinfer.store._parts import PartWriter
from batchinfer.store._streamed import Move, Replaced, in_window, refusal

_Parts = list[tuple[Partition, StagedPart]]


class DeltaStreamTable:
    """See `StreamTable` and `StreamRepair`.

    Args:
        path: local path or URL.
        partition_by: the table's partition columns, all text.
        pipeline: whose positions these are: each pipeline has its own.
    """

    def __init__(self, path: str, partition_by: Sequence[str], pipeline: str) -> None:
        self.path = _runs.absolute(path)
        self._partition_by = tuple(partition_by)
        self._pipeline = pipeline
        self._schema = pa.schema([])

    def begin(self, schema: pa.Schema) -> None:
        """See `StreamTable.begin`."""
        self._schema = schema
        _runs.refuse_url_parts(self.path)
        with translated(self.path, "open"):
            wanted = delta_schema(schema, self._partition_by)
            if opened(self.path) is None:
                _runs.refuse_parquet(self.path)
            table = opened(self.path) or created(self.path, wanted, self._partition_by, self._pipeline)
            check_table(self.path, self._partition_by, table, wanted)

    def positions(self, sources: Sequence[str]) -> dict[str, int]:
        """See `StreamTable.positions`."""
        with translated(self.path, "read the positions of"):
            return self._positions(opened(self.path), sources)

    def append(self, rows: pa.Table, moves: Mapping[str, Move], told: Mapping[str, Any]) -> int:
        """See `StreamTable.append`."""
        parts = self._stage(rows)
        for _ in turns():
            with translated(self.path, "commit to"):
                table = self._opened()
                found = self._positions(table, list(moves))
                for source, move in moves.items():
                    if found.get(source) != move.at:
                        raise refusal(self.path, source, move.at, found.get(source))
                additions = _additions(parts)
                versions = {self._app_id(source): move.to for source, move in moves.items()}
                stated = self._told(moves, told)
                properties = _properties(versions | _claims(table, parts), stated)
            error = tried(lambda t=table, a=additions, p=properties: self._transact(t, a, p))
            if error is None:
                return self._version(table, stated)
            if not is_conflict(error):
                if (version := self._done(moves, error)) is not None:
                    return version
                raise StoreError(
                    f"{self.path}: cannot commit: {said_by(error)}",
                    next_step="see the reason above, then start the stream again: it goes on from the table",
                    table=self.path,
                ) from error
        raise self._too_many()

    def unstorable(self, rows: pa.RecordBatch) -> Mapping[int, str]:
        """See `StreamRepair.unstorable`: Delta holds all that results can be."""
        return {}

    def replace(
        self, rows: Iterable[pa.Table], window: Mapping[str, tuple[int, int]], told: Mapping[str, Any]
    ) -> Replaced:
        """See `StreamRepair.replace`. Files that hold such rows are written anew without them."""
        fresh = [part for piece in rows for part in self._stage(piece)]
        written = sum(part.rows for _, part in fresh)
        kept: dict[str, tuple[_Parts, int]] = {}
        for _ in turns():
            with translated(self.path, "repair"):
                table = self._opened()
                touched = list(self._touched(table, window))
                for row in touched:
                    if row["path"] not in kept:
                        kept[row["path"]] = self._without(row, window)
                parts = [*fresh, *(part for row in touched for part in kept[row["path"]][0])]
                removed = sum(kept[row["path"]][1] for row in touched)
                # The same versions again: who appends or replaces meanwhile is a conflict, and finds nothing moved.
                found = self._positions(table, list(window))
                same = {self._app_id(source): position for source, position in found.items()}
                for partition in {_partition(row, self._partition_by) for row in touched}:
                    if token := token_of(table, partition):
                        same[app_id_of(partition)] = token
                moves = {source: Move(low, high) for source, (low, high) in window.items()}
                stated = self._told(moves, told)
                properties = _properties(same | _claims(table, parts), stated)
                actions = [*_additions(parts), *_removals(touched)]
            error = tried(lambda t=table, a=actions, p=properties: self._transact(t, a, p))
            if error is None:
                return Replaced(removed, written, self._version(table, stated))
            if not is_conflict(error):
                raise Transient(
                    f"{self.path}: the repair may or may not be committed: {said_by(error)}",
                    next_step="repair again: done twice it is done once",
                    table=self.path,
                ) from error
        raise self._too_many()

    # Positions

    def _app_id(self, source: str) -> str:
        return position_of(self._pipeline, source)

    def _positions(self, table: Any, sources: Sequence[str]) -> dict[str, int]:
        if table is None:
            return {}
        found = {source: table.transaction_version(self._app_id(source)) for source in sources}
        return {source: int(version) for source, version in found.items() if version is not None}

    def _done(self, moves: Mapping[str, Move], error: Exception) -> int | None:
        """The version, if a commit whose answer was lost took place: the positions are where it brings them."""
        try:
            table = opened(self.path)
            found = self._positions(table, list(moves))
        except Exception as e:
            raise Transient(
                f"{self.path}: a commit's outcome is not known yet: {said_by(error)}; {said_by(e)}",
                next_step="the table's positions say it when it can be reached",
                table=self.path,
            ) from error
        done = bool(moves) and all(found.get(source) == move.to for source, move in moves.items())
        return int(table.version()) if done else None

    def _told(self, moves: Mapping[str, Move], told: Mapping[str, Any]) -> dict[str, str]:
        report = {**told, "offsets": {source: [move.at, move.to] for source, move in moves.items()}}
        stated = {"pipeline": self._pipeline, "report": report, "partitions": {}}
        return {"run_id": str(told.get("run_id", "")), METADATA: json.dumps(stated)}

    def _version(self, before: Any, stated: Mapping[str, str]) -> int:
        """The version that a commit which says this became; delta-rs does not tell."""
        with translated(self.path, "read the history of"):
            table = self._opened()
            since = commits(table, table.version() - before.version())
        found = (raw["version"] for raw in since if raw.get(METADATA) == stated[METADATA])
        return int(next(found, table.version()))

    # Files

    def _opened(self) -> Any:
        table = opened(self.path)
        if table is None:
            raise StoreError(f"{self.path}: no Delta table here", table=self.path)
        return table

    def _transact(self, table: Any, actions: list[Any], properties: Any) -> None:
        transact(table, actions, self._partition_by, properties)

    def _stage(self, rows: pa.Table) -> _Parts:
        """Write rows, a part for each partition, as files that no reader sees yet."""
        staged: _Parts = []
        with translated(self.path, "write a part of"):
            for partition, piece in _split(rows, self._partition_by):
                name = f"{STREAMED}{uuid.uuid4().hex}"
                writer = PartWriter(StagingArea(self.path, ""), partition, name, piece.schema, (POSITION,))
                for batch in piece.to_batches():
                    writer.write(batch)
                if (part := writer.finish()) is not None:
                    staged.append((partition, part))
        return staged

    def _touched(self, table: Any, window: Mapping[str, tuple[int, int]]) -> Iterator[dict[str, Any]]:
        """The files with rows of these offsets. A run's own parts have none: their sources are files."""
        for row in active_files(table):
            if not _rules.is_part(row["path"]) and self._dataset(row).count_rows(filter=in_window(window)):
                yield row

    def _without(self, row: dict[str, Any], window: Mapping[str, tuple[int, int]]) -> tuple[_Parts, int]:
        """A file's other rows, staged; and how many it has of these offsets."""
        dataset = self._dataset(row)
        kept = dataset.to_table(filter=~in_window(window))
        partition = _partition(row, self._partition_by)
        for name, value in partition:
            kept = kept.append_column(name, pa.array([value] * kept.num_rows, pa.string()))
        removed = dataset.count_rows() - kept.num_rows
        labels = [
            f.with_type(pa.dictionary(pa.int32(), pa.string())) if _is_label(f) else f for f in kept.schema
        ]
        return self._stage(kept.cast(pa.schema(labels))), removed

    def _dataset(self, row: dict[str, Any]) -> Any:
        import pyarrow.dataset as ds  # imports pandas

        filesystem, path = files.locate(files.join(self.path, row["path"]))
        return ds.dataset(path, filesystem=filesystem, format="parquet")

    def _too_many(self) -> BatchinferError:
        return Transient(
            f"{self.path}: {MOST_TURNS} commits of others went first; nothing was changed",
            next_step="try again",
            table=self.path,
        )


def _is_label(field: pa.Field) -> bool:
    return field.name in {"_model", "_run_id", SOURCE}


def _split(rows: pa.Table, partition_by: Sequence[str]) -> Iterator[tuple[Partition, pa.Table]]:
    if not rows.num_rows:
        return
    if not partition_by:
        yield (), rows
        return
    columns = [rows[name].combine_chunks().dictionary_encode() for name in partition_by]
    groups = np.zeros(rows.num_rows, np.int64)
    for column in columns:
        groups = groups * len(column.dictionary) + arrays.to_numpy(column.indices)[0]
    for group in np.unique(groups):
        here = groups == group
        first = int(here.argmax())
        values = (column[first].as_py() for column in columns)
        piece = rows.filter(arrays.from_numpy(here)).drop_columns(list(partition_by))
        yield tuple(zip(partition_by, values, strict=True)), piece


def _partition(row: Mapping[str, Any], partition_by: Sequence[str]) -> Partition:
    return tuple((name, row["partition"][name]) for name in partition_by)


def _additions(parts: _Parts) -> list[Any]:
    from deltalake.transaction import AddAction

    now_ms = int(time.time() * 1000)
    return [
        AddAction(part.path, part.size_bytes, dict(partition), now_ms, True, statistics_of(part))
        for partition, part in parts
    ]


def _removals(rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    from deltalake.transaction import RemoveAction

    now_ms = int(time.time() * 1000)
    return [RemoveAction(r["path"], True, now_ms, r["size_bytes"], dict(r["partition"])) for r in rows]


def _claims(table: Any, parts: _Parts) -> dict[str, int]:
    """Says of partitions in which a stream had no rows yet that it has: see `DeltaStore`."""
    names = {claim_of(partition) for partition, _ in parts}
    return {name: 1 for name in names if table.transaction_version(name) is None}


def _properties(versions: Mapping[str, int], metadata: dict[str, str]) -> Any:
    from deltalake import CommitProperties
    from deltalake.transaction import Transaction

    transactions = [Transaction(name, version) for name, version in versions.items()]
    return CommitProperties(custom_metadata=metadata, app_transactions=transactions)
