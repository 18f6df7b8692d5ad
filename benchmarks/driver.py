"""One `batchinfer.run` in a process of its own; `jobs.py` starts it and reads its last line.

    python driver.py PIPELINE.yaml

Run as a file, not as a module, so that this process holds batchinfer and nothing of ours.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path

IMPORTS = ("pyarrow.parquet", "onnxruntime", "deltalake")
"""What batchinfer imports when it first needs it: no part of the job, as the floor has none."""


def peak_mb() -> float:
    """Most memory that this process has had resident.

    VmHWM where there is one: on Linux `ru_maxrss` starts at the size of the process that spawned
    this one, so a large parent would be reported as a large child.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def main() -> None:
    started = time.perf_counter()
    for name in IMPORTS:
        importlib.import_module(name)
    from batchinfer import load_spec, run

    spec = load_spec(sys.argv[1])
    ready, cpu_before_s = time.perf_counter(), time.process_time()
    run(spec, {})
    done, cpu_s = time.perf_counter(), time.process_time() - cpu_before_s
    figures = {"import_s": ready - started, "job_s": done - ready, "job_cpu_s": cpu_s}
    print(json.dumps({**figures, "peak_mb": peak_mb()}))


if __name__ == "__main__":
    main()
