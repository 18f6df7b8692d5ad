"""From a spec's schedule to its DAG: input has arrived → plan → score → verdict → publish, and an alarm beside.

input_arrived ─► plan ─► score ─┬─► verdict ─► publish        event: <pipeline>/results
                                ├─► drift_alarm               event: <pipeline>/drift; skipped without an alarm
                                └─► drift_report              pages; only with schedule.reports
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from airflow.sdk import DAG, CronDataIntervalTimetable, Param
from airflow.sdk.exceptions import AirflowFailException, AirflowTimetableInvalid

from batchinfer.airflow._after import DriftAlarm, DriftReport, Publish, Verdict
from batchinfer.airflow._arrival import InputSensor
from batchinfer.airflow._assets import drift_asset, results_asset
from batchinfer.airflow._operator import Broken, PlanOperator, RunOperator
from batchinfer.errors import SpecError
from batchinfer.spec import PipelineSpec, ScheduleSpec, load_spec, read_yaml


def pipeline_dags(folder: str | Path) -> list[DAG]:
    """A DAG for each pipeline in `folder/pipelines` whose spec has a `schedule:`, by the name of its folder.

    A spec that cannot be read, or that Airflow makes no DAG of, gets a DAG of its own name that fails each day and
    says why: an error here would take away the DAGs of all others.
    """
    root = Path(folder).resolve()
    dags = []
    for file in sorted((root / "pipelines").glob("*/pipeline.yaml")):
        pipeline = str(file.parent.relative_to(root))
        try:
            if "schedule" in read_yaml(file.read_text(encoding="utf-8"), name=file):
                dags.append(pipeline_dag(pipeline, root))
        except (SpecError, OSError, ValueError) as e:
            dags.append(_broken(pipeline, str(e)))
    return dags


def pipeline_dag(pipeline: str, folder: str | Path) -> DAG:
    """The DAG of one pipeline.

    Args:
        pipeline: the spec's folder, below `folder`.
        folder: the working directory of all its tasks; the spec's relative paths are below it.

    Raises:
        SpecError: the spec cannot be read, has no `schedule:`, or a cron that is none.
        ValueError: Airflow refuses the folder's name, or a tag.
    """
    root = str(Path(folder).resolve())
    spec = load_spec(Path(root, pipeline))
    schedule = spec.schedule
    if schedule is None:
        raise SpecError(f"{pipeline}: there is no section 'schedule:'", next_step="see docs/airflow.md")
    names = list(schedule.parameters)
    values = {
        name: f"{{{{ parameter('{name}', params, data_interval_start | default(none)) }}}}" for name in names
    }
    given = [text for name in names for text in ("-p", f"{name}={values[name]}")]
    with _dag(spec, pipeline, schedule) as dag:
        arrived = InputSensor(
            task_id="input_arrived",
            pipeline=pipeline,
            parameters=values,
            folder=root,
            marker=schedule.marker,
            poll_s=schedule.poll_s,
            wait_s=schedule.wait_s,
        )
        plan = PlanOperator(
            task_id="plan", arguments=["plan", pipeline, *given, "--scheduled", "--json"], folder=root
        )
        score = _score(pipeline, spec, given, root)
        verdict = Verdict(task_id="verdict")
        publish = Publish(task_id="publish", outlets=[results_asset(spec)])
        arrived >> plan >> score >> verdict >> publish
        if spec.drift is not None:
            score >> DriftAlarm(task_id="drift_alarm", outlets=[drift_asset(spec.name)])
            if schedule.reports is not None:
                score >> DriftReport(
                    pipeline=pipeline,
                    given=given,
                    folder=root,
                    reports=schedule.reports,
                    url=schedule.reports_url,
                )
    return dag


def _dag(spec: PipelineSpec, pipeline: str, schedule: ScheduleSpec) -> DAG:
    zone = ZoneInfo(schedule.timezone)

    def parameter(name: str, params: Any, start: datetime | None) -> str:
        stated = params[name]
        if stated:
            return str(stated)
        if start is None:
            raise AirflowFailException(f"this run is of no interval: state {name} in its configuration")
        return start.astimezone(zone).strftime(schedule.parameters[name])

    timetable = CronDataIntervalTimetable(schedule.cron, timezone=schedule.timezone)
    try:
        timetable.validate()  # before there is a DAG: Airflow keeps each one whose block was entered
    except AirflowTimetableInvalid as e:
        raise SpecError(f"{pipeline}: schedule.cron: {e}", next_step="see docs/airflow.md") from e
    return DAG(
        dag_id=Path(pipeline).name,
        schedule=timetable,
        start_date=datetime.combine(schedule.start_date, datetime.min.time(), zone),
        end_date=None
        if schedule.end_date is None
        else datetime.combine(schedule.end_date, datetime.max.time(), zone),
        catchup=schedule.catchup,
        default_args={
            "owner": schedule.owner,
            "retries": schedule.retries,
            "retry_delay": timedelta(seconds=schedule.retry_delay_s),
        },
        tags={"batchinfer", *schedule.tags},
        params={
            name: Param(
                None, type=["null", "string"], description=f"{name}; by default from the interval's start"
            )
            for name in schedule.parameters
        },
        user_defined_macros={"parameter": parameter},
        doc_md=f"Scores `{pipeline}`, as `batchinfer run {pipeline}` does. See docs/airflow.md.",
    )


def _score(pipeline: str, spec: PipelineSpec, given: list[str], root: str) -> Any:
    schedule = spec.schedule
    assert schedule is not None
    pool = {} if schedule.pool is None else {"pool": schedule.pool}
    arguments = ["run", pipeline, *given, "--scheduled", "--json"]
    if schedule.spark_connection is None:
        return RunOperator(task_id="score", arguments=arguments, folder=root, **pool)
    from batchinfer.airflow._spark import SubmitOperator

    return SubmitOperator(
        task_id="score", arguments=arguments, folder=root, connection=schedule.spark_connection, **pool
    )


def _broken(pipeline: str, why: str) -> DAG:
    name = Path(pipeline).name
    dag_id = re.sub(r"[^\w.-]", "_", name)[:200]
    if dag_id != name:  # which may be another folder's name
        dag_id += f"-{sha256(name.encode()).hexdigest()[:8]}"
    with DAG(
        dag_id=dag_id,
        schedule="@daily",
        start_date=datetime(2026, 1, 1, tzinfo=ZoneInfo("UTC")),
        catchup=False,
        tags={"batchinfer", "broken spec"},
        doc_md=f"No DAG can be made of `{pipeline}`:\n\n```\n{why}\n```",
    ) as dag:
        Broken(task_id="check", why=f"{pipeline}: {why}", retries=0)
    return dag
