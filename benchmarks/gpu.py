"""How near does a run on a GPU come to the model alone, and what happens when its memory ends?

    python -m benchmarks.gpu                           # 10 M rows, a network of 3 × 4,096 units
    python -m benchmarks.gpu --hidden 1024 --rows 50000000
    python -m benchmarks.gpu --without-gpu --rows 200000 --hidden 64   # the program itself, on the CPU

The model alone is the shortest program with ONNX Runtime: inputs on the device already, outputs left there,
bound once, at its best batch size.  A run is `batchinfer run` in a fresh process, from Parquet to a Delta
commit, which starts CUDA and opens the session too.  A first run, which is not counted, measures the batch
size.  While it runs, `nvidia-smi` is asked how busy the GPU is.  Last, the same run is told to remember a
batch that does not fit into `gpu_mem_limit`: every row must come out, and the report must say what was halved.

The model must be the bottleneck for the goal to mean anything: a small network on a large GPU waits for
Parquet, and the table shows it.  Where there is no GPU this says so, and exits with 0.

Goal: rows/s of a run >= 0.95 of the model alone.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from .data import (
    DEFAULT_FOLDER,
    DEFAULT_ROWS,
    FEATURES,
    KEY,
    ensure_flights,
    ensure_sample,
    make,
    write_mapping,
)
from .jobs import command, rows_written, work_folder
from .measure import Figures, arguments, median, spawn, store, table, verdict

GOAL = 0.95
BATCHES = (512, 2_048, 8_192, 32_768, 131_072)
SECONDS_A_BATCH = 1.0
LIMIT_MB = 256
"""Beyond the weights: `gpu_mem_limit` of the run whose memory ends."""


def write_network(path: Path, hidden: int) -> None:
    """13-hidden-hidden-hidden-1 with weights by a seed: what it scores means nothing, what it costs does."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    widths = [len(FEATURES), hidden, hidden, hidden, 1]
    constants, nodes, value = {}, [], "input"
    for number, (width, height) in enumerate(pairwise(widths)):
        constants[f"w{number}"] = random.normal(0, width**-0.5, (width, height))
        nodes.append(helper.make_node("MatMul", [value, f"w{number}"], [f"m{number}"]))
        kind, value = ("Sigmoid", "score") if height == 1 else ("Relu", f"r{number}")
        nodes.append(helper.make_node(kind, [f"m{number}"], [value]))
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", len(FEATURES)])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N", 1])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def model_alone(path: Path, on_gpu: bool) -> dict[int, float]:
    """Rows a second of the model alone by batch size; a size that does not fit ends it."""
    import onnxruntime as ort

    kind = "cuda" if on_gpu else "cpu"
    provider: Any = ("CUDAExecutionProvider", {"use_tf32": "0"}) if on_gpu else "CPUExecutionProvider"
    session = ort.InferenceSession(str(path), providers=[provider])
    if session.get_providers()[0] != (provider[0] if on_gpu else provider):
        raise SystemExit(f"ONNX Runtime gave {session.get_providers()}")
    rates = {}
    for rows in BATCHES:
        binding = session.io_binding()
        shape = [rows, len(FEATURES)]
        try:
            given = ort.OrtValue.ortvalue_from_numpy(np.ones(shape, np.float32), kind, 0)
            binding.bind_ortvalue_input("input", given)
            binding.bind_output("score", kind, 0)
            session.run_with_iobinding(binding)
            calls, started = 0, time.perf_counter()
            while time.perf_counter() - started < SECONDS_A_BATCH:
                session.run_with_iobinding(binding)
                calls += 1
        except RuntimeError as error:
            print(f"  the model alone ends below {rows:,} rows a call: {str(error).splitlines()[0]}")
            break
        rates[rows] = calls * rows / (time.perf_counter() - started)
    return rates


@dataclass
class Usage:
    """What `nvidia-smi` said while something ran: percent of the time with a kernel at work, and MiB in use."""

    percent: list[float] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)


@contextmanager
def watched(on_gpu: bool) -> Iterator[Usage]:
    usage = Usage()
    query = ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits"]
    if not on_gpu or shutil.which(query[0]) is None:
        yield usage
        return
    watcher = subprocess.Popen([*query, "-i", "0", "-lms", "200"], stdout=subprocess.PIPE, text=True)
    try:
        yield usage
    finally:
        watcher.terminate()
        said, _ = watcher.communicate()
        for line in said.splitlines():
            percent, _, memory_mb = line.partition(",")
            if percent.strip().isdecimal() and memory_mb.strip().isdecimal():
                usage.percent.append(float(percent))
                usage.memory_mb.append(float(memory_mb))


@dataclass(frozen=True, slots=True)
class GpuJob:
    """One pipeline whose runs write a table that is new each time."""

    folder: Path
    rows: int

    def run(self, **engine: Any) -> Figures:
        """The run's report.  Raises SystemExit when it fails, or has not written a result for each row."""
        results = self.folder / "results"
        for old in (results, self.folder / "runs"):
            shutil.rmtree(old, ignore_errors=True)
        stated = [("--set", f"engine.{key}={json.dumps(value)}") for key, value in engine.items()]
        child = spawn(
            [*command(), "run", "pipeline.yaml", "--json", *(part for pair in stated for part in pair)],
            cwd=self.folder,
        )
        if (written := rows_written(results)) != self.rows:
            raise SystemExit(f"{self.rows:,} rows in, {written:,} out")
        return {**child.report, "process_s": child.wall_s}


def prepare(work: Path, onnx: Path, flights: Path, sample: Path, rows: int) -> GpuJob:
    registry = work / "models"
    spawn(
        [
            *(*command(), "model", "add", "network", "--onnx", str(onnx), "--sample", str(sample)),
            *("--config", str(onnx.with_suffix(".yaml")), "--registry", str(registry), "--alias", "champion"),
        ],
        cwd=work,
    )
    (work / "pipeline.yaml").write_text(
        f"name: bench-gpu\nmodel: network@champion\nregistry: {registry}\n"
        f"input: {{path: '{flights.resolve()}', key: [{KEY}]}}\n"
        f"output: {{store: delta, path: '{work / 'results'}'}}\n"
    )
    return GpuJob(work, rows)


def when_memory_ends(job: GpuJob, cache: Path, hidden: int) -> Figures:
    """A run that remembers a batch which its memory has no room for."""
    weights_bytes = 4 * (len(FEATURES) * hidden + 2 * hidden * hidden + hidden)
    limited = {
        "device": "cuda",
        "provider_options": {"cuda": {"gpu_mem_limit": weights_bytes + LIMIT_MB * 1024 * 1024}},
    }
    before = set(cache.rglob("*.json"))
    job.run(**limited)
    (file,) = set(cache.rglob("*.json")) - before
    file.write_text(json.dumps({**json.loads(file.read_text()), "batch_rows": BATCHES[-1]}))
    return job.run(**limited)


def show(name: str, alone: dict[int, float], runs: Sequence[Figures], usage: Usage) -> None:
    best = max(alone, key=lambda rows: alone[rows])
    table(
        f"the model alone on {name}",
        ["rows a call", "M rows/s"],
        [[f"{rows:,}", f"{rate / 1e6:.3f}"] for rows, rate in alone.items()],
    )
    rate = median(run["rows_per_second"] for run in runs)
    lines = [
        [
            "run rows/s / model alone",
            f"{rate / alone[best]:.3f}",
            verdict(rate / alone[best], GOAL, at_least=True),
        ],
        ["run, M rows/s", f"{rate / 1e6:.3f}", ""],
        ["run, s", f"{median(run['seconds'] for run in runs):.2f}", ""],
        ["whole process, s", f"{median(run['process_s'] for run in runs):.2f}", ""],
        ["rows a call", str(runs[0]["devices"][0].get("batch_rows", "-")), ""],
    ]
    if usage.percent:
        lines.append(["GPU busy, % (start and end included)", f"{statistics.mean(usage.percent):.0f}", ""])
        lines.append(["GPU memory, MiB at most", f"{max(usage.memory_mb):.0f}", ""])
    table(f"runs on {name}", ["", "found", ""], lines)


def show_halvings(ended: Figures) -> None:
    notes = ended["devices"][0]["notes"]
    table(
        f"a batch of {BATCHES[-1]:,} rows with {LIMIT_MB} MiB beside the weights",
        ["", "found", ""],
        [
            ["rows scored", f"{ended['rows']['scored']:,}", "all" if notes else "NOTHING WAS HALVED"],
            *[["halved", note, ""] for note in notes],
        ],
    )


def gpu_here() -> str | None:
    """The GPU's name; None where there is none, which is said."""
    from batchinfer.errors import DeviceUnavailable, MissingExtra
    from batchinfer.model import DeviceOptions
    from batchinfer.model._devices import choose_device
    from batchinfer.model._session import available_providers

    try:
        return choose_device(DeviceOptions(device="cuda"), None, available_providers()).title
    except (DeviceUnavailable, MissingExtra) as error:
        print(f"There is no GPU to measure here: {error}")
        return None


def main() -> None:
    parser = arguments(__doc__, rows=DEFAULT_ROWS)
    parser.add_argument("--hidden", type=int, default=4_096, help="units of each of the network's layers")
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--without-gpu", action="store_true", help="try the program out on the CPU")
    options = parser.parse_args()
    folder, on_gpu = options.folder, not options.without_gpu
    name = gpu_here() if on_gpu else "the CPU, which proves nothing about a GPU"
    if name is None:
        return
    onnx = make(folder / f"network-{options.hidden}.onnx", lambda path: write_network(path, options.hidden))
    make(onnx.with_suffix(".yaml"), write_mapping)
    flights = ensure_flights(folder, options.rows)
    device = {"device": "cuda" if on_gpu else "cpu"}
    with work_folder(folder) as work:
        os.environ["BATCHINFER_CACHE"] = str(work / "cache")
        job = prepare(work, onnx.resolve(), flights, ensure_sample(folder).resolve(), options.rows)
        alone = model_alone(onnx, on_gpu)
        job.run(**device)
        with watched(on_gpu) as usage:
            runs = [job.run(**device) for _ in range(options.repeats)]
        show(name, alone, runs, usage)
        figures: Figures = {"device": name, "alone": alone, "runs": runs, "busy_percent": usage.percent}
        if on_gpu:
            figures["memory_ends"] = ended = when_memory_ends(job, work / "cache", options.hidden)
            show_halvings(ended)
    store(options.json, figures)


if __name__ == "__main__":
    main()
