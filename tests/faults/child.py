"""Runs a pipeline in a process of its own, and dies at a named step: see `STEPS`.

python child.py PIPELINE.yaml [--die-at STEP | --say-when-ready] [--backfill START END [--jobs N]]

A child that is not done in time says where each of its threads is, and ends: nobody waits for it for ever.
"""
# ruff: noqa: E402 - the watch begins before that which it watches is imported

from __future__ import annotations

import faulthandler

PATIENCE_SECONDS = 100
if __name__ == "__main__":
    faulthandler.dump_traceback_later(PATIENCE_SECONDS, exit=True)

import argparse
import os
import signal
from collections.abc import Callable
from datetime import date
from typing import Any

import batchinfer
from batchinfer.core import files
from batchinfer.runs import RunReport, _job, _records, _worker, backfill
from batchinfer.source import plan_units
from batchinfer.store import _parts

UNIT_ROWS = 500


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(module: Any, name: str, *, call: int = 1) -> None:
    """Die at the start of the `call`-th call of a function."""
    _patch(module, name, call, lambda function, args, kwargs: die())


def after(module: Any, name: str, *, call: int = 1) -> None:
    """Die at the end of the `call`-th call of a function."""

    def done(function: Callable[..., Any], args: Any, kwargs: Any) -> None:
        function(*args, **kwargs)
        die()

    _patch(module, name, call, done)


def _patch(module: Any, name: str, call: int, at: Callable[..., None]) -> None:
    function = getattr(module, name)
    calls = 0

    def patched(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            at(function, args, kwargs)
        return function(*args, **kwargs)

    setattr(module, name, patched)


def _before_the_record() -> None:
    write = _records.RunRecords.write

    def patched(self: _records.RunRecords, report: RunReport) -> None:
        if report.status == "done":
            die()
        write(self, report)

    _records.RunRecords.write = patched  # type: ignore[method-assign]


def _inside_delta_commit(when: Callable[..., None]) -> None:
    from batchinfer.store import _delta

    when(_delta.DeltaStore, "_transact")


def _inside_exchange(when: Callable[..., None]) -> None:
    from batchinfer.store import _parquet

    when(_parquet, "exchange")


def _at_the_end_of_a_transaction(when: Callable[..., None]) -> None:
    from batchinfer.store import _postgres

    when(_postgres, "_end")


STEPS: dict[str, Callable[[], None]] = {
    "planned": lambda: after(_job, "make_plan"),
    "before the first part": lambda: before(_parts.PartWriter, "finish"),
    "between part and receipt": lambda: before(_worker, "write_receipt"),
    "after two receipts": lambda: after(_worker, "write_receipt", call=2),
    "all staged, before the ledger": lambda: before(_job, "check_ledger"),
    "before the commit": lambda: before(_job, "_commit"),
    "inside the commit, before the transaction": lambda: _inside_delta_commit(before),
    "inside the commit, after the transaction": lambda: _inside_delta_commit(after),
    "before the folders change places": lambda: _inside_exchange(before),
    "after the folders changed places": lambda: _inside_exchange(after),
    "before COMMIT": lambda: _at_the_end_of_a_transaction(before),
    "after COMMIT": lambda: _at_the_end_of_a_transaction(after),
    "after the commit": lambda: after(_job, "_commit"),
    "after the quarantine's commit": lambda: after(_job, "_commit_quarantine"),
    "before the drift's history": lambda: before(_job, "keep_drift"),
    "after the drift's history": lambda: after(_job, "keep_drift"),
    "before the receipts are deleted": lambda: before(files, "delete"),
    "before the record": _before_the_record,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("spec")
    parser.add_argument("--die-at", choices=STEPS)
    parser.add_argument("--say-when-ready", action="store_true")
    parser.add_argument("--backfill", nargs=2, type=date.fromisoformat)
    parser.add_argument("--jobs", type=int)
    arguments = parser.parse_args()
    plan_units.__kwdefaults__.update(unit_rows=UNIT_ROWS)  # type: ignore[union-attr]
    if arguments.die_at:
        STEPS[arguments.die_at]()
    spec = batchinfer.load_spec(arguments.spec)
    if arguments.say_when_ready:
        print("ready", flush=True)
    if arguments.backfill:
        start, end = arguments.backfill
        backfill(spec, start, end, jobs=arguments.jobs)
    else:
        batchinfer.run(spec, {"ds": "d1"})


if __name__ == "__main__":
    main()
