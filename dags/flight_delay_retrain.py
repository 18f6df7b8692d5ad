"""When flight-delay drifts, train it anew; the new model becomes the champion only if it ranks held-out days better.

Each task is a step of pipelines/flight_delay/retrain.py. A manual run takes the day from its configuration.
"""

from datetime import UTC, datetime
from pathlib import Path

from airflow.providers.standard.operators.python import ShortCircuitOperator
from airflow.sdk import DAG, Param
from airflow.sdk.exceptions import AirflowFailException

from batchinfer.airflow import ProgramOperator, drift_asset

ROOT = Path(__file__).resolve().parents[1]


def until(params, triggering_asset_events):
    """The latest day that has drifted: labels end the day before it."""
    days = [
        event.extra["parameters"]["ds"] for events in triggering_asset_events.values() for event in events
    ]
    if params["until"] or days:
        return params["until"] or max(days)
    raise AirflowFailException("no drift has triggered this run: state until in its configuration")


def step(name, *arguments):
    """One step of the script, which keeps what it builds below the working directory."""
    build = ["--build", "build/retrain/{{ run_id | replace(':', '-') }}"]
    given = [*arguments, *(build if name in {"train", "register"} else [])]
    return ProgramOperator(
        task_id=name, folder=str(ROOT), arguments=["pipelines/flight_delay/retrain.py", name, *given]
    )


with DAG(
    dag_id="flight_delay_retrain",
    schedule=[drift_asset("flight-delay")],
    start_date=datetime(2013, 1, 1, tzinfo=UTC),
    max_active_runs=1,
    default_args={"owner": "batchinfer", "retries": 1},
    tags={"batchinfer", "training"},
    params={"until": Param(None, type=["null", "string"], description="the first day without labels")},
    user_defined_macros={"until": until},
    doc_md=__doc__,
):
    day = ["--until", "{{ until(params, triggering_asset_events) }}"]
    version = ["--version", "{{ ti.xcom_pull(task_ids='register')['version'] }}"]
    over = ["--over", "{{ ti.xcom_pull(task_ids='compare')['champion'] }}"]
    wins = ShortCircuitOperator(
        task_id="wins", python_callable=lambda ti: ti.xcom_pull(task_ids="compare")["wins"]
    )
    (
        step("train", *day)
        >> step("register")
        >> step("compare", *day, *version)
        >> wins
        >> step("promote", *version, *over)
    )
