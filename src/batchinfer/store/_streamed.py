"""What a stream writes: rows and the offsets that they bring it to, in one atomic step.

A *source* is a topic's partition as the lineage column `_source` has it, a *position* the next offset to be written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from batchinfer.core import POSITION, SOURCE
from batchinfer.errors import CommitRefused, SpecError

TABLES = {
    "delta": "batchinfer.store._delta_stream:DeltaStreamTable",
    "postgres": "batchinfer.store._postgres_stream:PostgresStreamTable",
}


@dataclass(frozen=True, slots=True)
class Move:
    """A source's position before a commit and after it. `at` is None where the table knows none."""

    at: int | None
    to: int


@dataclass(frozen=True, slots=True)
class Replaced:
    """What a repair did: rows that went, rows that came, and the version that shows it."""

    removed: int
    written: int
    version: int


class StreamTable(Protocol):
    """A results table that a stream appends to.

    Raises from every method:
        StoreError: the table cannot be read or written. Nothing has changed.
        Transient: it may later. Whether something has changed, `positions` says.
    """

    def begin(self, schema: pa.Schema) -> None:
        """Check that the table takes rows of `schema` (without partition columns); make it where there is none."""

    def positions(self, sources: Sequence[str]) -> dict[str, int]:
        """Each source's position, of those that the table knows."""

    def append(self, rows: pa.Table, moves: Mapping[str, Move], told: Mapping[str, Any]) -> int:
        """Commit rows (partition columns last, as text) and positions together; returns the version.

        Args:
            rows: may be none.
            moves: of all sources of the rows.
            told: kept in the table's history: `run_id`, and what else is to be known.

        Raises:
            CommitRefused: a source is elsewhere than `at`: another writer has gone on. Nothing has changed.
        """


class StreamRepair(Protocol):
    """A results table whose rows of some offsets can be replaced."""

    def unstorable(self, rows: pa.RecordBatch) -> Mapping[int, str]:
        """The rows that the table cannot hold, and why; others it can."""

    def replace(
        self, rows: Iterable[pa.Table], window: Mapping[str, tuple[int, int]], told: Mapping[str, Any]
    ) -> Replaced:
        """Replace exactly the rows of these offsets (from, to) by others of them, in one commit.

        A stream may append meanwhile: positions stay.
        """


class StreamedTable(StreamTable, StreamRepair, Protocol):
    """What `open_stream_table` opens."""

    path: str


def open_stream_table(
    kind: str, path: str, partition_by: Sequence[str], pipeline: str, *, upsert: Sequence[str] = ()
) -> StreamedTable:
    """The results table at `path` as a pipeline's stream writes it. Touches nothing.

    Raises:
        SpecError: a store of this kind cannot take offsets and rows in one step.
        StoreError: such a store cannot be at that path.
    """
    if kind not in TABLES:
        raise SpecError(
            f"output.store: a stream cannot write to '{kind}' exactly once: rows and offsets would be two steps, "
            "and a kill between them would lose or double rows",
            next_step=f"use one of: {', '.join(TABLES)}; or take 'store' out of stream.sinks",
            found=kind,
            allowed=list(TABLES),
        )
    module, _, name = TABLES[kind].partition(":")
    adapter: Any = getattr(import_module(module), name)
    options = {"upsert": tuple(upsert)} if upsert else {}
    table: StreamedTable = adapter(path, tuple(partition_by), pipeline, **options)
    return table


def in_window(window: Mapping[str, tuple[int, int]]) -> Any:
    """The rows of these offsets, as a filter on a table."""
    found: Any = pc.scalar(False)
    for source, (low, high) in window.items():
        here = (pc.field(POSITION) >= low) & (pc.field(POSITION) < high)
        found |= (pc.field(SOURCE) == source) & here
    return found


def refusal(table: str, source: str, expected: int | None, found: int | None) -> CommitRefused:
    """Another writer has gone on with a source."""
    return CommitRefused(
        f"{table}: {source} stands at offset {found}, this writer expected {expected}; the rows there stand",
        next_step="nothing: who reads the partition now goes on from there",
        table=table,
        source=source,
        expected=expected,
        found=found,
    )
