"""Two runs of one partition at once: one wins, the other says so, and nobody ever reads a mix."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from batchinfer.errors import CommitRefused
from batchinfer.runs import RunReport, _job, open_results, run
from batchinfer.spec import load_spec
from tests.faults.conftest import QUARANTINED, ROWS_A_DAY, Child, rerun

SCORED = ROWS_A_DAY - QUARANTINED


def touch_input(child: Child, seconds: int) -> None:
    for file in Path(load_spec(child.spec_file).input.path.replace("{ds}", "d1")).iterdir():
        os.utime(file, (seconds, seconds))


def rows_by_run(child: Child) -> dict[str, int]:
    spec = load_spec(child.spec_file)
    found = open_results(spec, spec.output.path).dataset().to_table(columns=["_run_id"])
    return dict(Counter(found.column("_run_id").to_pylist()))


def test_of_two_racing_runs_one_wins_and_the_other_is_refused(
    faulty: Child, hold_commits: Callable[[threading.Barrier], None]
) -> None:
    hold_commits(threading.Barrier(2))
    planned = threading.Barrier(2)
    spec = load_spec(faulty.spec_file)

    def race(name: str) -> RunReport | CommitRefused:
        # Another transform of the spec's digest: the same rows, other work.
        mine = load_spec(faulty.spec_file, **{"quality.max_quarantined": 0.1 if name == "a" else 0.2})
        planned.wait(30)
        try:
            return run(mine, {"ds": "d1"})
        except CommitRefused as refused:
            return refused

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(race, ["a", "b"]))
    winners = [o for o in outcomes if isinstance(o, RunReport)]
    losers = [o for o in outcomes if isinstance(o, CommitRefused)]
    assert len(winners) == len(losers) == 1
    assert rows_by_run(faulty) == {winners[0].run_id: SCORED}
    assert winners[0].run_id in losers[0].message
    assert spec.output.path


def test_the_same_run_started_twice_is_done_once(
    faulty: Child, hold_commits: Callable[[threading.Barrier], None]
) -> None:
    hold_commits(threading.Barrier(2))
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(lambda _: rerun(faulty), range(2)))
    assert {report.status for report in reports} == {"done"}
    assert len({(report.run_id, report.table_version) for report in reports}) == 1
    assert rows_by_run(faulty) == {reports[0].run_id: SCORED}


def test_a_zombie_that_commits_late_is_refused(faulty: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    touch_input(faulty, 1)
    commit = _job._commit
    asleep, wake = threading.Event(), threading.Event()

    def slow(*arguments: Any) -> int:
        asleep.set()
        assert wake.wait(60)
        return commit(*arguments)

    monkeypatch.setattr(_job, "_commit", slow)
    with ThreadPoolExecutor(1) as pool:
        zombie = pool.submit(rerun, faulty)
        assert asleep.wait(60)
        monkeypatch.setattr(_job, "_commit", commit)
        touch_input(faulty, 2)
        successor = rerun(faulty)
        wake.set()
        with pytest.raises(CommitRefused, match=successor.run_id):
            zombie.result(60)
    assert rows_by_run(faulty) == {successor.run_id: SCORED}


def test_a_reader_sees_one_run_whole_while_others_commit(faulty: Child) -> None:
    touch_input(faulty, 1)
    rerun(faulty)
    seen: list[dict[str, int]] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            # A listed file that was replaced before it is opened is an error, but never a mix.
            with contextlib.suppress(FileNotFoundError):
                seen.append(rows_by_run(faulty))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for second in range(2, 8):
            touch_input(faulty, second)
            rerun(faulty)
    finally:
        done.set()
        reader.join(60)
    assert seen
    assert all(list(rows.values()) == [SCORED] for rows in seen), Counter(map(str, seen))
