"""What refuses messages, and how it is counted: reasons that many messages share, and no more than can be shown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests import streams
from tests.conftest import Pipeline

from batchinfer.errors import SpecError
from batchinfer.runs._stream_plan import StreamPlan, StreamPlanner
from batchinfer.spec import load_spec
from batchinfer.streaming import Meter, Records, Refused, TopicPartition, open_client

RAISES = "def build(batch):\n    raise ValueError('no')\n"


def plan(pipeline: Pipeline, transform: str | None = None, **stream: Any) -> StreamPlan:
    stated = {"input_topic": "in", "output_topic": "out", "columns": streams.COLUMNS, **stream}
    if transform is not None:
        (pipeline.root / "features.py").write_text(transform)
    rest = {} if transform is None else {"transform": "features.py:build"}
    pipeline.write_spec(stream=stated, **rest)
    planner = StreamPlanner(load_spec(pipeline.root))
    return planner.plan(planner.resolve())


def records(count: int) -> Records:
    return Records.of(
        values=[streams.message(n) for n in range(count)],
        keys=[None] * count,
        headers=None,
        timestamps=[0] * count,
        partitions=[TopicPartition("in", n % 2) for n in range(count)],
        offsets=list(range(count)),
    )


def test_messages_that_a_transform_refuses_for_one_reason_have_one_reason(pipeline: Pipeline) -> None:
    batch = plan(pipeline, RAISES).score(records(8), 0.0)
    assert set(batch.refused.reasons) == {"transform features.py:build raised ValueError on a message: no"}
    assert len(batch.refused) == 8


def test_reasons_without_number_are_counted_together(pipeline: Pipeline) -> None:
    meter = Meter()
    batch = plan(pipeline, RAISES).score(records(8), 0.0)
    for first in range(0, 400, 8):
        reasons = [f"schema {first + n} is not known" for n in range(8)]
        meter.committed([replace(batch, refused=Refused(np.arange(8), reasons, [()] * 8))])
    counted = meter.read().dead_letters
    assert (len(counted), sum(counted.values()), counted["other reasons"]) == (101, 400, 300)


def test_columns_and_groups_that_would_end_the_process_or_the_first_commit_are_refused(
    pipeline: Pipeline,
) -> None:
    with pytest.raises(SpecError, match=r"'list<float32>\[0\]'"):
        plan(pipeline, columns={**streams.COLUMNS, "none": "list<float32>[0]"})
    found = plan(pipeline, group="grüppe")
    with pytest.raises(SpecError, match="grüppe"):
        open_client(found.stream).consumer(found.group)
