"""What is the Parquet store's own: the exchange, the hidden bookkeeping, and folders of others."""

import errno
import fcntl
import json
import subprocess
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from batchinfer.errors import StoreError
from batchinfer.store import _parquet, open_store
from batchinfer.testing import Fault, table_digest, tripping
from batchinfer.testing._store_runs import SCHEMA, TWO_DAYS, WHOLE, day, info, ours, run, seen, stage

GO_LIVE = "batchinfer.store._parquet:ParquetStore._go_live"


def parquet(folder: Path, *by: str) -> Any:
    return open_store("parquet", str(folder / "table"), by or ["ds"], "suite")


def broken() -> None:
    raise OSError(errno.EIO, "the disk broke")


def test_a_url_is_refused_and_delta_named() -> None:
    with pytest.raises(StoreError, match="delta"):
        open_store("parquet", "s3://bucket/table", [], "p")


def test_any_reader_of_hive_folders_reads_the_table(tmp_path: Path) -> None:
    store = parquet(tmp_path)
    run(store, "run1", TWO_DAYS)
    run(store, "run2", {day("d2"): range(5)})
    assert ds.dataset(store.path, partitioning="hive").count_rows() == 305
    assert pq.read_table(store.path).num_rows == 305
    visible = {path.suffix for path in Path(store.path).rglob("[!.]*") if path.is_file()}
    assert visible == {".parquet"}


def test_a_folder_with_files_of_others_is_never_replaced(tmp_path: Path) -> None:
    table = tmp_path / "table"
    table.mkdir()
    (table / "mine.csv").write_text("precious")
    store = open_store("parquet", str(table), [], "suite")
    with pytest.raises(StoreError, match="did not write"):
        store.begin("run1", SCHEMA, [WHOLE])
    assert (table / "mine.csv").read_text() == "precious"


def test_a_process_that_was_forked_during_a_commit_does_not_keep_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / ".table.batchinfer" / "lock"
    children = []

    def fork() -> None:
        held = [int(fd.name) for fd in Path("/proc/self/fd").iterdir() if fd.exists() and fd.samefile(lock)]
        children.append(subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=held))

    with tripping(Fault(GO_LIVE), fork):
        run(parquet(tmp_path), "run1", TWO_DAYS)
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        for child in children:
            child.communicate(timeout=60)
    assert children


def test_an_empty_folder_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "table").mkdir()
    store = open_store("parquet", str(tmp_path / "table"), [], "suite")
    run(store, "run1", {WHOLE: range(3)})
    assert seen(store) == {("", "run1"): 3}


def test_a_table_behind_a_link_is_replaced_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "disk" / "real").mkdir(parents=True)
    (tmp_path / "table").symlink_to(tmp_path / "disk" / "real")
    store = open_store("parquet", str(tmp_path / "table"), [], "suite")
    for run_id in ("run1", "run2"):
        run(store, run_id, {WHOLE: range(3)})
    assert (tmp_path / "table").is_symlink()
    assert seen(store) == {("", "run2"): 3}


def test_a_run_cut_short_between_partitions_goes_on_and_both_are_told(tmp_path: Path) -> None:
    store = parquet(tmp_path)
    run(store, "before", TWO_DAYS)
    fence = store.begin("run1", SCHEMA, list(TWO_DAYS))
    parts = stage(store, "run1", {day("d1"): range(3), day("d2"): range(4)})
    with tripping(Fault(GO_LIVE, "before", 2), broken), pytest.raises(StoreError, match="Input/output"):
        store.commit(fence, parts, info("run1"))
    assert seen(store) == {("d1", "run1"): 3, ("d2", "before"): 200}
    assert store.committed("run1", list(TWO_DAYS)) is None
    first = (Path(store.path) / "ds=d1" / "._commit.json").read_text()
    store.commit(fence, parts, info("run1"))
    assert (Path(store.path) / "ds=d1" / "._commit.json").read_text() == first
    assert seen(store) == {("d1", "run1"): 3, ("d2", "run1"): 4}
    assert ours(store) == ["run1", "run1", "before"]
    assert "cut short after ['ds=d1']" in store.history(2)[1]["operation"]


def test_a_history_line_that_a_kill_prevented_is_told_and_then_written(tmp_path: Path) -> None:
    store = parquet(tmp_path)
    with tripping(Fault("batchinfer.store._parquet:_append"), broken):
        version = run(store, "run1", TWO_DAYS)
    history = tmp_path / ".table.batchinfer" / "history.jsonl"
    assert not history.exists()
    assert ours(store) == ["run1"]
    assert run(store, "run2", TWO_DAYS) == version + 1
    assert [json.loads(line)["run_id"] for line in history.read_text().splitlines()] == ["run1", "run2"]


def test_a_history_line_that_a_kill_cut_short_harms_no_other(tmp_path: Path) -> None:
    store = parquet(tmp_path)
    run(store, "run1", TWO_DAYS)
    history = tmp_path / ".table.batchinfer" / "history.jsonl"
    with history.open("a") as file:
        file.write('{"version": 2, "run')
    run(store, "run2", TWO_DAYS)
    assert ours(store) == ["run2", "run1"]
    assert store.history(1)[0]["version"] == 2


def test_versions_grow_also_when_the_history_is_lost(tmp_path: Path) -> None:
    store = parquet(tmp_path)
    run(store, "run1", TWO_DAYS)
    version = run(store, "run2", TWO_DAYS)
    (tmp_path / ".table.batchinfer" / "history.jsonl").unlink()
    assert run(store, "run3", TWO_DAYS) == version + 1


def test_a_partition_that_lost_a_file_does_not_count_as_committed(tmp_path: Path) -> None:
    store = parquet(tmp_path)
    run(store, "run1", TWO_DAYS, parts=2)
    next(Path(store.path, "ds=d1").glob("*.parquet")).unlink()
    assert store.committed("run1", [day("d1")]) is None
    assert store.committed("run1", [day("d2")]) is not None
    run(store, "run1", TWO_DAYS, attempt="b")
    assert seen(store) == {("d1", "run1"): 300, ("d2", "run1"): 200}


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP])
def test_where_folders_cannot_be_exchanged_delta_is_named_and_nothing_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store = parquet(tmp_path)
    run(store, "run1", TWO_DAYS)
    before = table_digest(store)

    class Kernel:
        def renameat2(self, *_: object) -> int:
            return -1

    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: Kernel())
    monkeypatch.setattr("ctypes.get_errno", lambda: number)
    with pytest.raises(StoreError, match="delta"):
        run(store, "run2", TWO_DAYS)
    assert table_digest(store) == before


def test_retired_folders_outlive_a_reader_and_are_swept(tmp_path: Path) -> None:
    store = parquet(tmp_path)
    run(store, "run1", {day("d1"): range(3)})
    run(store, "run2", {day("d1"): range(4)})
    retired = tmp_path / ".table.batchinfer" / "retired"
    assert len(list(retired.iterdir())) == 1
    store.sweep(3600, dry_run=False)
    assert len(list(retired.iterdir())) == 1
    store.sweep(-1, dry_run=True)
    assert len(list(retired.iterdir())) == 1
    store.sweep(-1, dry_run=False)
    assert list(retired.iterdir()) == []
    assert seen(store) == {("d1", "run2"): 4}


def test_commits_drop_folders_that_were_retired_long_ago(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_parquet, "_RETIRED_SECONDS", -1.0)
    store = parquet(tmp_path)
    for run_id in ("run1", "run2", "run3"):
        run(store, run_id, {day("d1"): range(3)})
    assert list((tmp_path / ".table.batchinfer" / "retired").iterdir()) == []


def test_a_folder_made_ready_by_a_killed_commit_is_swept(tmp_path: Path) -> None:
    store = parquet(tmp_path)
    run(store, "before", {day("d1"): range(2)})
    with tripping(Fault(GO_LIVE), broken), pytest.raises(StoreError):
        run(store, "run1", {day("d1"): range(3)})
    ready = tmp_path / ".table.batchinfer" / "ready"
    assert len(list(ready.iterdir())) == 1
    store.sweep(-1, dry_run=False)
    assert list(ready.iterdir()) == []
    assert seen(store) == {("d1", "before"): 2}


def test_a_table_that_is_not_there_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no table"):
        parquet(tmp_path).dataset()
