"""Parts and receipts: what a worker stages. One Parquet file a unit, and one receipt that vouches for it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchinfer.core import Partition, StagedPart, StagingArea, UnitReport, WorkUnit, files, partition_path

ROW_GROUP_ROWS = 1 << 20
ROW_GROUP_BYTES = 128 << 20


def part_name(unit: WorkUnit, run_id: str, attempt: str) -> str:
    """The name of one attempt's part. Stores know a run's files by the `-RUN_ID-` in it.

    `attempt` is unique to the attempt, so that a zombie worker never writes over its successor's file.
    """
    return f"part-{unit.name}-{run_id}-{attempt}"


class PartWriter:
    """Writes one part: encoded in memory as batches come, stored whole at the end or not at all.

    Not thread-safe: one worker thread owns it. Memory is the encoded part and one row group of batches.

    Args:
        staging: where the run stages.
        partition: the result partition that the part belongs to.
        name: the file's name without `.parquet`; see `part_name`.
        schema: of every batch.
        key: columns that get statistics; the other columns' would cost 40% of the encoding.
    """

    def __init__(
        self,
        staging: StagingArea,
        partition: Partition,
        name: str,
        schema: pa.Schema,
        key: Sequence[str],
    ) -> None:
        self._root = staging.parts
        self._path = files.join(partition_path(partition) or ".", f"{name}.parquet").removeprefix("./")
        self._schema = schema
        self._key = list(key)
        self._sink = pa.BufferOutputStream()
        self._writer: Any = None
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = 0
        self._pending_bytes = 0
        self._rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Take a batch of `schema`. Small batches share a row group."""
        self._pending.append(batch)
        self._pending_rows += batch.num_rows
        self._pending_bytes += batch.get_total_buffer_size()
        if self._pending_rows >= ROW_GROUP_ROWS or self._pending_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def finish(self) -> StagedPart | None:
        """Store the part; None, and nothing stored, where no row was written. Called once.

        Raises:
            StoreError: the staging area cannot be written.
        """
        self._flush()
        if self._writer is None:
            return None
        self._writer.close()
        encoded = self._sink.getvalue()
        footer = pq.read_metadata(pa.BufferReader(encoded))
        files.write_bytes(files.join(self._root, self._path), encoded)
        minimum, maximum = _ranges(footer, self._key)
        self._writer = None
        return StagedPart(
            path=self._path,
            rows=self._rows,
            size_bytes=encoded.size,
            sha256=hashlib.sha256(encoded).hexdigest(),
            minimum=minimum,
            maximum=maximum,
        )

    def abandon(self) -> None:
        """Drop everything; nothing was stored. May be called at any time, also after `finish`."""
        self._pending = []
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _flush(self) -> None:
        if not self._pending_rows:
            return
        # Batches of several input files bring several label dictionaries; a row group is encoded with one.
        table = pa.Table.from_batches(self._pending, self._schema).unify_dictionaries()
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._sink, self._schema, **encoding(self._schema, self._key))
        self._writer.write_table(table, row_group_size=table.num_rows)
        self._rows += table.num_rows
        self._pending, self._pending_rows, self._pending_bytes = [], 0, 0


def encoding(schema: pa.Schema, key: Sequence[str]) -> dict[str, Any]:
    """How columns are encoded: measured at 8 times the rate of pyarrow's defaults, and smaller."""
    encodings = {}
    for field in schema:
        if pa.types.is_integer(field.type):
            encodings[field.name] = "DELTA_BINARY_PACKED"
        elif pa.types.is_floating(field.type):
            encodings[field.name] = "BYTE_STREAM_SPLIT"
    return {
        "compression": "zstd",
        "compression_level": 1,
        "store_schema": False,
        "use_dictionary": [f.name for f in schema if _is_label(f.type)],
        "column_encoding": encodings or None,
        "write_statistics": list(key) if key else False,
        "write_batch_size": 1 << 16,
        "max_rows_per_page": 1 << 17,
    }


def _is_label(kind: pa.DataType) -> bool:
    return bool(pa.types.is_dictionary(kind) or pa.types.is_string(kind))


def _ranges(footer: pq.FileMetaData, key: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    # Floats are left out: Parquet leaves NaN out of its range, and Spark would then skip files that have it.
    minimum: dict[str, Any] = {}
    maximum: dict[str, Any] = {}
    for index in range(footer.num_columns):
        name = footer.schema.column(index).path
        groups = [footer.row_group(g).column(index).statistics for g in range(footer.num_row_groups)]
        if name not in key or not all(s is not None and s.has_min_max for s in groups):
            continue
        low, high = min(s.min for s in groups), max(s.max for s in groups)
        if type(low) in {int, str, date}:
            minimum[name], maximum[name] = _json_able(low), _json_able(high)
    return minimum, maximum


def _json_able(value: int | str | date) -> int | str:
    return value.isoformat() if isinstance(value, date) else value


def write_receipt(staging: StagingArea, report: UnitReport) -> None:
    """Vouch for a finished unit, after its parts are stored. The last writer of a unit wins.

    Raises:
        StoreError: the staging area cannot be written.
    """
    files.write_bytes(_receipt_path(staging, report.unit), report.to_json().encode())


def read_receipt(staging: StagingArea, unit: WorkUnit) -> UnitReport | None:
    """The receipt of this very unit. One that is absent, torn, foreign or another unit's counts as none."""
    try:
        report = UnitReport.from_json(files.read_bytes(_receipt_path(staging, unit.index)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return report if (report.unit, report.unit_digest) == (unit.index, unit.digest()) else None


def verified(staging: StagingArea, report: UnitReport) -> bool:
    """Whether each part of the report is still there, byte for byte."""
    return all(intact(staging, part) for part in report.parts)


def intact(staging: StagingArea, part: StagedPart) -> bool:
    """Whether a part is still there, byte for byte."""
    path = files.join(staging.parts, part.path)
    filesystem, inner = files.locate(path)
    info = filesystem.get_file_info(inner)
    if not info.is_file or info.size != part.size_bytes:
        return False
    digest = hashlib.sha256()
    try:
        with filesystem.open_input_stream(inner) as stream:
            while chunk := stream.read(4 << 20):
                digest.update(chunk)
    except OSError:
        return False
    return digest.hexdigest() == part.sha256


def _receipt_path(staging: StagingArea, unit: int) -> str:
    return files.join(staging.receipts, f"{unit:05d}.json")
