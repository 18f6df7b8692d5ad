"""Explaining a row: score it again from its source, with the model that scored it, and compare the bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from batchinfer import source
from batchinfer.core import MODEL, POSITION, REASON, RUN_ID, SOURCE, Lineage, ScoringPath, Sensitive, arrays
from batchinfer.errors import InputError, UsageError
from batchinfer.model import Registry, Scorer
from batchinfer.runs._job import find_rows, open_quarantine, open_results
from batchinfer.runs._plan import load_sensitive, load_transform
from batchinfer.spec import PipelineSpec, fill_parameters


@dataclass(frozen=True, slots=True)
class Explanation:
    """A stored row beside its score of now.

    Attributes:
        key: the row's key.
        model: `name@version` that scored it.
        run_id: the run that wrote it.
        source: the file it came from.
        position: its row in the file.
        inputs: the source row's columns; of sensitive ones their hashes, or `(sensitive)`.
        stored: the result columns as the table holds them.
        rescored: the same, scored now.
        bit_exact: whether all their bits agree.
    """

    key: dict[str, Any]
    model: str
    run_id: str
    source: str
    position: int
    inputs: dict[str, Any]
    stored: dict[str, Any]
    rescored: dict[str, Any]
    bit_exact: bool


def explain(
    spec: PipelineSpec, key: Mapping[str, str], parameters: Mapping[str, str] | None = None
) -> list[Explanation]:
    """Find the result rows with this key and score each again from its source.

    Args:
        spec: the pipeline.
        key: the key columns' values, as text; of a column that the results hold hashed, a value or its hash.
        parameters: run parameters; partition columns among them narrow the search.

    Raises:
        UsageError: no such row, or the key names other columns than input.key.
        InputError: the row's source is gone, or its row is not there any more.
        ModelError: the model that scored it is not in the registry.
    """
    parameters = parameters or {}
    if set(key) != set(spec.input.key):
        raise UsageError(
            f"the key of this pipeline is {', '.join(spec.input.key)}; given was {', '.join(key) or 'nothing'}",
            next_step="pass " + " ".join(f"--key {column}=VALUE" for column in spec.input.key),
        )
    path = fill_parameters(spec.output.path, parameters, key="output.path")
    narrowed = {k: v for k, v in parameters.items() if k in spec.output.partition_by}
    sensitive = load_sensitive(spec)
    hidden = {k: sensitive.asked(k, v) if k in sensitive else v for k, v in key.items()}
    stored = {k: hidden[k] if k in sensitive.in_results else v for k, v in key.items()}
    found = find_rows(open_results(spec, path), {**stored, **narrowed})
    if not found.num_rows:
        said = ", ".join(f"{k}={v}" for k, v in {**hidden, **narrowed}.items())
        refused = open_quarantine(spec, path)
        if refused.exists() and (rows := find_rows(refused, {**hidden, **narrowed})).num_rows:
            row = rows.to_pylist()[0]
            raise UsageError(
                f"{path} has no row with {said}: it was quarantined ({row[REASON]}), from {row[SOURCE]}, "
                f"row {row[POSITION]}",
                next_step=f"{refused.path} has the row with all its columns",
            )
        raise UsageError(
            f"{path} has no row with {said}",
            next_step="batchinfer runs list shows what was scored, and with which parameters",
        )
    return [_explain_row(spec, row, sensitive) for row in _rows(found)]


def _rows(table: pa.Table) -> list[pa.Table]:
    return [table.slice(i, 1) for i in range(table.num_rows)]


def _explain_row(spec: PipelineSpec, row: pa.Table, sensitive: Sensitive) -> Explanation:
    stated = row.to_pylist()[0]
    scorer = Scorer.of(Registry(spec.registry).resolve(stated[MODEL]))
    batch = _source_row(stated[SOURCE], stated[POSITION])
    lineage = Lineage(
        stated[MODEL], stated[RUN_ID], stated[SOURCE], arrays.from_numpy(np.array([stated[POSITION]]))
    )
    key = [row.schema.field(c) for c in spec.input.key]
    path = ScoringPath(scorer, load_transform(spec), key, [], sensitive=sensitive)
    scored = path.score(batch, lineage)
    if scored.refused:
        reason = scored.refused.reason(0).text
        raise InputError(
            f"{stated[SOURCE]}, row {stated[POSITION]}: cannot be scored now ({reason}); it changed since",
            path=stated[SOURCE],
        )
    outputs = scorer.output_schema.names
    before = [row.column(name).combine_chunks() for name in outputs]
    after = [scored.results.column(name) for name in outputs]
    return Explanation(
        key={column: stated[column] for column in spec.input.key},
        model=stated[MODEL],
        run_id=stated[RUN_ID],
        source=stated[SOURCE],
        position=stated[POSITION],
        inputs={
            name: sensitive.shown(name, column).to_pylist()[0]
            for name, column in zip(batch.schema.names, batch.columns, strict=True)
        },
        stored={name: stated[name] for name in outputs},
        rescored={name: scored.results.to_pylist()[0][name] for name in outputs},
        bit_exact=all(_bits(b) == _bits(a) for b, a in zip(before, after, strict=True)),
    )


def _bits(column: pa.Array) -> bytes:
    """A value's bits; two NaN of the same bits are equal here."""
    values = column.flatten() if pa.types.is_nested(column.type) else column
    if pa.types.is_string(values.type):
        return str(values.to_pylist()).encode()
    view, present = arrays.to_numpy(values)
    return view.tobytes() + (b"" if present is None else present.tobytes())


def _source_row(path: str, position: int) -> pa.RecordBatch:
    for batch, _, first in source.read_unit(source.unit_of_row(path, position), None):
        if first <= position < first + batch.num_rows:
            return batch.slice(position - first, 1)
    raise InputError(
        f"{path} has no row {position} any more: the file changed since it was scored", path=path
    )
