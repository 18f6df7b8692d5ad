"""Attempts at a unit: what is tried again, how often, and how an attempt's outcome crosses processes."""

from __future__ import annotations

import pickle
import threading
import traceback
from collections import Counter
from functools import lru_cache

from batchinfer.core import UnitReport, Work, WorkUnit
from batchinfer.errors import BatchinferError, InputChanged, RunFailed, Transient

MOST_ATTEMPTS = 3
_opening = threading.Lock()


class Attempts:
    """Counts the attempts at each unit of one `map`."""

    def __init__(self) -> None:
        self._failed: Counter[int] = Counter()

    def failed(self, unit: WorkUnit, error: BaseException, *, died: bool = False) -> None:
        """An attempt has failed. Returns if the unit is to be tried again.

        Args:
            unit: which.
            error: why.
            died: its process has died, and nobody has tried the unit in another yet.

        Raises:
            BaseException: the error, where another attempt is of no use, or was the last.
        """
        self._failed[unit.index] += 1
        # A file that changed is not the planned one on the next attempt either.
        passing = died or (isinstance(error, Transient) and not isinstance(error, InputChanged))
        if not passing or self._failed[unit.index] >= MOST_ATTEMPTS:
            raise error


def attempt(payload: bytes, unit: bytes, device: str | None) -> bytes:
    """Work on a pickled unit in this process. Pickled, the report, or the error: no engine retries what is told.

    Args:
        payload: the pickled work; it is opened once a process.
        unit: the pickled unit.
        device: what the engine assigned.
    """
    outcome: UnitReport | BatchinferError
    try:
        with _opening:
            work = _opened(payload)
        outcome = work(pickle.loads(unit), device)
    except BatchinferError as e:
        outcome = e
    except Exception as e:
        outcome = RunFailed(
            f"a worker failed: {type(e).__name__}: {e}",
            next_step="see the traceback in the error's fields, or in the worker's log",
            traceback=traceback.format_exc(),
        )
    try:
        return pickle.dumps(outcome)
    except Exception as e:
        return pickle.dumps(RunFailed(f"a worker failed, and its error cannot travel ({e}): {outcome}"))


def outcome_of(told: bytes) -> UnitReport | BatchinferError:
    """What `attempt` told."""
    outcome: UnitReport | BatchinferError = pickle.loads(told)
    return outcome


@lru_cache(maxsize=8)
def _opened(payload: bytes) -> Work:
    work: Work = pickle.loads(payload)
    return work
