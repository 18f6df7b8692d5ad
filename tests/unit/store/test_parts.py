"""Parts and receipts: one file a unit, and a receipt that is believed only when it is true."""

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchinfer.core import (
    LINEAGE,
    InputFile,
    RowCounts,
    Slice,
    StagedPart,
    StagingArea,
    UnitReport,
    WorkUnit,
)
from batchinfer.errors import SpecError, StoreError
from batchinfer.store import (
    STORES,
    PartWriter,
    _parts,
    open_store,
    part_name,
    read_receipt,
    verified,
    write_receipt,
)

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64()),
        pa.field("name", pa.string()),
        pa.field("score", pa.float32()),
        pa.field("embedding", pa.list_(pa.float32())),
        *LINEAGE,
    ]
)
UNIT = WorkUnit(3, (("ds", "a/b"),), (Slice(InputFile("in.parquet", 9, 1, 5), 0, 1, 0, 5),))


def batch(first: int, rows: int, source: str = "in.parquet") -> pa.RecordBatch:
    def label(text: str) -> pa.DictionaryArray:
        return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))

    ids = np.arange(first, first + rows)
    return pa.RecordBatch.from_arrays(
        [
            pa.array(ids),
            pa.array([f"n{i}" for i in ids]),
            pa.array(ids.astype(np.float32)),
            pa.array([[float(i), 0.5] for i in ids], pa.list_(pa.float32())),
            label("m@1"),
            label("run1"),
            label(source),
            pa.array(ids),
        ],
        schema=SCHEMA,
    )


@pytest.fixture
def staging(tmp_path: Path) -> StagingArea:
    return StagingArea(str(tmp_path / "table"), str(tmp_path / "receipts"))


def write(staging: StagingArea, *batches: pa.RecordBatch, key: tuple[str, ...] = ("id",)) -> StagedPart:
    writer = PartWriter(staging, UNIT.partition, part_name(UNIT, "run1", "x"), SCHEMA, key)
    for one in batches:
        writer.write(one)
    part = writer.finish()
    assert part is not None
    return part


def test_a_part_reads_back_as_it_was_written(staging: StagingArea) -> None:
    part = write(staging, batch(0, 3), batch(3, 2, "other.parquet"))
    path = Path(staging.parts, part.path)
    assert part.path == "ds=a%2Fb/part-00003-run1-x.parquet"
    assert (part.rows, part.size_bytes) == (5, path.stat().st_size)
    read = pq.read_table(path, partitioning=None)
    written = pa.Table.from_batches([batch(0, 3), batch(3, 2, "other.parquet")])
    for name in SCHEMA.names:
        assert read[name].to_pylist() == written[name].to_pylist()


def test_small_batches_share_a_row_group(staging: StagingArea) -> None:
    part = write(staging, *(batch(i * 2, 2, f"file{i}") for i in range(40)))
    assert pq.ParquetFile(Path(staging.parts, part.path)).num_row_groups == 1


def test_row_groups_are_cut_by_rows_and_by_bytes(staging: StagingArea, monkeypatch: Any) -> None:
    monkeypatch.setattr(_parts, "ROW_GROUP_ROWS", 10)
    part = write(staging, *(batch(i * 4, 4) for i in range(6)))
    metadata = pq.read_metadata(Path(staging.parts, part.path))
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [12, 12]
    monkeypatch.setattr(_parts, "ROW_GROUP_BYTES", 1)
    part = write(staging, *(batch(i * 4, 4) for i in range(6)))
    assert pq.read_metadata(Path(staging.parts, part.path)).num_row_groups == 6


def test_a_part_without_rows_is_not_stored(staging: StagingArea) -> None:
    writer = PartWriter(staging, (), "part-0", SCHEMA, ["id"])
    writer.write(batch(0, 0))
    assert writer.finish() is None
    assert not Path(staging.parts).exists()


def test_an_abandoned_part_is_not_stored(staging: StagingArea, monkeypatch: Any) -> None:
    monkeypatch.setattr(_parts, "ROW_GROUP_ROWS", 1)
    writer = PartWriter(staging, (), "part-0", SCHEMA, ["id"])
    writer.write(batch(0, 3))
    writer.abandon()
    writer.abandon()
    assert not Path(staging.parts).exists()


def test_ranges_are_of_key_columns_and_json_able(staging: StagingArea, monkeypatch: Any) -> None:
    monkeypatch.setattr(_parts, "ROW_GROUP_ROWS", 4)
    part = write(staging, batch(5, 4), batch(1, 4), key=("id", "name", "score"))
    assert (part.minimum, part.maximum) == ({"id": 1, "name": "n1"}, {"id": 8, "name": "n8"})
    json.dumps([part.minimum, part.maximum])
    row_group = pq.read_metadata(Path(staging.parts, part.path)).row_group(0)
    stated = {
        row_group.column(i).path_in_schema: row_group.column(i).is_stats_set
        for i in range(row_group.num_columns)
    }
    assert stated["id"] and not stated["_run_id"] and not stated["_position"]


def test_ranges_leave_out_what_has_no_order_or_no_values(staging: StagingArea) -> None:
    schema = pa.schema(
        [("day", pa.date32()), ("none", pa.int64()), ("nan", pa.float64()), ("flag", pa.bool_())]
    )
    writer = PartWriter(staging, (), "part-0", schema, schema.names)
    day = datetime.date(2024, 1, 2)
    writer.write(
        pa.RecordBatch.from_pylist(
            [{"day": day, "none": None, "nan": float("nan"), "flag": True}], schema=schema
        )
    )
    part = writer.finish()
    assert part is not None
    assert part.minimum == part.maximum == {"day": "2024-01-02"}


def test_every_storable_type_can_be_encoded(staging: StagingArea) -> None:
    kinds = [
        pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.bool_(), pa.string(),
        pa.binary(), pa.date32(), pa.timestamp("us"), pa.timestamp("us", "UTC"), pa.decimal128(12, 3),
        pa.list_(pa.int64()), pa.list_(pa.list_(pa.string())),
    ]  # fmt: skip
    schema = pa.schema([(f"c{i}", kind) for i, kind in enumerate(kinds)])
    writer = PartWriter(staging, (), "part-0", schema, ["c0"])
    writer.write(pa.RecordBatch.from_arrays([pa.nulls(2, kind) for kind in kinds], schema=schema))
    part = writer.finish()
    assert part is not None
    assert pq.read_schema(Path(staging.parts, part.path)).types == kinds


def test_a_place_that_cannot_be_written_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "table").write_text("a file")
    with pytest.raises(StoreError):
        write(StagingArea(str(tmp_path / "table"), str(tmp_path)), batch(0, 1))


def report(part: StagedPart | None) -> UnitReport:
    return UnitReport(3, UNIT.digest(), UNIT.partition, RowCounts(5, 5), part, None, {}, {})


def test_a_receipt_comes_back_as_it_was_written(staging: StagingArea) -> None:
    stated = report(write(staging, batch(0, 5)))
    write_receipt(staging, stated)
    assert Path(staging.receipts, "00003.json").exists()
    assert read_receipt(staging, UNIT) == stated


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"[1]",
        b"null",
        b"1",
        b"{}",
        b'{"unit": 3}',
        b"\xff\xfe",
        b'{"partition": 1, "rows": 2}',
    ],
)
def test_an_unreadable_receipt_counts_as_none(staging: StagingArea, text: bytes) -> None:
    Path(staging.receipts).mkdir(parents=True)
    Path(staging.receipts, "00003.json").write_bytes(text)
    assert read_receipt(staging, UNIT) is None


def test_an_absent_receipt_and_another_units_count_as_none(staging: StagingArea) -> None:
    assert read_receipt(staging, UNIT) is None
    write_receipt(staging, report(None))
    other = WorkUnit(3, UNIT.partition, ())
    assert read_receipt(staging, other) is None


def test_a_report_is_verified_only_while_its_parts_are_there_byte_for_byte(staging: StagingArea) -> None:
    part = write(staging, batch(0, 5))
    path = Path(staging.parts, part.path)
    assert verified(staging, report(part))
    assert verified(staging, report(None))
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    assert not verified(staging, report(part))
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert not verified(staging, report(part))
    path.unlink()
    assert not verified(staging, report(part))


def test_a_store_is_opened_by_name_and_an_unknown_name_lists_the_known(tmp_path: Path) -> None:
    for kind in STORES:
        path = "postgresql://nowhere/db#t" if kind == "postgres" else str(tmp_path / kind)
        assert open_store(kind, path, ["ds"], "p").path == path
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SpecError, match="delta, parquet"):
        open_store("csv", "x", [], "p")
