"""The floor: what pyarrow, NumPy and ONNX Runtime alone need for each stage, on every core.

Each stage does the work of `rows` rows with nothing around it.  Their sum is the least that a job
can cost which reads, scores and writes these rows with these libraries.  `by_hand` is the same
stages chained by the shortest program that does it: how close to the sum one can come.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pyarrow as pa
import pyarrow.parquet as pq
from data import FEATURES, KEY, ROW_GROUP_ROWS, Floats
from measure import parallel

BLOCK_ROWS = 8_192
"""Rows transposed into a tensor at a time: source and target stay in the second-level cache."""
POOL_GROUPS = 3
"""Row groups that stages cycle over: 393,216 rows, so that each of the dataset's is among them."""
FILE_GROUPS = 4
FILE_ROWS = FILE_GROUPS * ROW_GROUP_ROWS
BATCHES = (256, 512, 1_024, 2_048, 4_096, 8_192, 16_384, 32_768)
MODEL_SECONDS = 5.0
CONSTANTS = ("_model", "_run_id", "_source")

Columns = list[Floats]


def writer_options(schema: pa.Schema) -> dict[str, Any]:
    """The fastest writer found: see the facts in docs and `benchmarks/encode.py`."""
    encodings = {
        field.name: "BYTE_STREAM_SPLIT" if pa.types.is_floating(field.type)
        else "DELTA_BINARY_PACKED"
        for field in schema
        if not pa.types.is_dictionary(field.type)
    }
    return {
        "compression": "zstd",
        "compression_level": 1,
        "use_dictionary": [name for name in CONSTANTS if name in schema.names] or False,
        "column_encoding": encodings,
        "write_statistics": list(encodings),
        "write_batch_size": ROW_GROUP_ROWS,
        "max_rows_per_page": 1 << 20,
    }
