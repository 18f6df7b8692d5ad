"""The ledger: no commit unless every row of the plan is accounted for, once."""

from __future__ import annotations

from collections.abc import Sequence

from batchinfer.core._units import UnitReport, WorkUnit, total_rows
from batchinfer.errors import LedgerError


def check_ledger(units: Sequence[WorkUnit], reports: Sequence[UnitReport]) -> None:
    """Hold the reports against the plan.

    Every unit has exactly one report, made from that very unit; read = scored + quarantined + skipped in
    each, the staged parts hold the rows they claim, and each unit read what the Parquet footers promised.

    Raises:
        LedgerError: something does not add up; names the unit and both numbers.
    """
    by_unit: dict[int, UnitReport] = {}
    for report in reports:
        if report.unit in by_unit:
            raise LedgerError(f"unit {report.unit} was reported twice", unit=report.unit)
        by_unit[report.unit] = report
    planned = {unit.index for unit in units}
    if missing := sorted(planned - by_unit.keys()):
        raise LedgerError(f"no report of {len(missing)} units, the first {missing[0]}", units=missing)
    if strangers := sorted(by_unit.keys() - planned):
        raise LedgerError(f"a report of unit {strangers[0]}, which was not planned", units=strangers)
    for unit in units:
        _check_unit(unit, by_unit[unit.index])
    read, promised = total_rows(reports).read, sum(unit.rows for unit in units)
    if read != promised:
        raise LedgerError(f"read {read} rows, the footers promise {promised}", found=read)


def _check_unit(unit: WorkUnit, report: UnitReport) -> None:
    def expect(what: str, found: object, expected: object) -> None:
        if found != expected:
            raise LedgerError(
                f"unit {unit.index}: {what} {found}, expected {expected}",
                unit=unit.index,
                found=found,
                expected=expected,
            )

    rows = report.rows
    expect("its digest is", report.unit_digest, unit.digest())
    expect("its partition is", report.partition, unit.partition)
    expect("rows read are", rows.read, unit.rows)
    expect("rows accounted for are", rows.scored + rows.quarantined + rows.skipped, rows.read)
    expect("rows in its results are", report.results.rows if report.results else 0, rows.scored)
    expect(
        "rows in its quarantine are",
        report.quarantine.rows if report.quarantine else 0,
        rows.quarantined,
    )
    expect("reasons given are", sum(report.reasons.values()), rows.quarantined)
