"""A task's program ends with the task, in good order if it can, and says what it said."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest

from batchinfer.airflow import _program
from batchinfer.airflow._program import Ended, Program


def running(code: str, folder: Path) -> tuple[Program, list[Ended], threading.Thread]:
    program = Program([sys.executable, "-c", code], str(folder))
    ended: list[Ended] = []
    thread = threading.Thread(target=lambda: ended.append(program.run(lambda line: None)))
    thread.start()
    limit = time.monotonic() + 30
    while not (folder / "ready").exists():
        assert time.monotonic() < limit
        time.sleep(0.01)
    return program, ended, thread


def test_what_it_says_is_told_as_it_comes_and_what_it_prints_is_kept(tmp_path: Path) -> None:
    told: list[str] = []
    code = "import sys; print('a'); print('b', file=sys.stderr); print('c'); sys.exit(75)"
    ended = Program([sys.executable, "-c", code], str(tmp_path)).run(told.append)
    assert ended == Ended(75, "a\nc\n", "b")
    assert told == ["b"]


def test_a_program_is_ended_in_good_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_program, "_ITSELF_S", 0.2)
    code = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
pathlib.Path("ready").touch()
time.sleep(60)
"""
    program, ended, thread = running(code, tmp_path)
    program.stop()
    thread.join(30)
    assert ended[0].code == 130


def test_a_program_that_will_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_program, "_ITSELF_S", 0.2)
    monkeypatch.setattr(_program, "_IN_GOOD_ORDER_S", 0.2)
    code = """
import pathlib, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path("ready").touch()
time.sleep(60)
"""
    program, ended, thread = running(code, tmp_path)
    program.stop()
    thread.join(30)
    assert ended[0].code == -9


def test_a_stop_before_the_start_does_nothing(tmp_path: Path) -> None:
    Program([sys.executable, "-c", ""], str(tmp_path)).stop()
