"""What importing costs, and what the packages offer."""

from __future__ import annotations

import json
import os
import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import batchinfer

ROOT = Path(__file__).parents[2]
PACKAGES = ["batchinfer", "batchinfer.errors", "batchinfer.core.arrays", "batchinfer.core.files"] + [
    module.name
    for module in pkgutil.iter_modules(batchinfer.__path__, "batchinfer.")
    if module.ispkg and module.name != "batchinfer.airflow"  # its names import Airflow, which needs a home
]
HEAVY = {"pyarrow", "numpy", "pydantic", "onnxruntime", "deltalake", "rich", "pandas"}


def modules_after(code: str, **environment: str) -> set[str]:
    """The top-level modules that a fresh interpreter has imported when it has run `code`."""
    report = (
        "import atexit, json, sys; atexit.register(lambda: print(chr(10) + json.dumps(list(sys.modules))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{report}\n{code}"],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


@pytest.mark.parametrize("name", PACKAGES)
def test_all_is_sorted_and_every_name_in_it_is_there(name: str) -> None:
    module = import_module(name)
    names = getattr(module, "__all__", [])
    constants = [n for n in names if n.isupper()]
    classes = [n for n in names if n[0].isupper() and not n.isupper()]
    rest = [n for n in names if not n[0].isupper()]
    assert names == [*sorted(constants), *sorted(classes), *sorted(rest)]
    assert len(names) == len(set(names))
    for attribute in names:
        assert getattr(module, attribute) is not None


def test_a_name_that_the_package_lacks_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = batchinfer.nope


def test_importing_the_package_costs_nothing() -> None:
    assert not modules_after("import batchinfer") & HEAVY


def test_help_imports_nothing_heavy() -> None:
    assert not modules_after("from batchinfer.cli import main\nmain(['--help'])") & HEAVY


@pytest.mark.parametrize("store", ["delta", "parquet"])
def test_a_run_imports_nothing_that_scoring_does_not_need(tmp_path: Path, store: str) -> None:
    arguments = [
        "run",
        "pipelines/flight_delay",
        "-p",
        "ds=2013-01-08",
        "--set",
        f"output.path={tmp_path}/out",
        "--set",
        f"output.store={store}",
    ]
    loaded = modules_after(
        f"from batchinfer.cli import main\nmain({arguments!r})", BATCHINFER_RUNS=str(tmp_path / "runs")
    )
    assert "onnxruntime" in loaded
    assert not loaded & {"pandas", "rich", "great_expectations", "evidently"}
