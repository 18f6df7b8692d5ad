"""The Dask engine: each unit is one future. The scheduler holds the work once, and small tasks."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import socket
import subprocess
import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from batchinfer.core import UnitReport, Work, WorkUnit
from batchinfer.engines._attempts import Attempts, attempt, outcome_of
from batchinfer.errors import (
    BatchinferError,
    MissingExtra,
    RunFailed,
    SpecError,
    Transient,
    WorkerLost,
    needs,
)

with needs("dask", "the Dask engine"):
    from distributed import Client, LocalCluster, WorkerPlugin, as_completed, get_worker
    from distributed.comm import connect, normalize_address, parse_address, parse_host_port
    from distributed.comm.registry import get_backend
    from distributed.scheduler import KilledWorker
    from distributed.security import Security
    from distributed.utils import LoopRunner, sync

if TYPE_CHECKING:
    from distributed import Future

    from batchinfer.spec import EngineSpec

_log = logging.getLogger("batchinfer.engines")

_CONNECT_SECONDS = 20
GPU = "GPU"
"""The resource that Dask's workers offer, by the custom of Dask's own documentation."""


class DaskEngine:
    """Works on units on the workers of a Dask cluster, each process of which loads the model once.

    Dask tries a unit anew on another worker when one dies. What a unit itself reports as an error is data to
    Dask, and dealt with here.

    Args:
        client: connected to the scheduler; it is closed with the engine.
        gpus_per_task: how much of a worker's resource `GPU` a unit takes; None for none.
        cluster: an own cluster, closed with the engine.
    """

    blocks = None

    def __init__(
        self, client: Client, gpus_per_task: float | None = None, cluster: LocalCluster | None = None
    ) -> None:
        self.client = client
        self.same_machine = cluster is not None or _all_here(client)
        self._gpus = gpus_per_task
        self._closing = ExitStack()
        if cluster is not None:
            self._closing.enter_context(cluster)
        self._closing.enter_context(client)

    @classmethod
    def open(cls, options: EngineSpec) -> Self:
        """The engine as a spec states it; see `open_engine`."""
        cluster = None
        if options.address is not None:
            _check_scheduler(options.address)
        else:
            workers, threads, resources = options.n_workers, options.threads_per_worker, {}
            if options.gpus_per_task is not None:
                gpus = _own_gpus(options)
                workers, resources = 1, {GPU: gpus}
                threads = threads or gpus * int(1 / options.gpus_per_task)
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=threads,
                processes=True,
                dashboard_address=":0",
                resources=resources,
            )
        try:
            client = Client(cluster or options.address, timeout=_CONNECT_SECONDS, set_as_default=False)
        except (OSError, TimeoutError) as e:
            raise Transient(
                f"the Dask scheduler at '{options.address}' cannot be reached: {e}",
                next_step="check that it runs and that this machine may connect to it; then run again",
                address=options.address,
            ) from e
        return cls(client, options.gpus_per_task, cluster)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    def map(self, work: Work, units: Sequence[WorkUnit]) -> Iterator[UnitReport]:
        """See `Engine.map`. The first error, or an interrupt, cancels what is not begun on the cluster."""
        name = f"batchinfer-{uuid.uuid4().hex}"
        amount = _amount(self._gpus) if self._gpus is not None else None
        if amount is not None:
            self._check_gpus(amount)
        elif not self._workers():  # Dask itself would wait and say nothing
            _log.warning(
                "the Dask scheduler at %s has no workers: units wait until one comes",
                self.client.scheduler.address,
            )
        attempts = Attempts()
        running: dict[Future, WorkUnit] = {}

        def submit(unit: WorkUnit) -> Future:
            # A key of its own makes each attempt another task.
            future = self.client.submit(
                _work_on,
                name,
                pickle.dumps(unit),
                amount,
                key=f"{name}-{unit.name}-{uuid.uuid4().hex[:8]}",
                resources={GPU: amount} if amount is not None else None,
                pure=False,
            )
            running[future] = unit
            return future

        try:
            self._publish(name, work)
            done = as_completed([submit(unit) for unit in units], loop=self.client.loop)
            for future in done:
                unit = running.pop(future)
                outcome = _outcome(future)
                if isinstance(outcome, UnitReport):
                    yield outcome
                else:
                    attempts.failed(unit, outcome)
                    done.add(submit(unit))
        finally:
            self._forget(name, list(running))

    def _publish(self, name: str, work: Work) -> None:
        try:
            self.client.register_plugin(_WorkPlugin(pickle.dumps(work)), name=name)
        except Exception as e:
            raise _why(e) from e

    def _forget(self, name: str, futures: Sequence[Future]) -> None:
        with suppress(Exception):  # the scheduler may be gone, and what it held
            if futures:
                self.client.cancel(futures, force=True)
            self.client.unregister_worker_plugin(name)

    def _workers(self) -> dict[str, dict[str, Any]]:
        """The workers that there are now, by address."""
        found: dict[str, dict[str, Any]] = self.client.scheduler_info(n_workers=-1)["workers"]
        return found

    def _check_gpus(self, amount: float) -> None:
        """Dask would wait for ever for a resource that no worker offers."""
        workers = self._workers().values()
        if not any(worker["resources"].get(GPU, 0) >= amount for worker in workers):
            raise SpecError(
                f"engine.gpus_per_task asks for {amount:g} of a worker's resource {GPU}, but none of "
                f"{len(workers)} workers offers so much",
                next_step='start the workers with --resources "GPU=1": see docs/dask.md',
            )


class _WorkPlugin(WorkerPlugin):  # type: ignore[misc]
    """Takes the work to each worker, once, and to those that come later: tasks carry its name alone."""

    def __init__(self, payload: bytes) -> None:
        self.payload = payload


def _work_on(plugin: str, unit: bytes, amount: float | None) -> bytes:
    """On a worker: one unit."""
    worker = get_worker()
    payload = worker.plugins[plugin].payload
    if amount is None:
        return attempt(payload, unit, None)
    device = _devices.take(worker.state.total_resources[GPU])
    try:
        return attempt(payload, unit, str(device))
    finally:
        _devices.give(device)


class _Devices:
    """How many tasks are on each of this worker's GPUs. Dask counts a worker's GPUs, but deals out none.

    Dask admits as many tasks as fit on all GPUs together, and all ask for the same share: giving each task the
    GPU with the fewest never puts more on one than fit.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: dict[int, int] = {}

    def take(self, offered: float) -> int:
        """The ordinal of the GPU that has the most room: 0 for the first that the process sees."""
        with self._lock:
            device = min(range(max(1, int(offered))), key=lambda gpu: self._taken.get(gpu, 0))
            self._taken[device] = self._taken.get(device, 0) + 1
        return device

    def give(self, device: int) -> None:
        with self._lock:
            self._taken[device] -= 1


_devices = _Devices()


def _amount(gpus: float) -> float:
    """What a task asks for, so that a whole number of tasks shares a GPU: 0.3 means three on each."""
    return 1 / int(1 / gpus)


def _outcome(future: Future) -> UnitReport | BatchinferError:
    try:
        return outcome_of(future.result())
    except KilledWorker as e:
        return WorkerLost(
            f"a unit was given up: {e}",
            next_step="often memory ran out: give the workers more, or fewer threads; see their logs",
        )
    except Exception as e:
        return _why(e)
    except CancelledError as e:  # no Exception, by descent
        return _why(e)


def _why(error: BaseException) -> BatchinferError:
    """What an error of Dask's own means."""
    if isinstance(error, ModuleNotFoundError):
        return MissingExtra(
            f"Dask's workers lack the module '{error.name}'",
            next_step="install batchinfer[dask] on the workers: see docs/dask.md",
            module=error.name,
        )
    if isinstance(error, CancelledError | OSError | TimeoutError):
        return Transient(
            f"the connection to the Dask scheduler was lost: {error or type(error).__name__}",
            next_step="check the scheduler, and run again: units done so far are reused",
        )
    return RunFailed(f"Dask failed: {type(error).__name__}: {error}", next_step="see the workers' logs")


def _check_scheduler(address: str) -> None:
    """See that a Dask scheduler answers. A client that finds none is half made: thrown away, it waits and prints.

    Raises:
        SpecError: it is no address that Dask can connect to, or Dask's configuration for it lacks something.
        Transient: nobody is there, or somebody else.
    """
    try:
        whole = normalize_address(address)
        get_backend(parse_address(whole)[0])
        if whole.startswith("inproc://"):
            return  # of this very process
        parse_host_port(parse_address(whole)[1])
    except ValueError as e:
        raise SpecError(
            f"engine.address: '{address}' is no address of a Dask scheduler: {e}",
            next_step="write it as tcp://HOST:8786",
            address=address,
        ) from e

    async def greet() -> None:
        there = await connect(whole, timeout=_CONNECT_SECONDS, **Security().get_connection_args("client"))
        await there.close()

    runner = LoopRunner(asynchronous=False)
    runner.start()
    try:
        sync(
            runner.loop, greet, callback_timeout=_CONNECT_SECONDS + 1
        )  # who takes a connection may stay silent
    except TypeError as e:
        raise SpecError(
            f"engine.address: '{address}' needs more of Dask's configuration: {e}",
            next_step="state distributed.comm.tls, as Dask's own documentation says",
            address=address,
        ) from e
    except Exception as e:
        raise Transient(
            f"the Dask scheduler at '{address}' cannot be reached: {str(e.__cause__ or '') or e}",
            next_step="check that one runs there and that this machine may connect to it; then run again",
            address=address,
        ) from e
    finally:
        runner.stop()


def _all_here(client: Client) -> bool:
    """Whether every worker runs on this machine; where there is none yet, whether the scheduler does."""
    told = client.scheduler_info(n_workers=-1)
    hosts = {urlsplit(address).hostname for address in told["workers"] or [told["address"]]}
    return all(host is None or _is_here(host) for host in hosts)


def _is_here(host: str) -> bool:
    """Whether an address is one of this machine's, a network card's too: nobody can listen at another's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, 0), family=family).close()
    except OSError:
        return False
    return True


def _own_gpus(options: EngineSpec) -> int:
    """How many GPUs an own cluster offers: all that this process may use.

    Raises:
        SpecError: there are none, or several processes would have to share them.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None and shutil.which("nvidia-smi"):
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
        visible = ",".join(listed.stdout.splitlines())
    gpus = len([gpu for gpu in (visible or "").split(",") if gpu.strip()])
    if not gpus:
        raise SpecError(
            f"engine.gpus_per_task is {options.gpus_per_task:g}, but this machine has no GPU",
            next_step="take gpus_per_task out, or state the address of a scheduler whose workers have GPUs",
        )
    if (options.n_workers or 1) > 1:
        raise SpecError(
            "engine.n_workers: an own Dask cluster with GPUs is one process, which opens a session on each GPU",
            next_step="take n_workers out, or start a worker for each GPU and state the scheduler's address",
        )
    return gpus
