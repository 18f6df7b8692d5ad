"""Both stores keep the promises of a results store."""

from functools import partial

from batchinfer.store import open_store
from batchinfer.testing import StoreConformance

DELTA = "deltalake.table:DeltaTable"
PARQUET = "batchinfer.store._parquet:ParquetStore"


class TestDeltaStore(StoreConformance):
    factory = partial(open_store, "delta")
    steps = (f"{DELTA}.create", f"{DELTA}.create_write_transaction")
    decisive_step = f"{DELTA}.create_write_transaction"


class TestParquetStore(StoreConformance):
    factory = partial(open_store, "parquet")
    steps = (
        f"{PARQUET}._announce",
        f"{PARQUET}._prepare",
        f"{PARQUET}._go_live",
        "batchinfer.store._parquet:exchange",
        f"{PARQUET}._finish_bookkeeping",
        "batchinfer.store._parquet:_append",
    )
    decisive_step = f"{PARQUET}._go_live"
