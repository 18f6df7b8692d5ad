"""The DAGs under Airflow's own scheduler, triggerer and workers, as `airflow standalone` starts them: minutes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from tests.integration.airflow.conftest import ROOT, Deployment
from tests.ports import free_ports

pytestmark = pytest.mark.skipif(
    "BATCHINFER_AIRFLOW" not in os.environ, reason="takes minutes: make airflow-test runs it"
)
DAYS = [f"2013-01-{day:02}" for day in range(1, 11)]


@dataclass(frozen=True)
class Standalone:
    """A running Airflow. Its state is read from its database."""

    deployment: Deployment
    environment: dict[str, str]

    def command(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "airflow", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def post(self, path: str, body: dict[str, Any]) -> None:
        """As the UI does it: a button there is a call of this API."""
        base = self.environment["AIRFLOW__API__BASE_URL"]
        with urlopen(f"{base}/auth/token", timeout=60) as answer:
            token = json.load(answer)["access_token"]
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        request = Request(f"{base}/api/v2/{path}", json.dumps(body).encode(), headers)
        with urlopen(request, timeout=60) as answer:
            assert answer.status == 200, answer.read()

    def tasks(self, dag: str) -> list[tuple[str, str, str | None, int]]:
        """Run, task, state and try of each task instance of a DAG."""
        return self._read(
            "select run_id, task_id, state, try_number from task_instance where dag_id = ?", dag
        )

    def runs(self, dag: str) -> list[str]:
        return [state for (state,) in self._read("select state from dag_run where dag_id = ?", dag)]

    def known(self, dag: str) -> bool:
        return bool(self._read("select 1 from dag where dag_id = ? and not is_stale", dag))

    def wait(self, condition: Callable[[], bool], what: str, seconds: float = 300) -> None:
        limit = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < limit, f"{what}: {self.tasks_of_all()}"
            time.sleep(0.5)

    def tasks_of_all(self) -> str:
        rows = self._read("select dag_id, run_id, task_id, state, try_number from task_instance")
        return "\n".join(map(str, rows)) + self.log()

    def log(self) -> str:
        return (self.deployment.root / "standalone.log").read_text()[-6000:]

    def _read(self, query: str, *values: str) -> list[tuple]:  # type: ignore[type-arg]
        with sqlite3.connect(f"file:{self.deployment.home}/airflow.db?mode=ro", uri=True, timeout=30) as db:
            return db.execute(query, values).fetchall()


@pytest.fixture(scope="module")
def standalone(deployment: Deployment) -> Iterator[Standalone]:
    prepare(deployment)
    [port] = free_ports(1)
    environment = deployment.environment | {
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": f"http://localhost:{port}",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://localhost:{port}/execution/",
        "AIRFLOW__CORE__PARALLELISM": "2",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__API__HOST": "127.0.0.1",
        # Airflow's processes share SQLite, where a writer gives up after five seconds unless it is told otherwise.
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{deployment.home}/airflow.db?timeout=60",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    with (deployment.root / "standalone.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "airflow", "standalone"],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            found = Standalone(deployment, environment)
            wanted = {"scores", "slow", "flight_delay", "flight_delay_retrain"}
            found.wait(lambda: all(map(found.known, wanted)), "the DAGs are not read")
            yield found
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(process.pid, number)
                    process.wait(30)
                except (subprocess.TimeoutExpired, ProcessLookupError):
                    continue


def prepare(deployment: Deployment) -> None:
    window = {"start_date": "2013-01-01", "end_date": "2013-01-12"}
    for number, day in enumerate(DAYS[:-1]):
        deployment.write_input(day, deployment.rows(1000 * number, 50))
    deployment.write_spec("scores", {**window, "poll_s": 1})
    transform = f"""
import os, pathlib, time
def build(batch):
    held = pathlib.Path({str(deployment.root / "hold")!r})
    (held.parent / "pid").write_text(str(os.getpid()))
    while held.exists():
        time.sleep(0.1)
    return batch.select(["x0", "x1", "x2"])
"""
    (deployment.root / "hold").touch()
    deployment.write_input("2013-01-05", deployment.rows(0, 100), "slow")
    deployment.write_spec("slow", window, transform=deployment.write_transform("slow", transform))
    shutil.copy(ROOT / "dags" / "flight_delay_retrain.py", deployment.root / "dags")
    shutil.copytree(ROOT / "pipelines" / "flight_delay", deployment.root / "pipelines" / "flight_delay")
    samples = deployment.root / "data" / "samples"
    samples.mkdir(parents=True)
    shutil.copytree(ROOT / "data" / "samples" / "models", samples / "models")
    (samples / "flights").symlink_to(ROOT / "data" / "samples" / "flights")


def backfill(standalone: Standalone, dag: str, first: str, last: str) -> None:
    standalone.command(
        "backfill",
        "create",
        "--dag-id",
        dag,
        "--from-date",
        first,
        "--to-date",
        last,
        "--max-active-runs",
        "4",
    )


def test_a_backfill_of_ten_days_with_one_that_comes_late(standalone: Standalone) -> None:
    backfill(standalone, "scores", DAYS[0], DAYS[-1])

    def waits() -> bool:
        tasks = standalone.tasks("scores")
        return [state for _, task, state, _ in tasks if task == "input_arrived"].count("deferred") == 1 and [
            state for _, task, state, _ in tasks if task == "publish"
        ].count("success") == 9

    standalone.wait(waits, "nine days, and one that waits", 500)
    standalone.deployment.write_input(DAYS[-1], standalone.deployment.rows(9000, 50))
    standalone.wait(lambda: standalone.runs("scores") == ["success"] * 10, "ten days")
    for number, day in enumerate(DAYS):
        assert standalone.deployment.scored(day) == list(range(1000 * number, 1000 * number + 50))
    assert {attempt for *_, attempt in standalone.tasks("scores")} == {1}


def test_a_cleared_task_is_killed_and_runs_again(standalone: Standalone) -> None:
    root = standalone.deployment.root
    standalone.command("dags", "trigger", "slow", "--conf", json.dumps({"ds": "2013-01-05"}))
    standalone.wait((root / "pid").exists, "the run has not begun")
    first = int((root / "pid").read_text())
    run_id = next(run for run, task, *_ in standalone.tasks("slow") if task == "score")
    clear = {"dry_run": False, "dag_run_id": run_id, "task_ids": ["score"], "only_failed": False}
    standalone.post("dags/slow/clearTaskInstances", clear)
    standalone.wait(lambda: not Path(f"/proc/{first}").exists(), "the run goes on", 120)
    assert not (standalone.deployment.results("slow") / "_delta_log").exists()
    (root / "hold").unlink()
    standalone.wait(lambda: standalone.runs("slow") == ["success"], "the run's second try")
    assert standalone.deployment.scored("2013-01-05", "slow") == list(range(100))
    assert int((root / "pid").read_text()) != first


def test_drift_starts_the_training_whose_model_takes_over_as_it_ranks_better(standalone: Standalone) -> None:
    backfill(standalone, "flight_delay", "2013-07-08", "2013-07-09")
    standalone.wait(lambda: "success" in standalone.runs("flight_delay_retrain"), "the training", 540)
    aliases = standalone.deployment.root / "data" / "samples" / "models" / "flight-delay" / "aliases.yaml"
    assert "champion: '2'" in aliases.read_text()
