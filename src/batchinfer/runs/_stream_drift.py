"""Drift of a stream: profiles of committed micro-batches fold into windows, which land in the history of drift."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from batchinfer.core import Tally
from batchinfer.drift import MeasuredRun, Profile, Thresholds, history_rows, measure
from batchinfer.errors import BatchinferError
from batchinfer.runs._drift import DriftPlan, drift_path, provide_drift
from batchinfer.runs._stream_plan import StreamPlan
from batchinfer.store import append_once
from batchinfer.streaming import MicroBatch

_log = logging.getLogger("batchinfer.stream")


class DriftWindows:
    """Windows of a fixed length by the clock, one profile for each model in them.

    A window is measured and appended by a thread of its own when it has ended; what cannot be appended is tried again
    with the next. `close` appends what there is.

    Raises:
        StoreError, Transient: the history cannot be kept; see `provide_drift`.
    """

    def __init__(self, plan: StreamPlan) -> None:
        self._pipeline, self._length = plan.spec.name, plan.stream.window_seconds
        assert plan.spec.drift is not None
        limits = plan.spec.drift.thresholds
        self._thresholds = Thresholds(limits.psi, limits.drifted_columns)
        self._path = drift_path(plan.spec.output.path)
        provide_drift(plan.spec.output.path)
        self._member = uuid.uuid4().hex[:8]
        self._lock = threading.Lock()
        self._plans: dict[str, tuple[str, DriftPlan]] = {}
        self._open: dict[tuple[int, str], Tally] = {}
        self._psi: dict[str, float] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="drift", daemon=True)
        self.follow(plan)
        self._thread.start()

    @property
    def psi(self) -> Mapping[str, float]:
        """By column, of the last window that was measured."""
        return dict(self._psi)

    def follow(self, plan: StreamPlan) -> None:
        """Micro-batches of this plan's model are held against its reference."""
        if plan.drift is not None:
            with self._lock:
                self._plans[plan.scorer.identity] = (plan.run_id, plan.drift)

    def committed(self, batches: Sequence[MicroBatch]) -> None:
        """Fold the profiles of these into the window of now."""
        window = int(time.time() // self._length)
        with self._lock:
            for batch in batches:
                if batch.profile is not None:
                    key = (window, batch.model)
                    known = self._open.get(key)
                    self._open[key] = batch.profile if known is None else known.merge(batch.profile)

    def _work(self) -> None:
        while not self._closing.wait(min(1.0, self._length / 4)):
            self._append(int(time.time() // self._length))

    def _append(self, before: int | None) -> None:
        """Measure and keep the windows before that one; None for all."""
        with self._lock:
            ended = {
                key: self._open.pop(key) for key in list(self._open) if before is None or key[0] < before
            }
        for (window, model), profile in ended.items():
            run_id, plan = self._plans[model]
            assert isinstance(profile, Profile)
            report = measure(plan.reference, profile, self._thresholds)
            self._psi = {
                name: column.psi for name, column in report.columns.items() if column.psi is not None
            }
            start = datetime.fromtimestamp(window * self._length, UTC)
            name = f"{run_id}-{start:%Y%m%dT%H%M%S}-{self._member}"
            told = {"window": start.isoformat(timespec="seconds")}
            run = MeasuredRun(name, self._pipeline, told, model, None, datetime.now(UTC))
            try:
                append_once(self._path, history_rows(run, report.to_dict()), name)
            except BatchinferError as e:
                _log.warning("the drift of a window was not kept yet: %s", e)
                with self._lock:
                    known = self._open.get((window, model))
                    self._open[(window, model)] = profile if known is None else known.merge(profile)

    def close(self) -> None:
        """Measure and keep the window that is open."""
        self._closing.set()
        self._thread.join()
        self._append(None)
