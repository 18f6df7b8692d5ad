"""Starts members of a stream fast: it has imported everything, and forks one for each line that it reads.

python stream_nursery.py PIPELINE.yaml — answers each line with a member's process id. SIGTERM drains a member.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading

import batchinfer.streaming._confluent
import batchinfer.streaming._json  # noqa: F401 - so that a fork finds them imported
from batchinfer.runs import stream
from batchinfer.spec import load_spec

PATIENCE_SECONDS = 900


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a member
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            faulthandler.register(signal.SIGUSR1)
            faulthandler.dump_traceback_later(PATIENCE_SECONDS, exit=True)
            _member(sys.argv[1])
        print(pid, flush=True)


def _member(pipeline: str) -> None:
    code = 1
    try:
        stop = threading.Event()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        stream(load_spec(pipeline), stop=stop)
        code = 0
    except BaseException as e:
        print(f"{os.getpid()}: {type(e).__name__}: {e}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
