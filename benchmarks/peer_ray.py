"""Ray Data in a process of its own: `peers.py` starts it with the peers' interpreter.

    python -m benchmarks.peer_ray FLIGHTS MODEL RESULTS '{"tuned": false, "batch_size": 131072}'

`map_batches` with a class that holds an ONNX Runtime session, as Ray's guide to batch inference
has it, on zero-copy Arrow batches.  Options: `tuned` (pack tensors in blocks that stay in cache),
`batch_size` (null for whole blocks), `actors`, and the `cpus` of each: less than one, or no core is
left to read and the job never ends.
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
from .scoring import block, score, score_plainly, session  # noqa: E402


class Scorer:
    def __init__(self, model: str, tuned: bool) -> None:
        self.session = session(Path(model))
        self.tuned = tuned
        self.tensor = block()

    def __call__(self, batch: pa.Table) -> pa.Table:
        columns = [batch[name].combine_chunks().to_numpy() for name in FEATURES]
        if self.tuned:
            scores = score(self.session, columns, self.tensor)
        else:
            scores = score_plainly(self.session, columns)
        return pa.table({KEY: batch[KEY], "score": scores})


def main() -> None:
    flights, model, results, options = sys.argv[1:]
    chosen = json.loads(options)
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    ray.init(num_cpus=cores(), include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ready = time.perf_counter()
    frame = ray.data.read_parquet(flights).select_columns([KEY, *FEATURES])
    frame.map_batches(
        Scorer,
        fn_constructor_args=[model, chosen["tuned"]],
        batch_format="pyarrow",
        batch_size=chosen.get("batch_size"),
        zero_copy_batch=True,
        compute=ray.data.ActorPoolStrategy(size=chosen.get("actors", cores())),
        num_cpus=chosen.get("cpus", 0.5),
    ).write_parquet(results)
    done = time.perf_counter()
    ray.shutdown()
    print(json.dumps({"import_s": ready - started, "job_s": done - ready}))


if __name__ == "__main__":
    main()
