"""How near does a run come to the floor: decode + tensors + model + encode, and nothing else?

    python -m benchmarks.core                          # 10 M rows, MLP and LightGBM
    python -m benchmarks.core --rows 2000000 --models mlp --repeats 5

For each model one program measures, interleaved and on the same files, each stage alone with plain
pyarrow, NumPy and ONNX Runtime on all cores, the same stages chained by hand, and `batchinfer.run`
in a fresh process.  A slow model is measured on as many rows as take 5 seconds, and scaled; the
table says so.  Ratios are the median of the ratios within each repeat, so that a machine which
others use too does not decide them; CPU seconds, which it moves least, stand beside the wall's.

Goals: run <= 1.25 x floor for both; LightGBM's rows/s >= 0.95 of the model's own; under 600 MB.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from .data import DEFAULT_FOLDER, DEFAULT_ROWS, KEY, MODELS, ensure_flights, ensure_model
from .floor import Floor
from .jobs import Job, installed, prepare, work_folder
from .measure import Cost, Figures, arguments, cores, median, spread, store, table, verdict

STAGES = ("decode", "tensors", "model", "encode")
SHOWN = {
    **{stage: stage for stage in STAGES},
    "floor": "floor: their sum",
    "by_hand": "chained by hand",
    "job": "batchinfer.run",
    "encode_key_score": "encode key and score only",
}
FLOOR_GOAL = 1.25
MODEL_GOAL = 0.95
MEMORY_GOAL_MB = 600.0

Repeat = dict[str, float]


def measure_once(floor: Floor, job: Job | None) -> Repeat:
    """Every stage once, and one run between them, so that all see the same machine."""
    costs = {
        "decode": floor.decode(),
        "tensors": floor.tensors_alone(),
        "encode": floor.encode(),
        "encode_key_score": floor.encode([KEY, "score"]),
        "model": floor.model(),
    }
    figures = asdict(job.run()) if job is not None else {}
    costs["by_hand"] = floor.by_hand()
    costs["floor"] = Cost(
        sum(costs[stage].wall_s for stage in STAGES), sum(costs[stage].cpu_s for stage in STAGES)
    )
    for stage, cost in costs.items():
        figures |= {f"{stage}_s": cost.wall_s, f"{stage}_cpu_s": cost.cpu_s}
    return figures


def figures_of(floor: Floor, repeats: list[Repeat]) -> Figures:
    return {
        "rows": floor.rows,
        "model_rows": floor.model_rows,
        "batch_rows": floor.batch_rows,
        "model_rows_per_s_by_batch": floor.rates,
        "medians": {name: median(each[name] for each in repeats) for name in repeats[0]},
        "repeats": repeats,
    }


def ratio(repeats: list[Repeat], above: str, below: str) -> float:
    return median(each[above] / each[below] for each in repeats)


def show_stages(name: str, floor: Floor, repeats: list[Repeat]) -> None:
    lines = []
    for stage, shown in SHOWN.items():
        if f"{stage}_s" not in repeats[0]:
            continue
        samples = [each[f"{stage}_s"] for each in repeats]
        seconds = median(samples)
        lines.append(
            [
                shown,
                f"{seconds:.3f}",
                spread(samples),
                f"{floor.rows / seconds / 1e6:.2f}",
                f"{ratio(repeats, f'{stage}_s', 'floor_s'):.2f}",
                f"{median(each[f'{stage}_cpu_s'] for each in repeats):.3f}",
                f"{ratio(repeats, f'{stage}_cpu_s', 'floor_cpu_s'):.2f}",
            ]
        )
    table(
        f"{name}: {floor.rows:,} rows, batches of {floor.batch_rows:,}, "
        f"model alone on {floor.model_rows:,} rows",
        ["stage", "seconds", "spread", "M rows/s", "of floor", "cpu s", "of floor"],
        lines,
    )


def show_goals(name: str, repeats: list[Repeat]) -> None:
    if "job_s" not in repeats[0]:
        return
    of_floor = ratio(repeats, "job_s", "floor_s")
    of_model = ratio(repeats, "model_s", "job_s")
    peak_mb = median(each["peak_mb"] for each in repeats)
    model_verdict = verdict(of_model, MODEL_GOAL, at_least=True) if name == "lightgbm" else ""
    process_s = median(each["process_s"] for each in repeats)
    table(
        f"{name}: goals",
        ["ratio", "found", ""],
        [
            ["run / floor", f"{of_floor:.2f}", verdict(of_floor, FLOOR_GOAL)],
            ["run rows/s / model alone rows/s", f"{of_model:.2f}", model_verdict],
            ["peak memory, MB", f"{peak_mb:.0f}", verdict(peak_mb, MEMORY_GOAL_MB)],
            ["cores busy", f"{ratio(repeats, 'job_cpu_s', 'job_s'):.2f}", f"of {cores()}"],
            ["whole process, s", f"{process_s:.2f}", ""],
        ],
    )


def main() -> None:
    parser = arguments(__doc__, rows=DEFAULT_ROWS)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--files", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER)
    options = parser.parse_args()
    flights = ensure_flights(options.folder, options.rows, options.files)
    runnable = installed()
    figures: Figures = {}
    with work_folder(options.folder) as work:
        for name in options.models:
            job = prepare(options.folder, work, flights, options.rows, name) if runnable else None
            floor = Floor(flights, ensure_model(options.folder, name), work / "floor")
            repeats = [measure_once(floor, job) for _ in range(options.repeats)]
            show_stages(name, floor, repeats)
            show_goals(name, repeats)
            figures[name] = figures_of(floor, repeats)
    store(options.json, figures)


if __name__ == "__main__":
    main()
