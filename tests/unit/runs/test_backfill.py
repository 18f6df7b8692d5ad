"""What a backfill decides: which days, which parameter takes them, and with which code it ends."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchinfer.core import RowCounts
from batchinfer.errors import Interrupted, UsageError
from batchinfer.runs import BackfillReport, DayReport
from batchinfer.runs._backfill import day_parameter, days_between
from batchinfer.spec import PipelineSpec, parse_spec

DONE = DayReport("2013-01-01", "done", attempts=1, rows=RowCounts(read=10, scored=9, quarantined=1))
SKIPPED = DayReport("2013-01-02", "skipped", rows=RowCounts(read=5, scored=5))
FAILED = DayReport("2013-01-03", "failed", exit_code=1, rows=RowCounts(read=7))
GATE = DayReport("2013-01-04", "failed", exit_code=3)
EMPTY = DayReport("2013-01-05", "no input", exit_code=2)
DRIFTED = DayReport("2013-01-06", "done", exit_code=4)
TRANSIENT = DayReport("2013-01-07", "failed", exit_code=75)
STOPPED = DayReport.stopped("2013-01-08")


def spec(path: str, output: str = "results", partition_by: list[str] | None = None) -> PipelineSpec:
    document: dict[str, Any] = {
        "name": "p",
        "model": "m@1",
        "input": {"path": path, "key": ["id"]},
        "output": {"path": output, "partition_by": partition_by or []},
    }
    return parse_spec(document, file=Path("pipeline.yaml"))


def report(*days: DayReport) -> BackfillReport:
    return BackfillReport("p", {}, "ds", days)


def test_both_ends_are_days_of_the_range_and_leap_days_too() -> None:
    assert days_between(date(2013, 1, 31), date(2013, 1, 31)) == ("2013-01-31",)
    assert days_between(date(2024, 2, 28), date(2024, 3, 1)) == ("2024-02-28", "2024-02-29", "2024-03-01")
    with pytest.raises(UsageError, match="2013-01-01, is before the first, 2013-01-02"):
        days_between(date(2013, 1, 2), date(2013, 1, 1))


@given(first=st.dates(max_value=date(9000, 1, 1)), more=st.integers(0, 800))
def test_a_range_holds_each_day_once_in_order(first: date, more: int) -> None:
    days = days_between(first, first + timedelta(days=more))
    assert len(set(days)) == len(days) == more + 1 and list(days) == sorted(days)
    assert (days[0], days[-1]) == (first.isoformat(), (first + timedelta(days=more)).isoformat())


@pytest.mark.parametrize(
    ("pipeline", "given", "name"),
    [
        (spec("in/ds={ds}"), {}, "ds"),
        (spec("in/{region}/{ds}"), {"region": "eu"}, "ds"),
        (spec("in/{date}"), {}, "date"),
        (spec("in/{region}/{day}"), {"region": "eu"}, "day"),
        (spec("in", output="out/{day}"), {}, "day"),
    ],
)
def test_the_day_is_ds_or_the_only_parameter_left_open(
    pipeline: PipelineSpec, given: dict[str, str], name: str
) -> None:
    assert day_parameter(pipeline, given) == name


@pytest.mark.parametrize(
    ("pipeline", "given", "says"),
    [
        (spec("in"), {}, "no parameter"),
        (spec("in/{ds}"), {"ds": "2013-01-01"}, "-p ds=2013-01-01 gives one\n  → leave -p ds=… out"),
        (spec("in"), {"ds": "2013-01-01"}, "→ write {ds} into input.path, and leave -p ds=… out"),
        (spec("in/{ds}/{region}"), {}, "pass -p region=VALUE"),
        (spec("in/{day}/{region}"), {}, "needs day, region"),
    ],
)
def test_which_parameter_takes_the_day_is_never_guessed(
    pipeline: PipelineSpec, given: dict[str, str], says: str
) -> None:
    with pytest.raises(UsageError) as caught:
        day_parameter(pipeline, given)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("days", "code", "status"),
    [
        ((DONE, SKIPPED), 0, "done"),
        ((DONE, EMPTY), 2, "failed"),
        ((EMPTY, FAILED), 1, "failed"),
        ((GATE, FAILED), 3, "failed"),
        ((FAILED, GATE), 1, "failed"),
        ((DRIFTED, EMPTY), 2, "failed"),
        ((TRANSIENT, DRIFTED), 4, "failed"),
        ((TRANSIENT, EMPTY), 2, "failed"),
        ((TRANSIENT, DONE), 75, "failed"),
        ((FAILED, STOPPED), 130, "interrupted"),
        ((DONE, replace(SKIPPED, exit_code=4)), 4, "failed"),
    ],
)
def test_the_exit_code_is_the_worst_days_the_first_of_equals(
    days: tuple[DayReport, ...], code: int, status: str
) -> None:
    assert (report(*days).exit_code, report(*days).status) == (code, status)


@given(
    st.lists(st.sampled_from([DONE, SKIPPED, FAILED, GATE, EMPTY, DRIFTED, TRANSIENT, STOPPED]), min_size=1)
)
def test_only_a_backfill_all_of_whose_days_are_done_ends_with_0(days: list[DayReport]) -> None:
    found = report(*days)
    all_done = all(day.status in {"done", "skipped"} for day in days)
    assert (found.exit_code == 0) == (all_done and not any(day.exit_code for day in days))
    codes = {day.exit_code for day in days if day.exit_code}
    assert found.exit_code in codes or not codes
    assert sum(found.counts.values()) == len(days)
    if found.exit_code == 75:
        assert codes == {75}, "a code that asks for another try hides no failure"


def test_only_rows_that_readers_see_are_counted() -> None:
    assert report(DONE, SKIPPED, FAILED).rows == RowCounts(read=15, scored=14, quarantined=1)
    assert report(EMPTY).rows == RowCounts()


def test_the_json_has_each_day_and_the_verdict() -> None:
    told = report(DONE, EMPTY).to_dict()
    assert (told["status"], told["exit_code"], told["counts"]["no input"]) == ("failed", 2, 1)
    assert [day["day"] for day in told["days"]] == ["2013-01-01", "2013-01-05"]


def test_a_days_error_keeps_its_code_and_what_is_no_error_of_ours_is_terminal() -> None:
    assert DayReport.of_error("d", "stopped", Interrupted("x")).exit_code == 130
    found = DayReport.of_error("d", "failed", KeyError("x"))
    assert (found.exit_code, found.error) == (1, "KeyError: 'x'")
