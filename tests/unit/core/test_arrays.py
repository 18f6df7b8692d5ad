"""Crossing between Arrow and NumPy changes no value, whatever slice or null is in the way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchinfer.core import arrays

KINDS = ["bool", "int8", "uint16", "int32", "int64", "float32", "float64"]
slices = st.tuples(st.integers(0, 20), st.integers(0, 20))


@given(st.lists(st.one_of(st.none(), st.booleans()), max_size=40), st.sampled_from(KINDS), slices)
def test_values_and_nulls_cross_to_numpy_from_any_slice(
    values: list[bool | None], dtype: str, cut: tuple[int, int]
) -> None:
    whole = pa.array(values, pa.bool_()).cast(pa.from_numpy_dtype(np.dtype(dtype)))
    array = whole.slice(*cut)
    view, present = arrays.to_numpy(array)
    assert view.dtype == np.dtype(dtype)
    known = np.ones(len(array), bool) if present is None else present
    expected = array.to_pylist()
    assert [value if ok else None for value, ok in zip(view.tolist(), known, strict=True)] == expected


@given(st.lists(st.integers(-100, 100), max_size=30), st.sampled_from(KINDS[1:]))
def test_values_cross_to_arrow(values: list[int], dtype: str) -> None:
    numbers = np.array(values, np.int64).astype(dtype)
    array = arrays.from_numpy(numbers)
    array.validate(full=True)
    assert array.to_pylist() == numbers.tolist()
    assert array.type == pa.from_numpy_dtype(numbers.dtype)


@given(st.lists(st.booleans(), max_size=30))
def test_truth_values_cross_to_arrow(values: list[bool]) -> None:
    assert arrays.from_numpy(np.array(values, np.bool_)).to_pylist() == values


@given(st.lists(st.text(max_size=5), max_size=10))
def test_texts_cross_to_arrow(texts: list[str]) -> None:
    array = arrays.from_texts(texts)
    array.validate(full=True)
    assert array.to_pylist() == texts


@given(st.lists(st.one_of(st.none(), st.binary(max_size=5)), max_size=20), slices)
def test_bytes_cross_to_arrow_and_tell_their_sizes_from_any_slice(
    values: list[bytes | None], cut: tuple[int, int]
) -> None:
    whole = arrays.from_bytes(values)
    whole.validate(full=True)
    assert whole.to_pylist() == values
    array = whole.slice(*cut)
    assert arrays.sizes(array).tolist() == [len(value or b"") for value in array.to_pylist()]


def test_numbers_are_views_of_arrows_memory_and_cannot_be_written() -> None:
    array = pa.array([1.0, 2.0, 3.0])
    view, _ = arrays.to_numpy(array.slice(1))
    assert view.ctypes.data == array.buffers()[1].address + 8
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 5


def test_numbers_in_steps_or_backwards_cross_in_order() -> None:
    assert arrays.from_numpy(np.arange(10)[::-3]).to_pylist() == [9, 6, 3, 0]


@pytest.mark.parametrize(
    ("array", "known"),
    [
        (pa.array(["a", None]), [True, False]),
        (pa.nulls(2), [False, False]),
        (pa.array(["a"]), None),
        (pa.array([[1], None, []]).slice(1), [False, True]),
    ],
    ids=str,
)
def test_nulls_of_any_type_are_known(array: pa.Array, known: list[bool] | None) -> None:
    found: Any = arrays.valid(array)
    assert (found if found is None else found.tolist()) == known
