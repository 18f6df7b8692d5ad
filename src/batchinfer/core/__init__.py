"""Arrow batch contracts, the ONE scoring path, work units and their reports, and the ports."""

from batchinfer.core import arrays, files
from batchinfer.core._identity import HIVE_NULL, NULL_TO_READERS, partition_path, run_id
from batchinfer.core._ledger import check_ledger
from batchinfer.core._ports import (
    BlockMap,
    CommitInfo,
    Engine,
    Fence,
    Model,
    Refusals,
    StagingArea,
    Store,
    StoreHistory,
)
from batchinfer.core._results import (
    LINEAGE,
    MODEL,
    POSITION,
    RUN_ID,
    SOURCE,
    Lineage,
    quarantine_schema,
    result_schema,
    rows_of_partition,
    storable,
    table_schema,
)
from batchinfer.core._scoring import Scored, ScoringPath
from batchinfer.core._transform import Transform
from batchinfer.core._units import (
    InputFile,
    Partition,
    RowCounts,
    Slice,
    StagedPart,
    UnitReport,
    WorkUnit,
    merge_counts,
    total_rows,
)

__all__ = [
    "HIVE_NULL",
    "LINEAGE",
    "MODEL",
    "NULL_TO_READERS",
    "POSITION",
    "RUN_ID",
    "SOURCE",
    "BlockMap",
    "CommitInfo",
    "Engine",
    "Fence",
    "InputFile",
    "Lineage",
    "Model",
    "Partition",
    "Refusals",
    "RowCounts",
    "Scored",
    "ScoringPath",
    "Slice",
    "StagedPart",
    "StagingArea",
    "Store",
    "StoreHistory",
    "Transform",
    "UnitReport",
    "WorkUnit",
    "arrays",
    "check_ledger",
    "files",
    "merge_counts",
    "partition_path",
    "quarantine_schema",
    "result_schema",
    "rows_of_partition",
    "run_id",
    "storable",
    "table_schema",
    "total_rows",
]
