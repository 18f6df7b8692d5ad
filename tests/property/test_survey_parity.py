"""What a survey finds is what Great Expectations finds, however the rows lie in files, in memory or spilled."""

from __future__ import annotations

from collections import Counter as Plain
from collections.abc import Iterator
from datetime import date, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.property.peer import lineage, travelled, validate

from batchinfer.quality import Expectation, Judgement, Suite, compile_suite, survey
from batchinfer.quality._counter import Counter, hashes
from batchinfer.quality._survey import Read, joined

PATIENT = settings(
    max_examples=8,
    deadline=None,
    phases=[
        Phase.explicit,
        Phase.reuse,
        Phase.generate,
    ],  # an example takes Great Expectations 0.2 s: no shrinking
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

VALUES: dict[str, tuple[pa.DataType, st.SearchStrategy[Any], list[Any]]] = {
    "floats": (
        pa.float64(),
        st.sampled_from([0.0, -0.0, 1.5, float("nan"), float("inf"), 1e300]),
        [0, 1.5, "a"],
    ),
    "small floats": (pa.float32(), st.sampled_from([0.5, 1.5, float("nan"), 0.1]), [0.5, 0.1, 7]),
    "integers": (pa.int64(), st.integers(-3, 3), [0, 1.0, 2.5, True]),
    "bools": (pa.bool_(), st.booleans(), [True, 0, "x"]),
    "texts": (pa.string(), st.sampled_from(["", "a", "b", "ab", "é", "𝄞", "null", "1:a"]), ["a", "", 1]),
    "dictionary": (pa.dictionary(pa.int32(), pa.string()), st.sampled_from(["a", "b", "c"]), ["a", "d"]),
    "timestamps": (
        pa.timestamp("us"),
        st.sampled_from([datetime(2020, 1, 1), datetime(2020, 1, 2, 3)]),
        ["2020-01-01T00:00:00", "2021-01-01T00:00:00"],
    ),
    "dates": (pa.date32(), st.sampled_from([date(2020, 1, 1), date(2020, 1, 2)]), ["2020-01-01"]),
}


def expectation(name: str, **kwargs: Any) -> Expectation:
    return Expectation(0, f"expect_{name}", kwargs)


def files(table: pa.Table, cuts: list[int]) -> list[tuple[pa.RecordBatch, str, int]]:
    """The rows in two files, in batches."""
    ends = sorted({0, table.num_rows, *(cut for cut in cuts if cut <= table.num_rows)})
    middle = ends[len(ends) // 2]
    found = []
    for first, last in pairwise(ends):
        batch = table.slice(first, last - first).combine_chunks().to_batches()[0]
        found.append((batch, "one", first) if first < middle else (batch, "two", first - middle))
    return found


def reader(batches: list[tuple[pa.RecordBatch, str, int]]) -> Read:
    def read(columns: tuple[str, ...]) -> Iterator[tuple[pa.RecordBatch, str, int]]:
        for batch, source, first in batches:
            yield batch.select(list(columns)), source, first

    return read


def judged(
    stated: list[Expectation], schema: pa.Schema, batches: list[tuple[pa.RecordBatch, str, int]], memory: int
) -> list[tuple[Judgement, list[int]]]:
    """The verdicts, and the unexpected rows of the whole."""
    checks, foreign = compile_suite(Suite("suite.json", "suite", tuple(stated), {}), schema)
    assert not foreign
    results = []
    for check in survey(checks, reader(batches), memory):
        state, rows, start = None, [], 0
        for batch, source, first in batches:
            found, mask = check.measure(batch, lineage(first, first + batch.num_rows, source))
            state = travelled(found) if state is None else travelled(check.merge(state, found))
            if mask is not None:
                rows += (np.flatnonzero(mask) + start).tolist()
            start += batch.num_rows
        results.append(
            (check.judge(state or {"rows": 0, "missing": 0, "unexpected": 0, "examples": []}), rows)
        )
    return results


@pytest.mark.parametrize("kind", VALUES)
@PATIENT
@given(data=st.data())
def test_values_are_counted_alike(kind: str, data: st.DataObject) -> None:
    type_, values, stated_set = VALUES[kind]
    column = pa.array(data.draw(st.lists(values | st.none(), max_size=25)), type_)
    table = pa.table({"x": column, "n": pa.array(range(len(column)), pa.int64())})
    some = data.draw(st.lists(st.sampled_from(stated_set), min_size=1, max_size=4))
    bound = data.draw(st.integers(0, 4))
    where = data.draw(st.sampled_from([{}, {"row_condition": "n > 2", "condition_parser": "pandas"}]))
    stated = [
        expectation("column_unique_value_count_to_be_between", column="x", min_value=bound, **where),
        expectation(
            "column_proportion_of_unique_values_to_be_between", column="x", max_value=bound / 4, **where
        ),
        expectation("column_values_to_be_unique", column="x", mostly=bound / 4, **where),
    ]
    # Great Expectations shows what it found of a set in the values' own types: numbers and texts only are compared.
    plain = kind in {"floats", "small floats", "integers", "texts", "dictionary"}
    stated += [
        expectation(f"column_distinct_values_to_{name}", column="x", value_set=some, **where)
        for name in ("be_in_set", "contain_set", "equal_set")
    ]
    if plain or kind == "bools":
        name = "column_most_common_value_to_be_in_set"
        stated += [
            expectation(name, column="x", value_set=some, ties_okay=ok, **where) for ok in (True, False)
        ]
    cuts = data.draw(st.lists(st.integers(0, 25), max_size=4))
    ours = judged(stated, table.schema, files(table, cuts), data.draw(st.sampled_from([300, 1 << 20])))
    for one, (judgement, rows), theirs in zip(stated, ours, validate(table, stated, "COMPLETE"), strict=True):
        assert judgement.success == theirs["success"], (one, judgement, theirs)
        result = theirs["result"]
        for key in ("element_count", "missing_count", "unexpected_count", "unexpected_percent"):
            assert judgement.result.get(key) == result.get(key), (one, key)
        if "be_unique" in one.type:
            assert rows == sorted(result["unexpected_index_list"])
        elif plain and kind != "small floats":
            observed = result["observed_value"]
            if isinstance(observed, list):
                assert shown({"partial_": judgement.result["observed_value"]}) == shown(
                    {"partial_": observed}
                )
            else:
                assert judgement.result["observed_value"] == pytest.approx(observed)
            assert shown(judgement.result) == shown(result), one


def shown(result: dict[str, Any]) -> dict[str, Any]:
    """The lists of values, in any order, an infinity as the text that JSON can hold."""
    lists = {key: value for key, value in result.items() if key.startswith("partial_")}
    return {
        key: Plain(str(value) if value in (float("inf"), "inf") else value for value in values)
        for key, values in lists.items()
    }


@PATIENT
@given(data=st.data())
def test_columns_that_are_to_be_unique_together_are_judged_alike(data: st.DataObject) -> None:
    rows = data.draw(st.integers(0, 25))
    kinds = data.draw(st.lists(st.sampled_from(list(VALUES)), min_size=2, max_size=3))
    columns = {}
    for place, kind in enumerate(kinds):
        type_, values, _ = VALUES[kind]
        drawn = data.draw(st.lists(values | st.none(), min_size=rows, max_size=rows))
        columns[f"c{place}"] = pa.array(drawn, type_)
    table = pa.table(columns)
    stated = [
        expectation("compound_columns_to_be_unique", column_list=list(columns), **ignore)
        for ignore in (
            {},
            {"ignore_row_if": "any_value_is_missing"},
            {"ignore_row_if": "never"},
            {"mostly": 0.5},
        )
    ]
    cuts = data.draw(st.lists(st.integers(0, 25), max_size=4))
    ours = judged(stated, table.schema, files(table, cuts), data.draw(st.sampled_from([300, 1 << 20])))
    for one, (judgement, found), theirs in zip(
        stated, ours, validate(table, stated, "COMPLETE"), strict=True
    ):
        assert judgement.success == theirs["success"], (one, judgement, theirs)
        assert judgement.result["unexpected_count"] == theirs["result"]["unexpected_count"]
        assert judgement.result["element_count"] == theirs["result"]["element_count"]
        assert found == sorted(theirs["result"]["unexpected_index_list"])


@PATIENT
@given(data=st.data())
def test_divergence_from_values_is_judged_alike(data: st.DataObject) -> None:
    texts = data.draw(st.booleans())
    pool: list[Any] = ["a", "b", "c", "d"] if texts else [0, 1, 2, 3]
    type_ = pa.string() if texts else pa.int64()
    column = pa.array(data.draw(st.lists(st.sampled_from(pool) | st.none(), min_size=1, max_size=25)), type_)
    table = pa.table({"x": column})
    known = data.draw(st.lists(st.sampled_from(pool), min_size=1, unique=True))
    raw = data.draw(st.lists(st.integers(1, 9), min_size=len(known), max_size=len(known)))
    stated = expectation(
        "column_kl_divergence_to_be_less_than",
        column="x",
        partition_object={"values": known, "weights": [one / sum(raw) for one in raw]},
        threshold=data.draw(st.sampled_from([None, 0.05, 0.5])),
        tail_weight_holdout=data.draw(st.sampled_from([0, 0.1])),
    )
    ((ours, _),) = judged([stated], table.schema, files(table, []), 1 << 20)
    theirs = validate(table, [stated])[0]
    assert ours.success == theirs["success"], (ours, theirs)
    assert ours.result["observed_value"] == pytest.approx(theirs["result"]["observed_value"], abs=1e-12)
    for side in ("observed_partition", "expected_partition"):
        mine, peer = (
            dict(zip(map(float if not texts else str, found["values"]), found["weights"], strict=True))
            for found in (ours.result["details"][side], theirs["result"]["details"][side])
        )
        assert mine == pytest.approx(peer)


@settings(deadline=None)
@given(
    values=st.lists(st.lists(st.text(max_size=3) | st.none(), max_size=30), max_size=8),
    limit=st.sampled_from([50, 200, 1 << 20]),
)
def test_counts_are_exact_whatever_the_memory(
    tmp_path_factory: pytest.TempPathFactory, values: list[list[str | None]], limit: int
) -> None:
    counter = Counter(tmp_path_factory.mktemp("counter"), limit)
    for batch in values:
        counter.add(pa.array(batch, pa.string()))
    found: Plain[str] = Plain()
    for some, counts in counter.buckets():
        for value, count in zip(some.to_pylist(), counts.tolist(), strict=True):
            assert value not in found
            found[value] = count
    assert found == Plain(value for batch in values for value in batch if value is not None)


def test_a_value_hashes_alike_wherever_it_stands() -> None:
    texts = pa.array(["x", "abc", "", "abc", "𝄞"])
    assert len(set(hashes(texts).tolist())) == 4
    assert hashes(texts.slice(1, 3)).tolist() == hashes(texts).tolist()[1:4]
    assert hashes(texts.cast(pa.large_string())).tolist() == hashes(texts).tolist()


@settings(deadline=None)
@given(
    rows=st.lists(
        st.tuples(*[st.none() | st.text(alphabet="1:,nul", max_size=5)] * 2, st.none() | st.integers(0, 2)),
        max_size=20,
    )
)
def test_rows_join_to_the_same_text_only_if_they_are_equal(rows: list[tuple[Any, ...]]) -> None:
    columns = [pa.array([row[i] for row in rows], pa.string() if i < 2 else pa.int8()) for i in range(3)]
    assert len(set(joined(columns).to_pylist())) == len(set(rows))


def test_a_survey_leaves_nothing_behind_and_reads_nothing_without_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    table = pa.table({"x": pa.array(range(1000), pa.int64())})
    stated = [expectation("column_values_to_be_unique", column="x")]
    reads = []

    def read(columns: tuple[str, ...]) -> Iterator[tuple[pa.RecordBatch, str, int]]:
        reads.append(columns)
        yield from reader(files(table, [300]))(columns)

    checks, _ = compile_suite(Suite("suite.json", "suite", tuple(stated), {}), table.schema)
    survey(checks, read, 9000)
    assert reads == [("x",)]  # no value is there twice: no second pass
    assert list(tmp_path.iterdir()) == []
    assert survey([], read) == []
    assert len(reads) == 1
