"""The digest tells tables apart by what they say, and only by that."""

from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchinfer.testing import table_digest

ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "_source": st.sampled_from(["a", "b"]),
            "_position": st.integers(0, 5),
            "score": st.none() | st.floats(width=32, allow_nan=False),
            "text": st.none() | st.text(max_size=3),
            "flag": st.none() | st.booleans(),
            "list": st.none() | st.lists(st.none() | st.integers(0, 9), max_size=3),
        }
    ),
    max_size=12,
    unique_by=lambda row: (row["_source"], row["_position"]),
)
SCHEMA = pa.schema(
    {
        "_source": pa.string(),
        "_position": pa.int64(),
        "score": pa.float32(),
        "text": pa.string(),
        "flag": pa.bool_(),
        "list": pa.list_(pa.int64()),
    }
)


def table(rows: list[dict[str, object]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMA)


@settings(deadline=None)
@given(rows=ROWS, seed=st.randoms(), cut=st.integers(0, 12))
def test_layout_and_order_do_not_matter(rows: list[dict[str, object]], seed: object, cut: int) -> None:
    expected = table_digest(table(rows))
    shuffled = list(rows)
    seed.shuffle(shuffled)  # type: ignore[attr-defined]
    chunked = pa.concat_tables([table(shuffled).slice(0, cut), table(shuffled).slice(cut)])
    assert table_digest(chunked.select(SCHEMA.names[::-1])) == expected
    labelled = chunked.set_column(0, "_source", chunked["_source"].dictionary_encode())
    assert table_digest(labelled) == expected


@settings(deadline=None)
@given(rows=ROWS.filter(bool), data=st.data())
def test_every_value_and_every_row_matters(rows: list[dict[str, object]], data: st.DataObject) -> None:
    expected = table_digest(table(rows))
    index = data.draw(st.integers(0, len(rows) - 1))
    column = data.draw(st.sampled_from(["score", "text", "flag", "list"]))
    others: dict[str, list[Any]] = {
        "score": [0.0, None, 7.5],
        "text": ["", None, "zz"],
        "flag": [True, False, None],
    }
    others["list"] = [[], None, [None], [0], [3, 3, 3, 3]]
    value = data.draw(st.sampled_from(others[column]))
    changed = [dict(row) for row in rows]
    changed[index][column] = value
    same = repr(changed[index][column]) == repr(rows[index][column])
    assert (table_digest(table(changed)) == expected) is same
    assert table_digest(table([*rows, rows[index]])) != expected
    assert table_digest(table(rows[:index] + rows[index + 1 :])) != expected


def test_names_and_types_matter_and_columns_can_be_left_out() -> None:
    one = table([{"_source": "a", "_position": 1, "score": 1.0}])
    assert table_digest(one) != table_digest(one.rename_columns([*SCHEMA.names[:-1], "other"]))
    assert table_digest(one) != table_digest(one.set_column(2, "score", one["score"].cast(pa.float64())))
    assert table_digest(one, ignore=["score"]) == table_digest(one.drop_columns(["score"]))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.date32(), [1, 2, 3]),
        (pa.timestamp("us"), [1, 2, 3]),
        (pa.decimal128(9, 2), [Decimal("1.00"), Decimal("1.01"), Decimal("-1.00")]),
        (pa.binary(), [b"a", b"b", b""]),
        (pa.int8(), [1, 2, -3]),
    ],
)
def test_values_of_every_type_count(kind: pa.DataType, values: list[Any]) -> None:
    def of(*chosen: object) -> pa.Table:
        return pa.table({"_position": [0, 1], "x": pa.array(chosen, kind)})

    assert len({table_digest(of(a, b)) for a in values for b in values}) == len(values) ** 2


def test_texts_are_told_apart_by_where_they_end() -> None:
    one, other = (pa.table({"x": texts}) for texts in (["a", "bc"], ["ab", "c"]))
    assert table_digest(one) != table_digest(other)
