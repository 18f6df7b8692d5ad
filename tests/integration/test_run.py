"""Runs through the Python API, into real Delta and Parquet tables, read back without batchinfer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import deltalake
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from tests.integration.report import assert_contract

import batchinfer
from batchinfer.errors import InputError, Interrupted, QualityGate, SpecError, StoreError, UsageError
from batchinfer.runs import Explanation, RunRecords, RunReport, _job, explain, open_quarantine, open_results

Rows = Callable[[int, int], pa.Table]
LINEAGE = ["_model", "_run_id", "_source", "_position"]

TRANSFORM = """
import pyarrow as pa
import pyarrow.compute as pc


def build(batch):
    doubled = pc.multiply(batch["raw"], pa.scalar(2, pa.float32()))
    return pa.record_batch({"x0": doubled, "x1": batch["x1"], "x2": batch["x2"]})
"""


class World:
    """A pipeline with one kind of store, and its tables as other programs see them."""

    def __init__(self, pipeline: Any, store: str) -> None:
        self.pipeline, self.store = pipeline, store
        self.input: Path = pipeline.input
        self.write = pipeline.write_input

    def run(self, parameters: Mapping[str, str] | None = None, /, **overrides: Any) -> RunReport:
        return batchinfer.run(self.spec(**overrides), {"ds": "d1"} if parameters is None else parameters)

    def spec(self, **overrides: Any) -> Any:
        return self.pipeline.spec(**{"output.store": self.store, **overrides})

    def explain(
        self, key: Mapping[str, str], parameters: Mapping[str, str] | None = None, /, **overrides: Any
    ) -> list[Explanation]:
        return explain(self.spec(**overrides), key, parameters)

    def table(self, suffix: str = "", *, partitioned: bool = True) -> pa.Table:
        path = f"{self.pipeline.output}{suffix}"
        if self.store == "delta":
            return deltalake.DeltaTable(path).to_pyarrow_table()
        columns = pa.schema([pa.field("ds", pa.string())] if partitioned else [])
        return ds.dataset(path, partitioning=ds.partitioning(columns, flavor="hive")).to_table()

    def has_table(self, suffix: str = "") -> bool:
        try:
            return bool(self.table(suffix).schema.names)
        except (OSError, deltalake.exceptions.TableNotFoundError):
            return False

    def commits(self) -> int:
        return len(open_results(self.spec(), str(self.pipeline.output)).history(100))


@pytest.fixture(params=["delta", "parquet"])
def world(request: pytest.FixtureRequest, pipeline: Any) -> World:
    return World(pipeline, request.param)


def expected(inputs: pa.Table) -> npt.NDArray[np.float64]:
    x0, x1, x2 = (inputs[name].to_numpy().astype(np.float64) for name in ("x0", "x1", "x2"))
    return np.asarray(x0 + 2 * x1 - x2)


def assert_scores(results: pa.Table, inputs: pa.Table, key: str = "id") -> None:
    """Every input row is there once, with its own score."""
    results, inputs = results.sort_by(key), inputs.sort_by(key)
    assert results[key].to_pylist() == inputs[key].to_pylist()
    np.testing.assert_allclose(results["score"].to_numpy(), expected(inputs), rtol=1e-5, atol=1e-5)


def with_values(table: pa.Table, column: str, values: Mapping[int, float | None]) -> pa.Table:
    changed = table[column].to_pylist()
    for row, value in values.items():
        changed[row] = value
    index = table.schema.get_field_index(column)
    return table.set_column(index, column, pa.array(changed, table.schema.field(column).type))


def without_run(table: pa.Table) -> pa.Table:
    return table.drop_columns(["_run_id"]).sort_by([("ds", "ascending"), ("id", "ascending")])


# What a run writes


def test_results_have_key_carry_outputs_lineage_and_partition_columns_and_nothing_else(
    world: World, rows: Rows
) -> None:
    world.write(rows(0, 10))
    world.run()

    table = world.table()
    assert sorted(table.schema.names) == sorted(["id", "note", "score", *LINEAGE, "ds"])
    assert table.schema.field("id").type == pa.int64()
    assert table.schema.field("score").type == pa.float32()
    assert table.schema.field("_position").type == pa.int64()
    assert set(table["ds"].to_pylist()) == {"d1"}
    assert table.sort_by("id")["note"].to_pylist() == rows(0, 10)["note"].to_pylist()


def test_every_row_has_its_own_score_and_says_where_it_lies_over_files_and_row_groups(
    world: World, rows: Rows
) -> None:
    sizes = {"a": (0, 1000, 300), "b": (1000, 1, 1), "sub/c": (1001, 2500, 1024), "d": (3501, 777, 64)}
    paths = {
        str(world.write(rows(first, count), name, row_group_size=group)): first
        for name, (first, count, group) in sizes.items()
    }
    report = world.run()

    table = world.table()
    assert_scores(table, rows(0, 4278))
    for row in table.select(["id", "_source", "_position"]).to_pylist():
        assert row["_position"] == row["id"] - paths[row["_source"]]
    assert set(table["_model"].to_pylist()) == {"linear@1"}
    assert set(table["_run_id"].to_pylist()) == {report.run_id}


def test_the_report_has_the_fields_of_the_contract(world: World, rows: Rows) -> None:
    world.write(rows(0, 100))
    report = world.run()

    told = report.to_dict()
    assert_contract(told)
    assert json.loads(report.to_json()) == told
    assert (report.status, report.pipeline, report.parameters) == ("done", "scores", {"ds": "d1"})
    assert told["rows"] == {"read": 100, "scored": 100, "quarantined": 0, "skipped": 0}
    assert report.units == {"total": 1, "reused": 0}
    assert report.model.keys() == {"name", "version", "digest"}
    assert (report.model["name"], report.model["version"]) == ("linear", "1")
    assert report.model["digest"].startswith("sha256:")
    assert report.seconds > 0 and report.rows_per_second > 0
    assert report.table_version is not None
    assert report.quality == {} and report.error is None


@pytest.mark.parametrize("threads", [1, 4])
def test_the_table_does_not_depend_on_the_number_of_threads(world: World, rows: Rows, threads: int) -> None:
    for day in range(6):
        world.write(rows(day * 500, 500), ds=f"d{day}", row_group_size=100)
    everything = {"input.path": str(world.input)}
    world.run({}, **everything, **{"engine.threads": 2})
    before = without_run(world.table())

    world.run({}, **everything, **{"engine.threads": threads, "output.path": f"{world.pipeline.output}_2"})

    assert without_run(world.table("_2")).equals(before)


def test_the_engine_is_no_part_of_the_work(world: World, rows: Rows) -> None:
    world.write(rows(0, 50))
    assert world.run(**{"engine.threads": 1}).run_id == world.run(**{"engine.threads": 4}).run_id


def test_runs_follow_each_other_in_one_process(world: World, rows: Rows) -> None:
    world.write(rows(0, 50), ds="d1")
    world.write(rows(50, 60), ds="d2")

    first, second = world.run({"ds": "d1"}), world.run({"ds": "d2"})

    assert first.run_id != second.run_id
    assert_scores(world.table(), rows(0, 110))


# Reruns


def test_the_same_work_is_recognised_and_not_done_again(world: World, rows: Rows) -> None:
    path = world.write(rows(0, 200))
    first = world.run()
    before, commits = world.table(), world.commits()

    again = world.run()

    assert again.run_id == first.run_id
    assert again.table_version == first.table_version
    assert again.units == {"total": 1, "reused": 1}
    assert (again.status, again.rows) == ("done", first.rows)
    assert again.rows_per_second == 0 < first.rows_per_second
    assert world.commits() == commits
    assert world.table().equals(before)
    assert path.exists()


def test_a_recognised_rerun_tells_its_own_time_and_the_rows_that_stand(
    world: World, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.write(with_values(rows(0, 200), "x0", {3: None}))
    first = world.run()

    class Later(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Later:
            return cls(2040, 1, 2, tzinfo=tz)

    monkeypatch.setattr("batchinfer.runs._job.datetime", Later)
    again = world.run()

    assert again.started_at == "2040-01-02T00:00:00+00:00" != first.started_at
    assert again.with_(started_at="", seconds=0.0, rows_per_second=0, timings={}) == first.with_(
        started_at="", seconds=0.0, rows_per_second=0, timings={}, units={"total": 1, "reused": 1}
    )
    assert RunRecords().find(again.run_id) == again


def test_a_changed_input_is_other_work_and_replaces_its_partition_alone(world: World, rows: Rows) -> None:
    world.write(rows(0, 100), ds="d1")
    world.write(rows(100, 100), ds="d2")
    first = world.run({"ds": "d1"})
    world.run({"ds": "d2"})
    other = world.table().filter(pc.field("ds") == "d2")

    world.write(rows(40, 30), ds="d1")
    second = world.run({"ds": "d1"})

    assert second.run_id != first.run_id
    assert second.table_version is not None and first.table_version is not None
    assert second.table_version > first.table_version
    table = world.table()
    assert table.filter(pc.field("ds") == "d2").equals(other)
    mine = table.filter(pc.field("ds") == "d1")
    assert_scores(mine, rows(40, 30))
    assert set(mine["_run_id"].to_pylist()) == {second.run_id}


def test_each_thing_that_decides_a_row_is_part_of_the_run_id(world: World, rows: Rows) -> None:
    world.write(rows(0, 10))
    ids = [
        world.run().run_id,
        world.run(**{"quality.max_quarantined": 0.1}).run_id,
        world.run(name="other").run_id,
    ]
    assert len(set(ids)) == 3


def test_one_run_takes_several_days_from_folders_and_replaces_just_those(world: World, rows: Rows) -> None:
    for day in range(4):
        world.write(rows(day * 100, 100), "a", ds=f"d{day}", row_group_size=30)
        world.write(rows(1000 + day * 100, 50), "b", ds=f"d{day}")
    everything = {"input.path": str(world.input)}
    report = world.run({}, **everything)

    assert report.rows.scored == 600
    assert report.units["total"] == 4
    table = world.table()
    for day in range(4):
        mine = table.filter(pc.field("ds") == f"d{day}")
        assert_scores(mine, pa.concat_tables([rows(day * 100, 100), rows(1000 + day * 100, 50)]))
        assert all(f"ds=d{day}/" in source for source in mine["_source"].to_pylist())


def test_a_parameter_that_contradicts_the_folders_never_mixes_partitions(world: World, rows: Rows) -> None:
    world.write(rows(0, 10), ds="d1")
    world.write(rows(10, 10), ds="d2")
    with pytest.raises(UsageError, match=r"ds=d2.*ds=d1"):
        world.run({"ds": "d1"}, **{"input.path": str(world.input)})
    assert not world.has_table()


def test_without_partition_columns_a_run_replaces_the_whole_table(world: World, rows: Rows) -> None:
    whole: dict[str, Any] = {"output.partition_by": []}
    world.write(rows(0, 100))
    world.run(**whole)
    world.write(rows(500, 20))
    report = world.run(**whole)

    table = world.table(partitioned=False)
    assert sorted(table.schema.names) == sorted(["id", "note", "score", *LINEAGE])
    assert_scores(table, rows(500, 20))
    assert set(table["_run_id"].to_pylist()) == {report.run_id}


def test_a_folder_for_null_is_no_partition_but_a_null_to_carry(world: World, rows: Rows) -> None:
    world.write(rows(0, 10), ds="d1/region=__HIVE_DEFAULT_PARTITION__")
    world.write(rows(10, 10), ds="d1/region=eu")
    with pytest.raises(
        InputError, match=r"region=__HIVE_DEFAULT_PARTITION__/part-0\.parquet: .*null"
    ) as caught:
        world.run(**{"output.partition_by": ["ds", "region"]})
    assert caught.value.exit_code == 2 and not world.has_table()

    world.run(**{"output.carry": ["region"]})
    assert world.table().sort_by("id")["region"].to_pylist() == [None] * 10 + ["eu"] * 10


def test_a_partition_column_that_nobody_states_is_named(world: World, rows: Rows) -> None:
    world.write(rows(0, 10))
    with pytest.raises(SpecError, match="region"):
        world.run(**{"output.partition_by": ["ds", "region"]})


def test_a_partition_column_cannot_be_an_output_of_the_model_too(world: World, rows: Rows) -> None:
    world.write(rows(0, 10))
    with pytest.raises(SpecError, match="'score' is an output of the model too"):
        world.run({"ds": "d1", "score": "a"}, **{"output.partition_by": ["score"]})
    assert not world.has_table()


@pytest.mark.parametrize("nulls", [False, True])
def test_readers_find_rows_by_any_column(world: World, rows: Rows, nulls: bool) -> None:
    """A store's statistics never hide a row from a filter."""
    table = rows(0, 100).append_column("real", pa.array(np.arange(100) / 4))
    when = pa.array(np.arange(100) * 86_400_000_000, pa.timestamp("us"))
    table = table.append_column("when", when)
    if nulls:
        table = with_values(table, "id", {5: None})
    world.write(table)
    spec = world.spec(**{"output.carry": ["note", "real", "when"]})
    batchinfer.run(spec, {"ds": "d1"})
    seen = open_results(spec, spec.output.path).dataset()
    everything = seen.to_table()
    conditions = [
        pc.field("score") > 5,
        pc.field("note") == "row 3",
        pc.field("real") >= 3,
        pc.field("when") > pa.scalar(86_400_000_000 * 50, pa.timestamp("us")),
        pc.field("_position") == 3,
        pc.field("id") == 7,
        pc.field("id").is_null(),
        pc.field("ds") == "d1",
    ]
    found = [seen.to_table(filter=condition).num_rows for condition in conditions]
    assert found == [everything.filter(condition).num_rows for condition in conditions]
    assert found[-3:] == [1, int(nulls), 100]


@pytest.mark.parametrize(
    ("name", "values", "text"),
    [
        ("real", pa.array(np.arange(100) / 4), "0.75"),
        ("count", pa.array(range(100), pa.uint32()), "3"),
        ("day", pa.array(range(100), pa.int32()).cast(pa.date32()), "1970-01-04"),
        ("when", pa.array([i * 10**9 for i in range(100)], pa.timestamp("ns")), "1970-01-01T00:00:03"),
        ("label", pa.array([f"k{i}" for i in range(100)]).dictionary_encode(), "k3"),
        ("amount", pa.array(range(100), pa.int64()).cast(pa.decimal128(21, 2)), "3.00"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_keys_of_every_type_are_found_again(
    world: World, rows: Rows, name: str, values: Any, text: str
) -> None:
    world.write(rows(0, 100).append_column(name, values))
    world.run(**{"input.key": [name]})
    (found,) = world.explain({name: text}, **{"input.key": [name]})
    assert found.bit_exact and found.position == 3


def test_one_file_is_an_input_too(world: World, rows: Rows) -> None:
    path = world.write(rows(0, 10))
    world.write(rows(10, 10), "part-1")
    world.run(**{"input.path": str(path)})
    assert_scores(world.table(), rows(0, 10))


# Transform


def raw(table: pa.Table) -> pa.Table:
    """The input of TRANSFORM: `raw` is half of x0."""
    half = pc.multiply(table["x0"], pa.scalar(0.5, pa.float32()))
    return table.drop_columns(["x0"]).append_column("raw", half)


def test_a_transform_feeds_the_model_and_key_and_carry_come_from_the_input(world: World, rows: Rows) -> None:
    (world.pipeline.root / "features.py").write_text(TRANSFORM)
    world.write(raw(rows(0, 500)), row_group_size=70)
    report = world.run(transform="features.py:build")

    assert report.rows.scored == 500
    table = world.table()
    assert sorted(table.schema.names) == sorted(["id", "note", "score", *LINEAGE, "ds"])
    assert_scores(table, rows(0, 500))


def test_a_feature_that_cannot_be_scored_quarantines_its_row(world: World, rows: Rows) -> None:
    (world.pipeline.root / "features.py").write_text(TRANSFORM)
    path = world.write(with_values(raw(rows(0, 100)), "raw", {17: None, 60: float("nan")}))
    report = world.run(transform="features.py:build")

    assert (report.rows.scored, report.rows.quarantined) == (98, 2)
    refused = world.table("_quarantine").sort_by("id")
    assert refused["id"].to_pylist() == [17, 60]
    assert refused["_position"].to_pylist() == [17, 60]
    assert set(refused["_source"].to_pylist()) == {str(path)}
    assert_scores(world.table(), rows(0, 100).filter(pc.invert(pc.field("id").isin([17, 60]))))


def test_a_changed_transform_is_other_work(world: World, rows: Rows) -> None:
    file = world.pipeline.root / "features.py"
    world.write(raw(rows(0, 10)))
    file.write_text(TRANSFORM)
    first = world.run(transform="features.py:build")
    file.write_text(TRANSFORM.replace("pa.scalar(2,", "pa.scalar(4,"))
    second = world.run(transform="features.py:build")

    assert first.run_id != second.run_id
    scores = world.table().sort_by("id")["score"].to_numpy()
    np.testing.assert_allclose(scores, expected(rows(0, 10)) + rows(0, 10)["x0"].to_numpy(), rtol=1e-5)


# Quarantine and quality


def test_quarantined_rows_are_kept_with_key_reason_and_lineage(world: World, rows: Rows) -> None:
    world.write(with_values(rows(0, 100), "x1", {3: None}), "a", row_group_size=10)
    bad = world.write(with_values(rows(100, 100), "x2", {42: float("nan"), 43: None}), "b")
    report = world.run()

    assert (report.rows.read, report.rows.scored, report.rows.quarantined) == (200, 197, 3)
    assert sum(report.quality["quarantined"].values()) == 3
    assert any("x1" in reason for reason in report.quality["quarantined"])
    refused = world.table("_quarantine").sort_by("id")
    original = [*rows(0, 1).schema.names, "ds"]
    assert sorted(refused.schema.names) == sorted([*original, "_reason", "_expectations", *LINEAGE])
    assert refused["x1"].to_pylist()[0] is None
    assert refused["x0"].to_pylist()[1:] == rows(100, 100)["x0"].to_pylist()[42:44]
    assert refused["_expectations"].to_pylist() == [[], [], []]
    assert refused["id"].to_pylist() == [3, 142, 143]
    assert refused["_position"].to_pylist() == [3, 42, 43]
    assert refused["_source"].to_pylist()[1:] == [str(bad)] * 2
    assert [r for r in refused["_reason"].to_pylist() if "x2" in r and "NaN" in r]
    assert set(refused["_run_id"].to_pylist()) == {report.run_id}
    assert set(refused["_model"].to_pylist()) == {"linear@1"}
    scored = world.table()
    assert scored.num_rows == 197
    assert not set(scored["id"].to_pylist()) & {3, 142, 143}


def test_quarantined_rows_keep_columns_that_the_pipeline_does_not_read_whatever_their_type(
    world: World, rows: Rows
) -> None:
    plain = with_values(rows(0, 20), "x0", {3: None})
    nested = pa.array([{"a": i, "b": None} for i in range(20)])
    world.write(
        plain.append_column("nested", nested).append_column("u", pa.array(range(20), pa.uint8())), "a"
    )
    world.write(with_values(rows(100, 20), "x0", {5: None}).append_column("u", pa.array(["t"] * 20)), "b")
    world.run(**{"quality.max_quarantined": 0.2})
    refused = world.table("_quarantine").sort_by("id")
    assert refused["nested"].to_pylist() == ['{"a": 3, "b": null}', None]
    assert refused["u"].to_pylist() == ["3", "t"], "types that do not meet become text"


def test_the_quarantine_table_takes_columns_that_inputs_come_to_have_and_lose(
    world: World, rows: Rows
) -> None:
    world.write(with_values(rows(0, 20), "x0", {3: None}), ds="d1")
    world.run({"ds": "d1"})
    world.write(with_values(rows(20, 20), "x0", {4: None}).append_column("new", pa.array(range(20))), ds="d2")
    world.run({"ds": "d2"})
    world.write(with_values(rows(40, 20), "x0", {5: None}), ds="d3")
    world.run({"ds": "d3"})
    refused = open_quarantine(world.spec(), str(world.pipeline.output)).dataset().to_table().sort_by("id")
    assert (refused["id"].to_pylist(), refused["new"].to_pylist()) == ([3, 24, 45], [None, 4, None])


def test_the_quarantine_follows_the_results_from_run_to_run(world: World, rows: Rows) -> None:
    world.write(rows(0, 100), ds="d1")
    world.run()
    assert not world.has_table("_quarantine")

    world.write(with_values(rows(500, 100), "x0", {1: None}), ds="d2")
    world.run({"ds": "d2"})
    seen = []
    for bad in ([5, 6, 7], [6], []):
        world.write(with_values(rows(0, 100), "x0", dict.fromkeys(bad)), ds="d1")
        report = world.run()
        assert report.rows.quarantined == len(bad)
        refused = world.table("_quarantine")
        seen.append(sorted(refused.filter(pc.field("ds") == "d1")["id"].to_pylist()))
        assert refused.filter(pc.field("ds") == "d2")["id"].to_pylist() == [501]
        assert world.table().filter(pc.field("ds") == "d1").num_rows == 100 - len(bad)
    assert seen == [[5, 6, 7], [6], []]


def test_a_rerun_of_a_run_with_quarantine_changes_neither_table(world: World, rows: Rows) -> None:
    world.write(with_values(rows(0, 100), "x0", {1: None}))
    world.run()
    before = world.table(), world.table("_quarantine")
    again = world.run()
    assert (world.table(), world.table("_quarantine")) == before
    assert (again.rows.quarantined, again.units["reused"]) == (1, 1)


def test_results_stand_where_only_the_quarantines_commit_failed_and_a_rerun_makes_it_good(
    world: World, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.write(with_values(rows(0, 100), "x0", {1: None}))
    commit = _job._commit_quarantine

    def fails(*arguments: Any) -> None:
        raise StoreError("no room for the quarantine")

    monkeypatch.setattr(_job, "_commit_quarantine", fails)
    with pytest.raises(StoreError, match="no room") as caught:
        world.run()
    monkeypatch.setattr(_job, "_commit_quarantine", commit)

    told = caught.value.fields["report"]
    assert told.status == "failed" and told.table_version is not None
    assert RunRecords().find(told.run_id) == told
    before = world.table()
    assert before.num_rows == 99 and not world.has_table("_quarantine")

    again = world.run()
    assert (again.status, again.table_version, again.error) == ("done", told.table_version, None)
    assert (again.rows.quarantined, again.units) == (1, {"total": 1, "reused": 1})
    assert world.table().equals(before)
    assert world.table("_quarantine")["id"].to_pylist() == [1]


def test_too_many_refused_rows_stop_the_run_before_its_commit(world: World, rows: Rows) -> None:
    world.write(rows(0, 100))
    world.run()
    before = world.table()

    world.write(with_values(rows(0, 100), "x0", dict.fromkeys(range(6))))
    with pytest.raises(QualityGate, match=r"6 of 100 rows.*x0") as caught:
        world.run()

    assert world.table().equals(before)
    assert not world.has_table("_quarantine")
    assert caught.value.fields["report"].status == "failed"
    assert caught.value.fields["report"].rows.quarantined == 6
    assert world.run(**{"quality.max_quarantined": 0.06}).rows.quarantined == 6


def test_on_failure_fail_allows_no_refused_row(world: World, rows: Rows) -> None:
    world.write(with_values(rows(0, 1000), "x0", {5: None}))
    with pytest.raises(QualityGate, match="on_failure"):
        world.run(**{"quality.on_failure": "fail"})
    assert not world.has_table()


def test_scores_that_are_not_finite_are_written_and_counted(world: World, rows: Rows) -> None:
    infinite = float("inf")
    table = with_values(rows(0, 100), "x0", {10: infinite, 11: infinite, 12: -infinite})
    world.write(with_values(table, "x2", {11: infinite}))
    report = world.run()

    assert report.rows.scored == 100
    assert report.quality == {"nonfinite_scores": {"score": 3}}
    scores = world.table().sort_by("id")["score"].to_numpy()
    assert all(world.explain({"id": str(row)})[0].bit_exact for row in (10, 11, 12))
    assert scores[10] == infinite and np.isnan(scores[11]) and scores[12] == -infinite
    assert np.isfinite(np.delete(scores, [10, 11, 12])).all()


# Inputs without rows


def test_files_and_row_groups_without_rows_are_no_obstacle(world: World, rows: Rows) -> None:
    world.write(rows(0, 0), "a")
    world.write(rows(0, 100), "b")
    world.write(rows(0, 0), "c")
    report = world.run()
    assert report.rows.read == 100
    assert_scores(world.table(), rows(0, 100))


def test_an_input_without_any_row_gives_an_empty_partition(world: World, rows: Rows) -> None:
    world.write(rows(0, 10), ds="d2")
    world.run({"ds": "d2"})
    world.write(rows(0, 10))
    world.run()
    world.write(rows(0, 1).slice(0, 0))
    report = world.run()

    assert (report.status, report.rows.read, report.units["total"]) == ("done", 0, 0)
    assert world.table()["ds"].to_pylist() == ["d2"] * 10
    assert world.run().table_version == report.table_version


def test_a_first_run_without_any_row_is_done_too(world: World, rows: Rows) -> None:
    world.write(rows(0, 1).slice(0, 0))
    first = world.run()
    assert first.status == "done"
    assert world.run().run_id == first.run_id
    world.write(rows(0, 5))
    world.run()
    assert_scores(world.table(), rows(0, 5))


# Explaining a row


def test_a_row_in_the_middle_of_a_large_file_explains_itself_bit_for_bit(world: World, rows: Rows) -> None:
    path = world.write(rows(0, 150_000), row_group_size=40_000)
    report = world.run()
    for row in (0, 39_999, 93_217, 149_999):
        (found,) = world.explain({"id": str(row)}, {"ds": "d1"})
        assert found.bit_exact
        assert (found.source, found.position, found.run_id) == (str(path), row, report.run_id)
        assert found.inputs["id"] == row and found.model == "linear@1"
        assert found.stored == found.rescored and found.stored.keys() == {"score"}
        assert found.stored["score"] == pytest.approx(expected(rows(row, 1))[0], rel=1e-5, abs=1e-5)


def test_text_keys_and_several_key_columns_are_found(world: World, rows: Rows) -> None:
    table = rows(0, 3000).append_column("name", pa.array([f"k'{i % 50}/ä" for i in range(3000)]))
    world.write(table, row_group_size=500)
    keys = {"input.key": ["name", "id"]}
    world.run(**keys)

    (found,) = world.explain({"name": "k'17/ä", "id": "1517"}, **keys)

    assert found.bit_exact
    assert found.position == 1517
    assert found.key == {"name": "k'17/ä", "id": 1517}


def test_a_transformed_row_explains_itself(world: World, rows: Rows) -> None:
    (world.pipeline.root / "features.py").write_text(TRANSFORM)
    world.write(raw(rows(0, 500)), row_group_size=70)
    world.run(transform="features.py:build")
    (found,) = world.explain({"id": "333"}, transform="features.py:build")
    assert found.bit_exact and found.inputs["raw"] == raw(rows(333, 1))["raw"][0].as_py()


def test_a_key_that_stands_in_several_partitions_is_explained_in_each(world: World, rows: Rows) -> None:
    for day in ("d1", "d2"):
        world.write(rows(0, 10), ds=day)
        world.run({"ds": day})
    assert len(world.explain({"id": "3"})) == 2
    (found,) = world.explain({"id": "3"}, {"ds": "d2"})
    assert "ds=d2" in found.source


def test_a_stored_value_that_was_tampered_with_is_told(world: World, rows: Rows) -> None:
    world.write(rows(0, 100))
    world.run()
    if world.store == "delta":
        table = deltalake.DeltaTable(str(world.pipeline.output))
        table.update(updates={"score": "score + 1"}, predicate="id = 7")
    else:
        (part,) = Path(world.pipeline.output).rglob("*.parquet")
        stored = pq.read_table(part, partitioning=None)
        scores = stored["score"].to_numpy() + np.where(stored["id"].to_numpy() == 7, 1, 0)
        index = stored.schema.get_field_index("score")
        pq.write_table(stored.set_column(index, "score", pa.array(scores, pa.float32())), part)

    (changed,) = world.explain({"id": "7"})
    (intact,) = world.explain({"id": "8"})

    assert not changed.bit_exact
    assert changed.stored["score"] == pytest.approx(changed.rescored["score"] + 1)
    assert intact.bit_exact


def test_explain_says_what_it_cannot_find(world: World, rows: Rows) -> None:
    path = world.write(rows(0, 20))
    with pytest.raises(StoreError, match=r"no .*table"):
        world.explain({"id": "1"})
    world.run()
    with pytest.raises(UsageError, match="id=99"):
        world.explain({"id": "99"})
    with pytest.raises(UsageError, match="abc"):
        world.explain({"id": "abc"})
    with pytest.raises(UsageError, match="key of this pipeline is id"):
        world.explain({"ident": "1"})
    world.write(rows(0, 5))
    with pytest.raises(InputError, match=r"no row 15|has 5 rows"):
        world.explain({"id": "15"})
    path.unlink()
    with pytest.raises(InputError, match="no such file"):
        world.explain({"id": "15"})


# Records


def test_every_run_has_a_record_as_it_ended(world: World, rows: Rows) -> None:
    world.write(rows(0, 100), ds="d1")
    world.write(with_values(rows(0, 100), "x0", dict.fromkeys(range(50))), ds="d2")
    done = world.run({"ds": "d1"})
    with pytest.raises(QualityGate):
        world.run({"ds": "d2"})

    records = {record.parameters["ds"]: record for record in RunRecords().all()}
    assert records["d1"] == done == RunRecords().find(done.run_id[:8])
    assert records["d2"].status == "failed"
    assert records["d2"].error is not None and "50 of 100 rows" in records["d2"].error
    assert records["d2"].rows.quarantined == 50
    assert records["d2"].table_version is None


def test_a_later_attempt_takes_the_record_over(world: World, rows: Rows) -> None:
    world.write(rows(0, 100))
    output = Path(world.pipeline.output)
    output.parent.mkdir()
    output.write_text("in the way")
    with pytest.raises(StoreError):
        world.run()
    (failed,) = RunRecords().all()
    assert failed.status == "failed" and str(output) in str(failed.error)
    output.unlink()

    done = world.run()

    assert [record.status for record in RunRecords().all()] == ["done"]
    assert done.run_id == failed.run_id and done.error is None


class StopAfterRows:
    """A progress that is interrupted as a user would, when the first rows are through."""

    def planned(self, plan: Any) -> None:
        pass

    def rows(self, count: int) -> None:
        raise KeyboardInterrupt

    def finished(self) -> None:
        pass


def test_a_stopped_run_leaves_the_table_alone_and_goes_on_when_run_again(world: World, rows: Rows) -> None:
    world.write(rows(0, 100))
    world.run()
    before = world.table()
    world.write(rows(100, 100))
    with pytest.raises(Interrupted, match="same command goes on"):
        batchinfer.run(world.spec(), {"ds": "d1"}, progress=StopAfterRows())

    assert world.table().equals(before)
    assert RunRecords().all()[0].status in {"interrupted", "done"}
    world.run()
    assert_scores(world.table(), rows(100, 100))
    assert {record.status for record in RunRecords().all()} == {"done"}


@pytest.mark.parametrize("parameters", [{}, {"ds": ""}, {"ds": "d1", "region": "eu"}])
def test_parameters_are_all_needed_known_and_filled(world: World, parameters: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"ds|region"):
        world.run(parameters)


def test_a_parameter_that_is_no_text_is_named(world: World) -> None:
    with pytest.raises(UsageError, match="'ds' is of the type int, expected a text"):
        world.run({"ds": 20130108})  # type: ignore[dict-item]


def test_one_folder_holds_one_kind_of_table(pipeline: Any, rows: Rows) -> None:
    pipeline.write_input(rows(0, 10))
    for first, other, message in (
        ("delta", "parquet", "a Delta table"),
        ("parquet", "delta", "of the Parquet store"),
    ):
        path = {"output.path": str(pipeline.root / first)}
        batchinfer.run(pipeline.spec(**path, **{"output.store": first}), {"ds": "d1"})
        with pytest.raises(StoreError, match=message):
            batchinfer.run(pipeline.spec(**path, **{"output.store": other}), {"ds": "d1"})


@pytest.mark.parametrize("up", ["..", ".", "../../x/.."])
def test_results_are_not_written_among_the_inputs_files(world: World, rows: Rows, up: str) -> None:
    world.write(rows(0, 10))
    before = sorted(world.input.rglob("*"))
    with pytest.raises(SpecError, match="the input's files lie in it"):
        world.run(**{"output.path": str(world.input / up)})
    assert sorted(world.input.rglob("*")) == before


def test_a_parquet_table_that_was_deleted_is_told_by_the_state_that_is_left(
    pipeline: Any, rows: Rows
) -> None:
    pipeline.write_input(rows(0, 10))
    path = {"output.path": str(pipeline.root / "table")}
    batchinfer.run(pipeline.spec(**path, **{"output.store": "parquet"}), {"ds": "d1"})
    shutil.rmtree(pipeline.root / "table")
    with pytest.raises(StoreError, match=r"\.table\.batchinfer") as refused:
        batchinfer.run(pipeline.spec(**path), {"ds": "d1"})
    shutil.rmtree(refused.value.fields["state"])
    assert batchinfer.run(pipeline.spec(**path), {"ds": "d1"}).rows.scored == 10


def test_records_that_are_no_folder_are_named(pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file = pipeline.root / "file"
    file.write_text("")
    monkeypatch.setenv("BATCHINFER_RUNS", str(file))
    with pytest.raises(UsageError, match="no folder with records"):
        RunRecords().all()
