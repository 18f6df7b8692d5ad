"""GPUs are dealt out by Spark's and Dask's own schedulers: two tasks never hold one, unless fractions say so.

The addresses are made up: a discovery script names them for Spark, and Dask's workers offer them as a resource.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batchinfer.core import UnitReport, WorkUnit
from batchinfer.engines import open_engine
from batchinfer.errors import SpecError
from batchinfer.spec import EngineSpec
from batchinfer.testing import DeviceWork

UNITS = [WorkUnit(index, (), ()) for index in range(12)]
needs_java = pytest.mark.skipif(
    shutil.which("java") is None and "JAVA_HOME" not in os.environ,
    reason="Spark needs Java, and there is none",
)


def devices(reports: list[UnitReport]) -> Counter[str]:
    """How many units were worked on by each device."""
    return sum((Counter(report.reasons) for report in reports), Counter[str]())


def mapped(options: dict[str, Any], work: DeviceWork) -> Counter[str]:
    with open_engine(EngineSpec.model_validate(options)) as engine:
        return devices(list(engine.map(work, UNITS)))


@pytest.fixture
def own_jvm() -> Iterator[None]:
    """pyspark starts one JVM a process, which remembers the configuration it was started with: GPUs, here."""
    yield
    from pyspark import SparkContext

    gateway = SparkContext._gateway
    assert gateway is not None
    gateway.shutdown()
    gateway.proc.stdin.close()
    gateway.proc.wait(60)
    SparkContext._gateway = SparkContext._jvm = None


@pytest.fixture
def discovery(tmp_path: Path) -> Path:
    """A script that names two GPUs, the executor's own two, as those of clusters do."""
    script = tmp_path / "gpus.sh"
    script.write_text("""#!/bin/sh\necho '{"name": "gpu", "addresses": ["7", "9"]}'\n""")
    script.chmod(0o755)
    return script


def cluster(discovery: Path, **conf: Any) -> dict[str, Any]:
    """One executor with four cores and two GPUs: cores alone would let four tasks run."""
    return {
        "kind": "spark",
        "master": "local-cluster[1,4,1024]",
        "conf": {
            "spark.ui.enabled": False,
            "spark.worker.resource.gpu.amount": 2,
            "spark.worker.resource.gpu.discoveryScript": str(discovery),
            "spark.executor.resource.gpu.amount": 2,
            "spark.executor.resource.gpu.discoveryScript": str(discovery),
            **conf,
        },
    }


@needs_java
@pytest.mark.usefixtures("own_jvm")
@pytest.mark.xdist_group("spark-gpu")
@pytest.mark.parametrize(("gpus", "share"), [(1, 1), (0.5, 2)])
def test_spark_gives_a_gpu_to_as_many_tasks_as_its_fraction_says(
    discovery: Path, tmp_path: Path, gpus: float, share: int
) -> None:
    options = {**cluster(discovery, **{"spark.task.resource.gpu.amount": gpus}), "gpus_per_task": gpus}
    assert mapped(options, DeviceWork(str(tmp_path), share)).keys() == {"7", "9"}


@needs_java
@pytest.mark.usefixtures("own_jvm")
@pytest.mark.xdist_group("spark-gpu")
def test_spark_is_asked_for_gpus_by_a_resource_profile_of_the_stage(discovery: Path, tmp_path: Path) -> None:
    with open_engine(EngineSpec.model_validate({**cluster(discovery), "gpus_per_task": 1})) as engine:
        assert devices(list(engine.map(DeviceWork(str(tmp_path), 1), UNITS))).keys() == {"7", "9"}


@needs_java
@pytest.mark.usefixtures("own_jvm")
@pytest.mark.xdist_group("spark-gpu")
def test_a_gpu_asked_of_spark_where_there_is_none_is_refused_before_a_job() -> None:
    options = {"kind": "spark", "master": "local[1]", "conf": {"spark.ui.enabled": False}, "gpus_per_task": 1}
    with pytest.raises(SpecError, match="have no GPUs"):
        open_engine(EngineSpec.model_validate(options))


@pytest.fixture(scope="module")
def dask() -> Iterator[str]:
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=6, dashboard_address=":0", resources={"GPU": 2}
    ) as started:
        yield started.scheduler_address


@pytest.mark.xdist_group("dask")
@pytest.mark.parametrize(("gpus", "share"), [(1, 1), (0.5, 2), (0.3, 3)])
def test_dask_gives_a_gpu_to_as_many_tasks_as_its_fraction_says(
    dask: str, tmp_path: Path, gpus: float, share: int
) -> None:
    found = mapped({"kind": "dask", "address": dask, "gpus_per_task": gpus}, DeviceWork(str(tmp_path), share))
    assert found.keys() == {"0", "1"}


@pytest.mark.xdist_group("dask")
def test_a_gpu_asked_of_dask_where_there_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as bare:
        options = {"kind": "dask", "address": bare.scheduler_address, "gpus_per_task": 1}
        with (
            pytest.raises(SpecError, match="none of 1 workers offers"),
            open_engine(EngineSpec.model_validate(options)) as engine,
        ):
            list(engine.map(DeviceWork("nowhere", 1), UNITS))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(SpecError, match="this machine has no GPU"):
        open_engine(EngineSpec.model_validate({"kind": "dask", "gpus_per_task": 1}))


@pytest.mark.xdist_group("dask")
def test_an_own_dask_cluster_deals_out_the_gpus_that_this_process_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert mapped({"kind": "dask", "gpus_per_task": 1}, DeviceWork(str(tmp_path), 1)).keys() == {"0", "1"}
