"""Verdicts equal Great Expectations' own: both run on the same random frames, ours also cut and merged in any order.

What is deliberately different is not generated; DEVIATIONS declares each such case, as docs/quality.md does.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import cache
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchinfer.core import Lineage
from batchinfer.quality import Check, Expectation, Suite, compile_suite

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")

MAP_COUNTS = ("element_count", "missing_count", "unexpected_count")
BIG = 2**53  # beyond it pandas compares integers as floats, and we do not


def column(type_: pa.DataType, values: st.SearchStrategy[Any], *, nulls: bool = True) -> Any:
    return type_, st.one_of(st.none(), values) if nulls else values


floats = st.sampled_from(
    [0.0, -0.0, 0.1, 1.0, 1.5, 2.0, -3.0, 1e30, float("nan"), float("inf"), -float("inf")]
)
few = st.integers(-3, 3)
texts = st.sampled_from(
    ["", "a", "ab", "b", "Ä", "ä1", "x y", "1", "nan", "None", "日本", "a\nb", "😀", "ab\n", "é"]
)
days = st.dates(date(2020, 1, 1), date(2020, 1, 5)) | st.just(date(1, 1, 1)) | st.just(date(9999, 12, 31))
moments = st.integers(0, 5).map(lambda hours: datetime(2020, 1, 1) + timedelta(hours=12 * hours))

COLUMNS = {
    "i8": column(pa.int8(), few | st.sampled_from([-128, 127]), nulls=False),
    "i32": column(pa.int32(), few),
    "i64": column(pa.int64(), few | st.sampled_from([-BIG, BIG]), nulls=False),
    "extreme": column(pa.int64(), few | st.sampled_from([-(2**63), 2**63 - 1]), nulls=False),
    "u16": column(pa.uint16(), st.integers(0, 4)),
    "f32": column(pa.float32(), floats),
    "f64": column(pa.float64(), floats | few.map(float)),
    "g64": column(pa.float64(), floats | few.map(float)),
    "money": column(pa.decimal128(9, 2), few.map(Decimal) | st.just(Decimal("1.50"))),
    "s": column(pa.string(), texts),
    "t": column(pa.large_string(), texts),
    "cat": column(pa.dictionary(pa.int8(), pa.string()), texts),
    "b": column(pa.bool_(), st.booleans(), nulls=False),
    "c": column(pa.bool_(), st.booleans()),
    "day": column(pa.date32(), days),
    "due": column(pa.date32(), days),
    "ns": column(pa.timestamp("ns"), moments),
    "us": column(pa.timestamp("us"), moments),
    "vs": column(pa.timestamp("us"), moments),
    "utc": column(pa.timestamp("us", "UTC"), moments),
    "local": column(pa.timestamp("ns", "Europe/Berlin"), moments),
    "none": column(pa.float64(), st.none()),
    "items": column(pa.list_(pa.int8()), st.just([1])),
}
ROW = st.fixed_dictionaries({name: values for name, (_, values) in COLUMNS.items()})
SCHEMA = pa.schema([(name, type_) for name, (type_, _) in COLUMNS.items()])

conditions = st.none() | st.sampled_from(
    [
        ("i8 > 0", "pandas"),
        ("f64 <= 1.5 and not s == 'a'", "pandas"),
        ("`f64` > -1 & i8 != 2 | b", "pandas"),
        ("i8 in [1, 2] or s not in ['a', \"b\"]", "pandas"),
        ("s.notnull() and ~f32.isnull()", "pandas"),
        ("-2 < i8 <= 2", "pandas"),
        ("f64 >= g64", "pandas"),
        ("f32 == 0.1", "pandas"),
        ("s < 'b'", "pandas"),
        ("us > '2020-01-01 12:00'", "pandas"),
        ("c == True", "pandas"),
        ("2 > f64", None),
        ('col("i8") > 0', "great_expectations"),
        ('col("s") == "a"', "great_expectations"),
        ('col("f64").notnull()', "great_expectations"),
        ("i8 > 100 and i8 < 0", "pandas"),
        (
            {
                "type": "or",
                "conditions": [
                    {"type": "comparison", "column": {"name": "i8"}, "operator": "IN", "parameter": [1, 2]},
                    {"type": "nullity", "column": {"name": "s"}, "is_null": True},
                    {"type": "comparison", "column": {"name": "s"}, "operator": "NOT_IN", "parameter": ["a"]},
                ],
            },
            None,
        ),
        (
            {
                "type": "and",
                "conditions": [
                    {"type": "comparison", "column": {"name": "f64"}, "operator": "!=", "parameter": 1},
                    {"type": "comparison", "column": {"name": "i8"}, "operator": "<=", "parameter": 1},
                ],
            },
            None,
        ),
    ]
)


def on(*names: str) -> st.SearchStrategy[str]:
    return st.sampled_from(names)


def maybe(**kwargs: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=kwargs)


def both(*parts: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    def joined(dicts: tuple[dict[str, Any], ...]) -> dict[str, Any]:
        return {key: value for part in dicts for key, value in part.items()}

    return st.tuples(*parts).map(joined)


def always(**kwargs: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(kwargs)


numbers = st.sampled_from([-(2.0**40), -3, -1, 0, 0.1, 1, 1.5, 2, 127, 1e30, float("inf"), -float("inf")])
strict = maybe(strict_min=st.booleans(), strict_max=st.booleans())


def bounds(values: st.SearchStrategy[Any], key: Callable[[Any], Any] = lambda v: v) -> Any:
    two = st.lists(values, min_size=2, max_size=2).map(lambda v: sorted(v, key=key))
    return st.one_of(
        two.map(lambda v: {"min_value": v[0], "max_value": v[1]}),
        values.map(lambda v: {"min_value": v}),
        values.map(lambda v: {"max_value": v}),
    )


number_columns = on("i8", "i32", "i64", "u16", "f32", "f64", "money", "b", "c", "none", "extreme")
between = st.one_of(
    both(always(column=number_columns), bounds(numbers), strict),
    both(
        always(column=on("day")), bounds(st.sampled_from(["2020-01-02", "2020-01-04", "9999-12-31"])), strict
    ),
    both(
        always(column=on("ns", "us")),
        bounds(st.sampled_from(["2020-01-01T12:00:00", "2020-01-02T00:00:01"])),
        strict,
    ),
    both(
        always(column=on("utc", "local")),
        bounds(st.sampled_from(["2020-01-01T12:00:00+00:00", "2020-01-02T00:00:00Z"])),
        strict,
    ),
)
some_numbers = st.lists(st.sampled_from([-3, 0, 1, 1.0, 1.5, 0.1, 2, True, "a", None, 127]), min_size=1)
sets = st.one_of(
    always(column=on("i8", "i32", "u16", "f32", "f64"), value_set=some_numbers.map(lambda v: [1, *v])),
    always(column=on("b", "c"), value_set=st.lists(st.booleans(), min_size=1)),
    always(column=on("s", "t", "cat"), value_set=st.lists(texts, min_size=1)),
    always(column=on("f64"), value_set=st.just([n / 2 for n in range(-20, 20)])),
    always(column=on("i8"), value_set=st.just(list(range(40, 2, -1)))),
    always(column=on("ns", "us"), value_set=st.lists(st.just("2020-01-01T12:00:00"), min_size=1)),
    always(column=on("utc", "local"), value_set=st.just(["2020-01-01T12:00:00+00:00"])),
)
regexes = st.sampled_from(
    [
        "a", "^a", "b$", "^$", r"\d", r"\w+", r"\s", r"^[^a]", "(a|b)+", "a.b", r"\bx", "(?i)Ä", "ä", r"a\nb$",
        "[ab]{1,2}$", r"\D", r"[^\d]", r"(?s)a.b", r"(?=a)", r"(a)\1", r"\Aab\Z", "e|N", "", r"^.$", "a$|b$", "日",
        r"[\w-]+\s?", "True", "^-",
    ]
)  # fmt: skip
textual = on("s", "t", "cat", "i8", "extreme", "b")
whole = st.integers(0, 4)
pairs = st.sampled_from(
    [
        ("f64", "g64"), ("f64", "f32"), ("i8", "i64"), ("i32", "f64"), ("s", "t"), ("s", "cat"), ("us", "vs"),
        ("day", "due"), ("b", "c"), ("u16", "i32"), ("extreme", "i64"),
    ]
)  # fmt: skip
pair = pairs.map(lambda names: {"column_A": names[0], "column_B": names[1]})
# NumPy's bools and a column of bools and None cannot be ordered in pandas: Great Expectations raises
ordered = pairs.filter(lambda names: names != ("b", "c")).map(lambda n: {"column_A": n[0], "column_B": n[1]})
which_pairs = maybe(
    ignore_row_if=st.sampled_from(["both_values_are_missing", "either_value_is_missing", "neither"])
)
which_rows = maybe(ignore_row_if=st.sampled_from(["all_values_are_missing", "any_value_is_missing", "never"]))
groups = st.sampled_from(
    [["f64", "g64"], ["f64", "f32", "g64"], ["i8", "i64"], ["i64", "f64"], ["i8", "i64", "extreme"]]
)
like_groups = groups | st.sampled_from([["s", "t"], ["s", "cat"], ["us", "vs"], ["s", "t", "cat"]])
pair_sets = st.one_of(
    both(
        always(column_A=on("s", "cat"), column_B=on("f64", "i64", "i32")),
        always(value_pairs_set=st.lists(st.tuples(texts | st.none(), few | st.none()), min_size=1)),
    ),
    both(
        always(column_A=on("i64"), column_B=on("f64")),
        always(value_pairs_set=st.lists(st.tuples(few, floats), min_size=1)),
    ),
).map(
    lambda k: {
        **k,
        "value_pairs_set": [
            ["a", 1] if k["column_A"] != "i64" else [1, 1.0],
            *map(list, k["value_pairs_set"]),
        ],
    }
)

KWARGS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "expect_column_values_to_be_null": always(column=on(*COLUMNS)),
    "expect_column_values_to_not_be_null": always(column=on(*COLUMNS)),
    "expect_column_values_to_be_between": between,
    "expect_column_values_to_be_in_set": sets,
    "expect_column_values_to_not_be_in_set": sets,
    "expect_column_values_to_match_regex": always(column=textual, regex=regexes),
    "expect_column_values_to_not_match_regex": always(column=textual, regex=regexes),
    "expect_column_values_to_match_regex_list": both(
        always(column=textual, regex_list=st.lists(regexes, min_size=1, max_size=3)),
        maybe(match_on=st.sampled_from(["any", "all"])),
    ),
    "expect_column_values_to_not_match_regex_list": always(
        column=textual, regex_list=st.lists(regexes, min_size=1, max_size=3)
    ),
    "expect_column_value_lengths_to_be_between": both(always(column=textual), bounds(whole), strict),
    "expect_column_value_lengths_to_equal": always(column=textual, value=whole),
    "expect_column_pair_values_to_be_equal": both(pair, which_pairs),
    "expect_column_pair_values_a_to_be_greater_than_b": both(
        ordered, which_pairs, maybe(or_equal=st.booleans())
    ),
    "expect_column_pair_values_to_be_in_set": both(pair_sets, which_pairs),
    "expect_multicolumn_sum_to_equal": both(always(column_list=groups, sum_total=numbers), which_rows),
    "expect_multicolumn_values_to_be_equal": both(always(column_list=like_groups), which_rows),
    "expect_select_column_values_to_be_unique_within_record": both(
        always(column_list=like_groups), which_rows
    ),
}


@cache
def batches() -> Any:
    """Great Expectations' own batches, of one ephemeral context."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Great Expectations and what it imports warn while they are imported
        import great_expectations as gx

        context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    asset = context.data_sources.add_pandas("frames").add_dataframe_asset("frame")
    return asset.add_batch_definition_whole_dataframe("all")


def theirs(table: pa.Table, type_: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    result = validation(table, type_, kwargs)
    assert not result.exception_info.get("raised_exception", True), (result.exception_info, kwargs)
    found = {key: result.result.get(key) for key in MAP_COUNTS}
    return {"success": result.success, **found, "rows": sorted(result.result["unexpected_index_list"])}


def validation(table: pa.Table, type_: str, kwargs: dict[str, Any]) -> Any:
    definition = batches()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # only Great Expectations and pandas run in here
        from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

        batch = definition.get_batch(batch_parameters={"dataframe": table.to_pandas()})
        expectation = ExpectationConfiguration(type=type_, kwargs=kwargs).to_domain_obj()
        return batch.validate(expectation, result_format={"result_format": "COMPLETE"})


def compiled(type_: str, kwargs: dict[str, Any], schema: pa.Schema) -> Check:
    suite = Suite("suite.json", "suite", (Expectation(0, type_, kwargs),), {})
    checks, foreign = compile_suite(suite, schema)
    assert not foreign
    return checks[0]


def ours(check: Check, parts: list[tuple[int, pa.RecordBatch]]) -> dict[str, Any]:
    states, rows = [], []
    for first, batch in parts:
        positions = pa.array(range(first, first + batch.num_rows), pa.int64())
        state, mask = check.measure(batch, Lineage("m", "r", "file", positions))
        states.append(state)
        rows += [] if mask is None else [first + place for place in mask.nonzero()[0].tolist()]
    state = states[0]
    for other in states[1:]:
        state = check.merge(state, other)
    verdict = check.judge(state)
    examples = [entry["_position"] for entry in verdict.result["partial_unexpected_index_list"]]
    assert examples == sorted(rows)[:20]
    found = {key: verdict.result.get(key) for key in MAP_COUNTS}
    return {"success": verdict.success, **found, "rows": sorted(rows)}


def as_pandas_has_it(table: pa.Table) -> pa.Table:
    """Dictionaries as their values: pandas' categories break Great Expectations (docs/quality.md)."""
    fields = [f.with_type(f.type.value_type) if pa.types.is_dictionary(f.type) else f for f in table.schema]
    return table.cast(pa.schema(fields))


@pytest.mark.parametrize("type_", KWARGS)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_the_verdict_and_the_rows_are_great_expectations_own(type_: str, data: st.DataObject) -> None:
    rows = data.draw(st.lists(ROW, max_size=30))
    table = pa.Table.from_pylist(rows, SCHEMA)
    kwargs = data.draw(KWARGS[type_])
    kwargs |= data.draw(maybe(mostly=st.sampled_from([0.0, 0.5, 0.75, 1.0])))
    stated = None if type_ == "expect_column_pair_values_to_be_in_set" else data.draw(conditions)
    if stated is not None:
        kwargs |= {"row_condition": stated[0]} | ({"condition_parser": stated[1]} if stated[1] else {})
    expected = theirs(as_pandas_has_it(table), type_, kwargs)

    check = compiled(type_, kwargs, SCHEMA)
    whole_batch = table.combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], SCHEMA)]
    assert ours(check, [(0, whole_batch[0])]) == expected

    cuts = sorted(data.draw(st.sets(st.integers(0, len(rows)), max_size=4)) | {0, len(rows)})
    parts = [(a, whole_batch[0].slice(a, b - a)) for a, b in pairwise(cuts)]
    parts = data.draw(st.permutations(parts)) or [(0, whole_batch[0])]
    assert ours(check, parts) == expected


NOON, MIDNIGHT = datetime(2020, 1, 1, 12), datetime(2020, 1, 2)
BETWEEN, IN_SET = "expect_column_values_to_be_between", "expect_column_values_to_be_in_set"
DEVIATIONS: dict[str, tuple[str, dict[str, Any], pa.Array, list[int], list[int] | None]] = {
    "integers beyond 2^53 are compared exactly": (
        BETWEEN, {"column": "x", "max_value": BIG}, pa.array([BIG, BIG + 1]), [1], [],
    ),
    "a date is the midnight of a timestamp": (
        BETWEEN, {"column": "x", "min_value": "2020-01-02"}, pa.array([NOON, MIDNIGHT], pa.timestamp("us")), [0], None,
    ),
    "a timestamp is a bound of dates": (
        BETWEEN, {"column": "x", "max_value": "2020-01-01T12:00:00"}, pa.array([date(2020, 1, 1), date(2020, 1, 2)]),
        [1], None,
    ),
    "a time without a zone is in the column's zone": (
        BETWEEN, {"column": "x", "min_value": "2020-01-01T00:00:00"},
        pa.array([datetime(2019, 12, 31, 22), datetime(2019, 12, 31, 23)], pa.timestamp("us", "Europe/Berlin")),
        [0], None,
    ),
    "texts in the set of a date column are dates": (
        IN_SET, {"column": "x", "value_set": ["2020-01-01"]}, pa.array([date(2020, 1, 1), date(2020, 1, 2)]),
        [1], [0, 1],
    ),
    "an integer's text has no .0 because another row is null": (
        "expect_column_value_lengths_to_equal", {"column": "x", "value": 1}, pa.array([1, None]), [], [0],
    ),
    "a null bool in a row condition is false": (
        IN_SET, {"column": "x", "value_set": [False], "row_condition": "x", "condition_parser": "pandas"},
        pa.array([True, None, False]), [0], None,
    ),
    "a pair's set heeds the row condition": (
        "expect_column_pair_values_to_be_in_set",
        {"column_A": "x", "column_B": "x", "value_pairs_set": [[1.0, 1.0]],
         "row_condition": "x <= 2", "condition_parser": "pandas"},
        pa.array([1.0, 2.0, 3.0]), [1], None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DEVIATIONS)
def test_a_deviation_is_as_declared(name: str) -> None:
    type_, kwargs, values, rows, their_rows = DEVIATIONS[name]
    table = pa.table({"x": values})
    result = validation(table, type_, kwargs)
    assert result.result.get("unexpected_index_list") == their_rows  # None: Great Expectations raises
    if their_rows is None:
        assert not result.success
    assert ours(compiled(type_, kwargs, table.schema), [(0, table.to_batches()[0])])["rows"] == rows


@pytest.mark.parametrize(
    "type_", ["expect_column_values_to_be_of_type", "expect_column_values_to_be_in_type_list"]
)
@pytest.mark.parametrize(
    ("column", "name"),
    [
        *((c, "str") for c in ("s", "t", "i64", "f64")), ("i64", "int64"), ("i64", "int"), ("i8", "int8"),
        ("i8", "int"), ("f64", "float"), ("f32", "float"), ("f32", "float32"), ("b", "bool"), ("c", "bool"),
        ("s", "object"), ("ns", "datetime64"), ("us", "datetime64[us]"), ("day", "str"), ("extreme", "float64"),
    ],
)  # fmt: skip
def test_types_go_by_the_names_that_pandas_knows(type_: str, column: str, name: str) -> None:
    filled = {
        n: [value] for n, value in {"s": "a", "t": "b", "i64": 1, "i8": 1, "f64": 1.0, "f32": 1.0}.items()
    }
    more = {"b": [True], "c": [None], "ns": [NOON], "us": [NOON], "day": [date(2020, 1, 1)], "extreme": [1]}
    table = pa.table({n: pa.array(v, SCHEMA.field(n).type) for n, v in (filled | more).items()})
    if type_.endswith("in_type_list") and name in {"object", "datetime64"}:
        pytest.skip("Great Expectations knows these names in one of the two expectations only; here both do")
    kwargs = {"column": column} | ({"type_": name} if type_.endswith("of_type") else {"type_list": [name]})
    judgement = compiled(type_, kwargs, table.schema).judge({})
    assert judgement.success == validation(table, type_, kwargs).success
    assert judgement.result == {"observed_value": str(table.schema.field(column).type)}
