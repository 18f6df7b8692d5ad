"""Columns become tensors: every kind of mapping, read back through graphs that hand their input on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.unit.model.graphs import (
    BOOL,
    F16,
    F32,
    F64,
    I32,
    I64,
    TEXT,
    Bench,
    Shape,
    batch,
    bits,
    graph,
    identity,
    linear,
    node,
    refused,
    tokens,
)

from batchinfer.core import arrays
from batchinfer.errors import InputError

PACK_XYZ = {"inputs": {"x": {"pack": ["a", "b", "c"]}}, "outputs": {"y": {"columns": ["a", "b", "c"]}}}


def test_columns_of_mixed_types_are_packed_in_the_stated_order(bench: Bench) -> None:
    rows = batch(
        c=[True, False, True], a=pa.array([1, 2, 3], pa.int16()), b=[0.5, -1.5, 2.25], unused=["", "", ""]
    )
    scorer = bench.scorer(identity(F32, ["N", 3]), rows, PACK_XYZ)
    result = scorer.score(rows)
    assert result.schema.types == [pa.float32()] * 3
    assert result.to_pydict() == {"a": [1, 2, 3], "b": [0.5, -1.5, 2.25], "c": [1, 0, 1]}


def test_fill_null_fills_nulls_of_every_type_of_a_pack(bench: Bench) -> None:
    rows = batch(
        a=pa.array([1, None, 3], pa.int64()),
        b=pa.array([None, 1.5, 2.5], pa.float64()),
        c=pa.array([True, None, False]),
    )
    config = {**PACK_XYZ, "inputs": {"x": {"pack": ["a", "b", "c"], "fill_null": 0.5}}}
    result = bench.scorer(identity(F32, ["N", 3]), rows, config).score(rows)
    assert result.to_pydict() == {"a": [1, 0.5, 3], "b": [0.5, 1.5, 2.5], "c": [1, 0.5, 0]}


def test_fill_null_may_be_nan(bench: Bench) -> None:
    rows = batch(x=pa.array([1, None], pa.int64()))
    config = {"inputs": {"x": {"column": "x", "fill_null": float("nan")}}}
    result = bench.scorer(identity(F32, ["N"]), rows, config).score(rows)
    np.testing.assert_array_equal(arrays.to_numpy(result.column("y"))[0], np.array([1, np.nan], np.float32))


def test_a_null_becomes_nan_where_the_model_takes_nan_and_only_there(bench: Bench) -> None:
    nodes = [
        node("Slice", ["x", "zero", "one", "one"], ["a"]),
        node("IsNaN", ["a"], ["lost"]),
        node("Where", ["lost", "filler", "a"], ["a_or_filler"]),
        node("Slice", ["x", "one", "two", "one"], ["b"]),
        node("Add", ["a_or_filler", "b"], ["y"]),
    ]
    values: dict[str, Any] = {"zero": np.array([0]), "one": np.array([1]), "two": np.array([2])}
    values["filler"] = np.array([-7], np.float32)
    model = graph(nodes, {"x": (F32, ["N", 2])}, {"y": (F32, ["N", 1])}, values)
    model.graph.node[0].input[1:] = ["zero", "one", "one"]
    rows = batch(
        a=pa.array([1.0, None, 2.0, 2**25, None], pa.float64()), b=pa.array([1, 2, None, 3, None], pa.int64())
    )
    scorer = bench.scorer(model, rows.slice(0, 2), {"inputs": {"x": {"pack": ["a", "b"]}}})
    assert scorer.bundle.manifest.certificate.takes_nan == ("a",)
    result, refusals = scorer.score_rows(rows)
    assert result.to_pydict() == {"y": [2.0, -5.0, 2**25 + 4]}
    assert refused(refusals) == {2: "null in 'b'", 4: "null in 'b'"}


def test_a_null_integer_beyond_2_24_beside_nulls_is_fed_as_it_is_where_the_model_takes_nan(
    bench: Bench,
) -> None:
    nodes = [node("IsNaN", ["x"], ["lost"]), node("Where", ["lost", "filler", "x"], ["y"])]
    values = {"filler": np.array([-7], np.float32)}
    model = graph(nodes, {"x": (F32, ["N"])}, {"y": (F32, ["N"])}, values)
    rows = batch(x=pa.array([2**25, None, 3], pa.int64()))
    result = bench.scorer(model, rows).score(rows)
    assert result.to_pydict() == {"y": [2**25, -7, 3]}


NUMBERS = [1, 0, 1, 1]
KINDS: list[tuple[int, pa.DataType, list[Any]]] = [
    (F32, pa.float32(), [0.5, -1.25, 3.0, 1e30]),
    (F32, pa.float64(), [0.5, -1.25, 3.0, 1e30]),
    (F32, pa.float16(), [0.5, -1.25, 3.0, 60000]),
    (F32, pa.int64(), [2**24, -5, 0, 7]),
    (F32, pa.bool_(), [True, False, True, True]),
    (F64, pa.float64(), [0.1, -1e300, 3.0, 5e-324]),
    (F64, pa.int64(), [2**53, -5, 0, 7]),
    (F16, pa.float16(), [0.5, -1.25, 3.0, 60000]),
    (F16, pa.float32(), [0.5, -1.25, 3.0, 60000]),
    (I32, pa.int32(), [2**31 - 1, -(2**31), 0, 7]),
    (I32, pa.int64(), [2**31 - 1, -(2**31), 0, 7]),
    (I32, pa.float32(), [-(2.0**31), 2.0**30, 0, 7]),
    (I64, pa.int64(), [2**63 - 1, -(2**63), 0, 7]),
    (I64, pa.uint8(), [255, 1, 0, 7]),
    (I64, pa.float64(), [-(2.0**63), 2.0**62, 0, 7]),
    (I64, pa.bool_(), [True, False, True, True]),
    (BOOL, pa.bool_(), [True, False, False, True]),
    (TEXT, pa.string(), ["a", "", "ü€", "a"]),
    (TEXT, pa.large_string(), ["a", "", "ü€", "a"]),
    (TEXT, pa.string_view(), ["a", "", "ü€ longer than twelve bytes", "a"]),
    (TEXT, pa.dictionary(pa.int8(), pa.string()), ["a", "", "ü€", "a"]),
    (TEXT, pa.dictionary(pa.int32(), pa.large_string()), ["a", "", "ü€", "a"]),
]


@pytest.mark.parametrize("shape", [["N"], ["N", 1], [None, None], [4]], ids=str)
@pytest.mark.parametrize(
    ("dtype", "kind", "values"), KINDS, ids=lambda v: str(v) if not isinstance(v, list) else ""
)
def test_a_column_becomes_a_tensor_of_one_value_a_row(
    bench: Bench, dtype: int, kind: pa.DataType, values: list[Any], shape: Shape
) -> None:
    column = pa.array(values, kind)
    result = bench.scorer(identity(dtype, shape), {"x": column}).score(batch(x=column))
    assert result.column("y").to_pylist() == pa.array(values, kind).to_pylist() or np.array_equal(
        np.array(result.column("y").to_pylist(), np.float64),
        np.array(column.to_pylist(), np.float64).astype(np.float32),
    )


def test_a_dictionary_of_as_many_words_as_its_indices_can_hold_takes_fill_null(bench: Bench) -> None:
    words = [f"w{i}" for i in range(128)]
    column = pa.DictionaryArray.from_arrays(pa.array([0, 127, None], pa.int8()), pa.array(words))
    config = {"inputs": {"x": {"column": "x", "fill_null": "none"}}}
    scorer = bench.scorer(identity(TEXT, ["N"]), {"x": pa.array(["w0"])}, config)
    assert scorer.score(batch(x=column)).to_pydict() == {"y": ["w0", "w127", "none"]}


def test_a_null_word_of_a_dictionary_is_a_null(bench: Bench) -> None:
    column = pa.DictionaryArray.from_arrays(pa.array([0, 1, None], pa.int8()), pa.array(["a", None]))
    scorer = bench.scorer(identity(TEXT, ["N"]), {"x": pa.array(["a"])})
    result, refusals = scorer.score_rows(batch(x=column))
    assert result.to_pydict() == {"y": ["a"]}
    assert refused(refusals) == {1: "null in 'x'", 2: "null in 'x'"}


@pytest.mark.parametrize("stated", [True, False], ids=["shape stated", "shape of the graph"])
@pytest.mark.parametrize("kind", ["fixed", "list", "large"])
def test_lists_of_one_size_become_tensors_of_any_shape(bench: Bench, kind: str, stated: bool) -> None:
    values = np.arange(6 * 60, dtype=np.float32).reshape(6, 60)
    flat = pa.array(values.reshape(-1))
    offsets = np.arange(0, 361, 60)
    column = {
        "fixed": lambda: pa.FixedSizeListArray.from_arrays(flat, 60),
        "list": lambda: pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat),
        "large": lambda: pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), flat),
    }[kind]()
    config = {"inputs": {"x": {"column": "x", "shape": [3, 4, 5]}}} if stated else None
    shape: Shape = ["N", None, 4, 5] if stated else ["N", 3, 4, 5]
    scorer = bench.scorer(identity(F32, shape), {"x": column}, config)
    result = scorer.score(batch(x=column).slice(1, 4))
    assert result.schema.field("y").type == pa.list_(pa.float32(), 60)
    np.testing.assert_array_equal(result.column("y").flatten().to_numpy(), values[1:5].reshape(-1))


TOKEN_LISTS = [[1, 2, 3], [], [4], [5, 6], [7, 8, 9, 10]]


def token_config(**ids: Any) -> dict[str, Any]:
    return {"inputs": {"ids": {"column": "t", "pad": -1, **ids}, "mask": {"mask_of": "ids"}}}


def test_lists_of_any_size_are_padded_and_masked(bench: Bench) -> None:
    column = pa.array(TOKEN_LISTS, pa.list_(pa.int32()))
    config = {**token_config(), "outputs": {"total": {"column": "total"}}}
    result = bench.scorer(tokens(), {"t": column}, config).score(batch(t=column))
    assert result.to_pydict() == {"total": [6, 0, 4, 11, 34]}


def test_the_pad_value_fills_up_short_lists(bench: Bench) -> None:
    model = graph(
        [node("ReduceSum", ["ids", "axis"], ["total"], keepdims=0)],
        {"ids": (F32, ["N", 4])},
        {"total": (F32, ["N"])},
        {"axis": np.array([1])},
    )
    config = {"inputs": {"ids": {"column": "t", "pad": 100}}}
    column = pa.array(TOKEN_LISTS, pa.list_(pa.int32()))
    result = bench.scorer(model, {"t": column}, config).score(batch(t=column))
    assert result.to_pydict() == {"total": [106, 400, 304, 211, 34]}


def test_a_model_whose_bits_depend_on_the_width_is_always_fed_the_full_width(bench: Bench) -> None:
    column = pa.array(TOKEN_LISTS * 4, pa.list_(pa.int32()))
    scorer = bench.scorer(tokens(), {"t": column}, token_config(max=6))
    certificate = scorer.bundle.manifest.certificate
    assert certificate.bit_exact
    assert certificate.full_width
    assert set(scorer.score(batch(t=column)).column("width").to_pylist()) == {6}


def test_a_constant_has_the_shape_of_its_input(bench: Bench) -> None:
    model = graph(
        [node("Mul", ["x", "rate"], ["y"])],
        {"x": (F32, ["N"]), "rate": (F32, [])},
        {"y": (F32, ["N"])},
    )
    rows = batch(x=[1.0, 2.0, 3.0])
    result = bench.scorer(model, rows, {"inputs": {"rate": {"constant": 3}}}).score(rows)
    assert result.to_pydict() == {"y": [3, 6, 9]}


def test_a_constant_fills_a_shape_that_grows_with_the_batch(bench: Bench) -> None:
    model = graph(
        [
            node("ReduceSum", ["state", "axes"], ["per_row"], keepdims=0),
            node("Add", ["x", "per_row"], ["y"]),
            node("Identity", ["state"], ["next_state"]),
        ],
        {"x": (F32, ["N"]), "state": (F32, [2, "N", 4])},
        {"y": (F32, ["N"]), "next_state": (F32, [2, "N", 4])},
        {"axes": np.array([0, 2])},
    )
    rows = batch(x=[1.0, 2.0, 3.0])
    config = {
        "inputs": {"state": {"constant": 0.5, "shape": [2, "batch", 4]}},
        "outputs": {"y": {"column": "y"}},
    }
    assert bench.scorer(model, rows, config).score(rows).to_pydict() == {"y": [5, 6, 7]}


@pytest.mark.parametrize("rows", [1, 8])
def test_a_graph_with_a_fixed_batch_is_fed_in_that_size(bench: Bench, rows: int) -> None:
    values = batch(a=np.arange(21.0), b=np.ones(21))
    scorer = bench.scorer(linear([1, 2], rows), values, {"inputs": {"x": {"pack": ["a", "b"]}}})
    certificate = scorer.bundle.manifest.certificate
    assert (certificate.batch_size, certificate.padding.rule, certificate.padding.rows) == (
        rows,
        "fixed",
        rows,
    )
    assert certificate.bit_exact
    assert scorer.score(values).column("score").to_pylist() == [i + 2.0 for i in range(21)]


def test_a_fixed_constant_beside_rows_does_not_fix_the_batch(bench: Bench) -> None:
    model = graph(
        [node("Mul", ["x", "rate"], ["y"])], {"x": (F32, ["N"]), "rate": (F32, [1])}, {"y": (F32, ["N"])}
    )
    rows = batch(x=np.arange(20.0))
    scorer = bench.scorer(model, rows, {"inputs": {"rate": {"constant": 2}}})
    assert scorer.bundle.manifest.certificate.padding.rule == "none"
    assert scorer.score(rows).column("y").to_pylist() == [2.0 * i for i in range(20)]


def test_a_slice_of_a_batch_gives_the_same_bits(bench: Bench) -> None:
    model = graph(
        [
            node("ReduceSum", ["v", "axis"], ["s"], keepdims=0),
            node("Cast", ["flag"], ["f"], to=F32),
            node("Add", ["x", "f"], ["xf"]),
            node("Add", ["xf", "s"], ["y"]),
            node("Identity", ["text"], ["t"]),
            node("ReduceSum", ["ids", "axis"], ["total"], keepdims=0),
        ],
        {
            "x": (F32, ["N"]),
            "flag": (BOOL, ["N"]),
            "v": (F32, ["N", 2]),
            "text": (TEXT, ["N"]),
            "ids": (I64, ["N", "T"]),
        },
        {"y": (F32, ["N"]), "t": (TEXT, ["N"]), "total": (I64, ["N"])},
        {"axis": np.array([1])},
    )
    random = np.random.default_rng(1)
    n = 50
    rows = batch(
        x=pa.array([None if i % 7 == 3 else random.normal() for i in range(n)], pa.float64()),
        flag=pa.array([None if i % 11 == 5 else bool(i % 3) for i in range(n)]),
        v=pa.FixedSizeListArray.from_arrays(pa.array(random.normal(size=2 * n).astype(np.float32)), 2),
        text=pa.array([f"t{i % 5}" for i in range(n)]).dictionary_encode(),
        ids=pa.array([list(range(i % 4)) for i in range(n)]),
    )
    scorer = bench.scorer(model, pa.table(rows.to_pydict(), schema=rows.schema))
    whole, refusals = scorer.score_rows(rows)
    for start, length in ((0, 20), (3, 29), (13, 37), (49, 1), (8, 0)):
        part = rows.slice(start, length)
        copied = part.take(pa.array(np.arange(length)))
        assert bits(scorer.score_rows(part)[0]) == bits(scorer.score_rows(copied)[0])
    first, first_refused = scorer.score_rows(rows.slice(0, 23))
    second, second_refused = scorer.score_rows(rows.slice(23))
    assert bits(first)[0] + bits(second)[0] == bits(whole)[0]
    assert refused(first_refused) | {r + 23: w for r, w in refused(second_refused).items()} == refused(
        refusals
    )


@pytest.mark.parametrize(
    ("dtype", "shape", "column", "message"),
    [
        (F32, ["N"], pa.array(["a"]), "takes a number"),
        (TEXT, ["N"], pa.array([1]), "takes string"),
        (BOOL, ["N"], pa.array([1]), "takes bool"),
        (F32, ["N"], pa.array([[1.0]]), "takes a number"),
        (F32, ["N", 2], pa.array([1.0]), "takes a list of numbers"),
        (F32, ["N"], pa.array([1]).dictionary_encode(), "takes a number"),
        (F32, ["N"], pa.nulls(1), "takes a number"),
    ],
    ids=str,
)
def test_a_column_of_a_wrong_type_is_named_with_what_was_expected(
    bench: Bench, dtype: int, shape: Shape, column: pa.Array, message: str
) -> None:
    good = {F32: pa.array([1.0]), TEXT: pa.array(["a"]), BOOL: pa.array([True])}[dtype]
    if shape == ["N", 2]:
        good = pa.array([[1.0, 2.0]])
    scorer = bench.scorer(identity(dtype, shape), {"x": good})
    with pytest.raises(InputError, match=message) as caught:
        scorer.score_rows(batch(x=column))
    assert "column 'x' has the type" in caught.value.message
    with pytest.raises(InputError, match=message):
        scorer.check_columns({"x": column.type})


def test_a_missing_column_is_named(bench: Bench) -> None:
    scorer = bench.scorer(identity(F32, ["N"]), {"x": [1.0]})
    with pytest.raises(InputError, match=r"no column 'x'.*there are z"):
        scorer.score(batch(z=[1.0]))
    with pytest.raises(InputError, match="no column 'x'"):
        scorer.check_columns({"z": pa.float32()})


def test_a_column_that_stands_twice_is_not_called_missing(bench: Bench) -> None:
    scorer = bench.scorer(identity(F32, ["N"]), {"x": [1.0]})
    values = pa.array([1.0], pa.float32())
    with pytest.raises(InputError, match="column 'x' stands twice"):
        scorer.score(pa.RecordBatch.from_arrays([values, values], names=["x", "x"]))
