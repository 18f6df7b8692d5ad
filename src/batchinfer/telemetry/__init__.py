"""What a run tells the systems that watch it: metrics for Prometheus, events for OpenLineage."""

from batchinfer.telemetry._check import check_telemetry
from batchinfer.telemetry._delivery import Delivery
from batchinfer.telemetry._lineage import (
    Columns,
    Dataset,
    Kind,
    LineageReceiver,
    LineageRun,
    emit,
    lineage_id,
)
from batchinfer.telemetry._metrics import (
    METRICS,
    BackfillFacts,
    Metric,
    RunFacts,
    Trigger,
    of_backfill,
    of_run,
    of_success,
)
from batchinfer.telemetry._push import MetricsReceivers, push

__all__ = [
    "METRICS",
    "BackfillFacts",
    "Columns",
    "Dataset",
    "Delivery",
    "Kind",
    "LineageReceiver",
    "LineageRun",
    "Metric",
    "MetricsReceivers",
    "RunFacts",
    "Trigger",
    "check_telemetry",
    "emit",
    "lineage_id",
    "of_backfill",
    "of_run",
    "of_success",
    "push",
]
