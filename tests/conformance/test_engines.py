"""Every engine keeps the promises of an engine: threads here, Spark in three shapes, and Dask."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from batchinfer.spec import PipelineSpec
from batchinfer.testing import EngineConformance

ROWS = 4_000
SPARK_CONF = {"spark.ui.enabled": False, "spark.sql.shuffle.partitions": 2}
SUITE = {
    "name": "scores",
    "expectations": [
        {"type": "expect_column_values_to_not_be_in_set", "kwargs": {"column": "id", "value_set": [0, 1999]}},
        {"type": "expect_column_mean_to_be_between", "kwargs": {"column": "x1", "min_value": 0}},
    ],
    "meta": {},
}
TRANSFORM = """
import os, signal, time, uuid

def build(batch):
    meeting = {meeting!r}
    if meeting:
        open(os.path.join(meeting, uuid.uuid4().hex), "w").close()
        end = time.monotonic() + 60
        while len(os.listdir(meeting)) < 2:
            if time.monotonic() > end:
                raise TimeoutError("nobody came to the meeting")
            time.sleep(0.01)
    marker = {marker!r}
    if marker:
        try:
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            pass
        else:
            os.kill(os.getpid(), signal.SIGKILL)
    return batch.select(["x0", "x1", "x2"])
"""
needs_java = pytest.mark.skipif(
    shutil.which("java") is None and "JAVA_HOME" not in os.environ,
    reason="Spark needs Java, and there is none",
)


@pytest.fixture
def spec_for(pipeline: Any, rows: Callable[[int, int], pa.Table]) -> Callable[..., PipelineSpec]:
    """See `EngineConformance`: a pipeline with all parts that workers must be sent."""

    def make(folder: Path, *, kill_once: Path | None = None, meet: Path | None = None) -> PipelineSpec:
        if not pipeline.input.exists():
            pipeline.write_input(rows(0, ROWS), row_group_size=500)
        (pipeline.root / "features.py").write_text(
            TRANSFORM.format(marker=str(kill_once or ""), meeting=str(meet or ""))
        )
        (pipeline.root / "suite.json").write_text(json.dumps(SUITE))
        spec: PipelineSpec = pipeline.spec(
            **{
                "output.path": str(folder / "results"),
                "transform": "features.py:build",
                "quality.suite": "suite.json",
                "drift.reference": str(pipeline.input),
            }
        )
        return spec

    return make


@pytest.mark.xdist_group("local")
class TestLocalEngine(EngineConformance):
    processes = False

    @pytest.fixture(scope="class")
    @classmethod
    def options(cls) -> dict[str, Any]:
        return {"kind": "local", "threads": 2}


@needs_java
@pytest.mark.xdist_group("spark-local")
class TestSparkLocal(EngineConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def options(cls) -> dict[str, Any]:
        return {"kind": "spark", "master": "local[2]", "conf": SPARK_CONF}


@needs_java
@pytest.mark.xdist_group("spark-cluster")
class TestSparkLocalCluster(EngineConformance):
    """Executors in processes of their own, each with Python workers of its own."""

    @pytest.fixture(scope="class")
    @classmethod
    def options(cls) -> dict[str, Any]:
        return {"kind": "spark", "master": "local-cluster[2,1,1024]", "conf": SPARK_CONF}


@needs_java
@pytest.mark.xdist_group("spark-connect")
class TestSparkConnect(EngineConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def options(cls, connect_server: str) -> dict[str, Any]:
        return {"kind": "spark", "remote": connect_server}


@pytest.mark.xdist_group("dask")
class TestDask(EngineConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def options(cls) -> Iterator[dict[str, Any]]:
        from distributed import LocalCluster

        with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
            yield {"kind": "dask", "address": cluster.scheduler_address}

    @pytest.fixture(autouse=True)
    def _both_workers(self, engine: Any) -> None:
        """A test before may have killed one: Dask gives all to the other until it is there again."""
        engine.client.wait_for_workers(2, timeout=60)
