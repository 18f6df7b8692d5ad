"""From an ONNX file and a sample of rows to a bundle in the registry: checked, measured, sealed."""

from __future__ import annotations

import difflib
import math
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batchinfer.core import views
from batchinfer.errors import InputError, ModelError, UsageError
from batchinfer.model._bundle import GRAPH, MANIFEST, PROFILE, REFERENCE, Bundle, file_digest, write_manifest
from batchinfer.model._certify import Candidate, certify, find_nan_columns, repeated
from batchinfer.model._graph import Graph, read_graph, without_outputs
from batchinfer.model._infer import check_outputs, infer_inputs, infer_outputs
from batchinfer.model._manifest import Certificate, InputMapping, Manifest, ModelConfig, Padding
from batchinfer.model._registry import Registry, check_alias
from batchinfer.model._scorer import Scorer
from batchinfer.model._session import Session
from batchinfer.model._tensors import take_rows
from batchinfer.spec import read_yaml, validate

_SAMPLE_ROWS = 8192
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def add_model(
    name: str,
    *,
    onnx: str | Path,
    sample: str | Path,
    config: str | Path | Mapping[str, Any] | None = None,
    describe: Callable[[Scorer, Path], object] | None = None,
    registry: str | None = None,
    alias: str | None = None,
) -> Bundle:
    """Make a bundle of an ONNX model and put it into a registry as its next version.

    The model is scored on the sample in many batch sizes and orders; what that shows (batch size, padding
    rule, which columns may be missing) is the bundle's certificate, which the scoring path obeys.

    Args:
        name: the model's name in the registry.
        onnx: the ONNX file; external data lies beside it.
        sample: a Parquet file of rows as the model will see them; up to 8,192 are used.
        config: mappings that cannot be inferred and training facts, as a YAML file or a mapping.
        describe: writes into the bundle's folder, beside the graph, what shows the data that the model was
            trained on; is given the model as it will score. `batchinfer.runs.add_model` does so.
        registry: see `Registry`.
        alias: an alias to point at the new version, as `champion`.

    Raises:
        ModelError: the graph, the config or the name is unusable; says why.
        InputError: the sample does not fit the model.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"'{name}' cannot be a model's name: use letters, digits, '.', '_' and '-'")
    if alias is not None:
        check_alias(alias)
    stated = _read_config(config)
    rows = _read_sample(Path(sample))
    graph = read_graph(Path(onnx))
    home = Registry(registry)
    with tempfile.TemporaryDirectory(prefix="batchinfer-model-") as temporary:
        folder = Path(temporary)
        _lay_out(folder, Path(onnx), graph)
        try:
            candidate, certificate = _measure(folder / GRAPH, stated, graph, rows)
        except ModelError as e:
            raise _of_file(e, folder / GRAPH, Path(onnx)) from e
        manifest = Manifest(
            name=name,
            version="0",
            inputs=candidate.inputs,
            outputs=candidate.outputs,
            training=stated.training,
            certificate=certificate,
            files={},
        )
        if describe is not None:
            describe(Scorer(Bundle(str(folder), manifest), candidate.scorer(certificate)), folder)
        digests = {
            p.relative_to(folder).as_posix(): file_digest(p) for p in sorted(folder.rglob("*")) if p.is_file()
        }

        def write(target: Path, version: str) -> None:
            shutil.copytree(folder, target, dirs_exist_ok=True)
            write_manifest(target, manifest.model_copy(update={"version": version, "files": digests}))

        bundle = home.put(name, write)
    if alias is not None:
        home.set_alias(name, alias, bundle.manifest.version)
    return bundle


def _read_config(config: str | Path | Mapping[str, Any] | None) -> ModelConfig:
    if config is None:
        return ModelConfig()
    if isinstance(config, Mapping):
        return validate(ModelConfig, config, name="config", error=ModelError)
    try:
        text = Path(config).read_text(encoding="utf-8")
    except OSError as e:
        raise UsageError(f"{config}: cannot read the config: {e.strerror}", path=str(config)) from e
    document = read_yaml(text, name=config, error=ModelError)
    return validate(ModelConfig, document, name=config, error=ModelError)


def _read_sample(path: Path) -> pa.RecordBatch:
    batches: list[pa.RecordBatch] = []
    try:
        with pq.ParquetFile(path) as file:
            for batch in map(views.free_batch, file.iter_batches(_SAMPLE_ROWS)):
                batches.append(batch)
                if sum(b.num_rows for b in batches) >= _SAMPLE_ROWS:
                    break
    except (OSError, pa.ArrowException) as e:
        raise InputError(f"{path}: cannot read the sample: {e}", path=str(path)) from e
    table = pa.Table.from_batches(batches).slice(0, _SAMPLE_ROWS) if batches else None
    if table is None or not table.num_rows:
        raise InputError(f"{path}: the sample has no rows", path=str(path))
    return table.combine_chunks().to_batches()[0]


def _of_file(error: ModelError, copy: Path, onnx: Path) -> ModelError:
    """The error with the name of the file that was given, in place of the copy's that is gone by then."""
    fields = {name: str(onnx) if value == str(copy) else value for name, value in error.fields.items()}
    return type(error)(error.message.replace(str(copy), str(onnx)), next_step=error.next_step, **fields)


def _lay_out(folder: Path, onnx: Path, graph: Graph) -> None:
    (folder / GRAPH).write_bytes(graph.content)
    for external in graph.external_files:
        if external in {GRAPH, MANIFEST, PROFILE, REFERENCE}:
            raise ModelError(f"{onnx}: external data may not be called '{external}'", path=str(onnx))
        target = folder / external
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(onnx.parent / external, target)


def _measure(
    path: Path, stated: ModelConfig, graph: Graph, sample: pa.RecordBatch
) -> tuple[Candidate, Certificate]:
    """Infer what was not stated, take out of the graph at `path` what no mapped output needs, and certify it."""
    session = Session(path)
    inputs = infer_inputs(session, stated.inputs, sample.schema)
    whole = Candidate(session, inputs, {}, _fixed_rows(session, inputs))
    if not any(mapping.columns for mapping in inputs.values()):
        raise ModelError("no input of the graph is fed from a column", next_step="map one in the config")
    named = list(dict.fromkeys(c for mapping in inputs.values() for c in mapping.columns))
    _check_named(named, sample.schema.names)
    sample = sample.select(named)
    takes_nan = _find_nan_columns(whole, sample) if graph.handles_missing else ()
    clean = _clean_rows(whole, sample, takes_nan)
    check_outputs(session, stated.outputs)
    outputs = infer_outputs(session, stated.outputs, graph.classes, _sizes(whole, clean, takes_nan, stated))
    if outputs.keys() != {spec.name for spec in session.outputs} | session.unreadable.keys():
        path.write_bytes(without_outputs(graph.content, outputs.keys()))
        session = Session(path)
    candidate = Candidate(session, inputs, outputs, whole.fixed_rows)
    return candidate, certify(candidate, clean, takes_nan)


def _check_named(named: list[str], held: list[str]) -> None:
    for name in named:
        if name not in held:
            near = difflib.get_close_matches(name, held, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(held)}"
            raise InputError(
                f"the sample has no column '{name}', which the config maps; {hint}",
                next_step="name the columns as the sample and the pipeline's input have them",
                column=name,
            )


def _find_nan_columns(candidate: Candidate, sample: pa.RecordBatch) -> tuple[str, ...]:
    # Rows that miss nothing show best what one missing value does; a sample may have none.
    try:
        rows = _clean_rows(candidate, sample, ())
    except InputError:
        rows = _clean_rows(candidate, sample, tuple(sample.schema.names))
    return find_nan_columns(candidate, rows)


def _fixed_rows(session: Session, inputs: dict[str, InputMapping]) -> int | None:
    """The batch dimension of a graph that has it fixed: exported for one row, it is scored row by row.

    Raises:
        ModelError: its inputs disagree.
    """
    sizes = {
        spec.name: spec.shape[0]
        for spec in session.inputs
        if inputs[spec.name].constant is None and spec.shape and spec.shape[0] is not None
    }
    if len(set(sizes.values())) > 1:
        stated = ", ".join(f"'{name}' {size}" for name, size in sizes.items())
        raise ModelError(f"the graph's inputs take different numbers of rows: {stated}")
    return next(iter(sizes.values()), None)


def _clean_rows(candidate: Candidate, sample: pa.RecordBatch, takes_nan: tuple[str, ...]) -> pa.RecordBatch:
    """The rows of the sample that can be fed.

    Raises:
        InputError: none can; gives the reasons.
    """
    refused = candidate.scorer(Certificate(batch_size=1, takes_nan=takes_nan)).unfeedable(sample)
    if len(refused) == sample.num_rows:
        raise InputError(
            f"no row of the sample can be fed to the model: {'; '.join(sorted(refused.counts()))}",
            next_step="give a sample of rows as the model will see them, or state fill_null in the config",
        )
    good = np.delete(np.arange(sample.num_rows), refused.rows)
    return take_rows(sample, good)


def _sizes(
    candidate: Candidate, clean: pa.RecordBatch, takes_nan: tuple[str, ...], stated: ModelConfig
) -> dict[str, int]:
    """Values a row of each output that is to be mapped, from calls of two sizes on the sample.

    Raises:
        ModelError: the model fails, or an output's first dimension is not the batch.
    """
    session = candidate.session
    names = [spec.name for spec in session.outputs]
    wanted = [name for name in names if name in stated.outputs] if stated.outputs else names
    shapes: dict[str, tuple[int, ...]] = {}
    usable = set(wanted) - session.unreadable.keys()
    for rows in (candidate.fixed_rows,) if candidate.fixed_rows else (5, 8):
        certificate = Certificate(
            batch_size=rows, padding=Padding(rule="fixed", rows=rows), takes_nan=takes_nan
        )
        feeds = candidate.scorer(certificate).bind(repeated(clean, rows))
        tensors = session.run(wanted, {n: f.block(0, rows, rows) for n, f in feeds.items()})
        before, shapes = shapes, {n: np.shape(t) for n, t in zip(wanted, tensors, strict=True)}
        usable -= {name for name, shape in shapes.items() if shape[:1] != (rows,)}
        if unusable := [name for name in shapes if name not in usable]:
            raise _not_rows(unusable[0], shapes[unusable[0]], rows, usable)
        if changing := [n for n in before if before[n][1:] != shapes[n][1:]]:
            raise ModelError(
                f"output '{changing[0]}' has {list(before[changing[0]][1:])} values for a row in one call and "
                f"{list(shapes[changing[0]][1:])} in another: it cannot become columns",
                next_step="name the outputs to keep in a config: those with as many values for every row",
                output=changing[0],
            )
    if not stated.outputs and session.unreadable:
        name, kind = next(iter(session.unreadable.items()))
        raise _not_rows(name, kind, 0, usable)
    return {name: math.prod(shape[1:]) for name, shape in shapes.items()}


def _not_rows(name: str, found: object, rows: int, usable: set[str]) -> ModelError:
    what = (
        f"has the shape {found} for {rows} rows: its first dimension is not the batch"
        if rows
        else f"is a {found}, which is no tensor"
    )
    lines = "".join(f"\n      {other}: {{column: {other}}}" for other in sorted(usable))
    return ModelError(
        f"output '{name}' {what}",
        next_step=f"name the outputs to keep in a config and pass it with --config:\n    outputs:{lines}",
        output=name,
    )
