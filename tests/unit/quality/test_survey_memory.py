"""A survey's memory does not grow with the values past its bound."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import sys
import numpy as np, pyarrow as pa
from batchinfer.core import Lineage
from batchinfer.core.arrays import from_numpy
from batchinfer.quality import Expectation, Suite, compile_suite, survey

rows, limit = int(sys.argv[1]), 16 << 20
batch = 1 << 16

def read(columns):
    # Distinct but for the last batch, which repeats the first: values are scattered as hashes of the row.
    for first in range(0, rows, batch):
        row = np.arange(batch, dtype=np.uint64) + np.uint64(first if first + batch < rows else 0)
        scattered = (row * np.uint64(0x9E3779B97F4A7C15)).view(np.int64)
        yield pa.RecordBatch.from_arrays([from_numpy(scattered)], names=["x"]), "file", first

schema = pa.schema([("x", pa.int64())])
stated = Expectation(0, "expect_column_values_to_be_unique", {"column": "x"})
checks, _ = compile_suite(Suite("s", "s", (stated,), {}), schema)
(check,) = survey(checks, read, limit)
state = None
for found, source, first in read(("x",)):
    part, _ = check.measure(found, Lineage("m", "r", source, from_numpy(np.arange(first, first + batch))))
    state = part if state is None else check.merge(state, part)
assert state["rows"] == rows and state["unexpected"] == 2 * batch, state["unexpected"]
loaded = {"pandas", "great_expectations"} & sys.modules.keys()
assert not loaded, loaded
# Not ru_maxrss: a child inherits its parent's.
(peak,) = (line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak) // 1024)
"""


def peak_mib(rows: int) -> int:
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(rows)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells of the peak")
def test_peak_memory_stays_near_the_bound() -> None:
    small, large = peak_mib(1 << 17), peak_mib(1 << 22)
    values_mib = (1 << 22) * 16 >> 20  # a value and its count
    assert values_mib == 64
    assert large - small < values_mib // 2 + 16, (small, large)
