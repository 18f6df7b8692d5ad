"""Drift: profiles of features and predictions, taken in the scoring pass and held against the reference's."""

from batchinfer.drift._alerts import (
    Alert,
    AlertState,
    Delivery,
    RunFacts,
    check_webhook,
    next_alert,
    next_state,
    send,
)
from batchinfer.drift._chart import chart_page, number, share
from batchinfer.drift._history import (
    HISTORY,
    ColumnDrift,
    DriftHistory,
    MeasuredRun,
    RunDrift,
    history_rows,
    summarise,
)
from batchinfer.drift._picture import chart_svg

__all__ = [
    "HISTORY",
    "Alert",
    "AlertState",
    "ColumnDrift",
    "Delivery",
    "DriftHistory",
    "MeasuredRun",
    "RunDrift",
    "RunFacts",
    "chart_page",
    "chart_svg",
    "check_webhook",
    "history_rows",
    "next_alert",
    "next_state",
    "number",
    "send",
    "share",
    "summarise",
]
