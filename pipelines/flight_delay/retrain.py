"""Retrain on the months before a day, and let the new model take over where it ranks better.

    python pipelines/flight_delay/retrain.py train    --until 2013-07-08 --build build/retrain
    python pipelines/flight_delay/retrain.py register --build build/retrain       # {"version": "2"}
    python pipelines/flight_delay/retrain.py compare  --until 2013-07-08 --version 2
    python pipelines/flight_delay/retrain.py promote  --version 2 --over 1

Flights of `--until` have not landed, so labels end with the day before it. The last two weeks of them
are held out: neither model has trained on them, unless the champion is younger, which is refused.
Each step prints one JSON object; `dags/flight_delay_retrain.py` runs them one after the other.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import yaml
from convert import convert
from prepare import Flights, load_flights
from sklearn.metrics import roc_auc_score
from train import (
    NAME,
    SEED,
    Span,
    check_same,
    configuration,
    fit,
    late,
    measure,
    register,
    write_artefacts,
)

from batchinfer import Scorer, load_spec
from batchinfer.errors import BatchinferError, UsageError
from batchinfer.model import Bundle, Registry

TRAINING_DAYS = 91  # as many as the first model had
HELD_OUT_DAYS = 14
FEWEST_ROWS = 1_000
RESAMPLES = 400
SURE = 0.95  # of so many resamples of the held-out days the challenger must win


@dataclass(frozen=True, slots=True)
class Comparison:
    """Champion and challenger on the same held-out days; `won` is the challenger's share of the resamples."""

    champion: str
    challenger: str
    champion_auc: float
    challenger_auc: float
    won: float
    wins: bool
    rows: int
    held_out: str


def main() -> None:
    options = arguments()
    try:
        print(json.dumps(STEPS[options.step](options)))
    except BatchinferError as e:
        print(e, file=sys.stderr)
        raise SystemExit(e.exit_code) from e


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--until", type=date.fromisoformat, help="train and compare on what came before it")
    parser.add_argument("--build", type=Path, help="the folder that train writes and register reads")
    parser.add_argument("--version", help="the challenger's")
    parser.add_argument("--over", help="the champion's version that the challenger was compared with")
    default = load_spec(Path(__file__).parent).registry
    parser.add_argument("--registry", default=default, help="default: the pipeline's")
    return parser.parse_args()


def spans(until: date) -> tuple[Span, Span]:
    """The days to train on, and the later ones that are held out."""
    held_out = until - timedelta(days=HELD_OUT_DAYS)
    return (
        (held_out - timedelta(days=TRAINING_DAYS), held_out - timedelta(days=1)),
        (held_out, until - timedelta(days=1)),
    )


def known(flights: Flights, span: Span) -> Flights:
    """The flights of these days whose label is known."""
    found = flights.between(*span).arrived()
    if len(found.days) < FEWEST_ROWS:
        raise UsageError(
            f"only {len(found.days)} flights from {span[0]} to {span[1]} have a label, of {FEWEST_ROWS} needed"
        )
    return found


def train_step(options: argparse.Namespace) -> dict[str, Any]:
    trained_on, held_out = spans(options.until)
    flights = load_flights()
    training, unseen = known(flights, trained_on), known(flights, held_out)
    classifier = fit(training)
    onnx = convert(classifier, NAME)
    check_same(classifier, onnx, unseen)
    measures = measure(classifier, unseen)
    config = configuration(training, trained_on, measures, held_out)
    write_artefacts(options.build, onnx, config, training)
    return {"rows": len(training.days), "trained_on": config["training"]["trained_on"]}


def register_step(options: argparse.Namespace) -> dict[str, Any]:
    """Add the bundle; one that an earlier try added is found by its training facts, and not added again."""
    facts = yaml.safe_load((options.build / "model.yaml").read_text())["training"]
    registry = Registry(options.registry)
    for version in registry.model(NAME).versions:
        if registry.resolve(f"{NAME}@{version}").manifest.training == facts:
            return {"version": version}
    return {"version": register(options.build, options.registry)}


def compare_step(options: argparse.Namespace) -> dict[str, Any]:
    registry = Registry(options.registry)
    champion = registry.resolve(f"{NAME}@champion")
    challenger = registry.resolve(f"{NAME}@{options.version}")
    _, held_out = spans(options.until)
    if champion.identity != challenger.identity:
        for bundle in (champion, challenger):
            if last_day(bundle) >= held_out[0]:
                raise UsageError(
                    f"{bundle.identity} was trained on days from {held_out[0]} on: nothing to compare"
                )
    unseen = known(load_flights(), held_out)
    return asdict(compare(champion, challenger, unseen, held_out))


def last_day(bundle: Bundle) -> date:
    return date.fromisoformat(str(bundle.manifest.training["trained_on"]).rpartition("..")[2])


def compare(champion: Bundle, challenger: Bundle, unseen: Flights, held_out: Span) -> Comparison:
    """Both models' AUC, and how often the challenger is ahead when days are drawn anew: flights of a day are alike."""
    actual = late(unseen)
    ours, theirs = (p_late(bundle, unseen) for bundle in (challenger, champion))
    _, day_of = np.unique(unseen.days, return_inverse=True)
    rows_of = [np.flatnonzero(day_of == day) for day in range(day_of.max() + 1)]
    random = np.random.default_rng(SEED)
    ahead = 0
    for _ in range(RESAMPLES):
        drawn = np.concatenate([rows_of[day] for day in random.integers(len(rows_of), size=len(rows_of))])
        ahead += roc_auc_score(actual[drawn], ours[drawn]) > roc_auc_score(actual[drawn], theirs[drawn])
    won = ahead / RESAMPLES
    return Comparison(
        champion=champion.manifest.version,
        challenger=challenger.manifest.version,
        champion_auc=round(float(roc_auc_score(actual, theirs)), 4),
        challenger_auc=round(float(roc_auc_score(actual, ours)), 4),
        won=won,
        wins=won >= SURE,
        rows=len(actual),
        held_out="..".join(day.isoformat() for day in held_out),
    )


def p_late(bundle: Bundle, flights: Flights) -> npt.NDArray[np.float32]:
    """As a run would score them."""
    scorer = Scorer.of(bundle)
    batch = pa.RecordBatch.from_struct_array(
        flights.inputs.select(scorer.columns).to_struct_array().combine_chunks()
    )
    return np.asarray(scorer.score(batch)["p_late"], np.float32)


def promote_step(options: argparse.Namespace) -> dict[str, Any]:
    """Move the alias, unless another has become champion since the comparison."""
    registry = Registry(options.registry)
    now = registry.resolve(f"{NAME}@champion").manifest.version
    if now not in {options.over, options.version}:
        raise UsageError(
            f"{NAME}@{now} has become champion meanwhile; {options.version} was compared with {options.over}"
        )
    registry.set_alias(NAME, "champion", options.version)
    return {"champion": options.version, "was": options.over}


STEPS = {"train": train_step, "register": register_step, "compare": compare_step, "promote": promote_step}


if __name__ == "__main__":
    main()
