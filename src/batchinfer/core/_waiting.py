"""Waiting for work in a way that an interrupt ends."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TypeVar

_Outcome = TypeVar("_Outcome")
_LOOK_UP_SECONDS = 0.5


def first_done(running: Iterable[Future[_Outcome]]) -> set[Future[_Outcome]]:
    """Wait until one at least is done.

    It looks up now and then: a signal that comes between Python's last look for signals and the sleep itself
    does not end the sleep, and would be seen only when a future is done.
    """
    while True:
        done, _ = wait(running, timeout=_LOOK_UP_SECONDS, return_when=FIRST_COMPLETED)
        if done:
            return done
