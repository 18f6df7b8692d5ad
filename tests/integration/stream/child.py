"""A stream in a process of its own, which may kill itself at a named step of a commit."""

from __future__ import annotations

import argparse
import faulthandler
import logging
import sys
import threading
from contextlib import ExitStack

from batchinfer.runs import stream
from batchinfer.spec import load_spec
from batchinfer.testing import Fault, kill, tripping

_PATIENCE_SECONDS = 60
SINK = "batchinfer.streaming._table_sink:TableSink"
TOPIC = "batchinfer.streaming._confluent:ConfluentProducer.commit"
DELTA, POSTGRES = "batchinfer.store._delta_stream:DeltaStreamTable", "batchinfer.store._postgres_stream"
STEPS = {  # the first commit claims the starts of three partitions, or of fewer where they come one by one
    "before a part is written": (f"{DELTA}._stage", f"{POSTGRES}:PostgresStreamTable._add", "before", 2),
    "after a part is written": (f"{DELTA}._stage", f"{POSTGRES}:PostgresStreamTable._add", "after", 2),
    "before the table's commit": (f"{DELTA}._transact", f"{POSTGRES}:_end", "before", 2),
    "after the table's commit": (f"{DELTA}._transact", f"{POSTGRES}:_end", "after", 2),
    "before the topics' commit": (TOPIC, TOPIC, "before", 2),
    "after the topics' commit": (TOPIC, TOPIC, "after", 2),
    "after a start was claimed": (f"{SINK}.assigned", f"{SINK}.assigned", "after", 1),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("spec")
    parser.add_argument("--die-at", choices=sorted(STEPS))
    asked = parser.parse_args()
    spec = load_spec(asked.spec)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    faulthandler.dump_traceback_later(_PATIENCE_SECONDS / 2)
    stop = threading.Event()
    patience = threading.Timer(
        _PATIENCE_SECONDS, stop.set
    )  # one that never comes to its step ends, and says so
    patience.daemon = True
    patience.start()
    with ExitStack() as faults:
        if asked.die_at:
            delta, postgres, when, call = STEPS[asked.die_at]
            step = postgres if spec.output.store == "postgres" else delta
            if step.endswith("._add"):
                call = 1  # it is called with rows alone
            faults.enter_context(tripping(Fault(step, when, call), kill))
        print("ready", flush=True)
        stream(spec, stop=stop)
    sys.exit("the stream ended")


if __name__ == "__main__":
    main()
