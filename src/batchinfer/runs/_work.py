"""A run's work as a value: it travels to other processes, and opens the real worker there, once in each."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from batchinfer.core import (
    BlockMap,
    Checks,
    Profiler,
    RowSample,
    ScoringPath,
    Sensitive,
    Transform,
    TransformSource,
    UnitReport,
    WorkUnit,
    files,
)
from batchinfer.errors import DigestMismatch, SpecError
from batchinfer.model import DeviceOptions, Scorer, read_bundle
from batchinfer.runs._plan import Plan
from batchinfer.runs._quarantine import Original
from batchinfer.runs._worker import Staging, Worker


@dataclass(frozen=True, slots=True)
class RunWork:
    """What workers need to know of a run, wherever they are: `batchinfer.core.Work` for engines with processes.

    Small, and it pickles. `bundle` is where the model lies and `model_digest` what it must be; `device` is what
    the spec says of GPUs; `folder` is the driver's working directory, which relative paths are relative to.
    """

    run_id: str
    folder: str
    bundle: str
    model_digest: str
    device: DeviceOptions
    transform: TransformSource | None
    key: tuple[pa.Field, ...]
    carry: tuple[pa.Field, ...]
    originals: tuple[Original, ...]
    columns: tuple[str, ...] | None
    sample: RowSample | None
    checks: Checks | None
    profiler: Profiler | None
    sensitive: Sensitive
    staging: Staging

    @classmethod
    def of(cls, plan: Plan, staging: Staging, originals: tuple[Original, ...], checks: Checks | None) -> Self:
        """The work of a plan."""
        drift = plan.drift
        return cls(
            run_id=plan.run_id,
            folder=str(Path.cwd()),
            bundle=plan.scorer.bundle.location,
            model_digest=plan.scorer.bundle.manifest.digest,
            device=DeviceOptions.of(plan.spec.engine),
            transform=plan.transform.source if plan.transform is not None else None,
            key=plan.key,
            carry=plan.carry,
            originals=originals,
            columns=plan.columns,
            sample=drift.sample(plan.rows, plan.spec.input.key, plan.sensitive)
            if drift is not None
            else None,
            checks=checks,
            profiler=drift.profiler if drift is not None else None,
            sensitive=plan.sensitive,
            staging=staging,
        )

    def __call__(self, unit: WorkUnit, device: str | None = None, /) -> UnitReport:
        """Score a unit; the first one in a process also loads the model, and its report says so.

        Raises:
            DigestMismatch: the model here is not the one that the run was planned with.
            DeviceUnavailable, MissingExtra: the GPU that was asked for or assigned cannot be used.
            BatchinferError: see `Worker`.
        """
        with files.relative_to(self.folder):
            report = _workers.worker(self, device)(unit)
        return replace(report, model_loads=_workers.take_loads())

    def worker(
        self,
        scorer: Scorer,
        transform: Transform | None,
        blocks: BlockMap[Any, Any],
        on_rows: Callable[[int], None],
    ) -> Worker:
        """The worker that does this work in this process, with what is loaded here; see `Worker`."""
        return Worker(
            run_id=self.run_id,
            path=ScoringPath(
                scorer,
                transform,
                self.key,
                self.carry,
                checks=self.checks,
                profiler=self.profiler,
                sensitive=self.sensitive,
            ),
            columns=self.columns,
            key=tuple(field.name for field in self.key),
            originals=self.originals,
            sample=self.sample,
            sensitive=self.sensitive,
            staging=self.staging,
            blocks=blocks,
            on_rows=on_rows,
            told=scorer.told,
            call_rows=scorer.call_rows if scorer.device.ordinal is not None else None,
        )

    def open(self, device: str | None) -> Worker:
        """The worker, with model and transform loaded here; a model that is loaded already is shared."""
        scorer = _scorer(self.bundle, self.model_digest, self.device, device)
        transform = self.transform.load() if self.transform is not None else None
        return self.worker(scorer, transform, map, _nobody_asks)


def check_visible(plan: Plan, staging: Staging) -> None:
    """Refuse paths of this machine's disk where workers elsewhere must read and write them.

    Raises:
        SpecError: names the key and the path.
    """
    paths = {
        "input.path": plan.input_path,
        **(
            {"BATCHINFER_STAGING": staging.results.parts}
            if plan.spec.output.store == "postgres"
            else {"output.path": plan.output_path}
        ),
        "model": plan.scorer.bundle.location,
    }
    for key, path in paths.items():
        if "://" not in path:
            raise SpecError(
                f"{key}: '{path}' is a path of this machine, and the workers of the "
                f"{plan.spec.engine.kind} engine run on others",
                next_step="write a URL that all of them reach; where a folder is mounted on each under the same "
                "path, write file:///…",
                key=key,
                path=path,
            )


class _Workers:
    """This process' workers and model sessions: each is opened once, though many threads ask for it."""

    _MOST = 8
    """Runs that are at work here at once; a backfill has several days in work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[Any, Worker] = {}
        self._loads = 0

    def worker(self, work: RunWork, device: str | None) -> Worker:
        name = (work.run_id, work.staging.results.receipts, device)
        with self._lock:
            if (known := self._open.pop(name, None)) is None:
                loads_before = _scorer.cache_info().misses
                known = work.open(device)
                self._loads += _scorer.cache_info().misses - loads_before
            self._open[name] = known  # the latest used stand last
            while len(self._open) > self._MOST:
                del self._open[next(iter(self._open))]
        return known

    def take_loads(self) -> int:
        """The sessions opened since the last report that told of them."""
        with self._lock:
            loads, self._loads = self._loads, 0
        return loads


_workers = _Workers()


@lru_cache(maxsize=4)
def _scorer(location: str, digest: str, options: DeviceOptions, assigned: str | None) -> Scorer:
    bundle = read_bundle(location)
    found = bundle.manifest.digest
    if found != digest:
        raise DigestMismatch(
            f"{location}: the worker finds {bundle.identity} with digest {found}, the run was planned with {digest}",
            next_step="give driver and workers one registry; run again if the model was replaced meanwhile",
            path=location,
            expected=digest,
            found=found,
        )
    return Scorer.on(bundle, options, assigned)


def _nobody_asks(rows: int) -> None:
    """Progress is told by the driver, from the reports."""
