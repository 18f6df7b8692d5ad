"""What a scheduled pipeline tells other DAGs of: its results, and that they have drifted."""

from __future__ import annotations

from airflow.sdk import Asset

from batchinfer.spec import PipelineSpec, parameters_of


def results_asset(spec: PipelineSpec) -> Asset:
    """`<pipeline>/results`, at the results table where its path says where that is. An event for each publication.

    Its extra has the parameters, the run id, the table's version, the model and the rows.
    """
    path, name = spec.output.path, f"{spec.name}/results"
    if parameters_of(path) or not ("://" in path or path.startswith("/")):
        return Asset(name, group="batchinfer")  # a table for each run, or below whatever folder a worker has
    return Asset(name, path if "://" in path else f"file://{path}", group="batchinfer")


def drift_asset(pipeline: str) -> Asset:
    """`<pipeline>/drift`, by the pipeline's name. An event for each run whose drift raised the alarm, and no other.

    Its extra has the parameters, the run id, the model, and the columns that drifted with their PSI.
    """
    return Asset(f"{pipeline}/drift", group="batchinfer")
