"""Has the input arrived? Asked once on a worker, then by Airflow's triggerer, which holds no worker meanwhile."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import Any, ClassVar

from airflow.sdk import BaseSensorOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout
from airflow.triggers.base import BaseTrigger, TriggerEvent

from batchinfer.errors import BatchinferError
from batchinfer.secrets import without_secrets
from batchinfer.spec import fill_parameters, load_spec


def arrived(path: str, marker: str | None) -> bool:
    """Whether the input at `path` is there: its marker, else a Parquet file that a run would read.

    Raises:
        UsageError: no such kind of location.
        OSError: it cannot be looked at just now.
    """
    from batchinfer.core import files
    from batchinfer.source import has_parquet

    return has_parquet(path) if marker is None else files.exists(files.join(path, marker))


class InputTrigger(BaseTrigger):  # type: ignore[misc]
    """Looks for an input each `poll_s` seconds until it is there, or `until`, in seconds since 1970, has passed.

    Fires once, and says whether the input has arrived. A location that cannot be looked at is looked at again.
    """

    def __init__(self, path: str, marker: str | None, poll_s: float, until: float) -> None:
        super().__init__()
        self.path = path
        self.marker = marker
        self.poll_s = poll_s
        self.until = until

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """What the triggerer makes it from again."""
        kept = {"path": self.path, "marker": self.marker, "poll_s": self.poll_s, "until": self.until}
        return f"{type(self).__module__}.{type(self).__qualname__}", kept

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look, and wait between two looks."""
        while True:
            try:
                if await asyncio.to_thread(arrived, self.path, self.marker):
                    yield TriggerEvent({"path": self.path, "arrived": True})
                    return
            except OSError as e:
                self.log.warning("cannot look at %s just now: %s", self.path, without_secrets(str(e)))
            left = self.until - time.time()
            if left <= 0:
                yield TriggerEvent({"path": self.path, "arrived": False})
                return
            await asyncio.sleep(min(self.poll_s, left))


class InputSensor(BaseSensorOperator):  # type: ignore[misc]
    """Waits until a run's input has arrived; says where it is as XCom.

    Args:
        pipeline: the spec's folder, below `folder`.
        parameters: the run's parameters, templated.
        folder: the working directory of the run.
        marker: see `schedule.marker`.
        poll_s, wait_s: how often to look, and how long at most.
    """

    template_fields: ClassVar[tuple[str, ...]] = ("parameters",)
    ui_color = "#dfe3ee"

    def __init__(
        self,
        *,
        pipeline: str,
        parameters: Mapping[str, str],
        folder: str,
        marker: str | None,
        poll_s: float,
        wait_s: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(poke_interval=poll_s, timeout=wait_s, **kwargs)
        self.pipeline = pipeline
        self.parameters = dict(parameters)
        self.folder = folder
        self.marker = marker

    def execute(self, context: Any) -> str:
        """Look once, then leave it to the triggerer.

        Raises:
            AirflowFailException: the spec cannot be read, or the location cannot be.
            AirflowSensorTimeout: the input is too late.
        """
        path = self._input()
        try:
            if arrived(path, self.marker):
                return path
        except BatchinferError as e:
            raise AirflowFailException(str(e)) from None
        except OSError as e:
            self.log.warning("cannot look at %s just now: %s", path, without_secrets(str(e)))
        if self.timeout <= 0:
            return self.looked(context, {"path": path, "arrived": False})
        self.log.info("%s is not there yet", path)
        trigger = InputTrigger(path, self.marker, self.poke_interval, time.time() + self.timeout)
        # The trigger ends by itself, with an event that says so; the limit is for a triggerer that hangs.
        grace = timedelta(seconds=self.timeout + self.poke_interval + 600)
        self.defer(trigger=trigger, method_name="looked", timeout=grace)
        raise AssertionError("defer does not return")

    def looked(self, context: Any, event: dict[str, Any]) -> str:
        """Go on when the trigger has fired."""
        path = str(event["path"])
        if not event["arrived"]:
            raise AirflowSensorTimeout(f"{path} has not arrived within {self.timeout:g} s")
        return path

    def _input(self) -> str:
        try:
            spec = load_spec(os.path.join(self.folder, self.pipeline))  # noqa: PTH118 - a text for messages
            path = fill_parameters(spec.input.path, self.parameters, key="input.path")
        except BatchinferError as e:
            raise AirflowFailException(str(e)) from None
        return path if "://" in path else os.path.join(self.folder, path)  # noqa: PTH118
