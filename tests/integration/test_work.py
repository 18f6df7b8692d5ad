"""A run's work as a value: it pickles whole, and opens one model a process."""

from __future__ import annotations

import os
import pickle
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from batchinfer.core import StagingArea
from batchinfer.engines import _dask
from batchinfer.errors import SpecError, Transient
from batchinfer.runs import run
from batchinfer.runs._plan import Plan, make_plan
from batchinfer.runs._work import RunWork, _scorer, check_visible
from batchinfer.runs._worker import Staging
from batchinfer.source import plan_units
from batchinfer.spec import EngineSpec


@pytest.fixture
def plan(pipeline: Any, rows: Callable[[int, int], pa.Table], monkeypatch: pytest.MonkeyPatch) -> Plan:
    assert plan_units.__kwdefaults__ is not None
    monkeypatch.setitem(plan_units.__kwdefaults__, "unit_rows", 100)
    pipeline.write_input(rows(0, 800), row_group_size=100)
    (pipeline.root / "features.py").write_text("def build(batch):\n    return batch\n")
    spec = pipeline.spec(transform="features.py:build", **{"drift.reference": str(pipeline.input)})
    return make_plan(spec, {"ds": "d1"})


def staged_in(folder: Path) -> Staging:
    areas = [StagingArea(str(folder / name), str(folder / f"{name}-receipts")) for name in ("r", "q")]
    return Staging(*areas)


def test_many_threads_share_one_model_and_the_load_is_told_once(plan: Plan, tmp_path: Path) -> None:
    work = pickle.loads(pickle.dumps(RunWork.of(plan, staged_in(tmp_path / "staged"), (), None)))
    _scorer.cache_clear()  # an earlier run of this process may have opened the model
    reports = []
    threads = [threading.Thread(target=lambda unit=unit: reports.append(work(unit))) for unit in plan.units]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(report.unit for report in reports) == list(range(8))
    assert sum(report.model_loads for report in reports) == 1


def test_a_worker_needs_neither_the_drivers_folder_nor_the_transforms_file(
    plan: Plan, pipeline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pipeline.root)
    near = make_plan(
        plan.spec.model_copy(
            update={"input": plan.spec.input.model_copy(update={"path": os.path.relpath(pipeline.input)})}
        ),
        {"ds": "d1"},
    )
    work = pickle.dumps(RunWork.of(near, staged_in(tmp_path / "staged"), (), None))
    (pipeline.root / "features.py").unlink()
    monkeypatch.chdir("/")
    report = pickle.loads(work)(near.units[0])
    assert report.rows.scored == near.units[0].rows
    assert near.units[0].slices[0].file.path.startswith("input/")


def test_paths_of_this_machine_are_refused_where_workers_are_elsewhere(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"(?s)input.path: .*file:///"):
        check_visible(plan, staged_in(tmp_path))


@pytest.mark.parametrize("key", ["master", "remote"])
def test_a_spark_that_is_not_there_is_transient(plan: Plan, key: str) -> None:
    address = {"master": "spark://127.0.0.1:1", "remote": "sc://127.0.0.1:1"}[key]
    spec = plan.spec.model_copy(update={"engine": EngineSpec.model_validate({"kind": "spark", key: address})})
    with pytest.raises(Transient, match=r"127.0.0.1:1' cannot be reached"):
        run(spec, {"ds": "d1"})


def test_a_dask_scheduler_that_is_not_there_is_transient(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dask, "_CONNECT_SECONDS", 1)
    spec = plan.spec.model_copy(update={"engine": EngineSpec(kind="dask", address="tcp://127.0.0.1:1")})
    with pytest.raises(Transient, match=r"tcp://127.0.0.1:1.* cannot be reached"):
        run(spec, {"ds": "d1"})


def test_a_server_that_is_no_dask_scheduler_is_not_waited_for_without_end(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_dask, "_CONNECT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        spec = plan.spec.model_copy(update={"engine": EngineSpec(kind="dask", address=address)})
        with pytest.raises(Transient, match=r"127.0.0.1:\d+' cannot be reached: .*after 1.5 s"):
            run(spec, {"ds": "d1"})


def test_a_scheduler_without_workers_is_waited_for_aloud(
    plan: Plan, caplog: pytest.LogCaptureFixture
) -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as cluster:
        engine = EngineSpec(kind="dask", address=cluster.scheduler_address)
        spec = plan.spec.model_copy(update={"engine": engine})
        adding = threading.Timer(0.5, cluster.scale, [1])
        adding.start()
        report = run(spec, {"ds": "d1"})
        adding.join()
    assert report.rows.scored == 800
    assert [r.getMessage() for r in caplog.records if "has no workers: units wait" in r.getMessage()]


@pytest.mark.parametrize(("host", "here"), [("127.0.0.1", True), ("localhost", True), ("203.0.113.9", False)])
def test_a_worker_is_here_if_its_address_is_one_of_this_machine(host: str, here: bool) -> None:
    assert _dask._is_here(host) is here


@pytest.mark.parametrize("address", ["nonsense", "http://scheduler:8786", "tcp://h:x", "tls://127.0.0.1:1"])
def test_an_address_that_dask_cannot_use_is_refused_and_leaves_nothing_behind(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    def half_made(*_: object, **__: object) -> None:
        raise AssertionError("a client was made, which waits and prints when it is thrown away")

    monkeypatch.setattr(_dask, "Client", half_made)
    spec = plan.spec.model_copy(update={"engine": EngineSpec(kind="dask", address=address)})
    with pytest.raises(SpecError, match=r"engine\.address: "):
        run(spec, {"ds": "d1"})
