"""The worker: one unit in, staged parts and a receipt out. The same on every engine."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from batchinfer import source
from batchinfer.core import (
    BlockMap,
    Lineage,
    RowCounts,
    RowSample,
    ScoringPath,
    Sensitive,
    StagingArea,
    Stopwatch,
    Tally,
    UnitReport,
    WorkUnit,
    arrays,
    pack_rows,
)
from batchinfer.errors import BatchinferError, RunFailed
from batchinfer.runs._quarantine import Original, UnitQuarantine
from batchinfer.store import PartWriter, intact, part_name, read_receipt, write_receipt


@dataclass(frozen=True, slots=True)
class Staging:
    """Where a run's workers stage: results and their receipts, and quarantined rows."""

    results: StagingArea
    quarantine: StagingArea


class Worker:
    """Scores units, one call each, from many threads at once.

    A call does all or nothing: it ends with a receipt, or leaves nothing that a commit could refer to.
    An attempt's parts have names of their own, so that two attempts at a unit never touch each other.

    Args:
        run_id: the run's id.
        path: the scoring path, with its loaded model.
        columns: the columns to read; None for all.
        key: the columns that name a row.
        originals: the input's columns, and the fields that the quarantine keeps them in.
        sample: which of the scored rows to keep aside; None for none.
        sensitive: columns of whose values no part, receipt or error holds more than a hash.
        staging: where to stage.
        blocks: how blocks of a batch are scored: see `BlockMap`.
        on_rows: told of each batch's rows when they are scored or reused.
        told: what scores, as a unit's report says it.
        call_rows: how many rows the model takes at a time, where batches are to be read ahead: see
            `source.read_ahead`. None where the model runs on the cores that also decode.
    """

    def __init__(
        self,
        *,
        run_id: str,
        path: ScoringPath,
        columns: tuple[str, ...] | None,
        key: tuple[str, ...],
        originals: tuple[Original, ...],
        sample: RowSample | None,
        sensitive: Sensitive,
        staging: Staging,
        blocks: BlockMap[Any, Any],
        on_rows: Callable[[int], None],
        told: Callable[[], dict[str, Any]],
        call_rows: Callable[[], int] | None,
    ) -> None:
        self._run_id = run_id
        self._path = path
        self._columns = columns
        self._key = tuple(name for name in key if name not in sensitive.clear)  # receipts say its range
        self._originals = originals
        self._sample = sample
        self._sensitive = sensitive
        self._staging = staging
        self._blocks = blocks
        self._on_rows = on_rows
        self._told = told
        self._call_rows = call_rows

    def __call__(self, unit: WorkUnit, device: str | None = None, /) -> UnitReport:
        """Score a unit, or reuse what an earlier attempt staged, if every byte of it is still there.

        The device was settled when the model was loaded.
        """
        receipt = read_receipt(self._staging.results, unit)
        if receipt is not None and self._verified(receipt):
            self._on_rows(receipt.rows.read)
            return replace(receipt, reused=True, model_loads=0, seconds={})
        report = self._score_quietly(unit) if self._sensitive else self._score(unit)
        write_receipt(self._staging.results, report)
        return report

    def _score_quietly(self, unit: WorkUnit) -> UnitReport:
        """What a library says of a failure may quote a value; our own errors quote none."""
        try:
            return self._score(unit)
        except (BatchinferError, OSError, MemoryError):
            raise
        except Exception as e:
            kind = type(e).__name__
        raise RunFailed(
            f"unit {unit.name} failed with {kind}; what it said is left out, for the input has sensitive columns",
            next_step="run the unit's files without input.sensitive where you may see them: unit "
            f"{unit.name} is in batchinfer plan",
            unit=unit.index,
        )

    def _verified(self, receipt: UnitReport) -> bool:
        staged = ((self._staging.results, receipt.results), (self._staging.quarantine, receipt.quarantine))
        return all(intact(area, part) for area, part in staged if part is not None)

    def _read(self, unit: WorkUnit) -> Iterator[tuple[pa.RecordBatch, str, int]]:
        batches = source.read_unit(unit, self._columns)
        return batches if self._call_rows is None else source.read_ahead(batches, self._call_rows)

    def _score(self, unit: WorkUnit) -> UnitReport:
        name = part_name(unit, self._run_id, uuid.uuid4().hex[:8])

        def writer(area: StagingArea, schema: pa.Schema) -> PartWriter:
            return PartWriter(area, unit.partition, name, schema, self._key)

        model = self._path.model.identity
        results = writer(self._staging.results, self._path.result_schema)
        quarantine = UnitQuarantine(unit, self._originals, model, self._run_id, self._sensitive)
        read = scored_rows = 0
        reasons: Counter[str] = Counter()
        nonfinite: Counter[str] = Counter()
        checks: Tally | None = None
        profile: Tally | None = None
        sample: list[pa.RecordBatch] = []
        watch = Stopwatch()
        for batch, path, position in self._read(unit):
            watch.lap("read")
            positions = arrays.from_numpy(np.arange(position, position + batch.num_rows))
            lineage = Lineage(model, self._run_id, path, positions)
            scored = self._path.score(batch, lineage, self._blocks)
            watch.lap("score")
            if scored.results.num_rows:
                results.write(scored.results)
                if self._sample is not None and (taken := self._sample.take(scored)) is not None:
                    sample.append(taken)
            if scored.refused:
                quarantine.add(scored.refused, path, position)
                reasons.update(scored.refused.counts())
            read += batch.num_rows
            scored_rows += scored.results.num_rows
            nonfinite.update(scored.nonfinite)
            checks = _merged(checks, scored.checks)
            profile = _merged(profile, scored.profile)
            self._on_rows(batch.num_rows)
            watch.lap("write")
        written = results.finish()
        refused = quarantine.stage(lambda schema: writer(self._staging.quarantine, schema))
        watch.lap("write")
        return UnitReport(
            unit=unit.index,
            unit_digest=unit.digest(),
            partition=unit.partition,
            rows=RowCounts(read=read, scored=scored_rows, quarantined=reasons.total()),
            results=written,
            quarantine=refused,
            reasons=dict(reasons),
            nonfinite=dict(nonfinite),
            checks=None if checks is None else checks.to_dict(),
            profile=None if profile is None else profile.to_dict(),
            sample=pack_rows(sample),
            device=self._told(),
            seconds=watch.seconds,
        )


def _merged(one: Tally | None, other: Tally | None) -> Tally | None:
    return other if one is None else one if other is None else one.merge(other)
