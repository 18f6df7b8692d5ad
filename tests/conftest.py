"""A small pipeline that every suite can run: three float columns, a linear model, Parquet files of one day."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from batchinfer.model import _certify
from batchinfer.spec import PipelineSpec, load_spec
from tests import kafka, postgres
from tests.ports import free_ports


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A database of this process' own PostgreSQL server; skips where none is installed."""
    with postgres.server() as url:
        yield url


@pytest.fixture(scope="session", autouse=True)
def _short_sweeps() -> Iterator[None]:
    """Models of the tests are small: nobody needs their best batch size to be measured with care."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_certify, "_SECONDS_A_SIZE", 0.005)
        yield


@pytest.fixture(scope="session")
def kafka_broker() -> Iterator[kafka.Broker]:
    """Apache Kafka, or the embedded broker where there is no Java: `real` says which.

    Tests that take it stand in the group `kafka` (`pytestmark = pytest.mark.xdist_group("kafka")`), so that one
    broker starts.
    """
    with kafka.broker() as running:
        yield running


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A registry with `linear@champion`: score = x0 + 2 x1 - x2 for a packed [N, 3] input called `input`."""
    from onnx import TensorProto, helper, numpy_helper

    from batchinfer.runs import add_model

    folder = tmp_path_factory.mktemp("registry")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "w"], ["score"])],
        "linear",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N", 1])],
        [numpy_helper.from_array(np.array([[1], [2], [-1]], np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (folder / "linear.onnx").write_bytes(model.SerializeToString())
    pq.write_table(flights(0, 64), folder / "sample.parquet")
    pq.write_table(flights(0, 2000), folder / "reference.parquet")
    add_model(
        "linear",
        onnx=folder / "linear.onnx",
        sample=folder / "sample.parquet",
        config={"inputs": {"input": {"pack": ["x0", "x1", "x2"]}}},
        reference=folder / "reference.parquet",
        registry=str(folder / "models"),
        alias="champion",
    )
    return str(folder / "models")


def flights(first: int, rows: int) -> pa.Table:
    """Rows with ids from `first` on, and features that follow from the id."""
    ids = np.arange(first, first + rows)
    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "x0": pa.array((ids % 97) / 7, pa.float32()),
            "x1": pa.array((ids % 31) / 3, pa.float32()),
            "x2": pa.array(np.sin(ids), pa.float32()),
            "note": pa.array([f"row {i % 11}" for i in ids]),
        }
    )


@dataclass(frozen=True)
class Pipeline:
    """A pipeline folder of its own, with inputs and results below it."""

    root: Path
    registry: str
    document: dict[str, Any] = field(default_factory=dict)

    @property
    def input(self) -> Path:
        return self.root / "input"

    @property
    def output(self) -> Path:
        return self.root / "results" / "scores"

    def write_input(self, table: pa.Table, name: str = "part-0", ds: str = "d1", **options: Any) -> Path:
        path = self.input / f"ds={ds}" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, **options)
        return path

    def write_spec(self, **overrides: Any) -> Path:
        document = {
            "name": "scores",
            "model": "linear@champion",
            "registry": self.registry,
            "input": {"path": str(self.input / "ds={ds}"), "key": ["id"]},
            "output": {"path": str(self.output), "partition_by": ["ds"], "carry": ["note"]},
            **overrides,
        }
        path = self.root / "pipeline.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    def spec(self, **overrides: Any) -> PipelineSpec:
        return load_spec(self.write_spec(), **overrides)


@pytest.fixture
def pipeline(tmp_path: Path, registry: str, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """A pipeline without inputs; run records go below it too."""
    monkeypatch.setenv("BATCHINFER_RUNS", str(tmp_path / "runs"))
    return Pipeline(tmp_path, registry)


@pytest.fixture(scope="session")
def rows() -> Callable[[int, int], pa.Table]:
    """`flights`, for tests that cannot import this file."""
    return flights


@pytest.fixture(scope="session")
def connect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Spark Connect server in a process of its own, as `sc://…`; the tests of one group share it."""
    import pyspark

    [port] = free_ports(1)
    home = Path(pyspark.__file__).parent
    folder = tmp_path_factory.mktemp("connect")
    conf = {"spark.connect.grpc.binding.port": port, "spark.ui.enabled": "false"}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [
                home / "bin" / "spark-submit",
                *("--class", "org.apache.spark.sql.connect.service.SparkConnectServer"),
                *("--master", "local[2]"),
                *(word for key, value in conf.items() for word in ("--conf", f"{key}={value}")),
                "spark-internal",
            ],
            cwd=folder,
            env={**os.environ, "PYSPARK_PYTHON": sys.executable, "SPARK_HOME": str(home)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        end = time.monotonic() + 120
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                alive = server.poll() is None and time.monotonic() < end
                assert alive, (folder / "log").read_text()[-4000:]
                time.sleep(0.2)
        yield f"sc://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(60)
