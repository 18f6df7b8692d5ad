"""Disks that are full or forbidden, and inputs that change under a run: a clear error, and nothing half-written."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batchinfer.errors import InputChanged, StoreError
from batchinfer.runs import RunRecords, _job, make_plan
from batchinfer.spec import load_spec
from tests.faults.conftest import Child, rerun, results_digest, tables_of
from tests.faults.test_kill import undisturbed


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """Let the kernel refuse to write files beyond a size, as a full disk or a quota does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(bytes_: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, hard))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_no_room_while_staging_commits_nothing_and_a_rerun_goes_on(
    faulty: Child, small_files: Callable[[int], None]
) -> None:
    expected = undisturbed(faulty)
    small_files(3_500)  # receipts fit, parts do not
    with pytest.raises(StoreError, match=r"cannot write.*\n.*free some space"):
        rerun(faulty)
    assert results_digest(faulty.spec_file) == "StoreError"  # there is no table
    small_files(resource.RLIM_INFINITY)
    assert RunRecords().all()[0].status == "failed"
    assert tables_of(faulty.spec_file, rerun(faulty)) == expected


def test_no_partial_file_is_left_where_there_was_no_room(
    faulty: Child, small_files: Callable[[int], None]
) -> None:
    small_files(3_500)
    with pytest.raises(StoreError):
        rerun(faulty)
    assert not [p for p in faulty.results.rglob("*") if p.name.endswith((".parquet", ".tmp"))]


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which only root can")
def test_a_folder_that_may_not_be_written_is_named_before_any_work(
    faulty: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(tempfile.mkdtemp(prefix="batchinfer-readonly-"))
    try:
        root.chmod(0o755)
        worked: list[object] = []
        monkeypatch.setattr(_job, "_work", lambda *a: worked.append(a))
        spec = load_spec(faulty.spec_file)
        if spec.output.store == "postgres":
            monkeypatch.setenv("BATCHINFER_STAGING", str(root))
        else:
            spec = load_spec(faulty.spec_file, **{"output.path": str(root / "scores")})
        plan = make_plan(spec, {"ds": "d1"})
        monkeypatch.setattr(_job, "make_plan", lambda *a: plan)
        monkeypatch.setattr(RunRecords, "write", lambda *a: None)
        os.seteuid(65534)
        try:
            with pytest.raises(StoreError, match="Permission denied"):
                _job.run(spec, {"ds": "d1"})
        finally:
            os.seteuid(0)
        assert not worked
    finally:
        shutil.rmtree(root)


def _removed(path: Path) -> None:
    path.unlink()


def _replaced(path: Path) -> None:
    content = path.read_bytes()
    fresh = path.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.replace(path)


def _truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _grown(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


@pytest.mark.parametrize("change", [_removed, _replaced, _truncated, _grown])
def test_an_input_that_changes_after_the_plan_stops_the_run_before_its_commit(
    faulty: Child, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    def plan_then_change(*arguments: Any) -> Any:
        plan = make_plan(*arguments)
        change(Path(plan.inputs[0].path))
        return plan

    monkeypatch.setattr(_job, "make_plan", plan_then_change)
    with pytest.raises(InputChanged, match=r"part-0\.parquet") as caught:
        rerun(faulty)
    assert caught.value.exit_code == 75
    assert results_digest(faulty.spec_file) == "StoreError"  # there is no table
