"""ONNX Runtime, and nothing else of ours imports it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from batchinfer.errors import DeviceUnavailable, ModelError, needs
from batchinfer.model._devices import CPU, PROVIDERS, Device

_DTYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int8)": np.int8,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
    "tensor(uint16)": np.uint16,
    "tensor(uint32)": np.uint32,
    "tensor(uint64)": np.uint64,
    "tensor(bool)": np.bool_,
    "tensor(string)": np.object_,
}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A graph input or output: its dtype (object for strings) and shape; None where a dimension is free."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        kind = "string" if self.dtype == np.object_ else str(self.dtype)
        return f"{kind}[{', '.join('?' if d is None else str(d) for d in self.shape)}]"


class SessionRunError(ModelError):
    """The graph failed on the tensors it was given."""


class OutOfDeviceMemory(ModelError):
    """The device has too little memory for a call of this size."""


class Session:
    """One ONNX Runtime session: one thread a call, safe to call from many threads at once.

    One thread a call is both the fastest way when many batches are scored at once, and what makes a row's
    bits independent of its batch for trees.

    Args:
        path: the ONNX file; external data beside it is found by ONNX Runtime, which refuses data outside.
        device: where it runs. On a GPU the kernels are those that give the same bits each time, if there are
            such, and floats are not rounded to fewer bits, unless the device's options say so.

    Raises:
        MissingExtra: onnxruntime is not installed.
        ModelError: the graph is corrupt, too new, or of a kind that cannot be fed.
        DeviceUnavailable: not all of the graph's work would be done on the GPU.
    """

    def __init__(self, path: Path, device: Device = CPU) -> None:
        ort = _onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        # A row that the graph refuses is reported as such; ONNX Runtime would also print a line for each call.
        options.log_severity_level = 4
        if device.ordinal is None:
            try:
                self._session = ort.InferenceSession(
                    str(path), sess_options=options, providers=["CPUExecutionProvider"]
                )
            except Exception as e:
                raise ModelError(
                    f"{path}: ONNX Runtime {ort.__version__} cannot load this graph: {_first_line(e)}",
                    next_step=_load_hint(str(e)),
                    path=str(path),
                ) from e
        else:
            self._session = _gpu_session(ort, path, options, device)
        self._device = device
        self.runtime_version: str = ort.__version__
        self.cuda_version: str = getattr(ort, "cuda_version", "")
        self.inputs = [_tensor_spec(path, value) for value in self._session.get_inputs()]
        values = self._session.get_outputs()
        self.outputs = [_tensor_spec(path, value) for value in values if value.type in _DTYPES]
        self.unreadable = {value.name: str(value.type) for value in values if value.type not in _DTYPES}
        """Outputs that are no tensors, by name: they cannot be mapped."""

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        """Compute the named outputs.

        Raises:
            SessionRunError: the graph failed on these values.
        """
        try:
            return list(self._session.run(list(outputs), dict(feeds)))
        except Exception as e:
            raise SessionRunError(f"the model failed: {_first_line(e)}") from e

    @property
    def where(self) -> tuple[str, int]:
        """The device's kind and number, as ONNX Runtime has them."""
        return ("cpu", 0) if self._device.ordinal is None else ("cuda", self._device.ordinal)

    def binding(self) -> Any:
        """An `IOBinding` over this session: for one thread at a time."""
        return self._session.io_binding()

    def device_tensor(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Any:
        """An `OrtValue` in the device's memory, uninitialised.

        Raises:
            OutOfDeviceMemory: there is too little.
        """
        try:
            return _onnxruntime().OrtValue.ortvalue_from_shape_and_type(list(shape), dtype, *self.where)
        except Exception as e:
            raise _device_error(e, self._device) from e

    def run_bound(self, binding: Any) -> None:
        """Compute what is bound, and wait until it lies there.

        Raises:
            SessionRunError: the graph failed on these values.
            OutOfDeviceMemory: the device has too little memory for so many rows.
            DeviceUnavailable: the GPU itself failed.
        """
        try:
            binding.synchronize_inputs()
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()
        except Exception as e:
            raise _device_error(e, self._device) from e


def available_providers() -> tuple[str, ...]:
    """What the installed ONNX Runtime was built with.

    Raises:
        MissingExtra: onnxruntime is not installed.
    """
    return tuple(_onnxruntime().get_available_providers())


def _onnxruntime() -> Any:
    with needs("cpu", "ONNX Runtime", or_else="or 'batchinfer[gpu]' on a machine with a GPU"):
        import onnxruntime
    return onnxruntime


_CUDA_DEFAULTS = {
    "use_tf32": "0",  # 10 bits of a float's 23 are another model
    "cudnn_conv_algo_search": "HEURISTIC",  # the others choose by the clock, each time anew
    "arena_extend_strategy": "kSameAsRequested",  # doubling runs into the limit with half of the memory free
}


def _gpu_session(ort: Any, path: Path, options: Any, device: Device) -> Any:
    """A session that does all of the graph's work on the GPU.

    ONNX Runtime by itself goes on with the CPU when a provider cannot be loaded, and for each node that a
    provider has no kernel for, and tells neither: both are looked up.
    """
    said = io.StringIO()
    with contextlib.redirect_stdout(said):  # it prints what it does not find
        ort.preload_dlls()
    options.use_deterministic_compute = True
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    providers = []
    for name, stated in device.providers:
        defaults = _CUDA_DEFAULTS if name == "cuda" else {}
        providers.append((PROVIDERS[name], {"device_id": str(device.ordinal), **defaults, **dict(stated)}))
    try:
        session = ort.InferenceSession(
            str(path), sess_options=options, providers=providers, enable_fallback=0
        )
    except Exception as e:
        raise DeviceUnavailable(
            f"{device.title}: ONNX Runtime {ort.__version__} cannot load the model there: {_first_line(e)}",
            next_step="check engine.provider_options, and the libraries that docs/gpu.md lists",
            device=device.name,
            preload=said.getvalue(),
        ) from e
    held = session.get_providers()
    if lacking := [name for name, _ in device.providers if PROVIDERS[name] not in held]:
        missing = [line.strip() for line in said.getvalue().splitlines() if "Failed to load" in line]
        raise DeviceUnavailable(
            f"{device.title}: ONNX Runtime {ort.__version__} cannot load {lacking[0]}"
            + (f": {missing[0]}" if missing else "; its own log says why"),
            next_step="pip install 'onnxruntime-gpu[cuda,cudnn]' brings CUDA's libraries: see docs/gpu.md",
            device=device.name,
            preload=said.getvalue(),
        )
    if kinds := _work_on_cpu(session):
        raise DeviceUnavailable(
            f"{device.title}: {', '.join(kinds[:5])} of this model would run on the CPU, for want of a kernel",
            next_step="state engine.device: cpu for this model; trees and text run on CPUs alone",
            device=device.name,
            operators=kinds,
        )
    return session


_SHAPE_OPERATORS = {
    *("Add", "Cast", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Expand", "Gather", "Identity"),
    *(
        "Mul",
        "Range",
        "ReduceProd",
        "Reshape",
        "Shape",
        "Size",
        "Slice",
        "Squeeze",
        "Sub",
        "Unsqueeze",
        "Where",
    ),
}
"""CUDA has kernels for all of these. Where ONNX Runtime leaves one on the CPU, it reckons with shapes there."""


def _work_on_cpu(session: Any) -> list[str]:
    """The kinds of operators of a GPU session that do real work on the CPU."""
    return sorted(
        {
            node.op_type
            for part in session.get_provider_graph_assignment_info()
            if part.ep_name == "CPUExecutionProvider"
            for node in part.get_nodes()
        }
        - _SHAPE_OPERATORS
    )


_NO_MEMORY = (
    "failed to allocate memory",
    "is smaller than requested bytes",
    "out of memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "cudaerrormemoryallocation",
)
_GPU_FAILED = ("cuda failure", "cuda error", "cudaerror", "cublas", "cudnn", "cufft")


def _device_error(error: Exception, device: Device) -> ModelError:
    """What ONNX Runtime, which has one kind of error for all, means."""
    text = str(error).lower()
    said = _first_line(error).removeprefix("Error in execution: ")
    if any(sign in text for sign in _NO_MEMORY):
        return OutOfDeviceMemory(f"{device.title}: {said}", device=device.name)
    if any(sign in text for sign in _GPU_FAILED):
        return DeviceUnavailable(
            f"{device.title} failed: {said}",
            next_step="check nvidia-smi and the driver's log (dmesg); a process cannot use a GPU on after this",
            device=device.name,
        )
    return SessionRunError(f"the model failed: {said}")


def _tensor_spec(path: Path, value: Any) -> TensorSpec:
    if value.type not in _DTYPES:
        raise ModelError(
            f"{path}: '{value.name}' has the type {value.type}, which is no tensor that can be fed",
            path=str(path),
            tensor=value.name,
        )
    shape = tuple(d if isinstance(d, int) and d >= 0 else None for d in value.shape)
    return TensorSpec(value.name, np.dtype(_DTYPES[value.type]), shape)


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return text.rpartition("[ONNXRuntimeError] : ")[2]


def _load_hint(text: str) -> str:
    if "opset" in text.lower() or "IR version" in text:
        return "export the model with an older opset, or install a newer onnxruntime"
    if "xternal data" in text:
        return "keep external data beside model.onnx, under a relative path"
    return "check the file with onnx.checker, or export it again"
