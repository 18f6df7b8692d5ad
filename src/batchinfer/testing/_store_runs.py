"""Runs in miniature: what the store suite stages, commits and sees."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchinfer.core import (
    LINEAGE,
    CommitInfo,
    Fence,
    Partition,
    StagedPart,
    Store,
    StoreHistory,
    files,
    partition_path,
)

SCHEMA = pa.schema([pa.field("id", pa.int64()), pa.field("score", pa.float32()), *LINEAGE])
ODD_VALUES = (
    "a b",
    "a/b",
    "a%2Fb",
    "ä",
    "日本",
    "%",
    "=",
    "x=y",
    "a+b&c",
    "#?",
    "it's",
    '"',
    "\\",
    "a:b",
    ".",
)


class StoreUnderTest(Store, StoreHistory, Protocol):
    """What the suite asks of a store: both ports, a way to read what readers see, and a run's end."""

    def dataset(self) -> Any:
        """What readers see now, as a `pyarrow.dataset.Dataset`."""

    def clear(self, run_id: str) -> None:
        """Delete what a run staged that has committed and needs it no more."""


class Factory(Protocol):
    """Opens the store under test. It is sent to other processes, so it must pickle."""

    def __call__(self, path: str, partition_by: Sequence[str], pipeline: str, /) -> StoreUnderTest:
        """The store at `path`, which need not exist yet."""


Rows = Mapping[Partition, range]


def day(value: str) -> Partition:
    """A partition of the suite's tables."""
    return (("ds", value),)


WHOLE: Partition = ()
TWO_DAYS: Rows = {day("d1"): range(300), day("d2"): range(300, 500)}


def info(run_id: str) -> CommitInfo:
    """What the suite's commits say of themselves."""
    return CommitInfo(run_id, "suite", {"rows": {"read": 1, "scored": 1}, "why": "ä 'quoted' \"text\""})


def stage(
    store: StoreUnderTest, run_id: str, rows: Rows, *, parts: int = 1, attempt: str = "a"
) -> list[tuple[Partition, StagedPart]]:
    """Write parts as a worker does: under a name with the run's id in it, in the partition's folder."""
    staged = []
    for partition, ids in rows.items():
        for unit in range(parts if ids else 0):
            chosen = ids[unit::parts]
            sink = pa.BufferOutputStream()
            pq.write_table(pa.Table.from_batches([_batch(run_id, chosen)]), sink, store_schema=False)
            data = sink.getvalue().to_pybytes()
            path = f"part-{unit:05d}-{run_id}-{attempt}{parts}.parquet"
            path = f"{partition_path(partition)}/{path}".lstrip("/")
            files.write_bytes(files.join(store.staging(run_id).parts, path), data)
            digest = hashlib.sha256(data).hexdigest()
            low, high = {"id": chosen[0]}, {"id": chosen[-1]}
            staged.append((partition, StagedPart(path, len(chosen), len(data), digest, low, high)))
    return staged


def _batch(run_id: str, ids: range) -> pa.RecordBatch:
    def label(text: str) -> pa.DictionaryArray:
        return pa.DictionaryArray.from_arrays(pa.array([0] * len(ids), pa.int32()), pa.array([text]))

    numbers = np.array(ids, np.int64)
    scores = pa.array(np.sin(numbers).astype(np.float32))
    columns = [numbers, scores, label("m@1"), label(run_id), label("in.parquet"), numbers]
    return pa.RecordBatch.from_arrays([pa.array(c) for c in columns], schema=SCHEMA)


def run(store: StoreUnderTest, run_id: str, rows: Rows, *, parts: int = 1, attempt: str = "a") -> int:
    """A whole run: begin, stage, commit."""
    fence: Fence = store.begin(run_id, SCHEMA, list(rows))
    return store.commit(fence, stage(store, run_id, rows, parts=parts, attempt=attempt), info(run_id))


def seen(store: StoreUnderTest) -> dict[tuple[str, str], int]:
    """How many rows of which run a reader sees in which partition; each row is there once."""
    table = store.dataset().to_table()
    if "id" not in table.column_names:
        return {}
    value = table["ds"] if "ds" in table.column_names else pa.array([""] * table.num_rows)
    counted = pa.table({"ds": value, "run": pc.cast(table["_run_id"], pa.string()), "id": table["id"]})
    groups = counted.group_by(["ds", "run"]).aggregate([("id", "count_distinct"), ("id", "count")])
    assert groups["id_count"].to_pylist() == groups["id_count_distinct"].to_pylist(), "rows are doubled"
    return {(row["ds"], row["run"]): row["id_count"] for row in groups.to_pylist()}


def ours(store: StoreUnderTest, limit: int = 50) -> list[str]:
    """The runs in the history, newest first, without what others (or the table's creation) wrote."""
    return [commit["run_id"] for commit in store.history(limit) if commit["run_id"] is not None]


def age(folder: Path, run_id: str, seconds: float) -> None:
    """Make all files of a run that old."""
    then = time.time() - seconds
    for path in folder.rglob("*"):
        if path.is_file() and run_id in str(path.relative_to(folder)):
            os.utime(path, (then, then))


def parts_of(folder: Path, run_id: str) -> list[str]:
    """The parts of a run, wherever they lie."""
    return sorted(str(path) for path in folder.rglob(f"part-*-{run_id}-*.parquet"))
