"""What crosses processes: reports and errors, whatever they hold."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import pytest

from batchinfer.core import RowCounts, UnitReport, WorkUnit
from batchinfer.engines._attempts import MOST_ATTEMPTS, Attempts, attempt, outcome_of
from batchinfer.errors import InputChanged, InputError, RunFailed, Transient

UNIT = WorkUnit(3, (("ds", "d1"),), ())


@dataclass(frozen=True)
class Working:
    error: Exception | None = None

    def __call__(self, unit: WorkUnit, device: str | None = None, /) -> UnitReport:
        if self.error is not None:
            raise self.error
        return UnitReport(unit.index, unit.digest(), unit.partition, RowCounts(), None, None, {}, {})


def told(work: object) -> object:
    return outcome_of(attempt(pickle.dumps(work), pickle.dumps(UNIT), None))


def test_a_report_travels() -> None:
    assert told(Working()) == Working()(UNIT)


def test_an_error_travels_with_its_type_and_fields() -> None:
    error = told(Working(InputError("row 7 is bad", next_step="mend it", row=7)))
    assert isinstance(error, InputError)
    assert (error.message, error.next_step, error.fields) == ("row 7 is bad", "mend it", {"row": 7})


def test_an_error_of_another_kind_travels_with_its_traceback() -> None:
    error = told(Working(KeyError("x")))
    assert isinstance(error, RunFailed)
    assert "KeyError" in error.message
    assert "raise self.error" in error.fields["traceback"]


def test_work_that_cannot_be_opened_is_an_error_too() -> None:
    assert isinstance(outcome_of(attempt(b"no pickle", pickle.dumps(UNIT), None)), RunFailed)


def test_transient_errors_are_tried_again_and_no_others() -> None:
    attempts = Attempts()
    for _ in range(MOST_ATTEMPTS - 1):
        attempts.failed(UNIT, Transient("again"))
    with pytest.raises(Transient):
        attempts.failed(UNIT, Transient("again"))
    for error in (InputError("no"), InputChanged("no"), RunFailed("no")):
        with pytest.raises(type(error)):
            Attempts().failed(UNIT, error)
    Attempts().failed(UNIT, RunFailed("its process died"), died=True)
