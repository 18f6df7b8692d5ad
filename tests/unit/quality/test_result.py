"""A run's verdicts are a validation result that Great Expectations reads, and its Data Docs show."""

from __future__ import annotations

import json
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.property.peer import judge, validate

from batchinfer.errors import InputError
from batchinfer.quality import Expectation, Judgement, Suite, compile_suite, render_docs, validation_result

STARTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TABLE = pa.table({"x": pa.array([1.0, 2.0, None, float("inf")]), "s": pa.array(["a", "b", "b", None])})
STATED: list[tuple[str, dict[str, Any], Any]] = [
    ("expect_column_values_to_be_between", {"column": "x", "min_value": 2}, "critical"),
    ("expect_column_mean_to_be_between", {"column": "x", "min_value": 2}, "warning"),
    ("expect_column_values_to_not_be_null", {"column": "s", "mostly": 0.5}, "info"),
    (
        "expect_column_quantile_values_to_be_between",
        {"column": "x", "quantile_ranges": {"quantiles": [0.5], "value_ranges": [[0, 3]]}},
        "critical",
    ),
    (
        "expect_column_kl_divergence_to_be_less_than",
        {"column": "x", "partition_object": {"bins": [0, 1.5, 3], "weights": [0.5, 0.5]}, "threshold": 1},
        "critical",
    ),
    ("expect_table_columns_to_match_ordered_list", {"column_list": ["x", "t"]}, "critical"),
    ("expect_column_to_exist", {"column": "s"}, "critical"),
]


def suite() -> Suite:
    stated = [
        Expectation(place, type_, kwargs, severity, {"owner": "us"})
        for place, (type_, kwargs, severity) in enumerate(STATED)
    ]
    return Suite("suite.json", "flights", tuple(stated), {})


def result(run_id: str = "r1") -> dict[str, Any]:
    checks, foreign = compile_suite(suite(), TABLE.schema)
    assert not foreign
    found = validation_result(
        suite(),
        [(check.expectation, judge(check, TABLE, 1)) for check in reversed(checks)],
        run_id=run_id,
        started=STARTED,
        asset="data/flights/ds=2026-01-02",
        facts={"model": "delay@3", "rows": 4, "share": float("nan")},
    )
    back: dict[str, Any] = json.loads(json.dumps(found, allow_nan=False))
    return back


def test_an_id_that_great_expectations_would_not_read_is_left_out() -> None:
    known = "6ef03d3a-6f0c-4a6c-9a3c-0c2a8f4f5a11"
    for given, kept in ((known, {known}), ("6", set()), (6, set())):
        stated: Any = Expectation(0, "expect_column_to_exist", {"column": "s"}, id=given)  # type: ignore[arg-type]
        found = validation_result(
            Suite("suite.json", "flights", (stated,), {}),
            [(stated, Judgement(True, {}))],
            run_id="r1",
            started=STARTED,
            asset="in",
            facts={},
        )
        assert {one["expectation_config"].get("id") for one in found["results"]} - {None} == kept


def test_great_expectations_reads_the_result_and_counts_the_same() -> None:
    found = result()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from great_expectations.core.expectation_validation_result import (
            ExpectationSuiteValidationResultSchema,
        )

        read = ExpectationSuiteValidationResultSchema().load(found)
        assert read.asset_name == "data/flights/ds=2026-01-02"
        assert read.get_max_severity_failure().value == "critical"
        again = json.loads(json.dumps(read.to_json_dict()))
    assert again["statistics"] == found["statistics"]
    assert again["results"] == found["results"]
    theirs = validate(TABLE, suite().expectations)
    assert [one["success"] for one in found["results"]] == [one["success"] for one in theirs]
    for mine, peer in zip(found["results"], theirs, strict=True):
        assert peer.keys() == mine.keys()
        assert peer["expectation_config"].keys() == mine["expectation_config"].keys()
        assert peer["result"].keys() <= mine["result"].keys() | {"unexpected_index_query"}
    assert found["statistics"]["successful_expectations"] == sum(one["success"] for one in theirs)
    assert found["meta"]["batchinfer"] == {"model": "delay@3", "rows": 4, "share": None}


def test_data_docs_show_each_run(tmp_path: Path) -> None:
    index = render_docs([result("r1"), result("r2")], tmp_path / "docs")
    assert index == tmp_path / "docs" / "index.html"
    text = index.read_text()
    assert "r1" in text
    assert "r2" in text
    pages = [page.read_text() for page in (tmp_path / "docs" / "validations").rglob("*.html")]
    assert len(pages) == 2
    assert text.count("<li><a href=") == 2  # for a browser without network
    for page in pages:
        assert "data/flights/ds=2026-01-02" in page
        assert "Failed" in page


def test_what_is_no_validation_result_is_refused_by_its_run(tmp_path: Path) -> None:
    broken = result()
    del broken["suite_name"]
    with pytest.raises(InputError, match="run r1"):
        render_docs([broken], tmp_path)
