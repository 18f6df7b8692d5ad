"""Dask's `map_partitions` in a process of its own; `engines.py` starts it and reads its last line.

    python -m benchmarks.peer_dask FLIGHTS MODEL RESULTS '{"batch_size": 131072}'

The batch size is that of the partitions: so many rows in whole row groups.
"""

from __future__ import annotations

import json
import sys
import time
from functools import lru_cache
from typing import Any

from .clusters import dask_cluster
from .data import FEATURES, KEY, ROW_GROUP_ROWS


@lru_cache(maxsize=1)
def session_of(model: str) -> Any:
    from pathlib import Path

    from .scoring import session

    return session(Path(model))


def score_partition(frame: Any, model: str) -> Any:
    (found,) = session_of(model).run(["score"], {"input": frame[list(FEATURES)].to_numpy("float32")})
    scored = frame[[KEY]].copy()
    scored["score"] = found[:, 0]
    return scored


def main() -> None:
    import dask.dataframe as dd
    import pandas as pd
    from distributed import Client

    flights, model, results, options = sys.argv[1:]
    groups = max(1, json.loads(options)["batch_size"] // ROW_GROUP_ROWS)
    meta = pd.DataFrame({KEY: pd.Series(dtype="int64"), "score": pd.Series(dtype="float32")})
    with dask_cluster() as address, Client(address):
        started = time.perf_counter()
        frame = dd.read_parquet(flights, columns=[KEY, *FEATURES], split_row_groups=groups)
        frame.map_partitions(score_partition, model, meta=meta).to_parquet(results)
        job_s = time.perf_counter() - started
    print(json.dumps({"job_s": job_s}))


if __name__ == "__main__":
    main()
