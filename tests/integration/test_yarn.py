"""A backfill under spark-submit on Hadoop YARN, as docs/backfill.md writes it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from tests import java, yarn

ROOT = Path(__file__).parents[2]
PIPELINE = "pipelines/flight_delay"

pytestmark = pytest.mark.xdist_group("yarn")


@pytest.fixture(scope="module")
def hadoop_conf() -> Iterator[Path]:
    try:
        with yarn.cluster() as conf:
            yield conf
    except java.Unavailable as e:
        pytest.skip(f"YARN cannot be had: {e}")


def submit(
    folder: Path, conf: Path, mode: str, *options: str, **paths: str
) -> subprocess.CompletedProcess[str]:
    """Two days of the sample's pipeline, one executor; `paths` are overrides of the spec."""
    import pyspark

    spark = Path(pyspark.__file__).parent
    small = {
        "driver.memory": "512m",
        "executor.memory": "512m",
        "executor.cores": "2",
        "executor.instances": "1",
    }
    runs = (folder / "runs").as_uri()
    settings = {
        **{f"spark.{name}": value for name, value in small.items()},
        "spark.ui.enabled": "false",
        "spark.yarn.jars": f"local:{spark}/jars/*",
        "spark.yarn.stagingDir": (folder / "staging").as_uri(),
        "spark.yarn.appMasterEnv.PYSPARK_PYTHON": sys.executable,
        "spark.yarn.appMasterEnv.BATCHINFER_RUNS": runs,
    }
    samples = ROOT / "data" / "samples"
    overrides = {
        "registry": (samples / "models").as_uri(),
        "input.path": (samples / "flights").as_uri() + "/ds={ds}",
        "output.path": (folder / "results").as_uri(),
        **paths,
    }
    return subprocess.run(
        [
            *(spark / "bin" / "spark-submit", "--master", "yarn", "--deploy-mode", mode),
            *(part for name, value in settings.items() for part in ("--conf", f"{name}={value}")),
            *options,
            *(ROOT / "pipelines" / "backfill.py", f"{PIPELINE}/pipeline.yaml"),
            *("--start", "2013-01-08", "--end", "2013-01-09"),
            *(part for name, value in overrides.items() for part in ("--set", f"{name}={value}")),
        ],
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("SPARK_")},
            "HADOOP_CONF_DIR": str(conf),
            "PYSPARK_PYTHON": sys.executable,
            "BATCHINFER_RUNS": runs,
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def rows_by_day(folder: Path) -> dict[str, int]:
    table = pa.table(DeltaTable(str(folder / "results")).to_pyarrow_table(columns=["ds"]))
    return dict(
        sorted((count["values"], count["counts"]) for count in table["ds"].value_counts().to_pylist())
    )


def test_a_backfill_runs_beside_its_executors(hadoop_conf: Path, tmp_path: Path) -> None:
    done = submit(tmp_path, hadoop_conf, "client")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 days: 2 done" in done.stdout + done.stderr
    assert rows_by_day(tmp_path) == {"2013-01-08": 899, "2013-01-09": 902}


def test_the_driver_runs_on_the_cluster_with_the_pipeline_that_went_along(
    hadoop_conf: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "pipelines.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for file in sorted((ROOT / PIPELINE).iterdir()):
            packed.write(file, file.relative_to(ROOT / "pipelines"))
    done = submit(tmp_path, hadoop_conf, "cluster", "--archives", f"{archive}#pipelines")
    assert done.returncode == 0, done.stdout + done.stderr
    assert rows_by_day(tmp_path) == {"2013-01-08": 899, "2013-01-09": 902}
    assert any((tmp_path / "runs").iterdir())


def test_a_path_that_the_executors_cannot_see_is_refused(hadoop_conf: Path, tmp_path: Path) -> None:
    refused = submit(tmp_path, hadoop_conf, "client", **{"output.path": str(tmp_path / "results")})
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "output.path" in refused.stdout + refused.stderr
    assert not list((tmp_path / "results").rglob("*.parquet"))
