"""The ledger: books that balance pass, and no single wrong entry does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchinfer.core import InputFile, RowCounts, Slice, StagedPart, UnitReport, WorkUnit, check_ledger
from batchinfer.errors import LedgerError

Books = tuple[list[WorkUnit], list[UnitReport]]


def part(rows: int) -> StagedPart | None:
    return StagedPart("p", rows, 10, "sha") if rows else None


def books(counts: list[tuple[int, int, int]]) -> Books:
    units, reports = [], []
    for i, (scored, quarantined, skipped) in enumerate(counts):
        rows = scored + quarantined + skipped
        file = InputFile(f"f{i}", 100, 1, rows)
        unit = WorkUnit(i, (("ds", str(i % 2)),), (Slice(file, 0, 1, 0, rows),))
        units.append(unit)
        reports.append(
            UnitReport(
                unit=i,
                unit_digest=unit.digest(),
                partition=unit.partition,
                rows=RowCounts(rows, scored, quarantined, skipped),
                results=part(scored),
                quarantine=part(quarantined),
                reasons={"bad": quarantined} if quarantined else {},
                nonfinite={},
            )
        )
    return units, reports


some = st.integers(0, 50)
balanced = st.lists(st.tuples(some, some, some).filter(any), min_size=1, max_size=8).map(books)
wrong = st.integers(-3, 3).filter(bool)


@given(balanced)
def test_books_that_balance_pass_in_any_order(both: Books) -> None:
    units, reports = both
    check_ledger(units, reports)
    check_ledger(units, reports[::-1])
    check_ledger([], [])


def off_part(staged: StagedPart | None, by: int) -> StagedPart | None:
    return replace(staged, rows=staged.rows + by) if staged else StagedPart("p", abs(by), 10, "sha")


PERTURBATIONS: dict[str, Callable[[UnitReport, int], UnitReport]] = {
    "unit": lambda r, by: replace(r, unit=r.unit + 8 * by),
    "unit_digest": lambda r, by: replace(r, unit_digest=r.unit_digest[1:]),
    "partition": lambda r, by: replace(r, partition=(("ds", "9"),)),
    "read": lambda r, by: replace(r, rows=replace(r.rows, read=r.rows.read + by)),
    "scored": lambda r, by: replace(r, rows=replace(r.rows, scored=r.rows.scored + by)),
    "quarantined": lambda r, by: replace(r, rows=replace(r.rows, quarantined=r.rows.quarantined + by)),
    "skipped": lambda r, by: replace(r, rows=replace(r.rows, skipped=r.rows.skipped + by)),
    "results": lambda r, by: replace(r, results=off_part(r.results, by)),
    "quarantine": lambda r, by: replace(r, quarantine=off_part(r.quarantine, by)),
    "reasons": lambda r, by: replace(r, reasons={**r.reasons, "other": by}),
}


@pytest.mark.parametrize("entry", PERTURBATIONS)
@given(both=balanced, by=wrong, data=st.data())
def test_no_single_wrong_entry_passes(entry: str, both: Books, by: int, data: st.DataObject) -> None:
    units, reports = both
    at = data.draw(st.integers(0, len(reports) - 1))
    reports = [*reports[:at], PERTURBATIONS[entry](reports[at], by), *reports[at + 1 :]]
    with pytest.raises(LedgerError):
        check_ledger(units, reports)


@given(balanced, st.data())
def test_a_lost_a_doubled_and_a_foreign_report_are_found(both: Books, data: st.DataObject) -> None:
    units, reports = both
    at = data.draw(st.integers(0, len(reports) - 1))
    with pytest.raises(LedgerError, match="no report of 1 units"):
        check_ledger(units, [*reports[:at], *reports[at + 1 :]])
    with pytest.raises(LedgerError, match="was reported twice"):
        check_ledger(units, [*reports, reports[at]])
    with pytest.raises(LedgerError, match="which was not planned"):
        check_ledger([*units[:at], *units[at + 1 :]], reports)


def test_rows_that_moved_between_scored_and_quarantined_are_found_by_the_parts() -> None:
    units, (report,) = books([(5, 2, 0)])
    moved = replace(report, rows=RowCounts(7, 6, 1, 0))
    with pytest.raises(LedgerError, match="unit 0: rows in its results are 5, expected 6") as caught:
        check_ledger(units, [moved])
    assert caught.value.fields == {"unit": 0, "found": 5, "expected": 6}
