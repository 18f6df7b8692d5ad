"""Balanced reports pass; any one thing wrong with them does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchinfer.core import (
    InputFile,
    RowCounts,
    Slice,
    StagedPart,
    UnitReport,
    WorkUnit,
    check_ledger,
    merge_counts,
    total_rows,
)
from batchinfer.errors import LedgerError

Ledger = tuple[list[WorkUnit], list[UnitReport]]


def part(rows: int) -> StagedPart | None:
    return StagedPart(f"p-{rows}", rows, 10 * rows, "0" * 64, {"id": 0}, {"id": rows}) if rows else None


def unit_of(index: int, rows: int, ds: str) -> WorkUnit:
    file = InputFile(f"f{index}", 100, 1, rows)
    return WorkUnit(index, (("ds", ds),), (Slice(file, 0, 1, 0, rows),))


def balanced(unit: WorkUnit, quarantined: int, skipped: int) -> UnitReport:
    scored = unit.rows - quarantined - skipped
    return UnitReport(
        unit=unit.index,
        unit_digest=unit.digest(),
        partition=unit.partition,
        rows=RowCounts(unit.rows, scored, quarantined, skipped),
        results=part(scored),
        quarantine=part(quarantined),
        reasons={"null in 'x'": quarantined} if quarantined else {},
        nonfinite={},
    )


@st.composite
def ledgers(draw: st.DrawFn) -> Ledger:
    units, reports = [], []
    for index in range(draw(st.integers(1, 6))):
        scored, quarantined, skipped = (draw(st.integers(0, 50)) for _ in range(3))
        unit = unit_of(index, scored + quarantined + skipped, draw(st.sampled_from("ab")))
        units.append(unit)
        reports.append(balanced(unit, quarantined, skipped))
    return units, draw(st.permutations(reports))


def one_more(part: StagedPart | None) -> StagedPart | None:
    return StagedPart("p", 1, 1, "0" * 64) if part is None else replace(part, rows=part.rows + 1)


def counts(**more: int) -> Callable[[UnitReport], UnitReport]:
    def change(report: UnitReport) -> UnitReport:
        changed = {name: getattr(report.rows, name) + by for name, by in more.items()}
        return replace(report, rows=replace(report.rows, **changed))

    return change


PERTURBATIONS: dict[str, Callable[[UnitReport], UnitReport]] = {
    "a row read more": counts(read=1),
    "a row read less": counts(read=-1),
    "a row scored more": counts(scored=1),
    "a row scored less": counts(scored=-1),
    "a row quarantined more": counts(quarantined=1),
    "a row skipped more": counts(skipped=1),
    "a row read and skipped more": counts(read=1, skipped=1),
    "scored for quarantined": counts(scored=1, quarantined=-1),
    "scored for skipped": counts(scored=1, skipped=-1),
    "results hold a row more": lambda r: replace(r, results=one_more(r.results)),
    "quarantine holds a row more": lambda r: replace(r, quarantine=one_more(r.quarantine)),
    "a reason too many": lambda r: replace(r, reasons={**r.reasons, "other": 1}),
    "another unit's digest": lambda r: replace(r, unit_digest="f" * 16),
    "another partition": lambda r: replace(r, partition=(("ds", "z"),)),
    "a unit that was not planned": lambda r: replace(r, unit=99),
}


@given(ledgers())
def test_reports_that_account_for_every_row_once_pass_in_any_order(ledger: Ledger) -> None:
    check_ledger(*ledger)


@given(ledgers(), st.sampled_from(sorted(PERTURBATIONS)), st.data())
def test_one_thing_wrong_with_one_report_is_found(ledger: Ledger, name: str, data: st.DataObject) -> None:
    units, reports = ledger
    at = data.draw(st.integers(0, len(reports) - 1))
    changed = [PERTURBATIONS[name](r) if i == at else r for i, r in enumerate(reports)]
    with pytest.raises(LedgerError):
        check_ledger(units, changed)


@given(ledgers(), st.data())
def test_a_report_missing_or_twice_is_found(ledger: Ledger, data: st.DataObject) -> None:
    units, reports = ledger
    at = data.draw(st.integers(0, len(reports) - 1))
    with pytest.raises(LedgerError, match="no report of 1 units"):
        check_ledger(units, reports[:at] + reports[at + 1 :])
    with pytest.raises(LedgerError, match=f"unit {reports[at].unit} was reported twice"):
        check_ledger(units, [*reports, reports[at]])


@given(ledgers(), st.data())
def test_a_report_of_another_plan_is_found(ledger: Ledger, data: st.DataObject) -> None:
    """The same unit's index and rows, but another file: its receipt is from before the input changed."""
    units, reports = ledger
    at = data.draw(st.integers(0, len(units) - 1))
    piece = units[at].slices[0]
    newer = replace(piece, file=replace(piece.file, modified_ns=2))
    units = [replace(u, slices=(newer,)) if i == at else u for i, u in enumerate(units)]
    with pytest.raises(LedgerError, match=f"unit {at}: its digest is"):
        check_ledger(units, reports)


def test_the_error_names_the_unit_and_both_numbers() -> None:
    unit = unit_of(3, 10, "a")
    report = counts(scored=-1, skipped=1)(balanced(unit, 0, 0))
    with pytest.raises(LedgerError, match="unit 3: rows in its results are 10, expected 9") as refused:
        check_ledger([unit], [report])
    assert refused.value.fields == {"unit": 3, "found": 10, "expected": 9}


def test_nothing_planned_and_nothing_reported_is_balanced() -> None:
    check_ledger([], [])


@given(ledgers())
def test_the_counts_of_a_run_are_the_sums_of_its_units(ledger: Ledger) -> None:
    units, reports = ledger
    total = total_rows(reports)
    assert total.read == sum(unit.rows for unit in units)
    assert total.balanced
    assert not replace(total, read=total.read + 1).balanced


def test_counters_are_added_and_the_most_frequent_comes_first() -> None:
    parts: list[dict[str, Any]] = [{"a": 1, "b": 5}, {}, {"a": 2, "c": 9}]
    assert list(merge_counts(parts).items()) == [("c", 9), ("b", 5), ("a", 3)]
