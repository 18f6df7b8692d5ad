"""The floor: what pyarrow, NumPy and ONNX Runtime alone need for each stage, on every core.

Each stage does the work of `rows` rows with nothing around it.  Their sum is the least that a job
can cost which reads, scores and writes these rows with these libraries.  `by_hand` is the same
stages chained by the shortest program that does it: how close to the sum one can come.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from .data import FEATURES, KEY, ROW_GROUP_ROWS, Floats
from .measure import Cost, parallel
from .scoring import BLOCK_ROWS, Columns, block, fill, score, session

POOL_GROUPS = 3
"""Row groups that a stage cycles over: enough for every distinct row of the dataset."""
FILE_GROUPS = 4
FILE_ROWS = FILE_GROUPS * ROW_GROUP_ROWS
BATCHES = (256, 512, 1_024, 2_048, 4_096, 8_192)
SWEEP_SECONDS = 0.4
MODEL_SECONDS = 5.0

CONSTANT = pa.dictionary(pa.int32(), pa.string())
RESULT = pa.schema(
    [
        pa.field(KEY, pa.int64(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("_model", CONSTANT, nullable=False),
        pa.field("_run_id", CONSTANT, nullable=False),
        pa.field("_source", CONSTANT, nullable=False),
        pa.field("_position", pa.int64(), nullable=False),
    ]
)


def writer_options(schema: pa.Schema) -> dict[str, Any]:
    """The fastest settings found for result rows.

    What gained, most first: columns without definition levels (`nullable=False`), no statistics on
    the constant columns, no dictionary, delta and byte-stream-split encodings, pages of a whole
    row group in place of 20,000 rows.
    """
    dictionaries = [field.name for field in schema if pa.types.is_dictionary(field.type)]
    encodings = {
        field.name: "BYTE_STREAM_SPLIT" if pa.types.is_floating(field.type) else "DELTA_BINARY_PACKED"
        for field in schema
        if field.name not in dictionaries
    }
    return {
        "compression": "zstd",
        "compression_level": 1,
        "use_dictionary": dictionaries or False,
        "column_encoding": encodings,
        "write_statistics": list(encodings),
        "write_batch_size": ROW_GROUP_ROWS // 2,
        "max_rows_per_page": ROW_GROUP_ROWS,
    }


def features(table: pa.Table) -> Columns:
    return [table[name].chunk(0).to_numpy() for name in FEATURES]


def result_table(ids: pa.Array, scores: Floats, positions: npt.NDArray[np.int64]) -> pa.Table:
    zeros = pa.array(np.zeros(len(scores), np.int32))
    constants = [
        pa.DictionaryArray.from_arrays(zeros, [text])
        for text in ("mlp@1", "0123456789abcdef", "flights-0000.parquet")
    ]
    return pa.table([ids, pa.array(scores), *constants, pa.array(positions)], schema=RESULT)


@dataclass(frozen=True, slots=True)
class RowGroup:
    path: Path
    number: int
    first_row: int
    rows: int


def row_groups(flights: Path) -> list[RowGroup]:
    found = []
    for path in sorted(flights.glob("*.parquet")):
        metadata, first = pq.read_metadata(path), 0
        for number in range(metadata.num_row_groups):
            rows = metadata.row_group(number).num_rows
            found.append(RowGroup(path, number, first, rows))
            first += rows
    return found


def reader() -> Callable[[RowGroup], pa.Table]:
    """Reads row groups, keeping the last file open: one for each thread."""
    opened: tuple[Path, pq.ParquetFile] | None = None

    def read(group: RowGroup) -> pa.Table:
        nonlocal opened
        if opened is None or opened[0] != group.path:
            opened = (group.path, pq.ParquetFile(group.path, pre_buffer=False))
        return opened[1].read_row_group(group.number, columns=[KEY, *FEATURES], use_threads=False)

    return read


class Floor:
    """The stages over one dataset and one model.  Each method returns what it cost."""

    def __init__(self, flights: Path, model: Path, scratch: Path) -> None:
        self.groups = row_groups(flights)
        self.rows = sum(group.rows for group in self.groups)
        self.scratch = scratch
        self.session = session(model)
        self.pool = [reader()(group) for group in self.groups[:POOL_GROUPS]]
        self.columns = [features(table) for table in self.pool]
        self.tensors = [
            fill(columns, 0, np.empty((len(columns[0]), len(FEATURES)), np.float32))
            for columns in self.columns
        ]
        rates = self.sweep()
        self.batch_rows = max(rates, key=lambda batch: rates[batch])
        self.rates = rates
        self.model_rows = min(self.rows, int(rates[self.batch_rows] * MODEL_SECONDS))
        self.results = self._results()

    def sweep(self) -> dict[int, float]:
        """Rows per second of the model alone at each batch size, each for a moment, twice."""
        group = [tensor[: ROW_GROUP_ROWS // 4] for tensor in self.tensors]
        rows = sum(map(len, group))
        trial = self._model(group, 4_096).wall_s
        loops = max(1, round(SWEEP_SECONDS / trial))
        rates = dict.fromkeys(BATCHES, 0.0)
        for _, batch in itertools.product(range(2), BATCHES):
            seconds = self._model(group * loops, batch).wall_s
            rates[batch] = max(rates[batch], loops * rows / seconds)
        return rates

    def decode(self) -> Cost:
        return parallel(self.groups, reader)

    def tensors_alone(self) -> Cost:
        def worker() -> Callable[[Columns], None]:
            tensor = block()

            def work(columns: Columns) -> None:
                for start in range(0, len(columns[0]), BLOCK_ROWS):
                    fill(columns, start, tensor)

            return work

        return parallel(cut(self.columns, self.rows), worker)

    def model(self) -> Cost:
        """The cost for all rows, scaled up from `model_rows` where the model is slow."""
        tensors = [tensor for (tensor,) in cut([[part] for part in self.tensors], self.model_rows)]
        return self._model(tensors, self.batch_rows).scaled(self.rows / self.model_rows)

    def _model(self, tensors: list[Floats], batch_rows: int) -> Cost:
        def work(tensor: Floats) -> None:
            for start in range(0, len(tensor), batch_rows):
                self.session.run(["score"], {"input": tensor[start : start + batch_rows]})

        return parallel(tensors, lambda: work)

    def _results(self) -> pa.Table:
        parts = [score(self.session, columns, block()) for columns in self.columns]
        rows = min(FILE_ROWS, self.rows)
        ids = np.arange(rows, dtype=np.int64)
        return result_table(pa.array(ids), np.resize(np.concatenate(parts), rows), ids)

    def encode(self, columns: list[str] | None = None) -> Cost:
        """Result files of about half a million rows; of `columns` alone if they are named."""
        table = self.results.select(columns or RESULT.names)
        options = writer_options(table.schema)

        def work(item: tuple[int, int]) -> None:
            number, rows = item
            path = self.scratch / f"{number}.parquet"
            pq.write_table(table.slice(0, rows), path, row_group_size=FILE_ROWS, **options)

        sizes = [min(FILE_ROWS, self.rows - at) for at in range(0, self.rows, FILE_ROWS)]
        with_folder(self.scratch)
        try:
            return parallel(enumerate(sizes), lambda: work)
        finally:
            shutil.rmtree(self.scratch)

    def by_hand(self) -> Cost:
        """All stages at once: a thread takes the row groups of one result file at a time."""
        options = writer_options(RESULT)

        def worker() -> Callable[[list[RowGroup]], None]:
            read = reader()
            tensor = block()

            def work(groups: list[RowGroup]) -> None:
                path = self.scratch / f"{groups[0].path.stem}-{groups[0].number}.parquet"
                with pq.ParquetWriter(path, RESULT, **options) as writer:
                    for group in groups:
                        table = read(group)
                        columns = features(table)
                        scores = score(self.session, columns, tensor, self.batch_rows)
                        last = group.first_row + group.rows
                        positions = np.arange(group.first_row, last, dtype=np.int64)
                        writer.write_table(result_table(table[KEY].chunk(0), scores, positions))

            return work

        with_folder(self.scratch)
        try:
            starts = range(0, len(self.groups), FILE_GROUPS)
            return parallel((self.groups[at : at + FILE_GROUPS] for at in starts), worker)
        finally:
            shutil.rmtree(self.scratch)


def with_folder(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)


def cut(pool: list[Columns], rows: int) -> Iterator[Columns]:
    """Items of `pool`, again and again, until they hold `rows` rows."""
    for columns in itertools.cycle(pool):
        if rows <= 0:
            return
        yield columns if len(columns[0]) <= rows else [column[:rows] for column in columns]
        rows -= len(columns[0])
