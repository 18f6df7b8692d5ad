"""Aggregates judge as Great Expectations does on the same rows, however the rows were cut and merged."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.property.peer import judge, validate

from batchinfer.errors import SpecError
from batchinfer.quality import Check, Expectation, Suite, compile_suite

STATISTICS = ["min", "max", "sum", "mean", "stdev", "median", "proportion_of_non_null_values"]
PATIENT = settings(
    max_examples=10,
    deadline=None,
    phases=[
        Phase.explicit,
        Phase.reuse,
        Phase.generate,
    ],  # an example takes Great Expectations 0.2 s: no shrinking
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

quarters = st.integers(-4000, 4000).map(lambda n: n / 4)
"""Numbers whose sums are exact in pandas as well."""

NUMBERS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "quarters": (pa.float64(), quarters | st.just(-0.0)),
    "small quarters": (pa.float32(), quarters),
    "infinities": (pa.float64(), quarters | st.sampled_from([math.inf, -math.inf, math.nan])),
    "floats": (pa.float64(), st.floats(-1e100, 1e100)),
    "tiny floats": (pa.float64(), st.floats(-1e-300, 1e-300)),
    "bytes": (pa.int8(), st.integers(-128, 127)),
    "integers": (pa.int64(), st.integers(-(2**40), 2**40)),
    "unsigned": (pa.uint32(), st.integers(0, 2**32 - 1)),
    "bools": (pa.bool_(), st.booleans()),
}


@st.composite
def columns(draw: st.DrawFn, kind: str) -> pa.Array:
    type_, values = NUMBERS[kind]
    some = draw(st.sampled_from([values, values, values | st.none(), st.none()]))
    return pa.array(draw(st.lists(some, max_size=40)), type_)


def ends(draw: Any, column: pa.Array) -> dict[str, Any]:
    """Bounds on, near and far from what may be observed; strict or not."""
    values = [float(v) for v in column.to_pylist() if v is not None and math.isfinite(v)]
    pool = [*values, 0.0, 0.5, 1.0, sum(values), sum(values) / max(len(values), 1), -1e9, 1e9]
    low, high = sorted((draw(st.sampled_from(pool)), draw(st.sampled_from(pool))))
    strict: dict[str, Any] = {f"strict_{end}": True for end in ("min", "max") if draw(st.booleans())}
    chosen = draw(
        st.sampled_from([{"min_value": low}, {"max_value": high}, {"min_value": low, "max_value": high}])
    )
    return {**strict, **chosen}


def expectation(name: str, **kwargs: Any) -> Expectation:
    return Expectation(0, f"expect_{name}", kwargs)


def compiled(stated: Expectation, schema: pa.Schema) -> Check:
    (check,), foreign = compile_suite(Suite("suite.json", "suite", (stated,), {}), schema)
    assert not foreign
    return check


def close(ours: Any, theirs: Any, scale: float, tolerance: float) -> bool:
    if ours is None or theirs is None or not (math.isfinite(ours) and math.isfinite(theirs)):
        return bool(ours == theirs)
    return bool(
        abs(ours - theirs) <= tolerance * scale + (1e-150 if tolerance else 0)
    )  # where squares underflow


@pytest.mark.parametrize("kind", NUMBERS)
@PATIENT
@given(data=st.data())
def test_a_statistic_of_numbers_is_judged_alike(kind: str, data: st.DataObject) -> None:
    column = data.draw(columns(kind))
    table = pa.table({"x": column, "n": pa.array(range(len(column)), pa.int64())})
    where: dict[str, Any] = data.draw(
        st.sampled_from([{}, {}, {"row_condition": "n > 3", "condition_parser": "pandas"}])
    )
    stated = [
        expectation(f"column_{name}_to_be_between", column="x", **where, **ends(data.draw, column))
        for name in STATISTICS
    ]
    values = [abs(float(v)) for v in column.to_pylist() if v is not None and math.isfinite(v)]
    scale = max(values, default=0.0) * max(len(values), 1)
    exact = "floats" not in kind  # there pandas' own sums are exact
    for one, theirs in zip(stated, validate(table, stated), strict=True):
        ours = judge(compiled(one, table.schema), table, data.draw(st.integers(0, 2**32)))
        observed = theirs["result"]["observed_value"]
        averaged = any(name in one.type for name in ("mean", "median", "stdev"))
        rounded = "stdev" in one.type or (not exact and ("sum" in one.type or "mean" in one.type))
        tolerance = 1e-9 if rounded else 0
        if column.type == pa.float32() and averaged:
            tolerance = 1e-6  # in float32 pandas rounds to float32
        shown = (
            1e-6 if column.type == pa.float32() else tolerance
        )  # Great Expectations rounds float32 in its JSON
        assert close(ours.result["observed_value"], observed, scale, shown), (one, ours, theirs)
        bounds = [one.kwargs[key] for key in ("min_value", "max_value") if key in one.kwargs]
        if not tolerance or not any(close(bound, observed, scale, 2 * tolerance) for bound in bounds):
            assert ours.success == theirs["success"], (one, ours, theirs)


@pytest.mark.parametrize("kind", ["quarters", "infinities", "floats", "unsigned", "integers"])
@PATIENT
@given(data=st.data())
def test_a_quantile_is_judged_alike(kind: str, data: st.DataObject) -> None:
    column = data.draw(columns(kind))
    table = pa.table({"x": column})
    quantiles = sorted(
        data.draw(st.lists(st.floats(0, 1) | st.sampled_from([0.25, 0.5]), min_size=1, max_size=4))
    )
    finite = [float(v) for v in column.to_pylist() if v is not None and math.isfinite(v)] or [0.0]
    bound = st.none() | st.sampled_from(finite)
    drawn: list[Any] = [data.draw(st.tuples(bound, bound)) for _ in quantiles]
    ranges = [(high, low) if None not in (low, high) and low > high else (low, high) for low, high in drawn]
    methods = [None, "linear", "lower", "higher", "midpoint"]
    if (
        kind == "bytes"
    ):  # between two of them NumPy's own arithmetic in 8 bits overflows: of -21 and 111 it finds 173
        methods = [None, "lower", "higher"]
    stated = [
        expectation(
            "column_quantile_values_to_be_between",
            column="x",
            quantile_ranges={"quantiles": quantiles, "value_ranges": [list(pair) for pair in ranges]},
            **({"allow_relative_error": method} if method else {}),
        )
        for method in methods
    ]
    for one, theirs in zip(stated, validate(table, stated), strict=True):
        ours = judge(compiled(one, table.schema), table, data.draw(st.integers(0, 2**32)))
        scale = max(map(abs, finite))
        pairs = zip(
            ours.result["observed_value"]["values"], theirs["result"]["observed_value"]["values"], strict=True
        )
        for mine, peer in pairs:
            number = None if mine is None or math.isnan(mine) else mine
            assert close(number, peer, scale, 1e-12), (one, ours, theirs)
        assert ours.result["details"] == theirs["result"]["details"], (one, ours, theirs)
        assert ours.success == theirs["success"]


@PATIENT
@given(data=st.data())
def test_an_extreme_timestamp_is_judged_alike(data: st.DataObject) -> None:
    unit = data.draw(st.sampled_from(["s", "ms", "us", "ns"]))
    start = datetime(2020, 1, 1)
    steps = data.draw(st.lists(st.none() | st.integers(0, 10**14), max_size=20))
    moments = [
        None if step is None else start + timedelta(microseconds=step // 10**6 * 10**6) for step in steps
    ]
    table = pa.table(
        {
            "time": pa.array(moments, pa.timestamp(unit)),
            "zoned": pa.array(moments, pa.timestamp(unit, "Europe/Berlin")),
        }
    )
    known = [moment for moment in moments if moment is not None]
    moment = data.draw(st.sampled_from(known or [start])).isoformat()
    stated = [
        expectation(f"column_{side}_to_be_between", column=column, **{end: bound})
        for side in ("min", "max")
        for end in ("min_value", "max_value")
        for column, bound in (("time", moment), ("zoned", moment + "+00:00"))
    ]
    for one, theirs in zip(stated, validate(table, stated), strict=True):
        ours = judge(compiled(one, table.schema), table, data.draw(st.integers(0, 2**32)))
        # Of a column without a value pandas gives NaT, which Great Expectations then fails to compare.
        assert ours.result["observed_value"] == (theirs["result"]["observed_value"] if known else None)
        assert ours.success == theirs["success"]


@PATIENT
@given(data=st.data())
def test_divergence_from_bins_is_judged_alike(data: st.DataObject) -> None:
    column = data.draw(columns("infinities"))
    table = pa.table({"x": column})
    edges: list[float] = sorted(data.draw(st.sets(quarters, min_size=2, max_size=6)))
    low, high = data.draw(st.booleans()), data.draw(st.booleans())
    bins = ([-math.inf] if low else []) + edges + ([math.inf] if high else [])
    raw = data.draw(st.lists(st.integers(0, 9), min_size=len(bins) + 1, max_size=len(bins) + 1))
    kwargs: dict[str, Any] = {"column": "x", "threshold": data.draw(st.sampled_from([None, 0.0, 0.1, 1.0]))}
    partition: dict[str, Any] = {"bins": bins}
    if data.draw(st.booleans()) and not low and not high:
        total = sum(raw) or 1
        weights = [one / total for one in raw] if sum(raw) else [1.0, *([0.0] * len(bins))]
        partition |= {"weights": weights[1:-1], "tail_weights": [weights[0], weights[-1]]}
    else:
        inner = raw[1:-1] if sum(raw[1:-1]) else [1] * (len(bins) - 1)
        partition["weights"] = [one / sum(inner) for one in inner]
        if not (low and high):
            kwargs["tail_weight_holdout"] = data.draw(st.sampled_from([0, 0.01, 0.5]))
    kwargs["internal_weight_holdout"] = data.draw(st.sampled_from([0, 0.01]))
    stated = expectation("column_kl_divergence_to_be_less_than", partition_object=partition, **kwargs)
    theirs = validate(table, [stated])[0]
    ours = judge(compiled(stated, table.schema), table, data.draw(st.integers(0, 2**32)))
    assert "observed_value" in theirs["result"], theirs
    mine, peer = ours.result["observed_value"], theirs["result"]["observed_value"]
    assert (mine is None) == (peer is None)
    if mine is not None:
        assert mine == pytest.approx(peer, abs=1e-12)
        found, expected = ours.result["details"], theirs["result"]["details"]
        for side in ("observed_partition", "expected_partition"):
            for key in ("bins", "weights", "tail_weights"):
                assert found[side][key] == pytest.approx(expected[side][key], abs=1e-12)
    if mine is None or kwargs["threshold"] is None or abs(mine - kwargs["threshold"]) > 1e-12:
        assert ours.success == theirs["success"]


@PATIENT
@given(data=st.data())
def test_the_table_is_judged_alike(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=5, unique=True))
    rows = data.draw(st.integers(0, 9))
    table = pa.table({name: pa.array(range(rows), pa.int64()) for name in names})
    others = data.draw(
        st.permutations(names) | st.lists(st.sampled_from("abcdef"), min_size=1, max_size=5, unique=True)
    )
    number = data.draw(st.integers(0, 9))
    stated = [
        expectation("table_row_count_to_equal", value=number),
        expectation("table_row_count_to_be_between", min_value=number, strict_min=data.draw(st.booleans())),
        expectation("table_row_count_to_be_between", max_value=number),
        expectation("table_column_count_to_equal", value=number),
        expectation("table_column_count_to_be_between", min_value=2, max_value=number + 2),
        expectation("table_columns_to_match_ordered_list", column_list=list(others)),
        expectation("table_columns_to_match_set", column_set=list(others)),
        expectation("table_columns_to_match_set", column_set=list(others), exact_match=False),
        expectation("column_to_exist", column=data.draw(st.sampled_from("abcdef"))),
        expectation("column_to_exist", column=names[0], column_index=data.draw(st.integers(-6, 6))),
    ]
    for one, theirs in zip(stated, validate(table, stated), strict=True):
        ours = judge(compiled(one, table.schema), table, data.draw(st.integers(0, 2**32)))
        assert ours.success == theirs["success"]
        assert ours.result == theirs["result"]


def test_sums_of_extremes_are_right_where_pandas_rounds_or_overflows() -> None:
    table = pa.table(
        {
            "big": pa.array([2**63 - 1, 1], pa.int64()),
            "small": pa.array([2.0**24, 1, 1], pa.float32()).slice(0, 2),
        }
    )
    stated = [
        expectation("column_sum_to_be_between", column=column, min_value=0) for column in ("big", "small")
    ]
    big, small = (result["result"]["observed_value"] for result in validate(table, stated))
    assert (big, small) == (-(2**63), 2.0**24)
    found = [judge(compiled(one, table.schema), table, 0).result["observed_value"] for one in stated]
    assert found == [2**63, 2.0**24 + 1]


@pytest.mark.parametrize("name", ["mean", "min", "sum", "stdev", "median"])
def test_a_statistic_that_a_type_has_not_is_refused_by_name(name: str) -> None:
    schema = pa.schema([("x", pa.string())])
    with pytest.raises(SpecError, match=f"column of string has no {name}"):
        compiled(expectation(f"column_{name}_to_be_between", column="x", min_value=0), schema)
