"""The package travels to Spark's workers: as the archive of `make pyfiles`, or there is a clear word."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys

import batchinfer
from batchinfer.errors import BatchinferError

spec, ds = sys.argv[1:]
try:
    print(batchinfer.run(batchinfer.load_spec(spec), {"ds": ds}).to_json())
except BatchinferError as e:
    print(type(e).__name__, e)
    sys.exit(e.exit_code)
"""
pytestmark = [
    pytest.mark.skipif(
        shutil.which("java") is None and "JAVA_HOME" not in os.environ,
        reason="Spark needs Java, and there is none",
    ),
    pytest.mark.xdist_group("spark-submit"),
]


@pytest.fixture
def bare_python(tmp_path: Path) -> Path:
    """A Python with all that batchinfer needs, but without batchinfer."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    python = tmp_path / "bare" / "bin" / "python"
    place = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", place], check=True, capture_output=True, text=True).stdout.strip()
    (Path(site) / "needed.pth").write_text(sysconfig.get_path("purelib"))
    assert subprocess.run([python, "-c", "import pyarrow, onnxruntime, pyspark"], check=False).returncode == 0
    assert subprocess.run([python, "-c", "import batchinfer"], check=False, capture_output=True).returncode
    return python


def submit(folder: Path, spec: Path, worker_python: Path, *options: str) -> subprocess.CompletedProcess[str]:
    import pyspark

    (folder / "score.py").write_text(SCRIPT)
    return subprocess.run(
        [
            str(Path(pyspark.__file__).parent / "bin" / "spark-submit"),
            *("--master", "local-cluster[1,1,1024]", "--conf", "spark.ui.enabled=false"),
            *options,
            *(str(folder / "score.py"), str(spec), "d1"),
        ],
        env={
            # A session of Spark Connect, which another test of this process may have had, leaves its mark here.
            **{name: value for name, value in os.environ.items() if not name.startswith("SPARK_")},
            "PYSPARK_DRIVER_PYTHON": sys.executable,
            "PYSPARK_PYTHON": str(worker_python),
            "BATCHINFER_RUNS": str(folder / "runs"),
        },
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_workers_get_the_package_from_the_archive_or_say_that_they_lack_it(
    pipeline: Any, rows: Callable[[int, int], pa.Table], bare_python: Path, tmp_path: Path
) -> None:
    pipeline.write_input(rows(0, 500))
    # spark-submit states the master, and the spec's is not asked.
    spec = pipeline.write_spec(engine={"kind": "spark", "master": "local[1]"})
    without = submit(tmp_path, spec, bare_python)
    assert without.returncode == 2, without.stdout + without.stderr
    assert "lack the module 'batchinfer'" in without.stdout
    assert "make pyfiles" in without.stdout

    archive = tmp_path / "batchinfer-pyfiles.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for file in sorted((ROOT / "src").rglob("*.py")):
            packed.write(file, file.relative_to(ROOT / "src"))
    done = submit(tmp_path, spec, bare_python, "--py-files", str(archive))
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["rows"]["scored"] == 500
    assert report["model_loads"] == 1
