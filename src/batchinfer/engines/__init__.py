"""Engines: each maps a function over units, and does nothing else."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from batchinfer.errors import UsageError

if TYPE_CHECKING:
    from batchinfer.engines._local import LocalEngine

__all__ = ["open_engine"]

_ENGINES = {"local": "batchinfer.engines._local:LocalEngine"}


def open_engine(kind: str, threads: int | None) -> LocalEngine:
    """The engine that a spec names, as a context manager; imported now, not before.

    Args:
        kind: a name of the spec's `engine.kind`.
        threads: cores to use; None for all that the process may.

    Raises:
        UsageError: no engine has this name.
    """
    if kind not in _ENGINES:
        raise UsageError(f"no engine is called '{kind}'", next_step=f"it may be: {', '.join(_ENGINES)}")
    module, _, name = _ENGINES[kind].partition(":")
    engine: LocalEngine = getattr(import_module(module), name)(threads)
    return engine
