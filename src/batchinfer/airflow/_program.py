"""A program that a task runs: in a process of its own, its messages in the task's log, ended with the task.

A process of its own, because memory that scoring took is given back, because the kernel that runs out of memory
ends it and not Airflow's, because a fork of Airflow's threads is no place for those of ONNX Runtime, and because
exit codes and SIGTERM are contracts that the command line keeps already.
"""

from __future__ import annotations

import os
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Thread
from typing import IO

from batchinfer.secrets import without_secrets

_LAST_LINES = 20
_ITSELF_S = 2.0
_IN_GOOD_ORDER_S = 20.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended: its exit code, negative for a signal; what it printed; the last it said on stderr.

    What it said has no secrets left in it; what it printed may.
    """

    code: int
    output: str
    said: str


class Program:
    """One process. `run` starts it and waits, `stop` ends it, from a signal handler or another thread."""

    def __init__(self, command: Sequence[str], folder: str) -> None:
        self._command = list(command)
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None

    def run(self, tell: Callable[[str], object]) -> Ended:
        """Wait for the program's end; `tell` gets each line of its stderr as it comes."""
        with subprocess.Popen(
            self._command,
            cwd=self._folder,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        ) as process:
            self._process = process
            assert process.stdout is not None and process.stderr is not None
            printed: list[str] = []
            last: deque[str] = deque(maxlen=_LAST_LINES)

            def said(line: str) -> None:
                line = without_secrets(line)  # libraries write here past all logging of ours
                last.append(line)
                tell(line.rstrip("\n"))

            readers = [
                Thread(target=_read, args=(process.stdout, printed.append), daemon=True),
                Thread(target=_read, args=(process.stderr, said), daemon=True),
            ]
            for reader in readers:
                reader.start()
            code = _end_of(process)
            for reader in readers:
                # What the program started and left behind may hold its streams open for ever.
                reader.join(_ITSELF_S)
        return Ended(code, "".join(printed), "".join(last).strip())

    def stop(self) -> None:
        """End the program: it may do so by itself, in good order, or be killed.

        Airflow signals the whole process group, so that the program often knows already: a second SIGTERM would
        keep it from ending in good order.
        """
        process = self._process
        if process is None:
            return
        steps: list[tuple[Callable[[], None] | None, float]] = [
            (None, _ITSELF_S),
            (process.terminate, _IN_GOOD_ORDER_S),
            (process.kill, _ITSELF_S),
        ]
        for act, wait_s in steps:
            if act is not None:
                act()
            with suppress(subprocess.TimeoutExpired):
                process.wait(wait_s)
                return


def _end_of(process: subprocess.Popen[str]) -> int:
    while True:
        # Without a limit, `wait` would hold a lock that `stop` needs, called by a signal's handler in its midst.
        with suppress(subprocess.TimeoutExpired):
            return process.wait(1)


def _read(stream: IO[str], tell: Callable[[str], object]) -> None:
    with suppress(ValueError):  # closed, after a program whose own programs outlive it
        for line in stream:
            tell(line)
