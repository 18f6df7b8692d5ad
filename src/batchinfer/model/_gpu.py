"""Scoring on a GPU: two lanes in turn, a batch size that was measured there, and what to do when memory ends."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy.typing as npt

from batchinfer.core import BlockMap
from batchinfer.errors import DeviceUnavailable
from batchinfer.model._batch_size import FEW_SIZES, SIZES, BatchSize, smallest_near_best, sweep
from batchinfer.model._cuda import Runtime
from batchinfer.model._devices import Device, cache_folder
from batchinfer.model._feeds import Feed
from batchinfer.model._lane import Lane, has_text, row_bytes
from batchinfer.model._session import OutOfDeviceMemory, Session, SessionRunError

Array = npt.NDArray[Any]
Failures = list[tuple[int, str]]
Run = Callable[[Mapping[str, Feed], int, int], list[Array]]

_log = logging.getLogger("batchinfer.model")

LANES = 2
_MOST_BLOCK_BYTES = 256 * 1024 * 1024
"""The inputs and outputs of one call, in each lane: larger ones gain nothing."""


class GpuRunner:
    """Runs the blocks of a model on one GPU. Thread-safe: all threads share its lanes.

    Args:
        session: the model, opened on the device.
        outputs: the outputs to compute.
        device: the device.
        fixed_rows: rows of a call, where the graph has them fixed.
        digest: the model's, under which the batch size is remembered.
    """

    def __init__(
        self, session: Session, outputs: Sequence[str], device: Device, fixed_rows: int | None, digest: str
    ) -> None:
        used = [spec for spec in session.outputs if spec.name in outputs]
        if has_text([*session.inputs, *used]):
            raise DeviceUnavailable(
                f"{device.title}: the model takes or gives text, which runs on the CPU alone",
                next_step="state engine.device: cpu for this model",
                device=device.name,
                operators=["text"],
            )
        self.device = device
        self.halvings: list[str] = []
        """What was halved, and why: for the run's report."""
        self._session = session
        self._outputs = tuple(outputs)
        self._fixed_rows = fixed_rows
        self._rows = fixed_rows or 0
        self._most_rows = max(1, _MOST_BLOCK_BYTES // max(row_bytes([*session.inputs, *used]), 1))
        self._runtime = Runtime(device.ordinal, session.cuda_version)
        self._remembered = BatchSize.of(
            cache_folder(),
            {
                "model": digest,
                "device": device.name,
                "runtime": session.runtime_version,
                "providers": [[name, dict(options)] for name, options in device.providers],
            },
        )
        self._lock = threading.Lock()
        self._lanes: queue.SimpleQueue[Lane | None] = queue.SimpleQueue()
        for _ in range(LANES):
            self._lanes.put(None)
        self._threads = ThreadPoolExecutor(
            LANES, thread_name_prefix="gpu-lane", initializer=self._runtime.enter
        )

    @property
    def rows(self) -> int:
        """Rows of a call; 0 before the first block was scored."""
        return self._rows

    def score(
        self,
        feeds: Mapping[str, Feed],
        rows: int,
        score_rows: Callable[[Run, int, int], Failures],
        blocks: BlockMap[Any, Any] = map,
    ) -> Failures:
        """Score rows [0, rows) block by block, on the lanes' threads.

        Args:
            feeds: the inputs of these rows.
            rows: how many there are.
            score_rows: scores rows [start, stop) with the given run, from any thread; returns the rows that the
                model cannot score. It may be called again for rows that it has done.
            blocks: maps over the blocks, and may stop it: see `BlockMap`.

        Raises:
            OutOfDeviceMemory: not even one row fits.
            DeviceUnavailable: the GPU failed.
        """
        if not rows:
            return []
        if not self._rows:
            with self._lock:
                if not self._rows:
                    self._rows = self._threads.submit(self._first_size, feeds, rows).result()
        size = self._rows
        tasks = [
            self._threads.submit(self._score_block, feeds, start, min(start + size, rows), score_rows)
            for start in range(0, rows, size)
        ]
        try:
            return [failure for found in blocks(Future.result, tasks) for failure in found]
        finally:
            for task in tasks:
                task.cancel()
            wait(tasks)

    def _score_block(
        self,
        feeds: Mapping[str, Feed],
        start: int,
        stop: int,
        score_rows: Callable[[Run, int, int], Failures],
    ) -> Failures:
        failures: Failures = []
        lane = self._lanes.get()
        try:
            while start < stop:
                size = self._rows
                end = min(start + size, stop)
                try:
                    if lane is None or lane.rows != size:
                        lane = None  # its memory goes before the new one's is taken
                        lane = Lane(self._session, self._outputs, size, self._runtime)
                    failures += score_rows(lane.run, start, end)
                except OutOfDeviceMemory as e:
                    self._halve(size, e)
                    continue
                start = end
        finally:
            self._lanes.put(lane)
        return failures

    def _halve(self, size: int, error: OutOfDeviceMemory) -> None:
        """Go on with half of the rows a call, if another lane has not decided so already."""
        with self._lock:
            if self._rows != size:
                return
            if size == 1 or self._fixed_rows is not None:
                error.next_step = (
                    "give the model a GPU with more memory, raise gpu_mem_limit, or take engine.device: cpu"
                )
                raise error
            self._rows = size // 2
            said = f"{size} rows a call are too many for the memory of {self.device.title}: {self._rows} from now on"
            self.halvings.append(said)
            # Two halvings may follow at once: what is remembered last must be the smaller one.
            self._remembered.write(self._rows, halved_from=size, because=error.message)
        _log.warning("%s (%s)", said, error.message)

    def _first_size(self, feeds: Mapping[str, Feed], rows: int) -> int:
        """What was found for this model on such a device before, else what is found now."""
        if (known := self._remembered.read()) is not None:
            return known
        sizes = FEW_SIZES if any(name == "tensorrt" for name, _ in self.device.providers) else SIZES
        lane: Lane | None = None

        def call_of(size: int) -> Callable[[], object] | None:
            nonlocal lane
            lane = None
            try:
                lane = Lane(self._session, self._outputs, size, self._runtime)
                lane.run(feeds, 0, min(size, rows))  # the first call allocates, and chooses kernels
            except OutOfDeviceMemory as e:
                if size == sizes[0]:
                    return None
                _log.info("%d rows a call do not fit on %s: %s", size, self.device.title, e.message)
                return None
            return lane.call

        try:
            rates = sweep([size for size in sizes if size <= max(self._most_rows, sizes[0])], call_of)
        except SessionRunError:  # a row that the graph refuses; the next batch may have none
            return sizes[1]
        if not rates:
            return sizes[0]  # and it is halved from there
        best = smallest_near_best(rates)
        _log.info("%s: %d rows a call, of rows/s by size %s", self.device.title, best, rates)
        self._remembered.write(best, rows_per_second=rates)
        return best
