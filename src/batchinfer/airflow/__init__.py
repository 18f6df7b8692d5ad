"""Airflow: a DAG for each pipeline that has a schedule. Its tasks run the command line and hold no logic of their own.

Importing this package imports neither Airflow nor what scores rows.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchinfer.airflow._assets import drift_asset, results_asset
    from batchinfer.airflow._dag import pipeline_dag, pipeline_dags
    from batchinfer.airflow._operator import ProgramOperator

__all__ = ["ProgramOperator", "drift_asset", "pipeline_dag", "pipeline_dags", "results_asset"]

_HOME = {
    "ProgramOperator": "_operator",
    "drift_asset": "_assets",
    "pipeline_dag": "_dag",
    "pipeline_dags": "_dag",
    "results_asset": "_assets",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'batchinfer.airflow' has no attribute '{name}'")
    return getattr(import_module(f"batchinfer.airflow.{_HOME[name]}"), name)
