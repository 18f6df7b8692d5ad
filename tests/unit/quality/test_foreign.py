"""What is not compiled is judged by Great Expectations itself, row for row, and the log says what that costs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.property.peer import lineage

from batchinfer.errors import MissingExtra, SpecError
from batchinfer.quality import Expectation, run_foreign

TABLE = pa.table(
    {
        "n": pa.array([1, 2, 2, 5, 4, None], pa.int64()),
        "json": pa.array(['{"a": 1}', "{", None, "[]", "x", "1"]),
        "other": pa.array(range(6), pa.int64()),
    }
)
INCREASING = Expectation(0, "expect_column_values_to_be_increasing", {"column": "n"})
PARSEABLE = Expectation(1, "expect_column_values_to_be_json_parseable", {"column": "json"})


def read(columns: tuple[str, ...]) -> Iterator[tuple[pa.RecordBatch, str, int]]:
    table = TABLE.select(list(columns))
    for start, rows, source, first in ((0, 2, "one", 7), (2, 1, "one", 9), (3, 3, "two", 0)):
        yield table.slice(start, rows).to_batches()[0], source, first


def masks(check: Any) -> list[list[int]]:
    found = []
    for batch, source, first in read(("n",)):
        state, mask = check.measure(batch, lineage(first, first + batch.num_rows, source))
        assert state == {}
        found.append([] if mask is None else np.flatnonzero(mask).tolist())
    return found


def test_verdicts_and_rows_are_those_of_great_expectations(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "batchinfer.quality"):
        increasing, parseable = run_foreign([INCREASING, PARSEABLE], TABLE.schema, read)
    verdict = increasing.judge({})
    assert not verdict.success
    assert verdict.result["unexpected_count"] == 1
    assert masks(increasing) == [[], [], [1]]
    assert masks(parseable) == [[1], [], [1]]
    assert parseable.judge({}).result["missing_count"] == 1
    assert not {"unexpected_list", "unexpected_index_list"} & verdict.result.keys()
    logged = [record.getMessage() for record in caplog.records if record.name == "batchinfer.quality"]
    assert "reading 2 columns of the whole run" in logged[0]
    assert "6 rows, 2 columns" in logged[1]
    assert "bytes in memory" in logged[1]


def test_rows_of_what_tolerates_some_are_not_marked() -> None:
    tolerant = Expectation(0, PARSEABLE.type, {"column": "json", "mostly": 0.5})
    warning = Expectation(1, PARSEABLE.type, PARSEABLE.kwargs, "warning")
    for check in run_foreign([tolerant, warning], TABLE.schema, read):
        assert masks(check) == [[], [], []]
        assert check.judge({}).result["unexpected_count"] == 2


def test_what_raises_fails_with_its_message() -> None:
    mean = Expectation(0, "expect_column_mean_to_be_between", {"column": "json", "min_value": 0})
    (check,) = run_foreign([mean], TABLE.schema, read)
    verdict = check.judge({})
    assert not verdict.success
    assert "exception_message" in verdict.result


def test_what_is_raised_out_of_great_expectations_fails_with_its_message() -> None:
    partition = {"bins": [0, 1], "weights": [0.1]}
    odd = Expectation(
        0, "expect_column_kl_divergence_to_be_less_than", {"column": "n", "partition_object": partition}
    )
    (check,) = run_foreign([odd], TABLE.schema, read)
    assert check.judge({}).result["exception_message"] == "ValueError: Invalid partition_object provided"


def test_a_message_that_quotes_a_column_is_cut() -> None:
    columns = {"text": pa.array(["word"] * 1000)}
    scores = Expectation(
        0,
        "expect_column_value_z_scores_to_be_less_than",
        {"column": "text", "threshold": 1, "double_sided": True},
    )

    def words(_: tuple[str, ...]) -> Iterator[tuple[pa.RecordBatch, str, int]]:
        yield pa.record_batch(columns), "one", 0

    (check,) = run_foreign([scores], pa.table(columns).schema, words)
    assert 100 < len(check.judge({}).result["exception_message"]) <= 501


def test_arguments_that_great_expectations_refuses_are_named() -> None:
    wrong = Expectation(3, "expect_column_values_to_be_increasing", {"column": "n", "strictly": "maybe"})
    with pytest.raises(SpecError, match=r"expectation 3 \(expect_column_values_to_be_increasing\(n\)\)"):
        run_foreign([wrong], TABLE.schema, read)


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchinfer.quality._foreign.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="expect_column_values_to_be_increasing") as caught:
        run_foreign([INCREASING], TABLE.schema, read)
    assert "batchinfer[quality]" in caught.value.next_step
    assert run_foreign([], TABLE.schema, read) == []
