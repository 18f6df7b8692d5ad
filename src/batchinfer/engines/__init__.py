"""Engines: each maps a function over units, and does nothing else."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib import import_module
from typing import TYPE_CHECKING

from batchinfer.core import Engine
from batchinfer.errors import UsageError

if TYPE_CHECKING:
    from batchinfer.spec import EngineSpec

__all__ = ["open_engine"]

_ENGINES = {
    "local": "batchinfer.engines._local:LocalEngine",
    "spark": "batchinfer.engines._spark:SparkEngine",
    "dask": "batchinfer.engines._dask:DaskEngine",
}


def open_engine(options: EngineSpec) -> AbstractContextManager[Engine]:
    """The engine that a spec names, as a context manager; imported now, not before.

    Raises:
        UsageError: no engine has this name.
        MissingExtra: its package is not installed.
        Transient: its cluster cannot be reached.
    """
    if options.kind not in _ENGINES:
        raise UsageError(
            f"no engine is called '{options.kind}'", next_step=f"it may be: {', '.join(_ENGINES)}"
        )
    module, _, name = _ENGINES[options.kind].partition(":")
    engine: AbstractContextManager[Engine] = getattr(import_module(module), name).open(options)
    return engine
