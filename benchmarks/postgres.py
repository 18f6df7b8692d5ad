"""What the commit to PostgreSQL costs beside a raw COPY of the same rows into the same table.

python -m benchmarks.postgres postgresql://user@host/database [--rows N] [--rounds N]

A raw COPY sends with psql what COPY wrote out before: nothing is read, decoded or encoded. The store begins,
checks, reads its Parquet parts, encodes and commits. All go into the same empty table with its index, in turns.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from batchinfer.core import LINEAGE, CommitInfo, Partition, StagedPart
from batchinfer.store import PartWriter
from batchinfer.store._postgres import PostgresStore

PARTITION: Partition = (("ds", "2013-01-08"),)
TABLE = "batchinfer_benchmark"
RUN_ID = "benchmark"


def results(rows: int) -> pa.Table:
    """Result rows as the flights pipeline has them: a key, three carried labels, two scores, lineage."""
    random = np.random.default_rng(2013)

    def label(values: list[str]) -> pa.Array:
        return pa.array(np.array(values)[random.integers(0, len(values), rows)])

    def constant(text: str) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([text]))

    columns = {
        "flight_id": pa.array(np.arange(rows)),
        "carrier": label(["AA", "UA", "DL", "B6"]),
        "origin": label(["JFK", "LGA", "EWR"]),
        "dest": label(["SFO", "LAX", "ORD", "BOS", "MIA"]),
        "p_on_time": pa.array(random.random(rows).astype(np.float32)),
        "p_late": pa.array(random.random(rows).astype(np.float32)),
    }
    lineage = [
        constant("flight-delay@1"),
        constant("0123456789abcdef0123"),
        constant("data/flights/part-0.parquet"),
    ]
    fields = [pa.field(name, column.type) for name, column in columns.items()]
    return pa.table(
        [*columns.values(), *lineage, pa.array(np.arange(rows))], schema=pa.schema([*fields, *LINEAGE])
    )


def staged(store: PostgresStore, rows: pa.Table) -> list[tuple[Partition, StagedPart]]:
    parts = []
    size = max(1, rows.num_rows // 4)
    for number, first in enumerate(range(0, rows.num_rows, size)):
        name = f"part-{number:05d}-{RUN_ID}-a"
        writer = PartWriter(store.staging(RUN_ID), PARTITION, name, rows.schema, ["flight_id"])
        for batch in rows.slice(first, size).to_batches(1 << 16):
            writer.write(batch)
        part = writer.finish()
        assert part is not None
        parts.append((PARTITION, part))
    return parts


def psql(url: str, statement: str, **streams: Any) -> None:
    subprocess.run(["psql", "-q", "-v", "ON_ERROR_STOP=1", "-c", statement, url], check=True, **streams)


def raw_copy(url: str, content: Path, how: str) -> None:
    with content.open("rb") as file:
        psql(url, f"COPY {TABLE} FROM STDIN {how}", stdin=file)


def copy_out(url: str, content: Path, how: str) -> Path:
    with content.open("wb") as file:
        psql(url, f"COPY {TABLE} TO STDOUT {how}", stdout=file)
    return content


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    url, rows = arguments.url, results(arguments.rows)
    psql(url, "; ".join(f"DROP TABLE IF EXISTS {TABLE}{suffix}" for suffix in ("", "_commits", "_fence")))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        store = PostgresStore(f"{url}#{TABLE}", ("ds",), "benchmark", staging=made)
        store.begin(RUN_ID, rows.schema, [PARTITION])
        parts = staged(store, rows)

        def commit() -> None:
            fence = store.begin(RUN_ID, rows.schema, [PARTITION])
            store.commit(fence, parts, CommitInfo(RUN_ID, "benchmark", {}))

        def read() -> None:
            assert sum(batch.num_rows for batch in store.dataset().to_batches()) == rows.num_rows

        commit()
        binary = copy_out(url, folder / "binary", "(FORMAT binary)")
        text = copy_out(url, folder / "text", "")
        ways: dict[str, Callable[[], None]] = {
            "raw COPY, binary": lambda: raw_copy(url, binary, "(FORMAT binary)"),
            "raw COPY, text": lambda: raw_copy(url, text, ""),
            "begin and commit": commit,
            "reading it all back": read,
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(arguments.rounds):
            for name, way in ways.items():
                if way is not read:
                    psql(url, f"TRUNCATE {TABLE}")
                started = time.perf_counter()
                way()
                seconds[name].append(time.perf_counter() - started)
        row_bytes = binary.stat().st_size / arguments.rows
    psql(url, "; ".join(f"DROP TABLE {TABLE}{suffix}" for suffix in ("", "_commits", "_fence")))
    base = statistics.median(seconds["raw COPY, binary"])
    columns = len(rows.schema) + len(PARTITION)
    print(
        f"{arguments.rows:,} rows of {columns} columns and {row_bytes:.0f} bytes; medians of {arguments.rounds}"
    )
    for name in ways:
        median = statistics.median(seconds[name])
        print(
            f"  {name:22s} {arguments.rows / median / 1e3:7.0f} k rows/s   {base / median:5.2f} of raw COPY, binary"
        )


if __name__ == "__main__":
    main()
