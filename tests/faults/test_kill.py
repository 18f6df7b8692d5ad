"""Kill a run at any moment, run it again: the table is that of an undisturbed run."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from batchinfer.spec import load_spec
from tests.faults.child import STEPS
from tests.faults.conftest import (
    QUARANTINED,
    ROWS_A_DAY,
    TORTURE,
    UNIT_ROWS,
    Child,
    forget,
    rerun,
    tables_of,
)

UNITS = ROWS_A_DAY // UNIT_ROWS
MOMENTS = 50 if TORTURE else 3


def undisturbed(child: Child) -> dict[str, Any]:
    """What a run leaves that nobody killed; it is all removed again."""
    found = tables_of(child.spec_file, rerun(child))
    forget(child)
    return found


def touch_input(child: Child, seconds: int) -> None:
    """Set the input's time of change: with another one, the same rows are other work."""
    for file in Path(load_spec(child.spec_file).input.path.replace("{ds}", "d1")).iterdir():
        os.utime(file, (seconds, seconds))


@pytest.mark.in_turn
@pytest.mark.parametrize("step", STEPS)
def test_a_run_killed_at_each_step_ends_as_if_it_had_not_been(faulty: Child, step: str) -> None:
    touch_input(faulty, 2)
    expected = undisturbed(faulty)
    touch_input(faulty, 1)  # other work of the same rows, whose results are to be replaced
    rerun(faulty)
    touch_input(faulty, 2)
    assert faulty.killed_at(step) != 0, f"the run never came to '{step}'"
    report = rerun(faulty)
    assert report.status == "done"
    assert (report.rows.read, report.rows.quarantined) == (ROWS_A_DAY, QUARANTINED)
    assert tables_of(faulty.spec_file, report) == expected
    assert rerun(faulty).units["reused"] == UNITS


@pytest.mark.in_turn
@pytest.mark.parametrize(
    ("step", "reused"),
    [
        ("after two receipts", {1, 2, 3}),
        ("all staged, before the ledger", {UNITS}),
        ("before the commit", {UNITS}),
        ("after the commit", {UNITS}),
    ],
)
def test_verified_units_are_not_scored_again(faulty: Child, step: str, reused: set[int]) -> None:
    faulty.killed_at(step)
    assert rerun(faulty).units["reused"] in reused


def test_a_staged_part_that_was_damaged_is_scored_again(faulty: Child) -> None:
    expected = undisturbed(faulty)
    faulty.killed_at("before the commit")
    part = sorted(faulty.results.rglob("part-*.parquet"))[0]
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    report = rerun(faulty)
    assert report.units["reused"] == UNITS - 1
    assert tables_of(faulty.spec_file, report) == expected


def test_a_run_killed_at_random_moments_ends_as_if_it_had_not_been(faulty: Child) -> None:
    expected = undisturbed(faulty)
    moments = random.Random(2013)
    killed = 0
    for _ in range(MOMENTS):
        killed += faulty.killed_after(moments.uniform(0, 0.4)) != 0
        report = rerun(faulty)
        assert report.rows.read == ROWS_A_DAY
        assert tables_of(faulty.spec_file, report) == expected
        forget(faulty)
    assert killed, "no kill came before the end: the moments are too late to prove anything"
