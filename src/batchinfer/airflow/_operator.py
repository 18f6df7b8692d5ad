"""Operators for a program, for a plan and for a run of a pipeline, each in a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, ClassVar

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from batchinfer.airflow._outcome import digest_of, last_json, outcome_of
from batchinfer.airflow._program import Ended, Program
from batchinfer.secrets import values_without_secrets

DRIFT_GATE = 4
"""The exit code of a run whose results are committed, though the spec wants a failure of their drift."""


class ProgramOperator(BaseOperator):  # type: ignore[misc]
    """Run a program in a process of its own; the JSON object on its last line of output becomes the task's XCom.

    Exit code 0 is success; 2, 3 and 4 fail without a retry, all others fail and are retried (see docs/airflow.md).

    Args:
        arguments: what follows the Python interpreter on the command line; templated.
        folder: the working directory, to which relative paths of specs and data belong.
    """

    template_fields: ClassVar[Sequence[str]] = ("arguments",)
    accepted: ClassVar[frozenset[int]] = frozenset()
    """Exit codes besides 0 that are a success of the task."""
    ui_color = "#d7e8d0"

    def __init__(self, *, arguments: Sequence[str], folder: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.arguments = list(arguments)
        self.folder = folder
        self._program: Program | None = None

    def execute(self, context: Any) -> Any:
        """Run the program to its end.

        Raises:
            AirflowFailException: a retry would end the same.
            AirflowException: a retry may succeed.
        """
        self.log.info("python %s", " ".join(self.arguments))
        self._program = Program([sys.executable, *self.arguments], self.folder)
        ended = self._program.run(self.log.info)
        printed = last_json(ended.output)
        handed_on = None if printed is None else values_without_secrets(self.hand_on(printed, ended.code))
        if ended.code in self.accepted or outcome_of(ended.code) == "done":
            return handed_on
        if handed_on is not None:
            context["ti"].xcom_push(key="return_value", value=handed_on)
        raise failure(self.arguments, ended)

    def hand_on(self, printed: dict[str, Any], code: int) -> dict[str, Any]:
        """What other tasks get of what the program printed, before it ended with this code: all of it."""
        return printed

    def on_kill(self) -> None:
        """End the program with the task."""
        if self._program is not None:
            self._program.stop()


def failure(arguments: Sequence[str], ended: Ended) -> AirflowException:
    """The exception that tells Airflow whether to try again."""
    how = f"ended with exit code {ended.code}" if ended.code >= 0 else f"was ended by signal {-ended.code}"
    kind = AirflowFailException if outcome_of(ended.code) == "give up" else AirflowException
    return kind(f"python {' '.join(arguments)} {how}\n{ended.said}")


class CommandOperator(ProgramOperator):
    """Run a batchinfer command."""

    def __init__(self, *, arguments: Sequence[str], **kwargs: Any) -> None:
        super().__init__(arguments=["-m", "batchinfer", *arguments], **kwargs)


class PlanOperator(CommandOperator):
    """Plan a run. The XCom is the plan without its list of units, which may be long."""

    def hand_on(self, printed: dict[str, Any], code: int) -> dict[str, Any]:
        """The plan's facts, and how many units there are."""
        kept = ("run_id", "pipeline", "parameters", "model", "files", "rows")
        return {name: printed[name] for name in kept} | {"units": len(printed["units"])}


class RunOperator(CommandOperator):
    """Run a pipeline. The XCom is the run's report without the columns' figures, also of a run that failed.

    A run that the drift gate ended is a success here: its results are committed, and the next task judges them.
    """

    accepted = frozenset({DRIFT_GATE})
    ui_color = "#b9dbc8"

    def hand_on(self, printed: dict[str, Any], code: int) -> dict[str, Any]:
        """The report's digest, which also says whether the drift gate has closed."""
        return digest_of(printed, gate=code == DRIFT_GATE)


class Broken(BaseOperator):  # type: ignore[misc]
    """Stands for a pipeline of which no DAG can be made.

    Args:
        why: what the task fails with, each time.
    """

    def __init__(self, *, why: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.why = why

    def execute(self, context: Any) -> None:
        """Fail.

        Raises:
            AirflowFailException: always.
        """
        raise AirflowFailException(self.why)
