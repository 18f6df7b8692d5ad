"""Labels meet their rows by key, and what is wrong with them is said by name."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchinfer.drift._labels import join_labels, read_labels
from batchinfer.errors import InputError


def results(**columns: object) -> pa.Table:
    return pa.table({"id": pa.array([1, 2, 3, 4], pa.int64()), "p": [0.1, 0.2, 0.3, 0.4], **columns})


def labels(ids: list[int | None], values: list[bool | None], kind: pa.DataType | None = None) -> pa.Table:
    return pa.table({"id": pa.array(ids, kind or pa.int64()), "late": pa.array(values, pa.bool_())})


def test_each_row_gets_the_label_of_its_key_in_the_order_of_the_rows() -> None:
    found = join_labels(results(), labels([9, 4, 2, 1], [True, True, False, None]), ["id"], "late")
    assert found.table.to_pylist() == [{"id": 2, "p": 0.2, "late": False}, {"id": 4, "p": 0.4, "late": True}]
    assert (found.target, found.unlabelled) == ("late", 2)


def test_a_column_of_the_label_s_name_stays_beside_it() -> None:
    found = join_labels(results(late=[1, 0, 1, 0]), labels([3], [True]), ["id"], "late")
    assert found.table.to_pylist() == [{"id": 3, "p": 0.3, "late": 1, "late (label)": True}]
    assert found.target == "late (label)"


def test_keys_of_several_columns_and_columns_of_any_type_are_joined() -> None:
    rows = results(
        day=pa.array(["a", "a", "b", None]).dictionary_encode(),
        embedding=pa.array([[1.0, 2.0]] * 4, pa.list_(pa.float64(), 2)),
    )
    told = pa.table(
        {
            "day": pa.array(["b", "a", None], pa.large_string()),
            "id": pa.array([3, 2, 4], pa.int16()),
            "y": [1.5, 2.5, 3.5],
        }
    )
    found = join_labels(rows, told, ["day", "id"], "y")
    assert found.table.select(["id", "y", "embedding"]).to_pylist() == [
        {"id": 2, "y": 2.5, "embedding": [1.0, 2.0]},
        {"id": 3, "y": 1.5, "embedding": [1.0, 2.0]},
    ]
    assert found.unlabelled == 2


@given(
    st.lists(st.integers(0, 30), max_size=40),
    st.dictionaries(st.integers(0, 30), st.one_of(st.none(), st.booleans())),
)
def test_the_join_is_a_look_up(ids: list[int], known: dict[int, bool | None]) -> None:
    rows = pa.table({"id": pa.array(ids, pa.int32()), "n": pa.array(range(len(ids)), pa.int64())})
    told = labels(list(known), list(known.values()))
    expected = [(n, known[i]) for n, i in enumerate(ids) if known.get(i) is not None]
    if not expected:
        with pytest.raises(InputError, match="none of the"):
            join_labels(rows, told, ["id"], "late")
        return
    found = join_labels(rows, told, ["id"], "late")
    assert list(zip(found.table["n"].to_pylist(), found.table["late"].to_pylist(), strict=True)) == expected
    assert found.unlabelled == len(ids) - len(expected)


def test_a_key_with_two_labels_is_named() -> None:
    with pytest.raises(InputError, match=r"hold id=2 3 times, and 1 other keys") as caught:
        join_labels(results(), labels([1, 2, 2, 3, 2, 3, None, None], [True] * 8), ["id"], "late")
    assert caught.value.fields["key"] == {"id": 2}


def test_a_missing_column_is_named_with_those_that_are_there() -> None:
    told = labels([1], [True])
    with pytest.raises(InputError, match="the labels: key column 'flight' is missing; there: id, late"):
        join_labels(results(), told, ["flight"], "late")
    with pytest.raises(InputError, match="the labels: label column 'y' is missing; there: id, late"):
        join_labels(results(), told, ["id"], "y")
    with pytest.raises(InputError, match="the results: key column 'id' is missing; there: p"):
        join_labels(results().drop_columns("id"), told, ["id"], "late")


def test_a_key_of_another_type_is_said_with_both() -> None:
    told = pa.table({"id": ["1"], "late": [True]})
    with pytest.raises(InputError, match="key column 'id': the results hold int64, the labels string"):
        join_labels(results(), told, ["id"], "late")
    huge = pa.table({"id": pa.array([2**63 + 1], pa.uint64()), "late": [True]})
    with pytest.raises(InputError, match="the labels uint64"):
        join_labels(results(), huge, ["id"], "late")


def test_no_label_for_any_row_shows_keys_of_both() -> None:
    with pytest.raises(
        InputError, match=r"none of the 4 rows.* begin with id=1, those of the labels with id=77"
    ):
        join_labels(results(), labels([77], [True]), ["id"], "late")
    with pytest.raises(InputError, match="those of the labels with no row"):
        join_labels(results(), labels([], []), ["id"], "late")


def test_labels_are_read_from_a_file_or_a_folder_of_days(tmp_path: Path) -> None:
    for day in ("d1", "d2"):
        (tmp_path / f"ds={day}").mkdir()
        pq.write_table(labels([1], [day == "d1"]), tmp_path / f"ds={day}" / "part-0.parquet")
    folder = read_labels(str(tmp_path), ["ds", "id"], "late")
    assert folder.to_pylist() == [{"ds": "d1", "id": 1, "late": True}, {"ds": "d2", "id": 1, "late": False}]
    file = read_labels(str(tmp_path / "ds=d2" / "part-0.parquet"), ["id"], "late")
    assert file.to_pylist() == [{"id": 1, "late": False}]


def test_labels_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no labels are there"):
        read_labels(str(tmp_path / "nowhere"), ["id"], "late")
    (tmp_path / "labels.parquet").write_bytes(b"id,late\n1,true\n")
    with pytest.raises(InputError, match="cannot read the labels"):
        read_labels(str(tmp_path / "labels.parquet"), ["id"], "late")
    pq.write_table(labels([1], [True]), tmp_path / "labels.parquet")
    with pytest.raises(InputError, match="label column 'y' is missing"):
        read_labels(str(tmp_path / "labels.parquet"), ["id"], "y")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="key column 'id' is missing; there: no columns"):
        read_labels(str(tmp_path / "empty"), ["id"], "late")
