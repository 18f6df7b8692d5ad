"""A folder as an Airflow deployment has it: DAG files, pipelines, inputs; and an Airflow home of its own, on SQLite."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

ROOT = Path(__file__).parents[3]
SCRIPT = Path(__file__).with_name("dag_test.py")
Rows = Callable[[int, int], pa.Table]
Schedule = dict[str, Any]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One worker for all: each test is several processes, and they share a migrated database."""
    for item in items:
        if Path(item.path).parent == Path(__file__).parent:
            item.add_marker(pytest.mark.xdist_group("airflow"))


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An Airflow home whose database has its tables."""
    home = tmp_path_factory.mktemp("airflow") / "home"
    environment = {**os.environ, **settings(home, home / "dags")}
    command = [sys.executable, "-m", "airflow", "db", "migrate"]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
    return home


def settings(home: Path, dags: Path) -> dict[str, str]:
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PYTHONWARNINGS": "ignore",  # Airflow's own
    }


@dataclass(frozen=True)
class Deployment:
    """`root` holds dags/ and pipelines/scores; results and run records are relative to it, as in a checkout."""

    root: Path
    home: Path
    registry: str
    rows: Rows

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, **settings(self.home, self.root / "dags")}

    def results(self, pipeline: str = "scores") -> Path:
        return self.root / "results" / pipeline

    def folder(self, pipeline: str = "scores") -> Path:
        path = self.root / "pipelines" / pipeline
        path.mkdir(parents=True, exist_ok=True)
        return path

    def write_input(self, day: str, table: pa.Table, pipeline: str = "scores", **options: Any) -> Path:
        path = self.root / "input" / pipeline / f"ds={day}" / "part-0.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, **options)
        return path

    def write_spec(
        self, pipeline: str = "scores", schedule: Schedule | None = None, **overrides: Any
    ) -> None:
        document = {
            "name": pipeline,
            "model": "linear@champion",
            "registry": self.registry,
            "input": {"path": f"input/{pipeline}/ds={{ds}}", "key": ["id"]},
            "output": {"path": f"results/{pipeline}", "partition_by": ["ds"]},
            "schedule": {
                "cron": "@daily",
                "start_date": "2013-01-01",
                "retry_delay_s": 0,
                **(schedule or {}),
            },
            **overrides,
        }
        (self.folder(pipeline) / "pipeline.yaml").write_text(yaml.safe_dump(document))

    def write_transform(self, pipeline: str, text: str) -> str:
        (self.folder(pipeline) / "features.py").write_text(text)
        return "features.py:build"

    def test(self, runs: dict[str, dict[str, Any]], **environment: str) -> dict[str, Any]:
        """Run DAGs with `dag.test()`, one after the other, in a process of their own."""
        answer = self.root / "answer.json"
        answer.unlink(missing_ok=True)
        done = subprocess.run(
            [sys.executable, str(SCRIPT), str(answer), json.dumps(runs)],
            cwd="/",  # a worker's working directory is not the deployment's
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=540,
        )
        (self.root / "process.txt").write_text(done.stdout + done.stderr)
        logs = [path.read_text() for path in sorted(self.root.glob("*.log"), key=lambda p: p.stat().st_mtime)]
        assert answer.exists(), "".join([done.stdout, done.stderr, *logs])[-4000:]
        found: dict[str, Any] = json.loads(answer.read_text())
        return found

    def scored(self, day: str, pipeline: str = "scores") -> list[int]:
        """The ids of a day's results, as readers see them."""
        table = deltalake.DeltaTable(self.results(pipeline)).to_pyarrow_table(filters=[("ds", "=", day)])
        ids: list[int] = sorted(table.column("id").to_pylist())
        return ids


@pytest.fixture(scope="module")
def deployment(
    tmp_path_factory: pytest.TempPathFactory, registry: str, migrated: Path, rows: Rows
) -> Deployment:
    """No pipelines yet."""
    folder = tmp_path_factory.mktemp("deployment")
    # Airflow's configuration file names the folder that it was made in.
    shutil.copytree(migrated, folder / "home", ignore=shutil.ignore_patterns("airflow.cfg"))
    (folder / "root" / "dags").mkdir(parents=True)
    shutil.copy(ROOT / "dags" / "batchinfer_nightly.py", folder / "root" / "dags")
    return Deployment(folder / "root", folder / "home", registry, rows)


def of(day: str, pipeline: str = "scores") -> dict[str, Any]:
    """The run of a day, as `dag.test()` is asked for it: its interval is the last before the logical date."""
    return {"dag": pipeline, "logical_date": f"{date.fromisoformat(day) + timedelta(days=1)}T00:00:00+00:00"}
