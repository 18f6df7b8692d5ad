"""One Airflow DAG for each pipeline under `pipelines/` whose spec has a section `schedule:`. See docs/airflow.md."""

from pathlib import Path

from batchinfer.airflow import pipeline_dags

for dag in pipeline_dags(Path(__file__).resolve().parents[1]):
    globals()[dag.dag_id] = dag
