"""Runs that die: a child process runs a pipeline and kills itself, or is killed, at a chosen moment."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from batchinfer.runs import RunRecords, RunReport, _job, open_results, read_drift, run
from batchinfer.source import plan_units
from batchinfer.spec import load_spec
from tests.faults.child import STEPS
from tests.postgres import drop_tables, table_path

CHILD = Path(__file__).with_name("child.py")
TORTURE = os.environ.get("BATCHINFER_TORTURE") == "all"
STORES = ("delta", "parquet", "postgres")
_WORDS = {"delta": ("transaction",), "parquet": ("changed places", "change places"), "postgres": ("COMMIT",)}
ROWS_A_DAY = 3_000
UNIT_ROWS = 500
QUARANTINED = 2 + 3
"""Two rows that the model cannot score, and three that the suite does not let pass."""
SUITE = {
    "name": "scores",
    "expectations": [
        {
            "type": "expect_column_values_to_not_be_in_set",
            "kwargs": {"column": "id", "value_set": [0, 1499, 2999]},
        },
        {"type": "expect_column_mean_to_be_between", "kwargs": {"column": "x1", "min_value": 0}},
        {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "x0", "mostly": 0.9}},
    ],
    "meta": {},
}


def stores_with(step: str) -> tuple[str, ...]:
    """The stores whose runs come to a step: some steps are those of one alone."""
    owner = [store for store, words in _WORDS.items() if any(word in step for word in words)]
    return tuple(owner) or STORES


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A case of a test marked `in_turn` is tried on one store, the stores taking turns; `make torture` tries all."""
    left_out = [item for item in items if item.get_closest_marker("in_turn") and not _has_its_turn(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _has_its_turn(item: pytest.Item) -> bool:
    params = cast(dict[str, str], cast(pytest.Function, item).callspec.params)
    stores = stores_with(params["step"])
    turn = list(STEPS).index(params["step"]) % len(stores)
    return params["faulty"] in stores if TORTURE else params["faulty"] == stores[turn]


def results_digest(spec_file: Path, table: str = "") -> str:
    """What readers see in a results table, whatever its files: every value of every row, in the order of ids."""
    spec = load_spec(spec_file)
    try:
        found = open_results(spec, spec.output.path + table).dataset().to_table()
    except Exception as e:
        return type(e).__name__
    rows = found.select(sorted(found.column_names))
    order = pc.sort_indices(rows, sort_keys=[("ds", "ascending"), ("id", "ascending")])
    ordered = rows.take(order).cast(pa.schema([f.with_nullable(True) for f in rows.schema]))
    return hashlib.sha256(json.dumps(ordered.to_pylist(), default=str).encode()).hexdigest()


def drift_digest(spec_file: Path, run_id: str) -> str:
    """What a run says in the history of drift: each figure of each column, and each of them once."""
    found = read_drift(load_spec(spec_file).output.path)
    if found is None:
        return "none"
    rows = found.filter(pc.field("run_id") == run_id).drop_columns(["committed_at", "table_version"])
    return hashlib.sha256(json.dumps(rows.sort_by("column").to_pylist()).encode()).hexdigest()


def tables_of(spec_file: Path, report: RunReport) -> dict[str, Any]:
    """All that a run leaves: three tables, and what its report says of the rows."""
    return {
        "results": results_digest(spec_file),
        "quarantine": results_digest(spec_file, "_quarantine"),
        "history of drift": drift_digest(spec_file, report.run_id or ""),
        "drift": report.drift,
        "quality": report.quality,
        "rows": report.rows,
        "validation": without_times(RunRecords().kept(report.run_id or "", "validation.json")),
    }


def without_times(validation: bytes | None) -> Any:
    """A validation result, less when it was made."""
    value = json.loads(validation or b"{}")
    value.pop("meta", None)
    return value


@dataclass
class Child:
    """A process that runs the pipeline once. It ends by itself where it hangs: see `child.py`."""

    spec_file: Path
    environment: dict[str, str]
    results: Path
    """The folder below which staged files lie, and the tables too where files are what they are."""

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(CHILD), str(self.spec_file), *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def killed_at(self, step: str, *arguments: str) -> int:
        """Run until `step`, where the process kills itself as `kill -9` does; returns its exit status."""
        process = self.start("--die-at", step, *arguments)
        out, err = process.communicate()
        assert process.returncode in {0, -signal.SIGKILL}, out + err
        return process.returncode

    def killed_after(self, seconds: float, *arguments: str) -> int:
        """Run, and kill after so many seconds from its start (of work, not of imports)."""
        process = self.start("--say-when-ready", *arguments)
        assert process.stdout is not None
        said = process.stdout.readline()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
        _, err = process.communicate()
        assert said == "ready\n", err
        assert process.returncode in {0, -signal.SIGKILL}, err
        return process.returncode


@pytest.fixture(params=STORES)
def faulty(
    request: pytest.FixtureRequest, pipeline: Any, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> Child:
    """A pipeline of several units with some rows that cannot be scored, over each store."""
    monkeypatch.setitem(cast(dict[str, Any], plan_units.__kwdefaults__), "unit_rows", UNIT_ROWS)
    table = rows(0, ROWS_A_DAY)
    x0 = table.column("x0").to_pylist()
    x0[7], x0[1234] = None, float("nan")
    table = table.set_column(1, "x0", pa.chunked_array([pa.array(x0, pa.float32())]))
    pipeline.write_input(table, row_group_size=UNIT_ROWS)
    (pipeline.root / "suite.json").write_text(json.dumps(SUITE))
    path = str(pipeline.output)
    if request.param == "postgres":
        path = table_path(request.getfixturevalue("postgres_url"), pipeline.root)
        monkeypatch.setenv("BATCHINFER_STAGING", str(pipeline.output))
    spec_file = pipeline.write_spec(
        quality={"suite": "suite.json"},
        drift={"thresholds": {"psi": 0.1}},
        output={
            "store": request.param,
            "path": path,
            "partition_by": ["ds"],
            "carry": ["note", "x2"],
        },
    )
    return Child(spec_file, dict(os.environ), pipeline.output.parent)


@pytest.fixture
def hold_commits(monkeypatch: pytest.MonkeyPatch) -> Callable[[threading.Barrier], None]:
    """Make every commit of results wait at a barrier, so that all have planned before the first commits."""

    def hold(barrier: threading.Barrier) -> None:
        commit = _job._commit

        def held(*arguments: Any) -> int:
            barrier.wait(30)
            return commit(*arguments)

        monkeypatch.setattr(_job, "_commit", held)

    return hold


def rerun(child: Child) -> RunReport:
    return run(load_spec(child.spec_file), {"ds": "d1"})


def forget(child: Child) -> None:
    """Remove tables and records."""
    output = load_spec(child.spec_file).output
    if output.store == "postgres":
        drop_tables(output.path)
    shutil.rmtree(child.results, ignore_errors=output.store == "postgres")
    shutil.rmtree(RunRecords().location)
