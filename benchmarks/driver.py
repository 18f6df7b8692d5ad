"""One `batchinfer.run` in a process of its own; `jobs.py` starts it and reads its last line.

    python driver.py PIPELINE.yaml

Run as a file, not as a module, so that this process holds batchinfer and nothing of ours.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


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
    import batchinfer

    spec = batchinfer.load_spec(sys.argv[1])
    ready = time.perf_counter()
    batchinfer.run(spec, {})
    done = time.perf_counter()
    print(json.dumps({"import_s": ready - started, "job_s": done - ready, "peak_mb": peak_mb()}))


if __name__ == "__main__":
    main()
