"""Train the flight-delay model, measure it on the months it never saw, and register it.

    python pipelines/flight_delay/train.py                        # into data/samples/models
    python pipelines/flight_delay/train.py --build-only --build-dir build/flight_delay

The build folder holds what the registry is given: `model.onnx`, `model.yaml` (how columns become
the graph's inputs, how its outputs become columns, training facts), `sample.parquet` and
`training.parquet`, all training rows by day, which runs are held against for drift. The same
library versions make the same bytes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import yaml
from convert import (
    LABEL,
    MISSING_TEXT,
    PROBABILITIES,
    STRINGS,
    convert,
    frame,
    score,
)
from prepare import FEATURES, LATE_AFTER_MINUTES, SOURCE, Flights, load_flights
from pyarrow import parquet
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OrdinalEncoder

NAME = "flight-delay"
DAY = "day"
SEED = 2013
Span = tuple[date, date]
TRAINED_ON: Span = date(2013, 1, 1), date(2013, 3, 31)
MEASURED_ON: Span = date(2013, 4, 1), date(2013, 12, 31)
SAMPLE_ROWS = 4_096
LARGEST_GAP = 1e-6  # between scikit-learn's float64 probabilities and ONNX's float32
LIBRARIES = ("numpy", "onnx", "pyarrow", "scikit-learn", "skl2onnx")


@dataclass(frozen=True, slots=True)
class Measure:
    """How well the model ranks one span's flights; `late_share` is what it has to rank."""

    span: str
    rows: int
    late_share: float
    auc: float


def main() -> None:
    options = arguments()
    flights = load_flights()
    training = flights.between(*TRAINED_ON).arrived()
    unseen = flights.between(*MEASURED_ON).arrived()

    classifier = fit(training)
    measures = measure(classifier, unseen)
    print_table(measures)
    onnx = convert(classifier, NAME)
    print(f"ONNX and scikit-learn differ by at most {check_same(classifier, onnx, unseen):.1e}")

    build = options.build_dir or Path(tempfile.mkdtemp(prefix=f"{NAME}-"))
    write_artefacts(build, onnx, configuration(training, TRAINED_ON, measures, MEASURED_ON), training)
    print(f"Built {build}")
    if not options.build_only:
        register(build, str(options.registry), alias="champion")
        print(f"Registered {NAME}@champion in {options.registry}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--registry", type=Path, default=Path("data/samples/models"))
    parser.add_argument("--build-dir", type=Path, help="default: a new temporary folder")
    parser.add_argument("--build-only", action="store_true", help="build, but register nothing")
    return parser.parse_args()


def fit(training: Flights) -> Pipeline:
    """Boosted trees over ordinal categories; a category that training never saw becomes -1.

    Trees are small because a whole hour's flights share their weather: 63 leaves in place of 15
    learn the winter's bad days by heart and do a little worse on the months that follow.
    """
    encode = ColumnTransformer(
        [
            (
                "categories",
                OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
                STRINGS,
            )
        ],
        remainder="passthrough",
    )
    trees = HistGradientBoostingClassifier(
        max_iter=120,
        learning_rate=0.06,
        max_leaf_nodes=15,
        min_samples_leaf=200,
        l2_regularization=10.0,
        early_stopping=False,
        random_state=SEED,
    )
    return Pipeline([("encode", encode), ("trees", trees)]).fit(frame(training.inputs), late(training))


def late(arrived: Flights) -> npt.NDArray[np.int64]:
    return cast(npt.NDArray[np.int64], arrived.labels["late"].cast(pa.int64()).to_numpy())


def measure(classifier: Pipeline, unseen: Flights) -> list[Measure]:
    """One measure for each month, and the last for all of them together."""
    actual, p_late = late(unseen), classifier.predict_proba(frame(unseen.inputs))[:, 1]
    months = unseen.days.astype("datetime64[M]")
    everything = np.ones(len(months), dtype=np.bool_)

    def spans() -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
        for month in np.unique(months):
            yield str(month), months == month
        yield "overall", everything

    return [
        Measure(
            span,
            rows=int(chosen.sum()),
            late_share=float(actual[chosen].mean()),
            auc=float(roc_auc_score(actual[chosen], p_late[chosen])),
        )
        for span, chosen in spans()
    ]


def print_table(measures: list[Measure]) -> None:
    print(f"{'month':<9}{'flights':>9}{'late':>8}{'AUC':>8}")
    for each in measures:
        print(f"{each.span:<9}{each.rows:>9,}{each.late_share:>8.1%}{each.auc:>8.3f}")


def check_same(classifier: Pipeline, onnx: bytes, flights: Flights) -> float:
    """The largest difference of a probability between the two, over all of `flights`."""
    _, p_late = score(onnx, flights.inputs)
    expected = classifier.predict_proba(frame(flights.inputs))[:, 1]
    gap = float(np.abs(p_late - expected).max())
    if gap > LARGEST_GAP:
        raise SystemExit(f"The ONNX graph differs from scikit-learn by {gap}; nothing was written.")
    return gap


def configuration(
    training: Flights, trained_on: Span, measures: list[Measure], measured_on: Span
) -> dict[str, Any]:
    return {
        "inputs": {name: input_of(name) for name in FEATURES.names},
        "outputs": {LABEL: {"column": "late"}, PROBABILITIES: {"columns": {1: "p_late"}}},
        "training": {
            "predicts": f"arrives more than {LATE_AFTER_MINUTES} minutes late",
            "trained_on": "..".join(day.isoformat() for day in trained_on),
            "measured_on": "..".join(day.isoformat() for day in measured_on),
            "rows": len(training.days),
            "late_share": round(float(late(training).mean()), 4),
            "auc": {each.span: round(each.auc, 4) for each in measures},
            "seed": SEED,
            "source": SOURCE,
            "libraries": {library: version(library) for library in LIBRARIES},
        },
    }


def input_of(name: str) -> dict[str, Any]:
    return {"column": name, "fill_null": MISSING_TEXT} if name in STRINGS else {"column": name}


def write_artefacts(build: Path, onnx: bytes, config: dict[str, Any], training: Flights) -> None:
    build.mkdir(parents=True, exist_ok=True)
    (build / "model.onnx").write_bytes(onnx)
    (build / "model.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    sample = training.sample(SAMPLE_ROWS, SEED).inputs
    parquet.write_table(sample, build / "sample.parquet", compression="zstd")
    parquet.write_table(reference(training), build / "training.parquet", compression="zstd")


def reference(training: Flights) -> pa.Table:
    """What training looked like: features, the truth, and the day; a run scores one day."""
    return (
        training.inputs.select(FEATURES.names)
        .append_column("label", training.labels["late"])
        .append_column(DAY, pa.array(training.days))
    )


def register(build: Path, registry: str, alias: str | None = None) -> str:
    """Add what was built to the registry; returns the version that it became."""
    from batchinfer.runs import add_model

    bundle = add_model(
        name=NAME,
        onnx=build / "model.onnx",
        sample=build / "sample.parquet",
        config=yaml.safe_load((build / "model.yaml").read_text()),
        reference=build / "training.parquet",
        reference_by=DAY,
        registry=registry,
        alias=alias,
    )
    return bundle.manifest.version


if __name__ == "__main__":
    main()
