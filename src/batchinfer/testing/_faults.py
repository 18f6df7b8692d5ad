"""Faults as test inputs: something happens before or after the n-th call of a named step."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True, slots=True)
class Fault:
    """Where a fault strikes: `before` or `after` a call of `module:function` or `module:Class.method`."""

    step: str
    when: str = "before"
    call: int = 1


def kill() -> None:
    """End this process as `kill -9` does: nothing is flushed, closed or cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def tripping(fault: Fault, action: Callable[[], None]) -> Iterator[None]:
    """Within the block, `action` is called where the fault strikes. It may raise, or not return at all."""
    module, _, path = fault.step.partition(":")
    *outer, name = path.split(".")
    owner: Any = functools.reduce(getattr, outer, import_module(module))
    original = vars(owner)[name]
    calls = 0

    def trip(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def tripped(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            strikes = calls == fault.call
            if strikes and fault.when == "before":
                action()
            result = function(*args, **kwargs)
            if strikes and fault.when == "after":
                action()
            return result

        return tripped

    wrapped: Any = trip(original.__func__ if isinstance(original, classmethod) else original)
    setattr(owner, name, classmethod(wrapped) if isinstance(original, classmethod) else wrapped)
    try:
        yield
    finally:
        setattr(owner, name, original)
