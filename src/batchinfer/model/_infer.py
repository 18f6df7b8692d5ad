"""What the graph's own names and shapes say of its mappings, and what must be asked for."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from batchinfer.errors import ModelError
from batchinfer.model._manifest import InputMapping, OutputMapping
from batchinfer.model._session import Session, TensorSpec

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
    unclear = [s for s in session.inputs if s.name not in stated and s.name not in sample.names]
    if unclear:
        raise _ask(unclear, sample)
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


def _ask(unclear: list[TensorSpec], sample: pa.Schema) -> ModelError:
    spec = unclear[0]
    numbers = [f.name for f in sample if pa.types.is_integer(f.type) or pa.types.is_floating(f.type)]
    width = spec.shape[1] if len(spec.shape) == 2 else None
    if width is not None and width > 1:
        some = numbers if len(numbers) == width else [*numbers[: max(width - 1, 1)], "…"]
        example = f"{spec.name}: {{pack: [{', '.join(some)}]}}"
    else:
        example = f"{spec.name}: {{column: {sample.names[0] if sample.names else 'NAME'}}}"
    return ModelError(
        f"input '{spec.name}' ({spec}): no column of the sample has this name, so say what feeds it",
        next_step=f"write a config and pass it with --config:\n    inputs:\n      {example}",
        input=spec.name,
    )


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
    if unknown := sorted(stated.keys() - set(names)):
        raise ModelError(
            f"the graph has no output '{unknown[0]}'; it has {', '.join(names)}", output=unknown[0]
        )
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
