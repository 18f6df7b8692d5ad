"""A schedule says when a pipeline runs and how its interval becomes parameters; what cannot be is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batchinfer.errors import SpecError
from batchinfer.spec import PipelineSpec, parse_spec

SCHEDULE = {"cron": "@daily", "start_date": "2013-01-01"}


def spec(schedule: dict[str, Any], path: str = "in/ds={ds}", **sections: Any) -> PipelineSpec:
    document = {
        "name": "p",
        "model": "m@1",
        "input": {"path": path, "key": ["id"]},
        "output": {"path": "out", "partition_by": ["ds"]},
        "schedule": {**SCHEDULE, **schedule},
        **sections,
    }
    return parse_spec(document, file=Path("pipeline.yaml"))


@pytest.mark.parametrize(
    ("schedule", "why"),
    [
        ({"cron": "daily"}, "'schedule.cron'"),
        ({"cron": "0 5 * *"}, "'schedule.cron'"),
        ({"timezone": "New York"}, "there is no time zone 'New York'"),
        ({"end_date": "2012-12-31"}, "2012-12-31 is before start_date"),
        ({"retires": 3}, "did you mean 'retries'"),
        ({"parameters": {}}, "say what 'ds' is"),
        ({"parameters": {"ds": "%Y", "hour": "%H"}}, "there is no parameter 'hour'; it takes ds"),
        ({"spark_connection": "spark_default"}, "the engine is not spark"),
        ({"reports_url": "https://x"}, "state reports too"),
        ({"engine": {"kind": "spork"}}, "'schedule.engine.kind'"),
        ({"marker": "a/_SUCCESS"}, "'schedule.marker'"),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(schedule: dict[str, Any], why: str) -> None:
    with pytest.raises(SpecError) as refused:
        spec(schedule)
    assert why in str(refused.value)


def test_the_schedule_is_no_part_of_what_a_run_writes() -> None:
    assert spec({"retries": 5, "engine": {"kind": "dask"}}).digest() == spec({}).digest()


def test_a_schedule_may_choose_the_engine() -> None:
    chosen = spec({"engine": {"kind": "dask", "address": "tcp://d:8786"}}, engine={"threads": 1})
    assert chosen.engine.kind == "local"
    assert (chosen.scheduled.engine.kind, chosen.scheduled.engine.threads) == ("dask", None)
    assert spec({}, engine={"threads": 1}).scheduled.engine.threads == 1


def test_an_hourly_pipeline_states_its_parameters() -> None:
    hourly = spec(
        {"cron": "@hourly", "parameters": {"ds": "%Y-%m-%d", "hour": "%H"}}, path="in/ds={ds}/hour={hour}"
    )
    assert hourly.schedule is not None
    assert hourly.schedule.parameters["hour"] == "%H"
