"""Kill a run at any moment, run it again: the table is that of an undisturbed run."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from batchinfer.runs import RunRecords
from batchinfer.spec import load_spec
from tests.faults.child import STEPS
from tests.faults.conftest import QUARANTINED, ROWS_A_DAY, UNIT_ROWS, Child, rerun, tables_of

UNITS = ROWS_A_DAY // UNIT_ROWS
MOMENTS = 50 if os.environ.get("BATCHINFER_TORTURE") == "all" else 5
ONLY_DELTA = {step for step in STEPS if "transaction" in step}
ONLY_PARQUET = {step for step in STEPS if "changed places" in step or "change places" in step}


def undisturbed(child: Child) -> dict[str, Any]:
    """What a run leaves that nobody killed; it is all removed again."""
    found = tables_of(child.spec_file, rerun(child))
    forget(child)
    return found


def forget(child: Child) -> None:
    """Remove tables and records."""
    shutil.rmtree(Path(load_spec(child.spec_file).output.path).parent)
    shutil.rmtree(RunRecords().location)


def touch_input(child: Child, seconds: int) -> None:
    """Set the input's time of change: with another one, the same rows are other work."""
    for file in Path(load_spec(child.spec_file).input.path.replace("{ds}", "d1")).iterdir():
        os.utime(file, (seconds, seconds))


@pytest.mark.parametrize("step", STEPS)
def test_a_run_killed_at_each_step_ends_as_if_it_had_not_been(faulty: Child, step: str) -> None:
    store = load_spec(faulty.spec_file).output.store
    if step in (ONLY_PARQUET if store == "delta" else ONLY_DELTA):
        pytest.skip(f"the {store} store has no such step")
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
    root = Path(load_spec(faulty.spec_file).output.path).parent
    part = sorted(root.rglob("part-*.parquet"))[0]
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
