"""Model refresh: when the registry's alias has moved, the next micro-batch is scored by the new version."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from batchinfer.errors import BatchinferError, Transient
from batchinfer.runs._stream_plan import StreamPlan, StreamPlanner

_log = logging.getLogger("batchinfer.stream")


class CurrentPlan:
    """The plan that scores now. A thread asks the registry; a version that cannot be loaded leaves the old one."""

    def __init__(
        self, planner: StreamPlanner, plan: StreamPlan, seconds: float, moved: Callable[[StreamPlan], None]
    ) -> None:
        self.now = plan
        self._planner = planner
        self._moved = moved
        self._refused: str | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(seconds,), name="refresh", daemon=True)
        if seconds > 0:
            self._thread.start()

    def _watch(self, seconds: float) -> None:
        while not self._closing.wait(seconds):
            self.refresh()

    def refresh(self) -> None:
        """Ask the registry once."""
        found: str | None = None
        try:
            bundle = self._planner.resolve()
            found = bundle.manifest.digest
            if found in {self.now.scorer.bundle.manifest.digest, self._refused}:
                return
            plan = self._planner.plan(bundle)
            self._moved(plan)
        except Exception as e:  # whatever is wrong with the new version, the old one goes on
            if not isinstance(e, Transient):
                self._refused = found
            _log.error(
                "%s goes on scoring: the registry's model cannot be used: %s",
                self.now.scorer.identity,
                e,
                exc_info=None if isinstance(e, BatchinferError) else e,
            )
        else:
            _log.info(
                "%s scores from now on, in the place of %s", plan.scorer.identity, self.now.scorer.identity
            )
            self.now, self._refused = plan, None

    def close(self) -> None:
        """Ask no more."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
