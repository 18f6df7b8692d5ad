"""Retraining: the DAG's wiring around the script's steps, and what the steps refuse."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.integration.airflow.conftest import ROOT, Deployment

SCRIPT = ROOT / "pipelines" / "flight_delay" / "retrain.py"


def step(registry: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments, "--registry", str(registry)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def copied_registry(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ROOT / "data" / "samples" / "models", tmp_path / "models"))


def test_a_model_that_ranks_no_better_does_not_win(tmp_path: Path) -> None:
    done = step(copied_registry(tmp_path), "compare", "--until", "2013-07-08", "--version", "1")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["champion_auc"] == found["challenger_auc"] > 0.6
    assert (found["won"], found["wins"]) == (0.0, False)


def test_a_champion_that_has_changed_since_the_comparison_stays(tmp_path: Path) -> None:
    registry = copied_registry(tmp_path)
    before = (registry / "flight-delay" / "aliases.yaml").read_bytes()
    done = step(registry, "promote", "--version", "3", "--over", "2")
    assert done.returncode == 2
    assert "flight-delay@1 has become champion meanwhile" in done.stderr
    assert (registry / "flight-delay" / "aliases.yaml").read_bytes() == before


def test_days_without_labels_are_refused(tmp_path: Path) -> None:
    done = step(tmp_path, "train", "--until", "2014-07-08", "--build", str(tmp_path / "build"))
    assert done.returncode == 2
    assert "only 0 flights from 2014-03-25 to 2014-06-23 have a label" in done.stderr


def test_the_alias_moves_only_for_a_winner(deployment: Deployment) -> None:
    shutil.copy(ROOT / "dags" / "flight_delay_retrain.py", deployment.root / "dags")
    # In the script's place one that tells what it was called with; version 2 wins, version 1 does not.
    (deployment.folder("flight_delay") / "retrain.py").write_text("""
import json, pathlib, sys
pathlib.Path("steps.txt").open("a").write(" ".join(sys.argv[1:]) + chr(10))
version = "2" if "2013-07-09" in pathlib.Path("steps.txt").read_text() else "1"
print(json.dumps({"version": version, "wins": version == "2", "champion": "1"}))
""")
    (deployment.folder("flight_delay") / "pipeline.yaml").write_text("name: flight-delay\n")
    dag = "flight_delay_retrain"
    loser: dict[str, Any] = {"dag": dag, "conf": {"until": "2013-07-08"}}
    date = "2013-07-10T00:00:00+00:00"
    winner: dict[str, Any] = {"dag": dag, "conf": {"until": "2013-07-09"}, "logical_date": date}
    runs = deployment.test({"loser": loser, "winner": winner})
    assert runs["loser"]["state"] == runs["winner"]["state"] == "success"
    assert runs["loser"]["tasks"]["promote"][0] == "skipped"
    assert runs["winner"]["tasks"]["promote"] == ["success", 1]
    steps = (deployment.root / "steps.txt").read_text().splitlines()
    assert [line.split()[0] for line in steps] == ["train", "register", "compare"] * 2 + ["promote"]
    assert steps[-1] == "promote --version 2 --over 1"
    assert "--until 2013-07-09" in steps[-2]
