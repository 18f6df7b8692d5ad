"""A loaded model: feature batches in, result columns out, in blocks of the size that its certificate states."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchinfer.core import BlockMap, Refusals, arrays
from batchinfer.errors import InputError, ModelError
from batchinfer.model._bundle import GRAPH, Bundle, local_files, read_bundle
from batchinfer.model._columns import output_columns
from batchinfer.model._manifest import Certificate, InputMapping, OutputMapping
from batchinfer.model._session import Session, SessionRunError
from batchinfer.model._tensors import Feed, TensorPlan, check_type

Array = npt.NDArray[Any]
_MOST_SINGLE_FAILURES = 64
"""Rows of one block that may fail one by one before the model itself is held to be broken."""


class BlockScorer:
    """A session with its mappings and one rule for block sizes; `model add` tries several rules."""

    def __init__(
        self,
        session: Session,
        inputs: dict[str, InputMapping],
        outputs: dict[str, OutputMapping],
        certificate: Certificate,
    ) -> None:
        self.session = session
        self.certificate = certificate
        self._specs = {spec.name: spec for spec in session.inputs}
        self._inputs = inputs
        self.columns = output_columns(outputs, {spec.name: spec for spec in session.outputs})
        self._plan = TensorPlan(inputs, self._specs, frozenset(certificate.takes_nan), certificate.full_width)
        self._outputs = tuple(dict.fromkeys(column.output for column in self.columns))
        self.output_schema = pa.schema([column.field for column in self.columns])

    def check_columns(self, types: dict[str, pa.DataType]) -> None:
        """Hold column types against the inputs that take them.

        Raises:
            InputError: a column is missing or cannot be fed.
        """
        for name, mapping in self._inputs.items():
            for column in mapping.columns:
                if column not in types:
                    raise InputError(f"no column '{column}', which the model takes", column=column)
                check_type(column, types[column], mapping, self._specs[name])

    def score(
        self, features: pa.RecordBatch, blocks: BlockMap[Any, Any] = map
    ) -> tuple[pa.RecordBatch, Refusals]:
        """See `batchinfer.core.Model.score_rows`."""
        refused = _RowReasons(features.num_rows)
        self._plan.refuse(features, refused.add)
        clean = np.arange(features.num_rows)
        if refused.any:
            clean = np.flatnonzero(~refused.mask)
            features = features.take(arrays.from_numpy(clean))
        targets = [column.allocate(len(clean)) for column in self.columns]
        feeds = self._plan.bind(features) if len(clean) else {}

        def score_block(start: int) -> list[tuple[int, str]]:
            stop = min(start + self.certificate.batch_size, len(clean))
            return self._score_rows(feeds, targets, start, stop)

        failures = [
            f
            for found in blocks(score_block, range(0, len(clean), self.certificate.batch_size))
            for f in found
        ]
        if failures:
            for row, reason in failures:
                refused.add_row(int(clean[row]), reason)
            keep = np.ones(len(clean), np.bool_)
            keep[[row for row, _ in failures]] = False
            targets = [values[keep] for values in targets]
        results = [column.arrow(values) for column, values in zip(self.columns, targets, strict=True)]
        return pa.RecordBatch.from_arrays(results, schema=self.output_schema), refused.refusals()

    def run_block(self, feeds: dict[str, Feed], start: int, stop: int) -> list[Array]:
        """One call of the session for rows [start, stop), padded by the certificate's rule."""
        padded = self.certificate.padding.padded(stop - start)
        tensors = {name: feed.block(start, stop, padded) for name, feed in feeds.items()}
        return self.session.run(self._outputs, tensors)

    def bind(self, features: pa.RecordBatch) -> dict[str, Feed]:
        """The feeds of a batch of clean rows, for `run_block`."""
        return self._plan.bind(features)

    def _score_rows(
        self, feeds: dict[str, Feed], arrays: list[Array], start: int, stop: int
    ) -> list[tuple[int, str]]:
        try:
            tensors = dict(zip(self._outputs, self.run_block(feeds, start, stop), strict=True))
        except SessionRunError as e:
            return self._find_failures(feeds, arrays, start, stop, e)
        for column, target in zip(self.columns, arrays, strict=True):
            column.fill(target, tensors[column.output], start, stop)
        return []

    def _find_failures(
        self,
        feeds: dict[str, Feed],
        arrays: list[Array],
        start: int,
        stop: int,
        error: SessionRunError,
    ) -> list[tuple[int, str]]:
        """Halve a block that failed until the rows that the model cannot score stand alone."""
        if stop - start == 1:
            return [(start, error.message)]
        middle = (start + stop) // 2
        failures = self._score_rows(feeds, arrays, start, middle)
        failures += self._score_rows(feeds, arrays, middle, stop)
        if len(failures) > _MOST_SINGLE_FAILURES:
            raise ModelError(
                f"more than {_MOST_SINGLE_FAILURES} rows of one block fail: {error.message}",
                next_step="check the model on this input: batchinfer model verify",
            ) from error
        return failures


class Scorer:
    """A bundle, loaded and ready to score. Thread-safe; load it once a process.

    `Scorer.load(path).score(record_batch)` gives the result columns of a batch. Inside batchinfer it is the
    `Model` of the scoring path.
    """

    def __init__(self, bundle: Bundle, scorer: BlockScorer) -> None:
        self.bundle = bundle
        self._scorer = scorer

    @classmethod
    def load(cls, bundle_path: str) -> Self:
        """Verify a bundle's digest and open its session.

        Raises:
            ModelError: no bundle there, or its graph cannot be loaded.
            DigestMismatch: the bundle's files are not those it was made with.
        """
        return cls.of(read_bundle(str(bundle_path)))

    @classmethod
    def of(cls, bundle: Bundle) -> Self:
        """Open the session of a bundle that a registry found; see `load`."""
        manifest = bundle.manifest
        with local_files(bundle) as folder:
            session = Session(folder / GRAPH)
        return cls(bundle, BlockScorer(session, manifest.inputs, manifest.outputs, manifest.certificate))

    @property
    def identity(self) -> str:
        """`name@version`."""
        return self.bundle.identity

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the model reads."""
        return self.bundle.manifest.columns

    @property
    def output_schema(self) -> pa.Schema:
        """The result columns: one field for each."""
        return self._scorer.output_schema

    def check_columns(self, types: dict[str, pa.DataType]) -> None:
        """Hold column types against the model's inputs.

        Raises:
            InputError: a column is missing or cannot be fed.
        """
        self._scorer.check_columns(types)

    def score(self, record_batch: pa.RecordBatch) -> pa.RecordBatch:
        """The result columns of a batch, row for row.

        Raises:
            InputError: a column is missing or of a wrong type, or a row cannot be scored; names the row.
            ModelError: the model fails.
        """
        results, refused = self.score_rows(record_batch)
        if refused:
            raise InputError(
                f"row {int(refused.rows[0])} cannot be scored: {refused.reasons[0]} "
                f"({len(refused)} of {record_batch.num_rows} rows)",
                row=int(refused.rows[0]),
            )
        return results

    def score_rows(
        self, features: pa.RecordBatch, blocks: BlockMap[Any, Any] = map
    ) -> tuple[pa.RecordBatch, Refusals]:
        """See `batchinfer.core.Model.score_rows`."""
        return self._scorer.score(features, blocks)


class _RowReasons:
    """Collects the first reason of each row that cannot be scored."""

    def __init__(self, rows: int) -> None:
        self._reasons: dict[int, str] = {}
        self.mask = np.zeros(rows, np.bool_)

    def add(self, bad: Array, reason: str) -> None:
        if not bad.any():
            return
        fresh = np.flatnonzero(bad)
        fresh = fresh[~self.mask[fresh]]
        self.mask[fresh] = True
        self._reasons.update(dict.fromkeys(fresh.tolist(), reason))

    def add_row(self, row: int, reason: str) -> None:
        self.mask[row] = True
        self._reasons[row] = reason

    @property
    def any(self) -> bool:
        return bool(self._reasons)

    def refusals(self) -> Refusals:
        rows = np.flatnonzero(self.mask)
        return Refusals(rows, tuple(self._reasons[row] for row in rows.tolist()))
