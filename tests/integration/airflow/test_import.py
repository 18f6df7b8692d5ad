"""Reading the DAG file is cheap: Airflow does it every few seconds, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.integration.airflow.conftest import Deployment

SDKS = {
    "pyarrow",
    "numpy",
    "pandas",
    "onnxruntime",
    "onnx",
    "deltalake",
    "pyspark",
    "dask",
    "distributed",
} | {
    "great_expectations",
    "evidently",
    "sklearn",
}


def test_the_dag_file_adds_half_a_second_at_most_and_none_of_the_sdks(deployment: Deployment) -> None:
    deployment.write_spec(drift={})
    # Airflow's own import first, with all that any DAG file takes from it: what comes on top of it is ours.
    code = f"""
import json, runpy, sys, time
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG, BaseSensorOperator, CronDataIntervalTimetable, Param, Asset, BaseOperatorLink
from airflow.triggers.base import BaseTrigger
before, started = set(sys.modules), time.process_time()
dags = runpy.run_path({str(deployment.root / "dags" / "batchinfer_nightly.py")!r})
seconds = time.process_time() - started
assert dags["scores"].task_ids, dags
added = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(chr(10) + json.dumps([seconds, sorted(added)]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=deployment.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    seconds, added = json.loads(done.stdout.splitlines()[-1])
    assert "batchinfer" in added
    assert not SDKS & set(added)
    assert seconds < 0.5


def test_batchinfer_airflow_alone_imports_neither_airflow_nor_an_sdk(tmp_path: Path) -> None:
    code = "import sys, batchinfer.airflow; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not (SDKS | {"airflow"}) & set(done.stdout.split())
