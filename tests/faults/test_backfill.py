"""Kill a backfill at any moment, race it with a nightly run: each day's table is that of an undisturbed one."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import Any

import pyarrow.compute as pc
import pytest

from batchinfer.errors import CommitRefused
from batchinfer.runs import (
    BackfillReport,
    RunRecords,
    RunReport,
    _job,
    backfill,
    open_quarantine,
    open_results,
    read_drift,
    run,
)
from batchinfer.spec import load_spec
from tests.faults.conftest import TORTURE, Child, forget, results_digest

DAYS = ("2013-01-01", "2013-01-02", "2013-01-03")
FIRST = date.fromisoformat(DAYS[0])
RANGE = ("--backfill", DAYS[0], DAYS[-1])
ROWS = 1_000
MOMENTS = 30 if TORTURE else 2


@pytest.fixture
def days(faulty: Child, pipeline: Any, rows: Any) -> Child:
    """Three days, two units each, of rows some of which are quarantined."""
    for number, day in enumerate(DAYS):
        pipeline.write_input(rows(number * ROWS, ROWS), ds=day, row_group_size=500)
    return faulty


def whole(child: Child, **options: Any) -> BackfillReport:
    return backfill(load_spec(child.spec_file), FIRST, date.fromisoformat(DAYS[-1]), **options)


def left(child: Child) -> dict[str, Any]:
    """All that the days' runs leave."""
    history = read_drift(load_spec(child.spec_file).output.path)
    assert history is not None
    measured = history.drop_columns(["committed_at", "table_version"])
    return {
        "results": results_digest(child.spec_file),
        "quarantine": results_digest(child.spec_file, "_quarantine"),
        "drift": measured.sort_by([("run_id", "ascending"), ("column", "ascending")]).to_pylist(),
        "statuses": {record.parameters["ds"]: record.status for record in RunRecords().all()},
    }


def undisturbed(child: Child) -> dict[str, Any]:
    whole(child)
    found = left(child)
    forget(child)
    return found


@pytest.mark.in_turn
@pytest.mark.parametrize("jobs", ["1", "2"] if TORTURE else ["2"])
@pytest.mark.parametrize(
    "step",
    [
        "after two receipts",
        "before the commit",
        "after the commit",
        "after the quarantine's commit",
        "before the receipts are deleted",
        *(["before the record"] if TORTURE else []),  # tests/integration holds the same without a kill
    ],
)
def test_a_backfill_killed_in_the_midst_goes_on_where_it_was(days: Child, step: str, jobs: str) -> None:
    expected = undisturbed(days)
    backfill(load_spec(days.spec_file), FIRST, FIRST)
    assert days.killed_at(step, *RANGE, "--jobs", jobs) != 0, f"no day came to '{step}'"
    report = whole(days)
    assert report.exit_code == 0 and report.days[0].status == "skipped"
    assert left(days) == expected
    assert [day.status for day in whole(days).days] == ["skipped"] * 3


def test_a_backfill_killed_at_random_moments_ends_as_if_it_had_not_been(days: Child) -> None:
    expected = undisturbed(days)
    moments = random.Random(2013)
    killed = 0
    for _ in range(MOMENTS):
        killed += days.killed_after(moments.uniform(0, 0.5), *RANGE, "--jobs", "2") != 0
        assert whole(days, jobs=2).exit_code == 0
        assert left(days) == expected
        forget(days)
    assert killed, "no kill came before the end: the moments are too late to prove anything"


def test_a_forced_backfill_that_was_killed_loses_nothing_of_what_stood(days: Child) -> None:
    expected = undisturbed(days)
    whole(days)

    def dies(*arguments: Any) -> None:
        raise OSError("as good as dead")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_job, "_commit", dies)
        assert whole(days, force=True).exit_code == 1
    assert results_digest(days.spec_file) == expected["results"]
    assert results_digest(days.spec_file, "_quarantine") == expected["quarantine"]
    assert whole(days).exit_code == 0
    assert left(days) == expected


def commits(child: Child) -> list[str | None]:
    """The runs that committed rows of the first day, as the table's own history has them."""
    spec = load_spec(child.spec_file)
    told = open_results(spec, spec.output.path).history(100)
    return [row["run_id"] for row in told if (row["report"] or {}).get("parameters") == {"ds": DAYS[0]}]


def standing(child: Child) -> set[str]:
    spec = load_spec(child.spec_file)
    found = open_results(spec, spec.output.path).dataset().to_table(filter=pc.field("ds") == DAYS[0])
    assert found.num_rows > 0 and len(set(found["id"].to_pylist())) == found.num_rows
    return set(found["_run_id"].to_pylist())


def race(child: Child, nightly_spec: dict[str, Any]) -> tuple[BackfillReport, RunReport | CommitRefused]:
    def nightly() -> RunReport | CommitRefused:
        try:
            return run(load_spec(child.spec_file, **nightly_spec), {"ds": DAYS[0]})
        except CommitRefused as refused:
            return refused

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(backfill, load_spec(child.spec_file), FIRST, FIRST)
        other = pool.submit(nightly)
        return one.result(), other.result()


def test_of_a_backfill_and_other_work_of_the_same_night_exactly_one_commits(
    days: Child, hold_commits: Any
) -> None:
    hold_commits(threading.Barrier(2))
    report, nightly = race(days, {"quality.max_quarantined": 0.5})
    (day,) = report.days
    if isinstance(nightly, CommitRefused):
        assert (day.status, report.exit_code) == ("done", 0)
        winner = day.run_id
        assert str(winner) in nightly.message
    else:
        assert (day.status, report.exit_code) == ("failed", 1)
        winner = nightly.run_id
        assert day.error is not None and day.error.startswith("CommitRefused") and winner in day.error
    assert commits(days) == [winner] and standing(days) == {winner}


@pytest.mark.parametrize("loser", ["backfill", "nightly run"])
def test_whoever_commits_later_is_refused(days: Child, monkeypatch: pytest.MonkeyPatch, loser: str) -> None:
    commit, won = _job._commit, threading.Event()
    both = threading.Barrier(2)
    mine = load_spec(days.spec_file)

    def ordered(results: Any, fence: Any, reports: Any, report: RunReport) -> int:
        both.wait(30)
        is_nightly = report.parameters == {"ds": DAYS[0]} and report.run_id != expected
        if is_nightly == (loser == "nightly run"):
            assert won.wait(30)
            return commit(results, fence, reports, report)
        version = commit(results, fence, reports, report)
        won.set()
        return version

    from batchinfer.runs import make_plan

    expected = make_plan(mine, {"ds": DAYS[0]}).run_id
    monkeypatch.setattr(_job, "_commit", ordered)
    report, nightly = race(days, {"quality.max_quarantined": 0.5})
    refused = isinstance(nightly, CommitRefused)
    assert (report.exit_code, refused) == ((1, False) if loser == "backfill" else (0, True))
    assert len(commits(days)) == 1
    monkeypatch.setattr(_job, "_commit", commit)
    again = backfill(mine, FIRST, FIRST)
    assert again.days[0].status == ("done" if loser == "backfill" else "skipped")


def test_a_backfill_and_the_nightly_run_of_the_same_work_are_one_commit_and_both_done(
    days: Child, hold_commits: Any
) -> None:
    hold_commits(threading.Barrier(2))
    report, nightly = race(days, {})
    assert isinstance(nightly, RunReport)
    assert (report.days[0].status, report.exit_code, nightly.status) == ("done", 0, "done")
    assert report.days[0].run_id == nightly.run_id and report.days[0].table_version == nightly.table_version
    assert commits(days) == [nightly.run_id] and standing(days) == {nightly.run_id}


@pytest.mark.parametrize("moment", ["staged_schema", "_info"])
def test_a_run_whose_twin_ends_while_it_keeps_its_refused_rows_is_done_too(
    days: Child, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The twin commits both tables and clears what both had staged, at a moment of the first one's last steps."""
    spec = load_spec(days.spec_file)
    step, twins = getattr(_job, moment), []
    results_commit = _job._commit

    def committed(*arguments: Any) -> int:
        version = results_commit(*arguments)
        monkeypatch.setattr(_job, "_commit", results_commit)
        monkeypatch.setattr(_job, moment, overtaken)
        return version

    def overtaken(*arguments: Any) -> Any:
        monkeypatch.setattr(_job, moment, step)
        twins.append(run(spec, {"ds": DAYS[0]}))
        return step(*arguments)

    monkeypatch.setattr(_job, "_commit", committed)
    report = run(spec, {"ds": DAYS[0]})
    assert [report.status, *(twin.status for twin in twins)] == ["done", "done"]
    assert len(commits(days)) == 1 and len(standing(days)) == 1
    table = open_quarantine(spec, spec.output.path)
    assert table.dataset().count_rows() == report.rows.quarantined > 0


def test_twins_that_start_at_random_moments_are_one_commit_and_both_done(days: Child) -> None:
    moments = random.Random(2013)
    spec = load_spec(days.spec_file)
    for _ in range(MOMENTS):
        with ThreadPoolExecutor(2) as pool:
            one = pool.submit(run, spec, {"ds": DAYS[0]})
            time.sleep(moments.uniform(0, 0.3))
            other = pool.submit(run, spec, {"ds": DAYS[0]})
            assert [one.result().status, other.result().status] == ["done", "done"]
        assert len(commits(days)) == 1 and len(standing(days)) == 1
        forget(days)
