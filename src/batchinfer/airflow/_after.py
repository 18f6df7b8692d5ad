"""What follows a run: the verdict, the results' publication, the alarm, and the pages about drift.

Each reads the report that the run left as XCom, and decides nothing that the run has not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator, BaseOperatorLink
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from batchinfer.airflow._operator import CommandOperator

_SCORED_BY = "score"
_TOLD = ("run_id", "parameters", "model", "rows", "table_version")


def _report(context: Any) -> dict[str, Any]:
    report = context["ti"].xcom_pull(task_ids=_SCORED_BY)
    if not isinstance(report, dict):
        raise AirflowFailException(f"the task {_SCORED_BY} has left no report: clear it, to run it again")
    return report


class Verdict(BaseOperator):  # type: ignore[misc]
    """Say what the run found in its rows; fail where the spec wants a failure of drift. The results are committed.

    A run that failed its quality gate has committed nothing, and is a failure of the task before this one.
    """

    ui_color = "#f0e6c8"

    def execute(self, context: Any) -> dict[str, Any]:
        """Read the report.

        Raises:
            AirflowFailException: the drift gate.
        """
        report = _report(context)
        rows, drift, quality = report["rows"], report["drift"], report["quality"]
        self.log.info(
            "rows %s; quality %s; drift %s", rows, quality or "not checked", drift or "not measured"
        )
        if report["drift_gate"]:
            raise AirflowFailException(
                f"drift gate: {_drifted(drift)}; the results are committed as version {report['table_version']} "
                "and not published"
            )
        return {"quality": quality, "drift": drift}


class Publish(BaseOperator):  # type: ignore[misc]
    """Tell of the partition: an event of the results' asset."""

    ui_color = "#c8d8f0"

    def execute(self, context: Any) -> None:
        """Add what was run to the event."""
        report = _report(context)
        for asset in self.outlets:
            context["outlet_events"][asset].extra.update({name: report[name] for name in _TOLD})


class DriftAlarm(BaseOperator):  # type: ignore[misc]
    """Tell of an alarm: an event of the drift's asset. Skipped where there is none."""

    ui_color = "#f2c4b8"

    def execute(self, context: Any) -> None:
        """Add what has drifted to the event.

        Raises:
            AirflowSkipException: no alarm.
        """
        report = _report(context)
        if not report["drift"].get("alarm"):
            raise AirflowSkipException("no alarm")
        self.log.warning("%s", _drifted(report["drift"]))
        told = {name: report[name] for name in _TOLD} | {"columns": report["drift"]["columns"]}
        for asset in self.outlets:
            context["outlet_events"][asset].extra.update(told)


class DriftLink(BaseOperatorLink):  # type: ignore[misc]
    """The button that leads to a run's pages about drift."""

    name = "Drift report"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Where the operator wrote them; "" for a run that wrote none."""
        return str(getattr(operator, "link", ""))


class DriftReport(CommandOperator):
    """Write the pages about a run's drift into `reports/<run id>/`, and link to them."""

    operator_extra_links = (DriftLink(),)
    ui_color = "#f0e6c8"

    def __init__(
        self,
        *,
        pipeline: str,
        given: Sequence[str],
        folder: str,
        reports: str,
        url: str | None,
        **kwargs: Any,
    ) -> None:
        into = f"{reports.rstrip('/')}/{{{{ ti.xcom_pull(task_ids='{_SCORED_BY}')['run_id'] }}}}"
        super().__init__(
            task_id="drift_report",
            arguments=["drift", pipeline, *given, "--html", into],
            folder=folder,
            **kwargs,
        )
        self.reports = reports
        self.url = url
        self.link = ""

    def execute(self, context: Any) -> None:
        """Write the pages; a run that measured no drift has none."""
        report = _report(context)
        if not report["drift"]:
            raise AirflowSkipException("the run measured no drift")
        super().execute(context)
        self.link = f"{self._base()}/{report['run_id']}/history.html"

    def _base(self) -> str:
        if self.url is not None:
            return self.url.rstrip("/")
        if "://" in self.reports:
            return self.reports.rstrip("/")
        return Path(self.folder, self.reports).resolve().as_uri()


def _drifted(drift: Mapping[str, Any]) -> str:
    named = ", ".join(f"{name} (PSI {psi:.2f})" for name, psi in drift["columns"].items())
    return f"{drift.get('drifted_columns', 0):.0%} of the features have drifted: {named}"
