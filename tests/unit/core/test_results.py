"""Result rows: types that every store keeps, lineage on every row, and no two columns of one name."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchinfer.core import (
    LINEAGE,
    Lineage,
    quarantine_schema,
    result_schema,
    storable,
    table_schema,
)
from batchinfer.errors import InputError

KEPT = [pa.field("id", pa.int64()), pa.field("note", pa.string())]
LABEL = pa.dictionary(pa.int32(), pa.string())


@pytest.mark.parametrize(
    ("kind", "kept"),
    [
        *((kind, kind) for kind in (pa.int8(), pa.int64(), pa.float32(), pa.float64(), pa.bool_())),
        *((kind, kind) for kind in (pa.string(), pa.binary(), pa.date32(), pa.decimal128(10, 2))),
        (pa.uint8(), pa.int16()),
        (pa.uint16(), pa.int32()),
        (pa.uint32(), pa.int64()),
        (pa.float16(), pa.float32()),
        (pa.date64(), pa.date32()),
        (pa.large_string(), pa.string()),
        (pa.string_view(), pa.string()),
        (pa.large_binary(), pa.binary()),
        (pa.binary_view(), pa.binary()),
        (LABEL, pa.string()),
        (pa.dictionary(pa.int8(), pa.large_string()), pa.string()),
        (pa.timestamp("s"), pa.timestamp("us")),
        (pa.timestamp("ns", "UTC"), pa.timestamp("us", "UTC")),
        (pa.list_(pa.uint8()), pa.list_(pa.int16())),
        (pa.large_list(pa.float32()), pa.list_(pa.float32())),
        (pa.list_(pa.float16(), 3), pa.list_(pa.float32())),
        (pa.list_(pa.list_(pa.large_string())), pa.list_(pa.list_(pa.string()))),
    ],
    ids=str,
)
def test_a_type_is_kept_as_the_nearest_that_every_store_knows(kind: pa.DataType, kept: pa.DataType) -> None:
    assert storable(kind, "it") == kept
    assert storable(kept, "it") == kept, "a type that stores know stays what it is"


@pytest.mark.parametrize(
    "kind",
    [
        pa.uint64(),
        pa.null(),
        pa.time32("s"),
        pa.duration("s"),
        pa.struct([("a", pa.int8())]),
        pa.map_(pa.string(), pa.int8()),
        pa.list_(pa.uint64()),
        pa.list_(pa.time32("s")),
        pa.decimal256(50, 2),
        pa.binary(4),
    ],
    ids=str,
)
def test_a_type_without_one_is_refused_by_name(kind: pa.DataType) -> None:
    with pytest.raises(InputError, match="column 'x' has the type") as refused:
        storable(kind, "column 'x'")
    assert refused.value.exit_code == 2
    assert refused.value.fields["found"]


@given(st.lists(st.integers(0, 2**32 - 1)))
def test_values_are_kept_without_loss(values: list[int]) -> None:
    array = pa.array(values, pa.uint32())
    assert array.cast(storable(array.type, "it")).to_pylist() == values


def test_a_result_row_is_kept_columns_outputs_and_lineage_in_this_order() -> None:
    outputs = pa.schema([("p", pa.float32()), ("embedding", pa.list_(pa.float16(), 4))])
    schema = result_schema(KEPT, outputs)
    assert schema.names == ["id", "note", "p", "embedding", "_model", "_run_id", "_source", "_position"]
    assert schema.field("embedding").type == pa.list_(pa.float32())


def test_an_output_with_the_name_of_a_kept_column_is_refused() -> None:
    with pytest.raises(InputError, match="column 'note' is an output of the model and also"):
        result_schema(KEPT, pa.schema([("note", pa.string())]))


def test_a_quarantined_row_is_its_own_columns_the_reason_and_lineage() -> None:
    names = ["id", "_reason", "_expectations", "_model", "_run_id", "_source", "_position"]
    assert quarantine_schema(KEPT[:1]).names == names


def test_readers_see_text_for_labels_and_partition_columns_last() -> None:
    part = result_schema(KEPT, pa.schema([("p", pa.float32())]))
    table = table_schema(part, ["ds", "hub"])
    assert table.names == [*part.names, "ds", "hub"]
    assert [table.field(name).type for name in ("_model", "_position", "ds")] == [
        pa.string(),
        pa.int64(),
        pa.string(),
    ]


def lineage(positions: list[int]) -> Lineage:
    return Lineage("m@1", "run", "in/é.parquet", pa.array(positions, pa.int64()))


@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=20))
def test_every_row_says_model_run_source_and_position(positions: list[int]) -> None:
    columns = lineage(positions).columns()
    for column, field in zip(columns, LINEAGE, strict=True):
        assert column.type == field.type
        column.validate(full=True)
    assert [column.to_pylist() for column in columns] == [
        ["m@1"] * len(positions),
        ["run"] * len(positions),
        ["in/é.parquet"] * len(positions),
        positions,
    ]


def test_the_lineage_of_some_rows_keeps_their_positions() -> None:
    some = lineage([10, 11, 12]).take(pa.array(np.array([2, 0])))
    assert some.columns()[3].to_pylist() == [12, 10]
    assert len(some.columns()[0]) == 2
