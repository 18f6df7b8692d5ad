"""Results tables: what workers stage, and the adapters that commit it in one atomic step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol

import pyarrow as pa

from batchinfer.core import Store, StoreHistory
from batchinfer.errors import SpecError
from batchinfer.store._appends import append_once, provide_appended, read_appended
from batchinfer.store._parts import PartWriter, intact, part_name, read_receipt, verified, write_receipt
from batchinfer.store._streamed import Move, Replaced, StreamedTable, in_window, open_stream_table

__all__ = [
    "STORES",
    "Move",
    "PartWriter",
    "Replaced",
    "ResultsStore",
    "StreamedTable",
    "append_once",
    "in_window",
    "intact",
    "open_store",
    "open_stream_table",
    "part_name",
    "provide_appended",
    "read_appended",
    "read_receipt",
    "verified",
    "write_receipt",
]

STORES = {
    "delta": "batchinfer.store._delta:DeltaStore",
    "parquet": "batchinfer.store._parquet:ParquetStore",
    "postgres": "batchinfer.store._postgres:PostgresStore",
}


class ResultsStore(Store, StoreHistory, Protocol):
    """What `open_store` opens: a table that commits, remembers, and can be read."""

    @property
    def path(self) -> str:
        """The table's location: a URL, or an absolute path."""

    def exists(self) -> bool:
        """Whether there is a table."""

    def provide(self, schema: pa.Schema) -> None:
        """Called when a run begins that may come to need this table, and where there is none. A store in which only
        some may make tables makes it now: what is refused is refused before any work. Raises StoreError.
        """

    def dataset(self) -> Any:
        """What readers see now, as a `pyarrow.dataset.Dataset`, or what has its `schema`, `to_table`,
        `to_batches` and `count_rows`. Raises StoreError where there is no table.
        """

    def find(self, equal: Mapping[str, pa.Scalar]) -> pa.Table:
        """The rows whose columns have these values. Raises StoreError where there is no table."""

    def clear(self, run_id: str) -> None:
        """Drop what the run staged and readers do not need. Called when all of the run is committed."""


def open_store(
    kind: str,
    path: str,
    partition_by: Sequence[str],
    pipeline: str,
    *,
    widens: bool = False,
    upsert: Sequence[str] = (),
) -> ResultsStore:
    """The results table of `kind` at `path`, which need not exist yet. Touches nothing.

    A table that `widens` takes columns that it does not have yet, and rows that lack some of its own. One with
    `upsert` has these columns as its primary key; the postgres store alone can do that.

    Raises:
        SpecError: no store has that name.
        StoreError: such a store cannot be at that path.
    """
    if kind not in STORES:
        raise SpecError(
            f"output.store: no store is called '{kind}'",
            next_step=f"use one of: {', '.join(sorted(STORES))}",
            found=kind,
            allowed=sorted(STORES),
        )
    module, _, name = STORES[kind].partition(":")
    adapter: type[ResultsStore] = getattr(import_module(module), name)
    options = {"upsert": tuple(upsert)} if upsert else {}
    return adapter(path, tuple(partition_by), pipeline, widens=widens, **options)  # type: ignore[call-arg]
