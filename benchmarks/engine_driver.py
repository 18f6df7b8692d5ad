"""One `batchinfer.run` on Spark or Dask in a process of its own; `engines.py` starts it and reads its last line.

    python -m benchmarks.engine_driver PIPELINE.yaml spark|dask ['{"unit_rows": 1000}']

The session or the cluster is up, and its Python workers are, before the clock starts: as for the peers.
"""

from __future__ import annotations

import json
import sys
import time

import psutil

from .clusters import dask_cluster, spark_session
from .driver import peak_mb


def jvm_cpu_s() -> float:
    """Processor time of Spark's JVM, which this process started; its Python workers are processes of their own."""
    times = [child.cpu_times() for child in psutil.Process().children() if child.name() == "java"]
    return float(sum(each.user + each.system for each in times))


def main() -> None:
    from batchinfer import load_spec, run
    from batchinfer.source import plan_units

    pipeline, kind, *settings = sys.argv[1:]
    if settings:
        assert plan_units.__kwdefaults__ is not None
        plan_units.__kwdefaults__.update(json.loads(settings[0]))
    with spark_session() if kind == "spark" else dask_cluster() as place:
        address = {"engine.address": place} if kind == "dask" else {}
        spec = load_spec(pipeline, **{"engine.kind": kind, **address})
        started, cpu_before_s, jvm_before_s = time.perf_counter(), time.process_time(), jvm_cpu_s()
        report = run(spec, {})
        figures = {
            "job_s": time.perf_counter() - started,
            "driver_cpu_s": time.process_time() - cpu_before_s,
            "jvm_cpu_s": jvm_cpu_s() - jvm_before_s,
            "peak_mb": peak_mb(),
        }
    print(json.dumps({**figures, "units": report.units["total"], "model_loads": report.model_loads}))


if __name__ == "__main__":
    main()
