"""Ray Data in a process of its own: `peers.py` starts it with the peers' interpreter.

    python -m benchmarks.peer_ray FLIGHTS MODEL RESULTS '{"batch_size": 131072}'

`map_batches` with a class that holds an ONNX Runtime session, as Ray's guide to batch inference
has it, on zero-copy Arrow batches.  Options: `batch_size` (null for whole blocks), `blocks` that
the files are read in (null for Ray's choice), `actors`, and the `cpus` of each.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path

started = time.perf_counter()

import pyarrow as pa  # noqa: E402
import ray  # noqa: E402
import ray.data  # noqa: E402

from .data import FEATURES, KEY  # noqa: E402
from .measure import cores  # noqa: E402
from .scoring import block, score, session  # noqa: E402


class Scorer:
    def __init__(self, model: Path) -> None:
        self.session = session(model)
        self.tensor = block()

    def __call__(self, batch: pa.Table) -> pa.Table:
        columns = [batch[name].combine_chunks().to_numpy() for name in FEATURES]
        scores = score(self.session, columns, self.tensor)
        return pa.table({KEY: batch[KEY], "score": scores})


def main() -> None:
    flights, model, results, options = sys.argv[1:]
    chosen = json.loads(options)
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    ray.init(num_cpus=cores(), include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ready = time.perf_counter()
    frame = ray.data.read_parquet(
        flights, columns=[KEY, *FEATURES], override_num_blocks=chosen.get("blocks")
    )
    frame.map_batches(
        Scorer,
        fn_constructor_args=[Path(model)],
        batch_format="pyarrow",
        batch_size=chosen.get("batch_size"),
        zero_copy_batch=True,
        compute=ray.data.ActorPoolStrategy(size=chosen.get("actors", cores())),
        num_cpus=chosen.get("cpus", 1),
    ).write_parquet(results)
    done = time.perf_counter()
    ray.shutdown()
    print(json.dumps({"import_s": ready - started, "job_s": done - ready}))


if __name__ == "__main__":
    main()
