"""The Spark engine: each unit is one task, one partition of a small DataFrame that goes through `mapInArrow`.

Rows stay out of the JVM: a task gets a unit's number, and gives back its report. Several jobs with a part of the
units each are queued at once, so that reports come while others are at work and no core waits between jobs.
"""

from __future__ import annotations

import math
import os
import pickle
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

import pyarrow as pa

from batchinfer.core import UnitReport, Work, WorkUnit, first_done
from batchinfer.engines._attempts import Attempts, attempt, outcome_of
from batchinfer.engines._spark_session import (
    first_line,
    give_session,
    is_connect,
    master_of,
    on_this_machine,
    take_session,
)
from batchinfer.errors import BatchinferError, MissingExtra, RunFailed, SpecError, Transient, WorkerLost

if TYPE_CHECKING:
    from pyspark.resource import ResourceProfile
    from pyspark.sql import SparkSession

    from batchinfer.spec import EngineSpec

_FEWEST_JOBS, _MOST_JOBS = 3, 12
"""Jobs that are queued at once: so many steps has the progress at least. Spark plans each job anew."""
_MOST_UNITS = 200
"""Units of one job: its tasks each get all of them, and use one."""
_SCHEMA = "place long, outcome binary"


class SparkEngine:
    """Works on units in Spark's Python workers, each of which loads the model once and keeps it.

    Spark retries what dies: a worker process, an executor. What a unit itself reports as an error is data to
    Spark, and dealt with here. Speculative and repeated attempts do no harm: they stage apart.

    Args:
        session: the session; it is given back when the engine is left.
        gpus_per_task: how much of a GPU a unit takes; None for none.
    """

    blocks = None

    def __init__(self, session: SparkSession, gpus_per_task: float | None = None) -> None:
        self.session = session
        self.same_machine = on_this_machine(session)
        self._tries_once = master_of(session).startswith("local[")
        self._profile = _gpu_profile(session, gpus_per_task) if gpus_per_task is not None else None

    @classmethod
    def open(cls, options: EngineSpec) -> Self:
        """The engine as a spec states it; see `open_engine`."""
        session = take_session(options)
        try:
            return cls(session, options.gpus_per_task)
        except BaseException:
            give_session(session)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        give_session(self.session)

    def map(self, work: Work, units: Sequence[WorkUnit]) -> Iterator[UnitReport]:
        """See `Engine.map`. The first error, or an interrupt, cancels what runs on the cluster."""
        payload = pickle.dumps(work)
        tag = f"batchinfer-{uuid.uuid4().hex}"
        attempts = Attempts()
        waiting = list(units)
        size = _units_a_job(len(units))
        running: dict[Future[list[UnitReport | BatchinferError]], list[WorkUnit]] = {}
        with ThreadPoolExecutor(_MOST_JOBS, thread_name_prefix="spark-job") as jobs:
            try:
                while waiting or running:
                    while waiting and len(running) < _MOST_JOBS:
                        part, waiting = waiting[:size], waiting[size:]
                        running[jobs.submit(self._job, payload, part, tag)] = part
                    done = first_done(running)
                    for job in done:
                        part = running.pop(job)
                        for unit, outcome in zip(part, self._outcomes(job, part), strict=True):
                            if isinstance(outcome, UnitReport):
                                yield outcome
                            else:
                                died = isinstance(outcome, WorkerLost) and self._tries_once
                                attempts.failed(unit, outcome, died=died)
                                waiting.append(unit)
            finally:
                while running:  # a job that was not submitted yet is not cancelled by the first call
                    self._cancel(tag)
                    ended, _ = wait(running, timeout=1)
                    for job in ended:
                        del running[job]

    def _job(self, payload: bytes, units: Sequence[WorkUnit], tag: str) -> list[UnitReport | BatchinferError]:
        """Work on some units, as one Spark job; the outcomes in the units' order."""
        pickled = [pickle.dumps(unit) for unit in units]

        def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            yield from _work_on(batches, payload, pickled)

        if is_connect(self.session):  # tags are those of this thread's jobs
            self.session.addTag(tag)
        else:
            self.session.sparkContext.addJobTag(tag)
        count = len(units)
        numbers = self.session.range(0, count, 1, count)  # a partition for each
        rows = numbers.mapInArrow(task, _SCHEMA, profile=self._profile).collect()
        outcomes = {row["place"]: outcome_of(bytes(row["outcome"])) for row in rows}
        return [outcomes[place] for place in range(count)]

    def _outcomes(
        self, job: Future[list[UnitReport | BatchinferError]], part: Sequence[WorkUnit]
    ) -> list[UnitReport | BatchinferError]:
        try:
            return job.result()
        except Exception as e:
            return [_why(e)] * len(part)

    def _cancel(self, tag: str) -> None:
        with suppress(Exception):  # the cluster may be gone, and with it what ran there
            if is_connect(self.session):
                self.session.interruptTag(tag)
            else:
                self.session.sparkContext.cancelJobsWithTag(tag)


def _units_a_job(units: int) -> int:
    """Jobs of up to eight units where there are few, and else as few jobs as show progress."""
    few = math.ceil(units / _MOST_JOBS)
    return min(_MOST_UNITS, max(few, min(8, math.ceil(units / _FEWEST_JOBS))))


def _work_on(
    batches: Iterator[pa.RecordBatch], payload: bytes, units: Sequence[bytes]
) -> Iterator[pa.RecordBatch]:
    """In a Python worker: the units whose numbers come."""
    device = _assigned_device()
    for batch in batches:
        for place in batch.column(0).to_pylist():
            outcome = attempt(payload, units[place], device)
            yield pa.RecordBatch.from_arrays(
                [pa.array([place], pa.int64()), pa.array([outcome], pa.binary())], names=["place", "outcome"]
            )


def _assigned_device() -> str | None:
    """The GPU that Spark gave to this task, by its place among those that this process sees.

    Spark hands out what its discovery script found, which are the machine's own numbers, or UUIDs.
    """
    from pyspark import TaskContext

    context = TaskContext.get()
    gpu = context.resources().get("gpu") if context is not None else None
    return _ordinal(gpu.addresses[0], os.environ.get("CUDA_VISIBLE_DEVICES", "")) if gpu is not None else None


def _ordinal(address: str, visible: str) -> str:
    """The place of an address among the GPUs that `CUDA_VISIBLE_DEVICES` leaves to this process."""
    places = [each.strip() for each in visible.split(",")]
    return str(places.index(address)) if address in places else address


def _gpu_profile(session: SparkSession, gpus: float) -> ResourceProfile | None:
    """What asks Spark for GPUs; None where its own configuration does already.

    Raises:
        SpecError: the cluster has no GPUs to give, or its configuration asks for another number.
    """
    stated = session.conf.get("spark.task.resource.gpu.amount", None)
    if stated is not None:
        if float(stated) != gpus:
            raise SpecError(
                f"engine.gpus_per_task is {gpus:g}, but spark.task.resource.gpu.amount is {stated}",
                next_step="state one of the two",
            )
        return None
    if (
        master_of(session).startswith("local[")
        or session.conf.get("spark.executor.resource.gpu.amount", None) is None
    ):
        raise SpecError(
            f"engine.gpus_per_task is {gpus:g}, but the executors of '{master_of(session)}' have no GPUs",
            next_step="state spark.executor.resource.gpu.amount and its discoveryScript in engine.conf or with "
            "spark-submit; local[…] cannot assign GPUs: see docs/spark.md",
        )
    from pyspark.resource import ResourceProfileBuilder, TaskResourceRequests

    requests = TaskResourceRequests().cpus(1).resource("gpu", gpus)
    profile: ResourceProfile = ResourceProfileBuilder().require(requests).build
    return profile


def _why(error: Exception) -> BatchinferError:
    """What a failed job means."""
    text = str(error)
    if "No module named" in text:
        module = text.partition("No module named")[2].split("\n", 1)[0].strip(" '\"")
        return MissingExtra(
            f"Spark's Python workers lack the module '{module}'",
            next_step="install batchinfer[spark] on the workers, or send it: make pyfiles, and docs/spark.md",
            module=module,
        )
    if "PYTHON_VERSION_MISMATCH" in text:
        return RunFailed(
            f"Spark's workers run another Python than this one: {_line(text, 'PYTHON_VERSION_MISMATCH')}",
            next_step="point PYSPARK_PYTHON at the same version on the workers",
        )
    lost = ("Python worker exited unexpectedly", "ExecutorLostFailure", "EOFException", "Connection reset")
    if any(sign in text for sign in lost):
        return WorkerLost(
            "a worker process died in the middle of a unit, and did so again when the unit was tried anew",
            next_step="often memory ran out: give the workers more, or fewer tasks at a time; see their logs",
            reason=text[:4000],
        )
    gone = ("SparkContext was shut down", "stopped SparkContext", "Connection refused", "UNAVAILABLE")
    if any(sign in text for sign in gone) or type(error).__name__ in {"Py4JNetworkError", "ConnectionError"}:
        return Transient(
            f"the connection to Spark was lost: {_line(text)}",
            next_step="run again: units done so far are reused",
        )
    return RunFailed(f"Spark failed: {_line(text)}", next_step="see the driver's log", reason=text[:4000])


def _line(text: str, sign: str = "") -> str:
    signed = [line.strip() for line in text.splitlines() if sign in line] if sign else [first_line(text)]
    return next(filter(None, signed), "no reason given")
