"""A process of its own for `dag.test()`: it runs DAGs of a folder and writes what became of them as JSON.

python dag_test.py ANSWER.json '{"late": {"dag": "scores", "logical_date": "2013-01-02T00:00:00+00:00"}}'
"""

from __future__ import annotations

import json
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Any


def main() -> None:
    answer, wanted = Path(sys.argv[1]), json.loads(sys.argv[2])
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
    assert not bag.import_errors, bag.import_errors
    found = {}
    for name, one in wanted.items():
        log = answer.with_name(f"{name}.log")
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        found[name] = {**run(bag.dags[one["dag"]], one), "log": log.read_text()}
    answer.write_text(json.dumps(found))


def run(dag: Any, wanted: dict[str, Any]) -> dict[str, Any]:
    date = wanted.get("logical_date")
    logical_date = datetime.fromisoformat(date) if date is not None else None
    done = dag.test(logical_date=logical_date, run_conf=wanted.get("conf"))
    return {
        "state": str(done.state),
        "tasks": {ti.task_id: [str(ti.state), ti.try_number] for ti in done.get_task_instances()},
        "xcoms": xcoms(done),
        "events": events(done),
    }


def xcoms(done: Any) -> dict[str, dict[str, Any]]:
    from sqlalchemy import select

    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    found: dict[str, dict[str, Any]] = {}
    with create_session() as session:
        query = select(XComModel).where(XComModel.dag_id == done.dag_id, XComModel.run_id == done.run_id)
        for row in session.scalars(query):
            found.setdefault(row.task_id, {})[row.key] = XComModel.deserialize_value(row)
    return found


def events(done: Any) -> dict[str, Any]:
    from sqlalchemy import select

    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session

    with create_session() as session:
        query = (
            select(AssetModel.name, AssetEvent.extra)
            .join(AssetModel, AssetModel.id == AssetEvent.asset_id)
            .where(AssetEvent.source_dag_id == done.dag_id, AssetEvent.source_run_id == done.run_id)
        )
        return {row.name: row.extra for row in session.execute(query)}


if __name__ == "__main__":
    main()
