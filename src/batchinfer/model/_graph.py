"""The ONNX file itself, before it becomes a bundle: what it is, what lies outside it, and its class maps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from batchinfer.errors import MissingExtra, ModelError


@dataclass(frozen=True, slots=True)
class Graph:
    """A parsed graph. `classes` holds, by output, the class labels of a matrix that a ZipMap node made a map of."""

    content: bytes
    external_files: tuple[str, ...]
    classes: dict[str, tuple[int | str, ...]]
    opset: int


def read_graph(path: Path) -> Graph:
    """Parse an ONNX file, unwrap its maps, and list the files that hold its external data.

    scikit-learn exports end in a ZipMap node by default: one dictionary a row, built in Python. The matrix
    in front of it holds the same probabilities, so it becomes the output, and the keys are kept as classes.

    Raises:
        MissingExtra: the onnx package is not installed.
        ModelError: no such file, not ONNX, a pickle, or external data outside the model's folder.
    """
    try:
        import onnx
    except ImportError as e:
        raise MissingExtra(
            "reading an ONNX graph needs the onnx package, which is not installed",
            next_step="pip install 'batchinfer[cpu]'",
        ) from e
    try:
        content = path.read_bytes()
    except OSError as e:
        raise ModelError(f"{path}: cannot read the model: {e.strerror}", path=str(path)) from e
    _refuse_pickles(path, content)
    try:
        model = onnx.load_model_from_string(content)
        if not model.graph.output:
            raise ValueError("the graph has no output")
    except Exception as e:
        raise ModelError(
            f"{path}: not an ONNX model: {e}",
            next_step="export the model to ONNX first: see docs/models.md",
            path=str(path),
        ) from e
    classes = _unwrap_maps(model)
    return Graph(
        content=model.SerializeToString() if classes else content,
        external_files=_external_files(model, path),
        classes=classes,
        opset=max((o.version for o in model.opset_import if o.domain in {"", "ai.onnx"}), default=0),
    )


def _refuse_pickles(path: Path, content: bytes) -> None:
    pickled = content[:1] == b"\x80" and content[1:2] in {b"\x02", b"\x03", b"\x04", b"\x05"}
    if pickled or content[:4] == b"PK\x03\x04":
        raise ModelError(
            f"{path}: this is a pickle or a PyTorch archive; loading one can run any code, so none is loaded",
            next_step="export the model to ONNX first: see docs/models.md",
            path=str(path),
        )


def _unwrap_maps(model: Any) -> dict[str, tuple[int | str, ...]]:
    classes: dict[str, tuple[int | str, ...]] = {}
    for node in [n for n in model.graph.node if n.op_type == "ZipMap"]:
        output = next((o for o in model.graph.output if o.name == node.output[0]), None)
        if output is None:
            continue
        labels: list[int | str] = []
        for attribute in node.attribute:
            labels += [*attribute.ints, *(text.decode() for text in attribute.strings)]
        model.graph.node.remove(node)
        _rename_tensor(model, node.input[0], output.name)
        output.type.Clear()
        output.type.tensor_type.elem_type = 1  # ZipMap maps to float
        output.type.tensor_type.shape.dim.add().dim_param = "N"
        output.type.tensor_type.shape.dim.add().dim_value = len(labels)
        classes[output.name] = tuple(labels)
    return classes


def _rename_tensor(model: Any, old: str, new: str) -> None:
    for node in model.graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new


def _external_files(model: Any, path: Path) -> tuple[str, ...]:
    names = {
        entry.value
        for tensor in _tensors(model.graph)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    root = path.parent.resolve()
    for name in sorted(names):
        relative = PurePosixPath(name)
        target = (root / name).resolve()
        if relative.is_absolute() or ".." in relative.parts or not target.is_relative_to(root):
            raise ModelError(
                f"{path}: external data '{name}' lies outside the model's folder",
                next_step="save the model with its external data beside it, under a relative path",
                path=str(path),
                external=name,
            )
        if not target.is_file():
            raise ModelError(f"{path}: external data '{name}' is missing", path=str(path), external=name)
    return tuple(sorted(names))


def _tensors(graph: Any) -> list[Any]:
    found = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                found.append(attribute.t)
            found += attribute.tensors
            for subgraph in [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs:
                found += _tensors(subgraph)
    return found
