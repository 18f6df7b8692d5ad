"""Runs that die: a child process runs a pipeline and kills itself, or is killed, at a chosen moment."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from batchinfer.runs import RunReport, open_results, run
from batchinfer.source import plan_units
from batchinfer.spec import load_spec

CHILD = Path(__file__).with_name("child.py")
ROWS_A_DAY = 3_000
UNIT_ROWS = 500


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


@dataclass
class Child:
    """A process that runs the pipeline once. It ends by itself where it hangs: see `child.py`."""

    spec_file: Path
    environment: dict[str, str]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(CHILD), str(self.spec_file), *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def killed_at(self, step: str) -> int:
        """Run until `step`, where the process kills itself as `kill -9` does; returns its exit status."""
        process = self.start("--die-at", step)
        out, err = process.communicate()
        assert process.returncode in {0, -signal.SIGKILL}, out + err
        return process.returncode

    def killed_after(self, seconds: float) -> int:
        """Run, and kill after so many seconds from its start (of work, not of imports)."""
        process = self.start("--say-when-ready")
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


@pytest.fixture(params=["delta", "parquet"])
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
    spec_file = pipeline.write_spec(
        output={
            "store": request.param,
            "path": str(pipeline.output),
            "partition_by": ["ds"],
            "carry": ["note", "x2"],
        }
    )
    return Child(spec_file, dict(os.environ))


def rerun(child: Child) -> RunReport:
    return run(load_spec(child.spec_file), {"ds": "d1"})
