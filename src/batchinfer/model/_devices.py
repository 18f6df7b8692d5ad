"""Where a model is scored: on the CPU, or on the GPU that the engine assigned or the machine has."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from batchinfer.errors import BatchinferError, DeviceUnavailable, MissingExtra
from batchinfer.model._cuda import Gpu, visible_gpus

if TYPE_CHECKING:
    from batchinfer.spec import EngineSpec

_log = logging.getLogger("batchinfer.model")

Options = tuple[tuple[str, str], ...]
"""A provider's options by name, as ONNX Runtime takes them."""
PROVIDERS = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """What a spec says of devices, as a value that travels: see `EngineSpec` for each."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    providers: tuple[tuple[str, Options], ...] = (("cuda", ()),)
    fallback: Literal["fail", "cpu"] = "fail"
    tolerance: float = 1e-3

    @classmethod
    def of(cls, engine: EngineSpec) -> Self:
        """What a spec's engine section says."""
        stated = engine.provider_options
        return cls(
            device=engine.device,
            providers=tuple(
                (name, tuple(sorted((key, _text(value)) for key, value in stated.get(name, {}).items())))
                for name in engine.providers
            ),
            fallback=engine.fallback,
            tolerance=engine.tolerance,
        )


def _text(value: str | float | bool) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


@dataclass(frozen=True, slots=True)
class Device:
    """What a session is opened on.

    Attributes:
        name: `cpu`, or the GPU's own name.
        ordinal: the GPU among those that the process sees; None for the CPU.
        providers: ONNX Runtime's execution providers, with what the spec says of them, in order.
        note: why this is the CPU, where a GPU was thought of.
    """

    name: str
    ordinal: int | None = None
    providers: tuple[tuple[str, Options], ...] = ()
    note: str = ""

    @property
    def title(self) -> str:
        """As reports tell it: `cpu`, or `NVIDIA H200 (cuda)`."""
        return (
            f"{self.name} ({', '.join(name for name, _ in self.providers)})" if self.providers else self.name
        )


CPU = Device("cpu")


def choose_device(
    options: DeviceOptions,
    assigned: str | None,
    available: Sequence[str],
    gpus: Callable[[], Sequence[Gpu]] = visible_gpus,
) -> Device:
    """The device of this process that a spec and an engine ask for.

    Args:
        options: what the spec says.
        assigned: the GPU that the engine gave to this task: its ordinal among those that the process sees, or
            its UUID. None where it gave none.
        available: the providers that the installed ONNX Runtime was built with.
        gpus: the GPUs that this process sees.

    Raises:
        MissingExtra: a GPU is asked for, and ONNX Runtime was built without.
        DeviceUnavailable: a GPU is asked for, and there is none, or not this one.
    """
    if options.device == "cpu":
        return CPU
    if not is_asked(options, assigned) and PROVIDERS["cuda"] not in available:
        return CPU
    try:
        _check_built(options, available)
        gpu = _find(assigned, gpus())
    except (MissingExtra, DeviceUnavailable) as e:
        if not is_asked(options, assigned):
            return CPU
        return fallen_back(options, e)
    return Device(gpu.name, gpu.ordinal, options.providers)


def is_asked(options: DeviceOptions, assigned: str | None) -> bool:
    """Whether a GPU was asked for in so many words, and the CPU is no substitute."""
    return options.device == "cuda" or (options.device == "auto" and assigned is not None)


def fallen_back(options: DeviceOptions, error: BatchinferError) -> Device:
    """The CPU, where the spec allows it in a GPU's place; it is logged, and in the run's report.

    Raises:
        BatchinferError: the error itself, where the spec does not.
    """
    if options.fallback != "cpu":
        raise error
    note = f"engine.fallback: the CPU in a GPU's place: {error.message}"
    _log.warning("%s", note)
    return Device("cpu", note=note)


def _check_built(options: DeviceOptions, available: Sequence[str]) -> None:
    lacking = [name for name, _ in options.providers if PROVIDERS[name] not in available]
    if lacking:
        raise MissingExtra(
            f"the installed ONNX Runtime was built without {lacking[0]}; it has {', '.join(available)}",
            next_step="pip uninstall onnxruntime onnxruntime-gpu, then pip install 'batchinfer[gpu]': the two "
            "packages install the same module, so there must be one of them; or state engine.device: cpu",
            extra="gpu",
            provider=lacking[0],
        )


def _find(assigned: str | None, gpus: Sequence[Gpu]) -> Gpu:
    if not gpus:
        raise DeviceUnavailable(
            "a GPU is to score, but this process sees none",
            next_step="check nvidia-smi and CUDA_VISIBLE_DEVICES here, or state engine.device: cpu",
        )
    for gpu in gpus:
        if assigned in {None, str(gpu.ordinal)} or (assigned and assigned.endswith(gpu.uuid)):
            return gpu
    raise DeviceUnavailable(
        f"the engine assigned GPU '{assigned}', but this process sees {len(gpus)}: 0 to {len(gpus) - 1}",
        next_step="check the discovery script of the cluster, and CUDA_VISIBLE_DEVICES of the worker",
        assigned=assigned,
    )


def cache_folder() -> Path:
    """Where this user's machine remembers what it measured: BATCHINFER_CACHE, else the user's cache."""
    if stated := os.environ.get("BATCHINFER_CACHE"):
        return Path(stated)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "batchinfer"
