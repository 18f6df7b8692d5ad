"""What is Delta Lake's own: outcomes, other writers, time travel, VACUUM and OPTIMIZE."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable, write_deltalake

from batchinfer.core import LINEAGE
from batchinfer.errors import CommitRefused, CommitUnknown, StoreError, Transient
from batchinfer.store import _delta, open_store
from batchinfer.store._delta_log import commits
from batchinfer.testing import Fault, table_digest, tripping
from batchinfer.testing._store_runs import SCHEMA, TWO_DAYS, age, day, info, run, seen, stage

CREATE = "deltalake.table:DeltaTable.create_write_transaction"


def delta(folder: Path) -> Any:
    return open_store("delta", str(folder / "table"), ["ds"], "suite")


def broken() -> None:
    raise OSError("the connection broke")


def overtake(folder: Path, value: str) -> None:
    run(delta(folder), "run2", {day(value): range(3)})


def test_when_the_log_cannot_be_read_after_a_failure_the_outcome_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = delta(tmp_path)
    run(store, "before", {day("d1"): range(9)})
    fence = store.begin("run1", SCHEMA, [day("d1")])
    parts = stage(store, "run1", {day("d1"): range(20)})

    def unreachable(*_: object) -> None:
        raise OSError("unreachable")

    def fail_and_vanish() -> None:
        monkeypatch.setattr(_delta.DeltaStore, "_open", unreachable)
        broken()

    with tripping(Fault(CREATE, "after"), fail_and_vanish), pytest.raises(CommitUnknown) as unknown:
        store.commit(fence, parts, info("run1"))
    assert unknown.value.exit_code == 75
    monkeypatch.undo()
    assert store.committed("run1", [day("d1")]) is not None
    assert store.commit(fence, parts, info("run1")) == store.history(1)[0]["version"]


@pytest.mark.parametrize("name", ["a b", "[1]", "ü 100%", "it's"])
def test_an_odd_path_is_committed_to_and_its_later_commits_are_seen(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    store = delta(tmp_path / name)
    assert run(store, "run1", {day("d1"): range(20)}) == 1
    opened = DeltaTable(str(tmp_path / name / "table"))
    run(store, "run2", {day("d1"): range(3)})
    assert [commit["version"] for commit in commits(opened, None)] == [1, 0]
    assert seen(store) == {("d1", "run2"): 3}


@pytest.mark.parametrize("name", ["a#1", "a?b", "%41"])
def test_a_path_that_would_be_read_as_a_url_is_refused_before_any_work(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match="as a part of a URL"):
        delta(tmp_path / name).begin("run1", SCHEMA, [day("d1")])
    assert not (tmp_path / name).exists()


def test_a_commit_that_took_place_is_known_although_another_replaced_it_at_once(tmp_path: Path) -> None:
    store = delta(tmp_path)
    fence = store.begin("run1", SCHEMA, [day("d1")])
    parts = stage(store, "run1", {day("d1"): range(20)})

    def overtaken() -> None:
        overtake(tmp_path, "d1")
        broken()

    with tripping(Fault(CREATE, "after"), overtaken):
        assert store.commit(fence, parts, info("run1")) == 1
    assert seen(store) == {("d1", "run2"): 3}


def test_a_failure_of_the_log_itself_is_a_store_error_and_changes_nothing(tmp_path: Path) -> None:
    store = delta(tmp_path)
    fence = store.begin("run1", SCHEMA, [day("d1")])
    parts = stage(store, "run1", {day("d1"): range(20)})
    with tripping(Fault(CREATE), broken), pytest.raises(StoreError, match="the connection broke"):
        store.commit(fence, parts, info("run1"))
    assert store.committed("run1", [day("d1")]) is None


def test_conflicts_without_end_are_transient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deltalake.exceptions import CommitFailedError

    def conflict(*_: object) -> None:
        raise CommitFailedError("someone else")

    store = delta(tmp_path)
    run(store, "before", {day("d1"): range(2)})
    fence = store.begin("run1", SCHEMA, [day("d1")])
    parts = stage(store, "run1", {day("d1"): range(20)})
    monkeypatch.setattr(_delta.DeltaStore, "_transact", conflict)
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(Transient, match="others went first"):
        store.commit(fence, parts, info("run1"))
    assert seen(store) == {("d1", "before"): 2}


def test_a_conflict_with_another_partitions_commit_is_tried_again(tmp_path: Path) -> None:
    store = delta(tmp_path)
    run(store, "before", TWO_DAYS)
    fence = store.begin("run1", SCHEMA, [day("d1")])
    parts = stage(store, "run1", {day("d1"): range(20)})
    with tripping(Fault(CREATE), lambda: overtake(tmp_path, "d2")):
        store.commit(fence, parts, info("run1"))
    assert seen(store) == {("d1", "run1"): 20, ("d2", "run2"): 3}


def test_a_conflict_with_the_same_partitions_commit_is_refused(tmp_path: Path) -> None:
    store = delta(tmp_path)
    fence = store.begin("run1", SCHEMA, [day("d1")])
    parts = stage(store, "run1", {day("d1"): range(20)})
    with (
        tripping(Fault(CREATE), lambda: overtake(tmp_path, "d1")),
        pytest.raises(CommitRefused, match="run2"),
    ):
        store.commit(fence, parts, info("run1"))
    assert seen(store) == {("d1", "run2"): 3}


def test_versions_are_told_rightly_although_others_commit_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = delta(tmp_path / "a table")
    told = [run(store, f"run{n}", {day("d1"): range(n)}) for n in (1, 2)]
    opened = store._open()
    told += [run(store, f"run{n}", {day("d2"): range(n)}) for n in (3, 4)]
    before = [(raw["version"], raw["run_id"]) for raw in commits(opened, 2)]
    assert before == [(told[1], "run2"), (told[0], "run1")]
    monkeypatch.setattr(_delta.DeltaStore, "_open", lambda self: opened)
    assert store.committed("run2", [day("d1")])[0] == told[1]


def test_a_commit_whose_version_is_told_while_others_come_in_is_told_its_own(tmp_path: Path) -> None:
    store = delta(tmp_path)
    run(store, "before", TWO_DAYS)
    history = "deltalake.table:DeltaTable.history"
    with tripping(Fault(history), lambda: overtake(tmp_path, "d2")):
        version = run(store, "run1", {day("d1"): range(20)})
    assert {row["run_id"]: row["version"] for row in store.history(9)}["run1"] == version


def test_two_that_add_columns_at_once_both_commit(tmp_path: Path) -> None:
    store = open_store("delta", str(tmp_path / "table"), ["ds"], "suite", widens=True)
    run(store, "before", TWO_DAYS)

    def widen(run_id: str, partition: str) -> None:
        fence = store.begin(run_id, SCHEMA.append(pa.field(f"of_{run_id}", pa.string())), [day(partition)])
        store.commit(fence, [], info(run_id))

    adds = "deltalake.table:TableAlterer.add_columns"
    with tripping(Fault(adds), lambda: widen("other", "d2")):
        widen("one", "d1")
    assert {"of_one", "of_other"} < set(store.dataset().schema.names)
    assert seen(store) == {}, "both have replaced their partition by nothing"


def test_rows_that_optimize_moved_still_count_as_committed(tmp_path: Path) -> None:
    store = delta(tmp_path)
    version = run(store, "run1", TWO_DAYS, parts=4)
    digest = table_digest(store)
    DeltaTable(store.path).optimize.compact()
    assert DeltaTable(store.path).version() > version
    assert store.committed("run1", list(TWO_DAYS)) == (version, info("run1"))
    run(store, "run2", TWO_DAYS)
    run(store, "run1", TWO_DAYS, attempt="b")
    assert table_digest(store) == digest


@pytest.mark.parametrize("meddling", ["update", "delete", "append"])
def test_rows_that_another_writer_changed_do_not_count_as_committed(tmp_path: Path, meddling: str) -> None:
    store = delta(tmp_path)
    run(store, "run1", TWO_DAYS)
    table = DeltaTable(store.path)
    if meddling == "update":
        table.update(updates={"score": "0"}, predicate="id = 3")
    elif meddling == "delete":
        table.delete("id = 3")
    else:
        write_deltalake(store.path, store.dataset().to_table().slice(0, 1), mode="append")
    assert store.committed("run1", [day("d1")]) is None
    assert store.history(1)[0]["run_id"] is None
    run(store, "run1", TWO_DAYS, attempt="b")
    assert seen(store) == {("d1", "run1"): 300, ("d2", "run1"): 200}


def test_the_sweep_leaves_past_versions_readable_also_behind_a_checkpoint(tmp_path: Path) -> None:
    store = delta(tmp_path)
    versions = {f"run{i}": run(store, f"run{i}", TWO_DAYS) for i in range(3)}
    DeltaTable(store.path).create_checkpoint()
    log = Path(store.path, "_delta_log")
    for commit in sorted(log.glob("*.json"))[:-1]:
        commit.unlink()  # as log retention does: then the checkpoint alone knows
    for run_id in versions:
        age(tmp_path, run_id, 7200)
    before = set(Path(store.path).rglob("part-*.parquet"))
    store.sweep(3600, dry_run=False)
    assert set(Path(store.path).rglob("part-*.parquet")) == before
    past = DeltaTable(store.path, version=versions["run2"]).to_pyarrow_table()
    assert past.num_rows == 500


def test_the_sweep_leaves_files_of_other_writers(tmp_path: Path) -> None:
    store = delta(tmp_path)
    run(store, "run1", TWO_DAYS)
    foreign = Path(store.path, "ds=d1", "part-00000-5c1e-c000.snappy.parquet")
    foreign.write_bytes(b"in flight")
    store.sweep(-60, dry_run=False)
    assert foreign.exists()


def test_a_log_that_cannot_be_read_stops_the_sweep(tmp_path: Path) -> None:
    store = delta(tmp_path)
    run(store, "run1", TWO_DAYS)
    Path(store.path, "_delta_log", "00000000000000000009.json").write_text("{torn")
    with pytest.raises(StoreError, match="00000000000000000009"):
        store.sweep(-60, dry_run=False)
    assert len(list(Path(store.path).rglob("part-*.parquet"))) == 2


def test_vacuum_deletes_nothing_that_a_rerun_put_back(tmp_path: Path) -> None:
    store = delta(tmp_path)
    fence = store.begin("run1", SCHEMA, [day("a/b")])
    parts = stage(store, "run1", {day("a/b"): range(5)})
    store.commit(fence, parts, info("run1"))
    run(store, "run2", {day("a/b"): range(3)})
    store.commit(store.begin("run1", SCHEMA, [day("a/b")]), parts, info("run1"))
    options = {"retention_hours": 0, "enforce_retention_duration": False, "dry_run": False}
    DeltaTable(store.path).vacuum(full=True, **options)
    assert seen(store) == {("a/b", "run1"): 5}


def test_a_filter_on_any_column_finds_its_rows(tmp_path: Path) -> None:
    store = delta(tmp_path)
    run(store, "run1", TWO_DAYS)
    column = pc.field
    filters = (column("id") == 3, column("score") <= 2, column("_run_id") == "run1", column("ds") == "d1")
    found = [store.dataset().count_rows(filter=condition) for condition in filters]
    assert found == [1, 500, 500, 300]


def test_a_commit_names_its_run_in_the_tables_own_log(tmp_path: Path) -> None:
    store = delta(tmp_path)
    run(store, "run1", TWO_DAYS)
    commit = DeltaTable(store.path).history(1)[0]
    assert commit["run_id"] == "run1"
    assert json.loads(commit["batchinfer"])["pipeline"] == "suite"


def test_an_instant_of_any_time_zone_is_kept(tmp_path: Path) -> None:
    store = delta(tmp_path)
    schema = pa.schema(
        [pa.field("id", pa.int64()), pa.field("at", pa.timestamp("us", "Europe/Berlin")), *LINEAGE]
    )
    fence = store.begin("run1", schema, [day("d1")])
    store.commit(fence, [], info("run1"))
    store.begin("run2", schema, [day("d1")])
    assert store.dataset().schema.field("at").type == pa.timestamp("us", "UTC")


def test_a_type_that_delta_does_not_know_is_a_store_error_on_one_line(tmp_path: Path) -> None:
    schema = pa.schema([pa.field("id", pa.duration("s")), *LINEAGE])
    with pytest.raises(StoreError) as refused:
        delta(tmp_path).begin("run1", schema, [day("d1")])
    assert "Duration" in refused.value.message
    assert "\n" not in refused.value.message
    assert "unknown" not in refused.value.message


def test_a_commit_without_a_beginning_says_so(tmp_path: Path) -> None:
    store = delta(tmp_path)
    fence = store.begin("run1", SCHEMA, [day("d1")])
    with pytest.raises(StoreError, match="did not begin"):
        store.commit(fence, [], info("never"))


def test_a_relative_path_is_the_same_table_from_anywhere(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("delta", "table", ["ds"], "suite")
    monkeypatch.chdir("/")
    run(store, "run1", TWO_DAYS)
    assert seen(delta(tmp_path)) == {("d1", "run1"): 300, ("d2", "run1"): 200}


def test_a_long_history_is_searched_to_its_end(tmp_path: Path) -> None:
    store = delta(tmp_path)
    version = run(store, "first", {day("d1"): range(2)})
    for i in range(25):
        run(store, f"run{i}", {day("d2"): range(2)})
    assert store.committed("first", [day("d1")]) == (version, info("first"))


def test_a_store_that_has_read_the_log_reads_only_what_came_since(tmp_path: Path) -> None:
    writer, reader = delta(tmp_path), delta(tmp_path)
    versions = {f"run{n}": run(writer, f"run{n}", {day(f"d{n}"): range(2)}) for n in range(25)}
    for n in (24, 0, 12):
        assert reader.committed(f"run{n}", [day(f"d{n}")])[0] == versions[f"run{n}"]
    earlier = reader._open()
    later = run(writer, "later", {day("d0"): range(3)})
    read: list[int] = []

    def counted(table: Any, limit: int | None) -> list[dict[str, Any]]:
        found = commits(table, limit)
        read.append(len(found))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("batchinfer.store._delta_log.commits", counted)
        assert reader.committed("later", [day("d0")])[0] == later
        assert reader.committed("run0", [day("d0")]) is None
        assert reader.committed("run3", [day("d3")])[0] == versions["run3"]
        assert read == [1]
        told = [entry.info.run_id for entry in reader._log.entries(earlier)]
    assert told == [f"run{n}" for n in reversed(range(25))], (
        "a table opened before does not see the later run"
    )
