"""The ONNX file itself, before it becomes a bundle: what it is, what lies outside it, and its class maps."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from batchinfer.errors import ModelError, needs

_MISSING_VALUE_OPS = {"TreeEnsembleClassifier", "TreeEnsembleRegressor", "TreeEnsemble", "Imputer", "IsNaN"}
"""The operators that say what a NaN means. Others hand it on, or swallow it by chance (ArgMax, Clip)."""


@dataclass(frozen=True, slots=True)
class Graph:
    """A parsed graph.

    Attributes:
        content: the file, with its ZipMap nodes taken out.
        external_files: the files of its external data, relative to its folder.
        classes: by output, the class labels of a matrix that a ZipMap node made a map of.
        handles_missing: whether an operator of the graph gives NaN a meaning.
    """

    content: bytes
    external_files: tuple[str, ...]
    classes: dict[str, tuple[int | str, ...]]
    handles_missing: bool


def read_graph(path: Path) -> Graph:
    """Parse an ONNX file, unwrap its maps, and list the files that hold its external data.

    scikit-learn exports end in a ZipMap node by default: one dictionary a row, built in Python. The matrix
    in front of it holds the same probabilities, so it becomes the output, and the keys are kept as classes.

    Raises:
        MissingExtra: the onnx package is not installed.
        ModelError: no such file, not ONNX, a pickle, or external data outside the model's folder.
    """
    with needs("cpu", "reading an ONNX graph"):
        import onnx
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
        handles_missing=any(node.op_type in _MISSING_VALUE_OPS for node in _all_nodes(model)),
    )


def without_outputs(content: bytes, keep: Collection[str]) -> bytes:
    """The graph with only the outputs in `keep`, and only the nodes that they need.

    ONNX Runtime runs every node of a graph, whichever outputs are asked for.
    """
    import onnx

    model = onnx.load_model_from_string(content)
    graph = model.graph
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output}
    needed: set[int] = set()
    wanted = list(keep)
    while wanted:
        index = makers.get(wanted.pop())
        if index is not None and index not in needed:
            needed.add(index)
            wanted += _names_read(graph.node[index])
    nodes = [node for index, node in enumerate(graph.node) if index in needed]
    outputs = [output for output in graph.output if output.name in keep]
    del graph.node[:], graph.output[:]
    graph.node.extend(nodes)
    graph.output.extend(outputs)
    return bytes(model.SerializeToString())


def _names_read(node: Any) -> list[str]:
    names = [name for name in node.input if name]
    for subgraph in _subgraphs(node):
        names += [output.name for output in subgraph.output]
        for inner in subgraph.node:
            names += _names_read(inner)
    return names


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
    for node in model.graph.node:
        if node.op_type != "ZipMap":
            continue
        output = next((o for o in model.graph.output if o.name == node.output[0]), None)
        if output is None:
            continue
        labels: list[int | str] = []
        for attribute in node.attribute:
            labels += [*attribute.ints, *(text.decode() for text in attribute.strings)]
        node.op_type, node.domain = "Identity", ""
        del node.attribute[:]
        output.type.Clear()
        output.type.tensor_type.elem_type = 1  # ZipMap maps to float
        output.type.tensor_type.shape.dim.add().dim_param = "N"
        output.type.tensor_type.shape.dim.add().dim_value = len(labels)
        classes[output.name] = tuple(labels)
    if classes and not any(opset.domain in {"", "ai.onnx"} for opset in model.opset_import):
        model.opset_import.add(domain="", version=13)  # Identity's
    return classes


def _external_files(model: Any, path: Path) -> tuple[str, ...]:
    names = {
        entry.value
        for tensor in _all_tensors(model)
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
    return tuple(sorted({PurePosixPath(name).as_posix() for name in names}))


def _all_tensors(model: Any) -> Iterator[Any]:
    for graph in _all_graphs(model):
        yield from graph.initializer
        yield from _dense_parts(graph.sparse_initializer)
    for node in _all_nodes(model):
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            yield from _dense_parts([attribute.sparse_tensor, *attribute.sparse_tensors])


def _dense_parts(sparse_tensors: Any) -> Iterator[Any]:
    for sparse in sparse_tensors:
        yield sparse.values
        yield sparse.indices


def _all_nodes(model: Any) -> Iterator[Any]:
    """Every node: of the graph, of the model's functions, and of all graphs within nodes."""
    waiting = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += [inner for subgraph in _subgraphs(node) for inner in subgraph.node]


def _all_graphs(model: Any) -> Iterator[Any]:
    yield model.graph
    for node in _all_nodes(model):
        yield from _subgraphs(node)


def _subgraphs(node: Any) -> list[Any]:
    return [
        graph
        for attribute in node.attribute
        for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
    ]
