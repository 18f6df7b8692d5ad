"""From an ONNX file and a sample of rows to a bundle in the registry: checked, measured, sealed."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batchinfer.core import arrays, files
from batchinfer.errors import InputError, ModelError, UsageError
from batchinfer.model._bundle import GRAPH, MANIFEST, REFERENCE, Bundle, file_digest, write_manifest
from batchinfer.model._certify import Candidate, certify, find_nan_columns
from batchinfer.model._graph import Graph, read_graph
from batchinfer.model._infer import infer_inputs, infer_outputs
from batchinfer.model._manifest import Certificate, Manifest, ModelConfig, Padding
from batchinfer.model._registry import Registry
from batchinfer.model._scorer import BlockScorer
from batchinfer.model._session import Session
from batchinfer.model._tensors import TensorPlan
from batchinfer.spec import read_yaml, validate

_SAMPLE_ROWS = 8192
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def add_model(
    name: str,
    *,
    onnx: str | Path,
    sample: str | Path,
    config: str | Path | Mapping[str, Any] | None = None,
    reference: str | Path | None = None,
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
        reference: a Parquet file that shows what training data looked like.
        registry: see `Registry`.
        alias: an alias to point at the new version, as `champion`.

    Raises:
        ModelError: the graph, the config or the name is unusable; says why.
        InputError: the sample does not fit the model.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"'{name}' cannot be a model's name: use letters, digits, '.', '_' and '-'")
    stated = _read_config(config)
    rows = _read_sample(Path(sample))
    graph = read_graph(Path(onnx))
    home = Registry(registry)
    with tempfile.TemporaryDirectory(prefix="batchinfer-model-") as temporary:
        folder = Path(temporary)
        _lay_out(folder, Path(onnx), graph, reference)
        session = Session(folder / GRAPH)
        candidate, certificate = _measure(session, stated, graph, rows)
        manifest = Manifest(
            name=name,
            version="0",
            inputs=candidate.inputs,
            outputs=candidate.outputs,
            training=stated.training,
            certificate=certificate,
            files={p.relative_to(folder).as_posix(): file_digest(p) for p in _files(folder)},
        )
        bundle = _publish(home, folder, manifest)
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
    try:
        with pq.ParquetFile(path) as file:
            batches = list(file.iter_batches(_SAMPLE_ROWS))[:1]
    except (OSError, pa.ArrowInvalid) as e:
        raise InputError(f"{path}: cannot read the sample: {e}", path=str(path)) from e
    if not batches or not batches[0].num_rows:
        raise InputError(f"{path}: the sample has no rows", path=str(path))
    return batches[0]


def _lay_out(folder: Path, onnx: Path, graph: Graph, reference: str | Path | None) -> None:
    (folder / GRAPH).write_bytes(graph.content)
    for external in graph.external_files:
        if external in {GRAPH, MANIFEST, REFERENCE}:
            raise ModelError(f"{onnx}: external data may not be called '{external}'", path=str(onnx))
        target = folder / external
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(onnx.parent / external, target)
    if reference is not None:
        try:
            pq.read_metadata(reference)
            shutil.copyfile(reference, folder / REFERENCE)
        except (OSError, pa.ArrowInvalid) as e:
            raise InputError(f"{reference}: cannot read the reference: {e}", path=str(reference)) from e


def _measure(
    session: Session, stated: ModelConfig, graph: Graph, sample: pa.RecordBatch
) -> tuple[Candidate, Certificate]:
    inputs = infer_inputs(session, stated.inputs, sample.schema)
    fixed_rows = _fixed_rows(session)
    untyped = Candidate(session, inputs, {}, fixed_rows)
    takes_nan = find_nan_columns(untyped, _clean_rows(untyped, sample, tuple(sample.schema.names)))
    clean = _clean_rows(untyped, sample, takes_nan)
    outputs = infer_outputs(session, stated.outputs, graph.classes, _sizes(untyped, clean, takes_nan))
    candidate = Candidate(session, inputs, outputs, fixed_rows)
    return candidate, certify(candidate, clean, takes_nan)


def _fixed_rows(session: Session) -> int | None:
    """The batch dimension of a graph that has it fixed.

    A graph exported for one row says 1 in its first dimension; it is scored row by row.
    """
    sizes = {spec.shape[0] for spec in session.inputs if spec.shape and spec.shape[0] is not None}
    mapped = [spec for spec in session.inputs if spec.shape]
    if not sizes or any(spec.shape[0] is None for spec in mapped if len(spec.shape) > 1):
        return None
    return max(size for size in sizes if size is not None)


def _clean_rows(candidate: Candidate, sample: pa.RecordBatch, takes_nan: tuple[str, ...]) -> pa.RecordBatch:
    """The rows of the sample that can be fed.

    Raises:
        InputError: none can; gives the reasons.
    """
    specs = {spec.name: spec for spec in candidate.session.inputs}
    bad = np.zeros(sample.num_rows, np.bool_)
    reasons: set[str] = set()

    def refuse(mask: Any, reason: str) -> None:
        if mask.any():
            reasons.add(reason)
            bad[mask] = True

    TensorPlan(candidate.inputs, specs, frozenset(takes_nan), False).refuse(sample, refuse)
    if bad.all():
        raise InputError(
            f"no row of the sample can be fed to the model: {'; '.join(sorted(reasons))}",
            next_step="give a sample of rows as the model will see them, or state fill_null in the config",
        )
    return sample.take(arrays.from_numpy(np.flatnonzero(~bad)))


def _sizes(candidate: Candidate, clean: pa.RecordBatch, takes_nan: tuple[str, ...]) -> dict[str, int]:
    """Values a row of each output, from one call."""
    rows = candidate.fixed_rows or min(clean.num_rows, 8)
    padding = Padding(rule="fixed", rows=rows)
    scorer = BlockScorer(
        candidate.session,
        candidate.inputs,
        {},
        Certificate(batch_size=rows, padding=padding, takes_nan=takes_nan),
    )
    feeds = scorer.bind(clean.slice(0, rows))
    names = [spec.name for spec in candidate.session.outputs]
    real = min(rows, clean.num_rows)
    tensors = candidate.session.run(names, {n: f.block(0, real, rows) for n, f in feeds.items()})
    for name, tensor in zip(names, tensors, strict=True):
        if not isinstance(tensor, np.ndarray) or tensor.shape[:1] != (rows,):
            shape = getattr(tensor, "shape", type(tensor).__name__)
            raise ModelError(
                f"output '{name}' has the shape {shape} for {rows} rows: its first dimension is not the batch",
                next_step="map only outputs that have one value or vector for each row",
                output=name,
            )
    return {n: int(t.size // rows) for n, t in zip(names, tensors, strict=True)}


def _publish(registry: Registry, folder: Path, manifest: Manifest) -> Bundle:
    """Copy the bundle into the registry as the next version; the manifest last, since it makes the bundle."""
    taken = [int(v) for v in registry.model(manifest.name).versions if v.isdecimal()]
    version = str(max(taken, default=0) + 1)
    write_manifest(folder, manifest.model_copy(update={"version": version}))
    target = files.join(registry.location, manifest.name, version)
    if files.exists(files.join(target, MANIFEST)):
        raise ModelError(f"{target} was made by another process meanwhile", next_step="run again")
    for path in [*_files(folder), folder / MANIFEST]:
        files.write_bytes(files.join(target, path.relative_to(folder).as_posix()), path.read_bytes())
    return registry.resolve(f"{manifest.name}@{version}")


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
