"""Every store keeps the promises of a results store."""

import os
from functools import partial

import pytest
from tests.postgres import open_in

from batchinfer.store import open_store
from batchinfer.testing import StoreConformance

DELTA = "deltalake.table:DeltaTable"
POSTGRES = "batchinfer.store._postgres"
PARQUET = "batchinfer.store._parquet:ParquetStore"
TORTURE = os.environ.get("BATCHINFER_TORTURE") == "all"


class TestDeltaStore(StoreConformance):
    factory = partial(open_store, "delta")
    every_kill = TORTURE
    steps = (f"{DELTA}.create", f"{DELTA}.create_write_transaction")
    decisive_step = f"{DELTA}.create_write_transaction"


class TestParquetStore(StoreConformance):
    factory = partial(open_store, "parquet")
    every_kill = TORTURE
    steps = (
        f"{PARQUET}._announce",
        f"{PARQUET}._prepare",
        f"{PARQUET}._go_live",
        "batchinfer.store._parquet:exchange",
        f"{PARQUET}._finish_bookkeeping",
        "batchinfer.store._parquet:_append",
    )
    decisive_step = f"{PARQUET}._go_live"


class TestPostgresStore(StoreConformance):
    every_kill = TORTURE
    steps = (
        f"{POSTGRES}:PostgresStore._prepare",
        f"{POSTGRES}:PostgresStore._announce",
        f"{POSTGRES}:PostgresStore._move_fence",
        f"{POSTGRES}:PostgresStore._replace",
        f"{POSTGRES}:_end",
    )
    decisive_step = f"{POSTGRES}:_end"

    @pytest.fixture(autouse=True)
    def _on_a_server(self, postgres_url: str) -> None:
        type(self).factory = partial(open_in, postgres_url)
