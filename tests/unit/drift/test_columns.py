"""Odd columns: each has a defined profile, and a defined verdict."""

from __future__ import annotations

import datetime
import decimal
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batchinfer.drift import ColumnDrift, DriftReport, Reference, Thresholds, build_reference, measure
from batchinfer.drift._distance import noise
from batchinfer.errors import InputError, ModelError

INF, NAN = math.inf, math.nan


def batch(**columns: Any) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(columns)


def reference_of(features: pa.RecordBatch, predictions: pa.RecordBatch | None = None) -> Reference:
    predictions = features.select([]) if predictions is None else predictions
    return build_reference(lambda: iter([(features, predictions, None)]))


def drift_of(expected: pa.Array, found: pa.Array) -> ColumnDrift:
    reference = reference_of(batch(x=expected))
    run = batch(x=found)
    return measure(reference, reference.profiler.profile(run, run.select([])), Thresholds()).columns["x"]


def bins_of(expected: pa.Array) -> dict[str, Any]:
    (column,) = reference_of(batch(x=expected)).columns
    return column.column.bins.to_dict()


def test_deciles_are_values_of_the_reference_and_the_last_edge_lies_just_past_its_greatest() -> None:
    assert bins_of(pa.array(range(1, 101), pa.int16()))["edges"] == [1, *range(10, 91, 10), 101]
    edges = bins_of(pa.array([0.5, 1.5], pa.float32()))["edges"]
    assert edges[0] == 0.5 and edges[-1] == math.nextafter(1.5, 2)


def test_a_value_that_is_most_of_a_column_has_a_bin_of_its_own() -> None:
    dry = [0.0] * 95 + [1.0, 2.0, 3.0, 4.0, 5.0]
    expected = pa.array(dry, pa.float32())
    assert bins_of(expected)["edges"] == [0.0, math.nextafter(0.0, 1), math.nextafter(5.0, 6)]
    assert drift_of(expected, pa.array([0.0] * 500 + [3.0] * 500, pa.float32())).drifted


def test_a_constant_column_drifts_when_it_is_no_longer_constant() -> None:
    expected = pa.array([7] * 1000)
    same = drift_of(expected, pa.array([7] * 900))
    assert (same.psi, same.js, same.drifted, same.unseen) == (0.0, 0.0, False, 0.0)
    other = drift_of(expected, pa.array([7] * 500 + [8] * 500))
    assert other.drifted and other.unseen == 0.5


def test_nulls_are_a_bin_and_nan_is_a_null() -> None:
    expected = pa.array([1.0, 2.0, 3.0, None] * 250)
    same = drift_of(expected, pa.array([1.0, 2.0, 3.0, NAN] * 250, pa.float64()))
    assert same.psi == 0.0 and same.null_rate == same.reference_null_rate == 0.25 and same.mean == 2.0
    more = drift_of(expected, pa.array([1.0, 2.0, 3.0, None, None, None] * 200))
    assert more.drifted and more.null_rate == 0.5


@pytest.mark.parametrize("kind", [pa.float32(), pa.string(), pa.bool_(), pa.int8()])
def test_a_column_that_turns_null_drifts_and_so_does_one_that_no_longer_is(kind: pa.DataType) -> None:
    some = pa.array([1, 0, 1, 1] * 300).cast(kind)
    gone = drift_of(some, pa.nulls(1000, kind))
    assert gone.drifted and gone.null_rate == 1.0 and gone.unseen == 0.0
    assert (gone.mean, gone.min, gone.max) == (None, None, None)
    assert drift_of(some, pa.nulls(1000)).psi == gone.psi
    back = drift_of(pa.nulls(1000, kind), some)
    assert back.drifted and back.unseen == 1.0
    assert not drift_of(pa.nulls(1000, kind), pa.nulls(500, kind)).drifted


def test_infinities_lie_in_the_outermost_bins_and_out_of_range_and_mean() -> None:
    expected = pa.array([1.0, 2.0, INF, -INF] * 250)
    (column,) = reference_of(batch(x=expected)).columns
    numbers = column.profile.numbers
    assert numbers is not None
    assert (numbers.infinite, numbers.minimum, numbers.maximum) == (500, 1.0, 2.0)
    assert column.profile.counts[0] == column.profile.counts[-2] == 250
    found = drift_of(pa.array([1.0, 2.0] * 500), expected)
    assert found.drifted and (found.unseen, found.mean, found.min, found.max) == (0.5, 1.5, 1.0, 2.0)


def test_a_category_never_seen_is_counted_as_unseen() -> None:
    expected = pa.array(["a", "b", None, ""] * 250)
    found = drift_of(expected, pa.array(["a", "b", None, "z"] * 250))
    assert found.drifted and found.unseen == 0.25 and found.null_rate == 0.25


def test_rare_categories_share_a_bin_and_are_no_unseen_ones() -> None:
    names = [f"n{i:03d}" for i in range(150)]
    bins = bins_of(pa.array(names * 2 + names[:100]))
    assert bins["categories"] == names[:100] and bins["others"] == names[100:]
    assert drift_of(pa.array(names), pa.array(names[::-1])).unseen == 0.0


def test_a_dictionary_counts_as_its_values() -> None:
    values = pa.array(["a", "b", None, "b"] * 250)
    indices = pa.array([0, 1, 3, 2] * 250, pa.int8())
    odd = pa.DictionaryArray.from_arrays(indices, pa.array(["a", "b", "b", None, "unused"]))
    for expected, found in [(values, odd), (odd, values), (values.dictionary_encode(), odd)]:
        drift = drift_of(expected, found)
        assert (drift.psi, drift.null_rate, drift.unseen) == (0.0, 0.25, 0.0)


def test_what_has_no_profile_is_left_out_by_name() -> None:
    features = batch(
        day=pa.array([datetime.date(2013, 1, 1)]),
        time=pa.array([datetime.datetime(2013, 1, 1)]),
        price=pa.array([decimal.Decimal("1.5")]),
        tokens=pa.array([[1, 2]]),
        raw=pa.array([b"x"]),
        nothing=pa.nulls(1),
        x=pa.array([1.0]),
    )
    reference = reference_of(features, batch(vector=pa.array([[1.0]], pa.list_(pa.float32(), 1))))
    assert [each.column.name for each in reference.columns] == ["x"]
    assert {"day", "time", "price", "tokens", "raw", "nothing", "vector"} == reference.left_out.keys()
    assert reference.left_out["price"] == "decimal128(2, 1) has no profile"


def test_a_column_of_names_is_left_out() -> None:
    reference = reference_of(batch(x=pa.array(map(str, range(10_001))), y=pa.array([1] * 10_001)))
    assert reference.left_out == {"x": "has more than 10,000 different values"}


def test_a_prediction_with_a_features_name_is_a_column_of_its_own() -> None:
    features, predictions = batch(x=pa.array([1.0] * 500)), batch(x=pa.array([0] * 500))
    reference = reference_of(features, predictions)
    run = batch(x=pa.array([1] * 500))
    report = measure(reference, reference.profiler.profile(features, run), Thresholds())
    assert {name: c.drifted for name, c in report.columns.items()} == {"x": False, "x (prediction)": True}
    assert report.alarm and report.drifted_columns == 0.0


def test_a_run_without_rows_has_not_drifted() -> None:
    rows = batch(x=pa.array([1.0, 2.0]), s=pa.array(["a", "b"]))
    reference = reference_of(rows, batch(p=pa.array([0.5, 0.7])))
    empty = reference.profiler.profile(rows.slice(0, 0), batch(p=pa.array([], pa.float64())))
    report = measure(reference, empty, Thresholds())
    assert report.rows == 0 and not report.alarm and report.drifted_columns == 0.0
    for column in report.columns.values():
        assert (
            column.psi
            is column.js
            is column.limit
            is column.null_rate
            is column.unseen
            is column.mean
            is None
        )
    some = reference.profiler.profile(rows, batch(p=pa.array([0.5, 0.7])))
    assert empty.merge(some) == some


def test_an_empty_reference_is_refused() -> None:
    with pytest.raises(InputError, match="no rows that the model can score"):
        reference_of(batch(x=pa.array([], pa.float64())))


def test_a_missing_column_and_one_of_another_kind_are_named() -> None:
    reference = reference_of(batch(x=pa.array([1.0])))
    with pytest.raises(InputError, match="no column 'x'"):
        reference.profiler.profile(batch(y=pa.array([1.0])), batch())
    with pytest.raises(InputError, match="column 'x' is string; the model's reference has numbers there"):
        reference.profiler.profile(batch(x=pa.array(["1"])), batch())


@pytest.mark.parametrize("kind", [pa.int8(), pa.int64(), pa.uint16(), pa.float32(), pa.float16()])
def test_numbers_of_any_type_are_counted_on_the_same_bins(kind: pa.DataType) -> None:
    expected = pa.array(np.arange(0, 100) % 50, pa.float64())
    assert drift_of(expected, expected.cast(kind)).psi == 0.0


def test_a_reference_of_another_format_is_refused() -> None:
    with pytest.raises(ModelError, match="has the format 7, expected 1"):
        Reference.from_json('{"format": 7}')


def test_a_report_is_plain_json() -> None:
    rows = batch(x=pa.array([1.0, 2.0]))
    reference = reference_of(rows)
    report: DriftReport = measure(reference, reference.profile, Thresholds())
    assert report.to_dict() == {
        "alarm": False,
        "drifted_columns": 0.0,
        "rows": 2,
        "columns": {
            "x": {
                "kind": "feature",
                "psi": 0.0,
                "js": 0.0,
                "limit": noise(reference.columns[0].profile.counts, 2),
                "drifted": False,
                "null_rate": 0.0,
                "reference_null_rate": 0.0,
                "unseen": 0.0,
                "mean": 1.5,
                "reference_mean": 1.5,
                "min": 1.0,
                "max": 2.0,
            }
        },
    }
