"""ONNX Runtime, and nothing else of ours imports it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from batchinfer.errors import MissingExtra, ModelError

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


class Session:
    """One ONNX Runtime session on the CPU: one thread a call, safe to call from many threads at once.

    One thread a call is both the fastest way when many batches are scored at once, and what makes a row's
    bits independent of its batch for trees.

    Args:
        path: the ONNX file; external data beside it is found by ONNX Runtime, which refuses data outside.

    Raises:
        MissingExtra: onnxruntime is not installed.
        ModelError: the graph is corrupt, too new, or of a kind that cannot be fed.
    """

    def __init__(self, path: Path) -> None:
        try:
            import onnxruntime as ort
        except ImportError as e:
            raise MissingExtra(
                "scoring needs ONNX Runtime, which is not installed",
                next_step="pip install 'batchinfer[cpu]', or 'batchinfer[gpu]' on a machine with a GPU",
            ) from e
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        # A row that the graph refuses is reported as such; ONNX Runtime would also print a line for each call.
        options.log_severity_level = 4
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
        self.runtime_version: str = ort.__version__
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
