"""One `batchinfer.run` on Spark or Dask in a process of its own; `engines.py` starts it and reads its last line.

    python -m benchmarks.engine_driver PIPELINE.yaml spark|dask

The session or the cluster is up, and its Python workers are, before the clock starts: as for the peers.
"""

from __future__ import annotations

import json
import sys
import time

from .clusters import dask_cluster, spark_session
from .driver import peak_mb


def main() -> None:
    from batchinfer import load_spec, run

    pipeline, kind = sys.argv[1:]
    if kind == "spark":
        with spark_session():
            spec = load_spec(pipeline, **{"engine.kind": kind})
            started, cpu_before_s = time.perf_counter(), time.process_time()
            report = run(spec, {})
            job_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu_before_s
    else:
        with dask_cluster() as address:
            spec = load_spec(pipeline, **{"engine.kind": kind, "engine.address": address})
            started, cpu_before_s = time.perf_counter(), time.process_time()
            report = run(spec, {})
            job_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu_before_s
    figures = {"job_s": job_s, "driver_cpu_s": cpu_s, "peak_mb": peak_mb()}
    print(json.dumps({**figures, "units": report.units["total"], "model_loads": report.model_loads}))


if __name__ == "__main__":
    main()
