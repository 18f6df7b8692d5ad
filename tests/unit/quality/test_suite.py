from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from batchinfer.errors import SpecError
from batchinfer.quality import compile_suite, load_suite
from batchinfer.quality._catalog import CATALOG, COMMON
from batchinfer.quality._compile import COMPILERS

SCHEMA = pa.schema(
    [
        ("temp", pa.float64()),
        ("origin", pa.string()),
        ("hour", pa.int32()),
        ("day", pa.date32()),
        ("at", pa.timestamp("us")),
        ("utc", pa.timestamp("us", "UTC")),
        ("ok", pa.bool_()),
        ("items", pa.list_(pa.int8())),
    ]
)
BETWEEN = "expect_column_values_to_be_between"
IN_SET = "expect_column_values_to_be_in_set"
REGEX = "expect_column_values_to_match_regex"
NOT_NULL = "expect_column_values_to_not_be_null"


def write(folder: Path, *expectations: dict[str, Any], **more: Any) -> Path:
    path = folder / "suite.json"
    path.write_text(json.dumps({"name": "weather", "expectations": list(expectations), "meta": {}, **more}))
    return path


def one(name: str, **kwargs: Any) -> dict[str, Any]:
    return {"type": name, "kwargs": kwargs}


QUANTILES = "expect_column_quantile_values_to_be_between"


def quantiles(places: list[Any], ranges: list[Any]) -> dict[str, Any]:
    return one(QUANTILES, column="a", quantile_ranges={"quantiles": places, "value_ranges": ranges})


def divergence(partition: dict[str, Any], **more: Any) -> dict[str, Any]:
    return one("expect_column_kl_divergence_to_be_less_than", column="a", partition_object=partition, **more)


@pytest.mark.parametrize(
    ("entry", "key", "says"),
    [
        (one("expect_column_values_to_not_be_nul", column="temp"), "type", "did you mean 'expect_column_values_to"),
        (one(NOT_NULL, colum="temp"), "colum", "did you mean 'column'?"),
        (one(NOT_NULL), "column", "is missing"),
        (one(NOT_NULL, column=""), "column", "not empty"),
        (one(NOT_NULL, column="temp", mostly=90), "mostly", "a number from 0 to 1, found 90"),
        (one(BETWEEN, column="temp"), "min_value", "cannot both be missing"),
        (one(BETWEEN, column="temp", min_value=3, max_value=1), "min_value", "3 is above max_value 1"),
        (one(BETWEEN, column="temp", min_value="2020-01-01", max_value=1), "max_value", "cannot be compared"),
        (one(BETWEEN, column="temp", min_value="warm"), "min_value", "a number, a date or a timestamp"),
        (one(BETWEEN, column="temp", min_value=1, strict_min="yes"), "strict_min", "true or false, found 'yes'"),
        (one(IN_SET, column="origin", value_set=[]), "value_set", "a list that is not empty, found []"),
        (one(IN_SET, column="origin", value_set=[["a"]]), "value_set", "a list of numbers and texts"),
        (one(REGEX, column="origin", regex="(a"), "regex", "bad regular expression (missing )"),
        (one(REGEX, column="origin"), "regex", "is missing"),
        (one(f"{REGEX}_list", column="origin", regex_list=["a", "["]), "regex_list", "bad regular expression"),
        (one(f"{REGEX}_list", column="origin", regex_list=[]), "regex_list", "not empty"),
        (one(f"{REGEX}_list", column="origin", regex_list=["a"], match_on="most"), "match_on", "'any' or 'all'"),
        (one(NOT_NULL, column="temp", condition_parser="spark"), "condition_parser", "'pandas' or"),
        (one(BETWEEN, column="temp", min_value={"$PARAMETER": "low"}), "min_value", "suite parameters"),
        (one("expect_multicolumn_sum_to_equal", column_list=["a", "a"], sum_total=1), "column_list", "twice"),
        (one("expect_column_pair_values_to_be_in_set", column_A="a", column_B="b", value_pairs_set=[[1]]),
         "value_pairs_set", "a list of pairs"),
        ({"type": NOT_NULL, "kwargs": {"column": "temp"}, "severity": "high"}, "severity", "critical, warning, info"),
        ({"expectation_type": NOT_NULL, "kwargs": {}}, "type", "Great Expectations 0.x"),
        ({"type": NOT_NULL, "kwargs": ["temp"]}, "kwargs", "an object"),
        ({"type": NOT_NULL, "kwargs": {"column": "temp"}, "meta": "ours"}, "meta", "an object, found 'ours'"),
        (one("expect_table_row_count_to_be_between", min_value="2020-01-01"), "min_value", "a number, found"),
        (one("expect_table_column_count_to_be_between", max_value="7"), "max_value", "a number, found '7'"),
        (one("expect_column_to_exist", column="a", column_index="1"), "column_index", "a whole number"),
        (one("expect_table_columns_to_match_set", column_set="ab"), "column_set", "a list of texts"),
        (one(QUANTILES, column="a", quantile_ranges=[0.5]), "quantile_ranges", "an object with 'quantiles'"),
        (quantiles([0.5, 1.5], [[0, 1], [0, 1]]), "quantile_ranges", "from 0 to 1"),
        (quantiles([0.5], [[0, 1], [0, 1]]), "quantile_ranges", "as many 'value_ranges' as 'quantiles' (1)"),
        (quantiles([0.5], [[0, 1, 2]]), "quantile_ranges", "a list of pairs"),
        (quantiles([0.5], [["a", None]]), "quantile_ranges", "numbers or nulls"),
        (quantiles([0.5], [[2, 1]]), "quantile_ranges", "[2, 1] does not"),
        (divergence({"bins": [0, 1, 2]}), "partition_object", "an object with 'weights', and 'bins' or 'values'"),
        (divergence({"bins": [0, 1, 2], "weights": ["a", "b"]}), "partition_object", "'weights' that are numbers"),
        (divergence({"bins": [0, 1, 2], "weights": [1]}), "partition_object", "one more than there are weights (1)"),
        (divergence({"bins": ["0", "1"], "weights": [1]}), "partition_object", "numbers in 'bins'"),
        (divergence({"bins": [0, 0, 1], "weights": [0.5, 0.5]}), "partition_object", "'bins' that rise"),
        (divergence({"bins": [0, 1], "weights": [0.8]}), "partition_object", "whose sum is 1, not 0.8"),
        (divergence({"bins": [0, 1], "weights": [0.8], "tail_weights": [0.2]}), "partition_object", "two 'tail_"),
        (divergence({"values": [["a"]], "weights": [1]}), "partition_object", "'values' for each of the 1 weights"),
        (divergence({"values": ["a"], "weights": [1]}, threshold="x"), "threshold", "a number, found 'x'"),
        (divergence({"values": ["a"], "weights": [1]}, tail_weight_holdout=2), "tail_weight_holdout", "0 to 1"),
    ],
)  # fmt: skip
def test_a_wrong_expectation_is_named_with_file_place_type_and_key(
    tmp_path: Path, entry: dict[str, Any], key: str, says: str
) -> None:
    path = write(tmp_path, one(NOT_NULL, column="temp"), entry)
    with pytest.raises(SpecError) as caught:
        load_suite(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: expectation 1 ({entry.get('type', '?')}), '{key}': ")
    assert says in message
    assert caught.value.fields["key"] == key


@pytest.mark.parametrize(
    ("entry", "key", "says"),
    [
        (one(NOT_NULL, column="tmp"), "column", "the input has no column 'tmp'; did you mean 'temp'?"),
        (one(NOT_NULL, column="zzzzzz"), "column", "the columns are temp, origin"),
        (one("expect_column_pair_values_to_be_equal", column_A="temp", column_B="hours"), "column_B", "'hour'"),
        (one("expect_multicolumn_sum_to_equal", column_list=["temp", "x"], sum_total=1), "column_list", "'x'"),
        (one(BETWEEN, column="origin", min_value=1), "column", "a column of text has no bounds"),
        (one(BETWEEN, column="day", min_value=1), "min_value", "1 cannot be compared with a column of date32[day]"),
        (one(BETWEEN, column="temp", max_value="2020-01-01"), "max_value", "cannot be compared with a column"),
        (one(BETWEEN, column="at", max_value="2020-01-01T00:00:00Z"), "max_value", "has a zone, and the column"),
        (one(IN_SET, column="hour", value_set=["1", 1.5]), "value_set", "no value of a column of int32 equals any"),
        (one(IN_SET, column="day", value_set=["soon"]), "value_set", "'soon' cannot be compared"),
        (one("expect_column_values_to_be_of_type", column="hour", type_="strng"), "type_", "did you mean 'string'?"),
        (one("expect_column_value_lengths_to_be_between", column="origin", min_value=1.5), "min_value", "whole"),
        (one("expect_column_pair_values_to_be_equal", column_A="temp", column_B="hour", ignore_row_if="never"),
         "ignore_row_if", "unknown value 'never'; did you mean 'neither'?"),
        (one(NOT_NULL, column="temp", row_condition="hour >"), "row_condition", "cannot read 'hour >'"),
        (one(NOT_NULL, column="temp", row_condition="hous > 1"), "row_condition", "did you mean 'hour'?"),
        (one(NOT_NULL, column="temp", row_condition="origin == None"), "row_condition", "use .isnull()"),
        (one(NOT_NULL, column="temp", row_condition="origin < 1"), "row_condition", "1 cannot be compared with a"),
        (one(NOT_NULL, column="temp", row_condition="hour < 'a'"), "row_condition", "'a' cannot be compared with a"),
        (one(NOT_NULL, column="temp", row_condition="hour"), "row_condition", "'hour' alone is no condition"),
        (one(NOT_NULL, column="temp", row_condition="hour > 1", condition_parser="great_expectations"),
         "row_condition", "accepted is"),
        (one(NOT_NULL, column="temp", row_condition={"type": "comparison", "operator": "~"}),
         "row_condition", "is no condition"),
        (one(NOT_NULL, column="temp", row_condition={"type": "and", "conditions": []}),
         "row_condition", "no conditions"),
        (one(NOT_NULL, column="temp", row_condition=5), "row_condition", "found 5"),
    ],
)  # fmt: skip
def test_an_expectation_that_does_not_fit_the_input_is_named(
    tmp_path: Path, entry: dict[str, Any], key: str, says: str
) -> None:
    path = write(tmp_path, entry)
    with pytest.raises(SpecError) as caught:
        compile_suite(load_suite(path), SCHEMA)
    message = str(caught.value)
    assert message.startswith(f"{path}: expectation 0 ({entry['type']}), '{key}': ")
    assert says in message


@pytest.mark.parametrize(
    "entry",
    [
        one("expect_column_values_to_be_dateutil_parseable", column="origin"),
        one("expect_column_values_to_be_increasing", column="hour"),
        one("expect_column_values_to_match_like_pattern", column="origin", like_pattern="a%"),
        one(REGEX, column="temp", regex="1"),
        one(REGEX, column="at", regex="1"),
        one(BETWEEN, column="items", min_value=1),
        one("expect_column_pair_values_to_be_equal", column_A="origin", column_B="hour"),
        one("expect_multicolumn_sum_to_equal", column_list=["ok", "hour"], sum_total=1),
        one(NOT_NULL, column="temp", row_condition="hour + 1 > 3"),
        one(NOT_NULL, column="temp", row_condition="origin.str.len() > 3"),
        one(NOT_NULL, column="temp", row_condition="origin == hour"),
    ],
)
def test_what_is_not_compiled_is_handed_back(tmp_path: Path, entry: dict[str, Any]) -> None:
    suite = load_suite(write(tmp_path, one(NOT_NULL, column="temp"), entry))
    checks, foreign = compile_suite(suite, SCHEMA)
    assert [check.expectation.index for check in checks] == [0]
    assert [expectation.index for expectation in foreign] == [1]


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "is no JSON"), ("[]", "needs a list 'expectations'"), ('{"expectations": {}}', "needs a list"),
     ('{"expectations": [3]}', "an expectation is an object"),
     ('{"expectation_suite_name": "x", "expectations": []}', "0.x")],
)  # fmt: skip
def test_an_unreadable_suite_is_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "suite.json"
    path.write_text(text)
    with pytest.raises(SpecError, match=says) as caught:
        load_suite(path)
    assert str(path) in str(caught.value)


def test_a_suite_that_is_not_there_is_named(tmp_path: Path) -> None:
    for name in ("absent.json", "absent.py"):
        with pytest.raises(SpecError, match=f"{name}: the suite cannot be read"):
            load_suite(tmp_path / name)


BUILDS = """
import great_expectations as gx
import great_expectations.expectations as gxe
from great_expectations.expectations.row_conditions import Column
"""
SUITE = """gx.ExpectationSuite("weather", expectations=[
    gxe.ExpectColumnValuesToBeBetween(
        column="temp", min_value=1, severity="warning",
        row_condition=(Column("hour") > 3) & Column("ok").is_not_null()),
    gxe.ExpectColumnValuesToBeBetween(
        column="temp", max_value=3, row_condition='col("hour") > 3', condition_parser="great_expectations")])"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("body", [f"{BUILDS}suite = {SUITE}", f"{BUILDS}def build():\n    return {SUITE}"])
def test_a_python_file_is_the_suite_that_it_builds(tmp_path: Path, body: str) -> None:
    path = tmp_path / "suite.py"
    path.write_text(body)
    suite = load_suite(path)
    assert suite.name == "weather"
    first, second = suite.expectations
    assert (first.type, first.severity, second.severity) == (BETWEEN, "warning", "critical")
    checks, foreign = compile_suite(suite, SCHEMA)
    assert not foreign
    assert [check.columns for check in checks] == [("temp", "hour", "ok"), ("temp", "hour")]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("body", "says"),
    [("1 / 0", "ZeroDivisionError: division by zero"), ("raise SystemExit(0)", "SystemExit: 0"),
     ("x = 1", "found 0 suites"),
     ("def build(): return 5", "found 1"),
     ("def (", "SyntaxError"), (f"{BUILDS}a = {SUITE}\nb = {SUITE}", "found 2 suites")],
)  # fmt: skip
def test_a_python_file_that_builds_no_suite_is_named(tmp_path: Path, body: str, says: str) -> None:
    path = tmp_path / "suite.py"
    path.write_text(body)
    with pytest.raises(SpecError, match=says) as caught:
        load_suite(path)
    assert str(path) in str(caught.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_the_catalog_is_great_expectations_own() -> None:
    from great_expectations.expectations.registry import (
        get_expectation_impl,
        list_registered_expectation_implementations,
    )

    bare = {"id", "meta", "notes", "description", "rendered_content", "severity", "library_metadata"} | COMMON
    names = list_registered_expectation_implementations()
    core = [n for n in names if get_expectation_impl(n).__module__.startswith("great_expectations.")]
    assert sorted(core) == sorted(CATALOG)
    for name in core:
        fields = {n: f for n, f in get_expectation_impl(name).__fields__.items() if n not in bare}
        assert set(CATALOG[name].arguments) == set(fields), name
        assert set(CATALOG[name].required) == {n for n, f in fields.items() if f.required}, name
    assert set(COMPILERS) <= set(CATALOG)
