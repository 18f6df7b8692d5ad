"""A run on a Spark cluster that Airflow knows as a connection, by the Spark provider's own operator."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, ClassVar

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from batchinfer.airflow._operator import DRIFT_GATE
from batchinfer.airflow._outcome import digest_of, outcome_of
from batchinfer.runs import RunRecords


class SubmitOperator(SparkSubmitOperator):  # type: ignore[misc]
    """`spark-submit` of batchinfer itself; the report is read from the run's record, which the plan has named.

    In client mode the driver's exit code counts as it does on a worker. A driver in the cluster leaves none here:
    then a failed run is tried again as often as the schedule says.
    """

    template_fields: ClassVar[Sequence[str]] = SparkSubmitOperator.template_fields

    def __init__(self, *, arguments: Sequence[str], folder: str, connection: str, **kwargs: Any) -> None:
        found = find_spec("batchinfer.__main__")
        assert found is not None
        super().__init__(
            application=found.origin,
            application_args=list(arguments),
            conn_id=connection,
            name="batchinfer",
            **kwargs,
        )
        self.folder = folder

    def execute(self, context: Any) -> dict[str, Any]:
        """Submit, wait, and read the report."""
        os.chdir(self.folder)  # spark-submit's driver reads the spec's relative paths from here
        code: int | None = 0
        try:
            super().execute(context)
        except AirflowException as e:
            process = getattr(self._hook, "_submit_sp", None)
            code = None if process is None else process.returncode
            if code is not None and code != DRIFT_GATE and outcome_of(code) == "give up":
                raise AirflowFailException(str(e)) from e
            if code != DRIFT_GATE:
                raise
        planned = context["ti"].xcom_pull(task_ids="plan")
        report = RunRecords().find(planned["run_id"])
        return digest_of(report.to_dict(), gate=code == DRIFT_GATE)
