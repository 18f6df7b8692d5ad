"""batchinfer's own side of a benchmark: a bundle, a spec, and runs in fresh processes."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from .data import KEY, ensure_model, ensure_reference, ensure_sample
from .measure import spawn

DRIVER = Path(__file__).with_name("driver.py")
SUITE = Path(__file__).with_name("expectations.json").resolve()
"""Ten expectations over the flights; see `quality.py`."""


def installed() -> bool:
    """Whether there is a batchinfer to measure; says why when there is none."""
    try:
        from batchinfer import load_spec, run  # noqa: F401
    except (ImportError, AttributeError) as error:
        print(f"batchinfer's part is left out: {error}")
        return False
    return True


def command() -> list[str]:
    """How a user starts it: the console script that was installed beside this interpreter."""
    script = Path(sys.executable).with_name("batchinfer")
    return [str(script)] if script.exists() else [sys.executable, "-m", "batchinfer"]


@contextmanager
def work_folder(folder: Path) -> Iterator[Path]:
    """A folder for registries, specs and results, fresh for this benchmark and removed after it."""
    path = (folder / f"work-{os.getpid()}").resolve()
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class RunFigures:
    """One run: seconds of the call to `batchinfer.run`, of its process, and its peak memory."""

    job_s: float
    job_cpu_s: float
    process_s: float
    import_s: float
    peak_mb: float


@dataclass(frozen=True, slots=True)
class Job:
    """One model over one dataset, scored into a Delta table that is new each time."""

    spec: Path
    results: Path
    rows: int

    def run(self) -> RunFigures:
        """Raises SystemExit when the run fails, or has not written a result for each row."""
        self._clear()
        child = spawn([sys.executable, DRIVER, self.spec], cwd=self.spec.parent)
        written = rows_written(self.results)
        self._clear()
        if written != self.rows:
            raise SystemExit(f"{self.rows:,} rows in, {written:,} out: {self.spec}")
        report = child.report
        return RunFigures(
            job_s=report["job_s"],
            job_cpu_s=report["job_cpu_s"],
            process_s=child.wall_s,
            import_s=report["import_s"],
            peak_mb=report["peak_mb"],
        )

    def _clear(self) -> None:
        for folder in (self.results, self.results.with_name(f"{self.results.name}_drift")):
            shutil.rmtree(folder, ignore_errors=True)


def rows_written(folder: Path) -> int:
    """Rows in the Parquet files under `folder`, by their footers; metadata folders left out."""
    return sum(
        pq.read_metadata(path).num_rows
        for path in folder.rglob("*.parquet")
        if not any(part.startswith(("_", ".")) for part in path.relative_to(folder).parts)
    )


def prepare(folder: Path, work: Path, flights: Path, rows: int, model: str, *, checked: bool = False) -> Job:
    """Add `model` to a registry in `work`, and write a spec that uses it; `checked`: see `write_job`."""
    if not (work / "models" / model).exists():
        add_model(folder, work, model, reference=checked)
    return write_job(work, flights, rows, model, checked=checked)


def add_model(folder: Path, work: Path, model: str, *, reference: bool = False) -> None:
    """Add `model` to a registry in `work`, with the command line; `reference`: and what it was trained on."""
    onnx, sample = ensure_model(folder, model).resolve(), ensure_sample(folder).resolve()
    spawn(
        [
            *(*command(), "model", "add", model, "--onnx", str(onnx)),
            *("--sample", str(sample), "--config", str(onnx.with_suffix(".yaml"))),
            *("--registry", str(work / "models"), "--alias", "champion"),
            *(("--reference", str(ensure_reference(folder).resolve())) if reference else ()),
        ],
        cwd=work,
    )


def write_job(work: Path, flights: Path, rows: int, model: str, *, checked: bool = False) -> Job:
    """Write a spec for a model that was added; `checked`: with the suite, and drift against the model's reference."""
    place = work / f"{model}-{rows}{'-checked' if checked else ''}"
    place.mkdir()
    spec, results = place / "pipeline.yaml", place / "results"
    spec.write_text(
        f"name: bench-{model}\n"
        f"model: {model}@champion\n"
        f"registry: {work / 'models'}\n"
        f"input: {{path: '{flights.resolve()}', key: [{KEY}]}}\n"
        f"output: {{store: delta, path: '{results}'}}\n"
        + (f"quality: {{suite: '{SUITE}'}}\ndrift: {{reference: model}}\n" if checked else "")
    )
    return Job(spec, results, rows)
