"""What a scheduled pipeline tells other DAGs of: its results, and that they have drifted."""

from __future__ import annotations

from airflow.sdk import Asset

from batchinfer.spec import PipelineSpec, parameters_of


def results_asset(spec: PipelineSpec) -> Asset:
    """`<pipeline>/results`, at the results table. An event for each partition that was published.

    Its extra has the parameters, the run id, the table's version, the model and the rows.
    """
    path = spec.output.path
    name = f"{spec.name}/results"
    if parameters_of(path):  # each run writes a table of its own: no one address is that of all
        return Asset(name, group="batchinfer")
    uri = path if "://" in path else f"file://{path if path.startswith('/') else '/' + path}"
    return Asset(name, uri, group="batchinfer")


def drift_asset(pipeline: str) -> Asset:
    """`<pipeline>/drift`, by the pipeline's name. An event for each run whose drift raised the alarm, and no other.

    Its extra has the parameters, the run id, the model, and the columns that drifted with their PSI.
    """
    return Asset(f"{pipeline}/drift", group="batchinfer")
