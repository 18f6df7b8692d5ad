"""For tests of batchinfer's adapters, yours included: conformance suites, faults, and a table's digest."""

from batchinfer.testing._client_runs import BrokerUnderTest
from batchinfer.testing._client_suite import ClientConformance
from batchinfer.testing._digest import table_digest
from batchinfer.testing._engine_suite import EngineConformance
from batchinfer.testing._engine_work import DeviceWork, Notes, NotingWork
from batchinfer.testing._faults import Fault, kill, tripping
from batchinfer.testing._store_runs import Factory, StoreUnderTest
from batchinfer.testing._store_suite import StoreConformance

__all__ = [
    "BrokerUnderTest",
    "ClientConformance",
    "DeviceWork",
    "EngineConformance",
    "Factory",
    "Fault",
    "Notes",
    "NotingWork",
    "StoreConformance",
    "StoreUnderTest",
    "kill",
    "table_digest",
    "tripping",
]
