"""What the graph's own names and shapes say of its mappings, and what must be asked for."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pyarrow as pa

from batchinfer.errors import ModelError
from batchinfer.model._manifest import InputMapping, OutputMapping, Scalar
from batchinfer.model._session import Session, TensorSpec
from batchinfer.model._tensors import is_list

_MOST_COLUMNS = 16
"""A matrix output of at most this many values a row becomes columns, a wider one a vector."""


def infer_inputs(
    session: Session, stated: dict[str, InputMapping], sample: pa.Schema
) -> dict[str, InputMapping]:
    """A mapping for each graph input: as stated, else the column of the same name.

    Raises:
        ModelError: a stated input is not in the graph, or one cannot be inferred; shows what to write.
    """
    names = [spec.name for spec in session.inputs]
    if unknown := sorted(stated.keys() - set(names)):
        raise ModelError(
            f"the graph has no input '{unknown[0]}'; it has {', '.join(names)}", input=unknown[0]
        )
    for name, mapping in stated.items():
        _check_mask(name, mapping, stated)
    for spec in session.inputs:
        if spec.name in stated:
            _check_values(spec, stated[spec.name])
    unclear = [s for s in session.inputs if s.name not in stated and s.name not in sample.names]
    if unclear:
        raise _ask(unclear, sample, stated)
    inferred = {
        spec.name: _infer_input(spec, sample.field(spec.name))
        for spec in session.inputs
        if spec.name not in stated
    }
    return {name: stated.get(name) or inferred[name] for name in names}


def _check_mask(name: str, mapping: InputMapping, stated: dict[str, InputMapping]) -> None:
    if mapping.mask_of is None:
        return
    masked = stated.get(mapping.mask_of)
    if masked is None or masked.pad is None:
        raise ModelError(
            f"input '{name}' is the mask of '{mapping.mask_of}', which is no padded input",
            next_step=f"state it in the config: {mapping.mask_of}: {{column: …, pad: 0}}",
        )


def _infer_input(spec: TensorSpec, field: pa.Field) -> InputMapping:
    kind = field.type
    varying = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if varying and len(spec.shape) == 2 and spec.shape[1] is None:
        return InputMapping(column=field.name, pad=0)
    if pa.types.is_fixed_size_list(kind) and any(d is None for d in spec.shape[1:]):
        return InputMapping(column=field.name, shape=(kind.list_size,))
    return InputMapping(column=field.name)


def _check_values(spec: TensorSpec, mapping: InputMapping) -> None:
    """Hold what a mapping states against the tensor that it is for: values that fit, as many columns as it has."""
    for key in ("constant", "pad", "fill_null"):
        value = getattr(mapping, key)
        if value is not None and not _fits(value, spec.dtype):
            raise ModelError(f"input '{spec.name}' ({spec}) cannot hold {key}: {value!r}", input=spec.name)
    width = spec.shape[1] if len(spec.shape) == 2 else None
    if mapping.pack is not None and width not in {None, len(mapping.pack)}:
        raise ModelError(
            f"input '{spec.name}' ({spec}) takes {width} columns, but pack names {len(mapping.pack)}",
            next_step="pack the columns that the model was trained on, in the same order",
            input=spec.name,
        )


def _fits(value: Scalar, dtype: np.dtype[Any]) -> bool:
    if dtype == np.object_ or isinstance(value, str):
        return dtype == np.object_ and isinstance(value, str)
    if dtype.kind == "b":
        return value in {0, 1}
    if dtype.kind == "f":
        return not math.isfinite(value) or abs(value) <= float(np.finfo(dtype).max)
    limits = np.iinfo(dtype)
    return math.isfinite(value) and value == int(value) and limits.min <= value <= limits.max


def _ask(unclear: list[TensorSpec], sample: pa.Schema, stated: dict[str, InputMapping]) -> ModelError:
    lines = [
        f"{name}: {json.dumps(mapping.model_dump(exclude_none=True), ensure_ascii=False)}"
        for name, mapping in stated.items()
    ]
    padded = next((name for name, mapping in stated.items() if mapping.pad is not None), None)
    for spec in unclear:
        lines.append(f"{spec.name}: {_example(spec, sample, padded)}")
        if padded is None and "pad:" in lines[-1]:
            padded = spec.name
    return ModelError(
        f"input '{unclear[0].name}' ({unclear[0]}): no column of the sample has this name, so say what feeds it",
        next_step="write a config like this, check it, and pass it with --config:\n    inputs:\n      "
        + "\n      ".join(lines),
        input=unclear[0].name,
    )


def _example(spec: TensorSpec, sample: pa.Schema, padded: str | None) -> str:
    """What may feed an input, in the config's own words: the columns of the sample that could."""
    lists = [f for f in sample if is_list(f.type)]
    texts = [f.name for f in sample if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
    numbers = [f.name for f in sample if pa.types.is_integer(f.type) or pa.types.is_floating(f.type)]
    flags = [f.name for f in sample if pa.types.is_boolean(f.type)]
    several = len(spec.shape) > 1 and any(d != 1 for d in spec.shape[1:])
    if several and lists:
        if len(spec.shape) == 2 and spec.shape[1] is None:
            if padded is not None and "mask" in spec.name.lower():
                return f"{{mask_of: {padded}}}"
            if spec.dtype.kind in "iu":
                return f"{{column: {lists[0].name}, pad: 0}}"
        row = ", ".join(str(d or "SIZE") for d in spec.shape[1:])
        if len(spec.shape) > 2 or spec.shape[1] is not None:
            return f"{{column: {lists[0].name}, shape: [{row}]}}"
    fitting = texts if spec.dtype == np.object_ else flags if spec.dtype.kind == "b" else numbers
    if several and len(spec.shape) == 2:
        if spec.shape[1] in {None, len(fitting)}:
            return f"{{pack: [{', '.join(fitting)}]}}"
        return f"{{pack: [...]}}   # the {spec.shape[1]} of the training, in its order: {', '.join(fitting)}"
    return f"{{column: {(fitting or sample.names or ['NAME'])[0]}}}"


def check_outputs(session: Session, stated: dict[str, OutputMapping]) -> None:
    """Hold the config's outputs against the graph's.

    Raises:
        ModelError: an output is not in the graph, or is no tensor.
    """
    names = [spec.name for spec in session.outputs]
    for name in stated:
        if name in session.unreadable:
            kind = session.unreadable[name]
            raise ModelError(f"output '{name}' is a {kind}, which cannot become columns", output=name)
        if name not in names:
            raise ModelError(f"the graph has no output '{name}'; it has {', '.join(names)}", output=name)


def infer_outputs(
    session: Session,
    stated: dict[str, OutputMapping],
    classes: dict[str, tuple[int | str, ...]],
    sizes: dict[str, int],
) -> dict[str, OutputMapping]:
    """A mapping for each output: those stated if any are, else all of them, named after the outputs.

    Args:
        session: the graph.
        stated: mappings of the config.
        classes: class labels by output, where the graph told them.
        sizes: values a row by output, as a call on the sample gave them.
    """
    names = [spec.name for spec in session.outputs]
    mappings = stated or {name: _infer_output(name, classes.get(name), sizes[name]) for name in names}
    return {name: _with_facts(mapping, classes.get(name), sizes[name]) for name, mapping in mappings.items()}


def _infer_output(name: str, classes: tuple[int | str, ...] | None, size: int) -> OutputMapping:
    if size == 1 and classes is None:
        return OutputMapping(column=name)
    if classes is None and size > _MOST_COLUMNS:
        return OutputMapping(column=name)
    labels = classes if classes is not None else range(size)
    return OutputMapping(columns=tuple(f"{name}_{label}" for label in labels))


def _with_facts(mapping: OutputMapping, classes: tuple[int | str, ...] | None, size: int) -> OutputMapping:
    facts: dict[str, Any] = {}
    if classes is not None:
        facts["classes"] = classes
    if size > 1:
        facts["size"] = size
    return mapping.model_copy(update=facts)
