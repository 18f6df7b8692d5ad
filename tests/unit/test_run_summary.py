"""What a run's summary says of its rate."""

from __future__ import annotations

import pytest

from batchinfer.cli import _render
from batchinfer.runs import RunReport


@pytest.mark.parametrize(
    ("units", "stages", "said"),
    [
        (2, {"plan": 0.1, "finish": 0.1}, "nothing to do: these rows were committed before"),
        (0, {"plan": 0.1, "finish": 0.1}, "nothing to do: these rows were committed before"),
        (0, {"plan": 0.1, "commit": 0.1}, "nothing to score: the input has no rows"),
        (
            2,
            {"plan": 0.1, "commit": 0.1},
            "nothing to score: all units were staged before, and are committed now",
        ),
    ],
)
def test_what_was_committed_before_and_what_is_committed_now_are_told_apart(
    units: int, stages: dict[str, float], said: str
) -> None:
    counts = {"total": units, "reused": units}
    report = RunReport("r", "done", "p", {}, {}, units=counts, timings={"stages": stages})
    assert _render._rate(report) == said
