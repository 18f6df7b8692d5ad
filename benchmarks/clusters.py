"""Spark and Dask on all cores of this machine: the same settings for batchinfer and for its peers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from .measure import cores

ARROW_ROWS = 131_072
"""Spark hands Python at most so many rows at a time; its default of 10,000 would bound every batch size."""


@contextmanager
def spark_session() -> Iterator[Any]:
    """A session whose Python workers are up."""
    from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    session = (
        SparkSession.builder.master(f"local[{cores()}]")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.memory", "2g")
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", ARROW_ROWS)
        .config("spark.log.level", "ERROR")
        .getOrCreate()
    )

    def same(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import onnxruntime  # noqa: F401 - so that no measured job imports it

        yield from batches

    session.range(0, 4, 1, 2 * cores()).mapInArrow(same, "id long").collect()
    try:
        yield session
    finally:
        session.stop()


@contextmanager
def dask_cluster() -> Iterator[str]:
    """The address of a scheduler with one process a core."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=cores(), threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        client.run(__import__, "onnxruntime")
        yield cluster.scheduler_address
