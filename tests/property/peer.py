"""Great Expectations itself, on the pandas frame of the same rows: what compiled expectations are compared with."""

from __future__ import annotations

import json
import os
import random
import warnings
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import pyarrow as pa

from batchinfer.core import Lineage
from batchinfer.core.arrays import from_numpy
from batchinfer.quality import Check, Expectation, Judgement


@cache
def _batches() -> Any:
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import great_expectations as gx

        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False}
        asset = context.data_sources.add_pandas("pandas").add_dataframe_asset("frame")
        return asset.add_batch_definition_whole_dataframe("whole")


def validate(
    table: pa.Table, expectations: Sequence[Expectation], result_format: str = "SUMMARY"
) -> list[dict[str, Any]]:
    """Great Expectations' results, in the order of the expectations."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batches = _batches()
        from great_expectations.core import ExpectationSuite
        from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

        stated = [
            ExpectationConfiguration(
                type=one.type, kwargs=dict(one.kwargs), severity=one.severity, meta={"place": place}
            ).to_domain_obj()
            for place, one in enumerate(expectations)
        ]
        batch = batches.get_batch({"dataframe": table.to_pandas()})
        found = batch.validate(
            ExpectationSuite(name="suite", expectations=stated), result_format=result_format
        )
        results = found.to_json_dict()["results"]
    ordered: list[dict[str, Any]] = sorted(
        results, key=lambda one: int(one["expectation_config"]["meta"]["place"])
    )
    return ordered


def judge(check: Check, table: pa.Table, seed: int) -> Judgement:
    """The check's verdict, of random batches merged in a random order, each state having been JSON."""
    chance = random.Random(seed)
    cuts = sorted(
        {0, table.num_rows, *(chance.randint(0, table.num_rows) for _ in range(chance.randint(0, 5)))}
    )
    states = []
    for first, last in pairwise(cuts) if len(cuts) > 1 else [(0, 0)]:
        batch = table.slice(first, last - first).combine_chunks().to_batches()
        whole = batch[0] if batch else pa.RecordBatch.from_pylist([], schema=table.schema)
        state, _ = check.measure(whole, lineage(first, last))
        states.append(travelled(state))
    while len(states) > 1:
        chance.shuffle(states)
        states.append(travelled(check.merge(states.pop(), states.pop())))
    return check.judge(states[0])


def lineage(first: int, last: int, source: str = "input.parquet") -> Lineage:
    """That of rows `first` to `last` of a file."""
    import numpy as np

    return Lineage("model@1", "run", source, from_numpy(np.arange(first, last)))


def travelled(state: dict[str, Any]) -> dict[str, Any]:
    """A state as a receipt carries it."""
    back: dict[str, Any] = json.loads(json.dumps(state, allow_nan=False))
    return back
