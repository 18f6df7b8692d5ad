"""A suite in a run: rows set aside, gates before the commit, what is counted, and what is kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import deltalake
import pyarrow as pa
import pytest

import batchinfer
from batchinfer.errors import InputError, QualityGate, SpecError, UsageError
from batchinfer.runs import RunRecords, RunReport, explain

Rows = Callable[[int, int], pa.Table]
NOT_NULL, BETWEEN = "expect_column_values_to_not_be_null", "expect_column_values_to_be_between"
MEAN, ROW_COUNT = "expect_column_mean_to_be_between", "expect_table_row_count_to_be_between"
IDS = {"column": "id", "min_value": 3}
"""Of the rows 0 to 99 it finds three unexpected: 0, 1 and 2."""


class World:
    """A pipeline with a suite, over 100 rows in two files."""

    def __init__(self, pipeline: Any, rows: Rows) -> None:
        self.pipeline = pipeline
        pipeline.write_input(rows(0, 60), "a", row_group_size=20)
        pipeline.write_input(rows(60, 40), "b")

    def suite(self, *stated: tuple[str, Mapping[str, Any]], **more: Any) -> None:
        expectations = [{"type": kind, "kwargs": dict(kwargs), **more} for kind, kwargs in stated]
        document = {"name": "scores", "expectations": expectations, "meta": {}}
        (self.pipeline.root / "suite.json").write_text(json.dumps(document))

    def run(self, **overrides: Any) -> RunReport:
        spec = self.pipeline.spec(**{"quality.suite": "suite.json", **overrides})
        return batchinfer.run(spec, {"ds": "d1"})

    def table(self, suffix: str = "") -> pa.Table:
        return deltalake.DeltaTable(f"{self.pipeline.output}{suffix}").to_pyarrow_table().sort_by("id")

    def validation(self, report: RunReport) -> Any:
        return json.loads(RunRecords().kept(report.run_id or "", "validation.json") or b"")


@pytest.fixture
def world(pipeline: Any, rows: Rows) -> World:
    return World(pipeline, rows)


def test_rows_that_fail_are_quarantined_with_the_names_of_what_they_failed(world: World) -> None:
    world.suite((BETWEEN, IDS), (BETWEEN, {"column": "id", "min_value": 2, "max_value": 97}))
    report = world.run()
    refused = world.table("_quarantine")
    first, second = f"{BETWEEN}(id)", f"{BETWEEN}(id)"
    assert refused["id"].to_pylist() == [0, 1, 2, 98, 99]
    assert refused["_expectations"].to_pylist()[0] == sorted({first, second})
    assert refused["note"].to_pylist()[:2] == ["row 0", "row 1"]
    assert [p.rpartition("/")[2] for p in refused["_source"].to_pylist()] == ["a.parquet"] * 3 + [
        "b.parquet"
    ] * 2
    assert refused["_position"].to_pylist() == [0, 1, 2, 38, 39]
    assert world.table()["id"].to_pylist() == list(range(3, 98))
    assert (report.rows.scored, report.rows.quarantined) == (95, 5)
    assert report.quality["quarantined"] == {f"{BETWEEN}(id)": 5}
    assert (report.quality["success"], report.quality["expectations"]) == (False, 2)


def test_the_verdict_is_over_all_rows_also_those_that_are_set_aside(world: World) -> None:
    world.suite((BETWEEN, IDS), (MEAN, {"column": "id", "min_value": 49.5, "max_value": 49.5}))
    report = world.run()
    assert [failed["expectation"] for failed in report.quality["failed"]] == [f"{BETWEEN}(id)"]
    assert report.quality["failed"][0]["unexpected_count"] == 3
    assert report.quality["failed"][0]["element_count"] == 100


def test_a_set_of_distinct_values_that_fails_stops_the_run_as_no_row_was_set_aside(world: World) -> None:
    world.suite(("expect_column_distinct_values_to_be_in_set", {"column": "note", "value_set": ["row 1"]}))
    with pytest.raises(QualityGate, match="1 expectation failed"):
        world.run()


def test_a_share_above_max_quarantined_stops_the_run_before_its_commit(world: World) -> None:
    world.suite((BETWEEN, IDS))
    with pytest.raises(QualityGate, match=r"3 of 100 rows") as caught:
        world.run(**{"quality.max_quarantined": 0.02})
    report = caught.value.fields["report"]
    assert report.status == "failed"
    assert not deltalake.DeltaTable.is_deltatable(str(world.pipeline.output))
    assert not deltalake.DeltaTable.is_deltatable(f"{world.pipeline.output}_quarantine")
    assert world.validation(report)["success"] is False


def test_under_fail_any_failed_expectation_stops_the_run(world: World) -> None:
    world.suite((BETWEEN, IDS))
    with pytest.raises(QualityGate, match=rf"{BETWEEN}\(id\): 3 of 100 rows"):
        world.run(**{"quality.on_failure": "fail"})
    world.suite((BETWEEN, {**IDS, "mostly": 0.9}))
    assert world.run(**{"quality.on_failure": "fail"}).rows.scored == 100


def test_under_warn_everything_is_scored_and_counted(world: World) -> None:
    world.suite((BETWEEN, IDS), (MEAN, {"column": "id", "max_value": 1}))
    report = world.run(**{"quality.on_failure": "warn"})
    assert (report.rows.scored, report.rows.quarantined) == (100, 0)
    assert {failed["expectation"] for failed in report.quality["failed"]} == {f"{BETWEEN}(id)", f"{MEAN}(id)"}


def test_mostly_tolerates_rows_until_too_many_fail(world: World) -> None:
    world.suite((BETWEEN, {**IDS, "mostly": 0.97}))
    report = world.run()
    assert (report.rows.quarantined, report.quality["success"]) == (0, True)
    world.suite((BETWEEN, {**IDS, "mostly": 0.98}))
    with pytest.raises(QualityGate, match="3 of 100 rows"):
        world.run()


@pytest.mark.parametrize(
    "stated",
    [
        (MEAN, {"column": "id", "max_value": 49}),
        (ROW_COUNT, {"min_value": 101}),
    ],
)
def test_what_no_row_can_be_blamed_for_stops_the_run(
    world: World, stated: tuple[str, dict[str, Any]]
) -> None:
    world.suite(stated)
    with pytest.raises(QualityGate, match=r"observed \d+") as caught:
        world.run()
    assert caught.value.exit_code == 3
    assert not deltalake.DeltaTable.is_deltatable(str(world.pipeline.output))


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        (("expect_column_to_exist", {"column": "absent"}), "it does not hold"),
        (
            ("expect_column_distinct_values_to_equal_set", {"column": "note", "value_set": ["row 1", "no"]}),
            "10 unexpected and 1 missing values",
        ),
        (
            ("expect_column_distinct_values_to_contain_set", {"column": "note", "value_set": ["no"]}),
            "1 missing values",
        ),
        (
            ("expect_column_pair_values_a_to_be_greater_than_b", {"column_A": "id", "column_B": "note"}),
            "Great Expectations could not judge it: '>' not supported",
        ),
    ],
)
def test_the_gate_says_of_each_expectation_what_is_known(
    world: World, stated: tuple[str, dict[str, Any]], said: str
) -> None:
    world.suite(stated)
    with pytest.raises(QualityGate) as caught:
        world.run()
    assert said in caught.value.message
    assert "sensitive" not in caught.value.message


@pytest.mark.parametrize("severity", ["warning", "info"])
def test_what_is_not_critical_is_only_counted(world: World, severity: str) -> None:
    world.suite((BETWEEN, IDS), (ROW_COUNT, {"min_value": 101}), severity=severity)
    report = world.run()
    assert (report.rows.scored, report.quality["success"]) == (100, False)
    assert [failed["severity"] for failed in report.quality["failed"]] == [severity] * 2


def test_a_partition_without_a_good_row_is_a_gate_or_an_empty_partition(world: World) -> None:
    world.suite((BETWEEN, {"column": "id", "min_value": 1000}))
    with pytest.raises(QualityGate, match=r"100 of 100 rows \(100.00%\)"):
        world.run()
    report = world.run(**{"quality.max_quarantined": 1, "drift": {}})
    assert (report.rows.scored, report.rows.quarantined) == (0, 100)
    assert world.table().num_rows == 0
    assert report.drift == {}


def test_columns_that_the_model_does_not_read_are_read_for_the_suite(world: World, rows: Rows) -> None:
    table = rows(100, 10).append_column("extra", pa.array([None, *range(9)]))
    world.pipeline.write_input(table, ds="d2")
    world.suite((NOT_NULL, {"column": "extra"}))
    spec = world.pipeline.spec(**{"quality.suite": "suite.json", "quality.max_quarantined": 0.1})
    assert batchinfer.run(spec, {"ds": "d2"}).rows.quarantined == 1


def test_a_column_that_one_file_lacks_is_named_with_the_file(world: World, rows: Rows) -> None:
    world.pipeline.write_input(rows(100, 10).append_column("extra", pa.array(range(10))), "a")
    world.suite((NOT_NULL, {"column": "extra"}))
    with pytest.raises(InputError, match=r"b\.parquet: no column 'extra'"):
        world.run()


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ((NOT_NULL, {"column": "nots"}), r"expectation 0 .*nots.*did you mean 'note'"),
        (("expect_column_values_to_be_nice", {"column": "id"}), "expect_column_values_to_be_nice"),
        ((BETWEEN, {"column": "id", "min_value": 3, "max_value": 2}), "min_value"),
        (("expect_column_values_to_match_regex", {"column": "note", "regex": "("}), "regex"),
    ],
)
def test_a_wrong_suite_is_refused_before_a_row_is_read(
    world: World, stated: tuple[str, dict[str, Any]], message: str
) -> None:
    world.suite(stated)
    with pytest.raises(SpecError, match=message) as caught:
        world.run()
    assert "suite.json" in str(caught.value)
    assert RunRecords().all() == []


def test_a_suite_that_is_not_there_is_named(world: World) -> None:
    with pytest.raises(SpecError, match=r"suite\.json"):
        world.run()


def test_a_changed_suite_is_other_work(world: World) -> None:
    world.suite((BETWEEN, IDS))
    first = world.run()
    world.suite((BETWEEN, {**IDS, "min_value": 2}))
    second = world.run()
    assert first.run_id != second.run_id
    assert world.table("_quarantine")["id"].to_pylist() == [0, 1]


def test_the_row_is_checked_before_the_transform_sees_it(world: World) -> None:
    (world.pipeline.root / "features.py").write_text(
        "def build(batch):\n"
        "    assert min(batch['id'].to_pylist()) >= 3, 'a row that was refused'\n"
        "    return batch.select(['x0', 'x1', 'x2'])\n"
    )
    world.suite((BETWEEN, IDS))
    assert world.run(transform="features.py:build").rows.scored == 97


UNIQUE = "expect_column_values_to_be_unique"


def test_all_rows_of_a_value_that_is_there_twice_are_quarantined(world: World, rows: Rows) -> None:
    world.pipeline.write_input(rows(55, 10), "b")  # 55 to 59 are in the other file too
    world.suite((UNIQUE, {"column": "id"}))
    report = world.run(**{"quality.max_quarantined": 0.2})
    assert (report.rows.read, report.rows.quarantined) == (70, 10)
    assert world.table("_quarantine")["id"].to_pylist() == sorted([*range(55, 60)] * 2)
    assert report.quality["quarantined"] == {f"{UNIQUE}(id)": 10}


def test_what_is_not_compiled_great_expectations_runs_itself(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    increasing = "expect_column_values_to_be_increasing"
    world.suite((increasing, {"column": "id"}), (BETWEEN, IDS))
    report = world.run()
    assert (report.quality["expectations"], report.rows.quarantined) == (2, 3)
    assert "Great Expectations itself runs" in caplog.text
    world.suite((increasing, {"column": "x1"}))
    assert world.run().rows.quarantined == 3, "x1 falls every 31 rows"


def test_a_validation_result_tells_of_every_expectation(world: World) -> None:
    world.suite((BETWEEN, IDS), (MEAN, {"column": "id", "min_value": 0}))
    found = world.validation(world.run())
    assert [(r["expectation_config"]["type"], r["success"]) for r in found["results"]] == [
        (BETWEEN, False),
        (MEAN, True),
    ]
    assert found["results"][0]["result"]["unexpected_count"] == 3
    assert found["statistics"]["successful_expectations"] == 1


def test_an_input_without_rows_is_judged_too(world: World, rows: Rows) -> None:
    world.suite((BETWEEN, IDS))
    world.run()
    for name in ("a", "b"):
        world.pipeline.write_input(rows(0, 1).slice(0, 0), name)
    world.suite((ROW_COUNT, {"min_value": 1}), (BETWEEN, IDS), (MEAN, {"column": "id", "min_value": 0}))
    with pytest.raises(QualityGate, match="row_count") as caught:
        world.run()
    assert world.table().num_rows == 97
    assert world.validation(caught.value.fields["report"])["statistics"]["evaluated_expectations"] == 3
    world.suite((BETWEEN, IDS))
    assert world.run().rows.read == 0


def test_a_type_that_is_not_the_quarantine_tables_stops_no_run_and_loses_no_row(
    world: World, rows: Rows
) -> None:
    world.suite((BETWEEN, IDS))
    world.pipeline.write_input(rows(0, 60).append_column("age", pa.array(range(60), pa.int32())), "a")
    world.pipeline.write_input(rows(60, 40).append_column("age", pa.array(range(40), pa.int32())), "b")
    world.run()
    changed = rows(60, 40).append_column("age", pa.array([0.5] * 40))
    world.pipeline.write_input(changed, "b")
    report = world.run()
    assert (report.status, report.rows.quarantined) == ("done", 3)
    refused = world.table("_quarantine")
    assert refused["age"].to_pylist() == [None] * 3
    assert refused["age (double)"].to_pylist() == [0.0, 1.0, 2.0]
    world.suite((BETWEEN, {"column": "id", "min_value": 0}))
    assert world.run().rows.quarantined == 0
    assert world.table("_quarantine").num_rows == 0


def test_explain_says_why_a_row_has_no_score(world: World) -> None:
    world.suite((BETWEEN, IDS))
    world.run()
    spec = world.pipeline.spec(**{"quality.suite": "suite.json"})
    with pytest.raises(UsageError, match=rf"quarantined \({BETWEEN}\(id\)\), from .*a\.parquet, row 1"):
        explain(spec, {"id": "1"})
