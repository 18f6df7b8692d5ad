"""A loaded model: feature batches in, result columns out, in blocks of the size that its certificate states."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchinfer.core import BlockMap, Reason, Refusals
from batchinfer.errors import DeviceUnavailable, InputError, ModelError
from batchinfer.model._agreement import Agreement
from batchinfer.model._bundle import GRAPH, Bundle, local_files, read_bundle
from batchinfer.model._columns import output_columns
from batchinfer.model._devices import (
    CPU,
    Device,
    DeviceOptions,
    choose_device,
    fallen_back,
    is_asked,
)
from batchinfer.model._feeds import Feed
from batchinfer.model._gpu import Failures, GpuRunner, Run
from batchinfer.model._manifest import Certificate, InputMapping, OutputMapping
from batchinfer.model._session import Session, SessionRunError, available_providers
from batchinfer.model._tensors import TensorPlan, check_type, take_rows

Array = npt.NDArray[Any]
_FEW_FAILURES = 64
"""Where more rows than these fail, and more than half of all, the model itself is held to be broken."""
_NUMBER = re.compile(r"=\s*-?\d+")


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
        self.gpu: GpuRunner | None = None
        self.certificate = certificate
        self._specs = {spec.name: spec for spec in session.inputs}
        self._inputs = inputs
        self._read = list(dict.fromkeys(c for mapping in inputs.values() for c in mapping.columns))
        self.columns = output_columns(outputs, {spec.name: spec for spec in session.outputs})
        self._plan = TensorPlan(inputs, self._specs, frozenset(certificate.takes_nan), certificate.full_width)
        self._outputs = tuple(dict.fromkeys(column.output for column in self.columns))
        self.output_schema = pa.schema([column.field for column in self.columns])

    def run_on(self, device: Device, digest: str) -> None:
        """Score on the GPU that the session was opened on.

        Raises:
            DeviceUnavailable: no GPU takes such a graph.
        """
        fed = [self._specs[name] for name, mapping in self._inputs.items() if mapping.columns]
        fixed_rows = next((spec.shape[0] for spec in fed if spec.shape[0] is not None), None)
        self.gpu = GpuRunner(self.session, self._outputs, device, fixed_rows, digest)

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
        clean = refused.clean()
        if clean is not None:
            features = take_rows(features.select(self._read), clean)
        rows = features.num_rows
        targets = [column.allocate(rows) for column in self.columns]
        feeds = self._plan.bind(features) if rows else {}

        def score_rows(run: Run, start: int, stop: int) -> Failures:
            failures = self._score_rows(run, feeds, targets, start, stop)
            _refuse_broken(failures, stop - start)
            return failures

        if self.gpu is not None:
            failures = self.gpu.score(feeds, rows, score_rows, blocks)
        else:
            size = self.certificate.batch_size

            def score_block(start: int) -> Failures:
                return score_rows(self.run_block, start, min(start + size, rows))

            failures = [failure for found in blocks(score_block, range(0, rows, size)) for failure in found]
        if failures:
            _refuse_broken(failures, rows)
            keep = np.ones(rows, np.bool_)
            for row, reason in failures:
                keep[row] = False
                refused.add_row(row if clean is None else int(clean[row]), reason)
            targets = [values[keep] for values in targets]
        results = [column.arrow(values) for column, values in zip(self.columns, targets, strict=True)]
        return pa.RecordBatch.from_arrays(results, schema=self.output_schema), refused.refusals()

    def unfeedable(self, features: pa.RecordBatch) -> Refusals:
        """The rows that are refused before the model sees them."""
        refused = _RowReasons(features.num_rows)
        self._plan.refuse(features, refused.add)
        return refused.refusals()

    def run_block(self, feeds: Mapping[str, Feed], start: int, stop: int) -> list[Array]:
        """One call of the session for rows [start, stop), padded by the certificate's rule."""
        padded = self.certificate.padding.padded(stop - start)
        tensors = {name: feed.block(start, stop, padded) for name, feed in feeds.items()}
        return self.session.run(self._outputs, tensors)

    def bind(self, features: pa.RecordBatch) -> dict[str, Feed]:
        """The feeds of a batch of clean rows, for `run_block`."""
        return self._plan.bind(features)

    def _score_rows(
        self, run: Run, feeds: Mapping[str, Feed], targets: list[Array], start: int, stop: int
    ) -> Failures:
        try:
            tensors = dict(zip(self._outputs, run(feeds, start, stop), strict=True))
        except SessionRunError as e:
            if stop - start == 1:
                return [(start, _NUMBER.sub("=…", e.message))]  # rows are counted by their reason
            # Halve what failed until the rows that the model cannot score stand alone.
            middle = (start + stop) // 2
            return [
                *self._score_rows(run, feeds, targets, start, middle),
                *self._score_rows(run, feeds, targets, middle, stop),
            ]
        for column, target in zip(self.columns, targets, strict=True):
            column.fill(target, tensors[column.output], start, stop)
        return []


def _refuse_broken(failures: Failures, rows: int) -> None:
    if len(failures) > max(_FEW_FAILURES, rows // 2):
        raise ModelError(
            f"the model cannot score {len(failures)} of {rows} rows; the first: {failures[0][1]}",
            next_step="check that the input is what the model was made for: batchinfer model verify",
            failed=len(failures),
            rows=rows,
        )


class Scorer:
    """A bundle, loaded and ready to score. Thread-safe; load it once a process.

    `Scorer.load(path).score(record_batch)` gives the result columns of a batch. Inside batchinfer it is the
    `Model` of the scoring path.
    """

    def __init__(
        self, bundle: Bundle, scorer: BlockScorer, device: Device = CPU, agreement: Agreement | None = None
    ) -> None:
        self.bundle = bundle
        self.device = device
        self._scorer = scorer
        self._agreement = agreement

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

    @classmethod
    def on(cls, bundle: Bundle, options: DeviceOptions, assigned: str | None = None) -> Self:
        """Open the session of a bundle where a spec and an engine ask for it: see `choose_device`.

        On a GPU the first rows are also scored on the CPU, and held against it.

        Raises:
            ModelError, DigestMismatch: see `load`.
            MissingExtra, DeviceUnavailable: the GPU that is asked for cannot be used.
        """
        return cls.of(bundle).moved(options, assigned)

    def moved(self, options: DeviceOptions, assigned: str | None = None) -> Self:
        """The same model where a spec and an engine ask for it: see `on`."""
        device = choose_device(options, assigned, available_providers())
        if device.ordinal is not None:
            try:
                return self._on_gpu(device, options.tolerance)
            except DeviceUnavailable as e:
                if e.fields.get("operators") is None or is_asked(options, assigned):
                    device = fallen_back(options, e)
                else:  # nobody asked for a GPU, and this model has nothing for one to do
                    device = Device("cpu", note=e.message)
        return type(self)(self.bundle, self._scorer, device)

    def _on_gpu(self, device: Device, tolerance: float) -> Self:
        manifest = self.bundle.manifest
        with local_files(self.bundle) as folder:
            session = Session(folder / GRAPH, device)
        scorer = BlockScorer(session, manifest.inputs, manifest.outputs, manifest.certificate)
        scorer.run_on(device, manifest.digest)
        agreement = Agreement(self._scorer.score, scorer.score, device, tolerance)
        return type(self)(self.bundle, scorer, device, agreement)

    @property
    def identity(self) -> str:
        """`name@version`."""
        return self.bundle.identity

    def call_rows(self) -> int:
        """Rows of every call on a GPU; 0 before the first, and on a CPU, where sizes are free."""
        return self._scorer.gpu.rows if self._scorer.gpu is not None else 0

    def told(self) -> dict[str, Any]:
        """What scores, for a run's report: `name`, on a GPU `batch_rows`, and `notes` of what was unlike planned."""
        notes = [self.device.note] if self.device.note else []
        if self._scorer.gpu is None:
            return {"name": self.device.title, "notes": notes}
        gpu = self._scorer.gpu
        return {"name": self.device.title, "batch_rows": gpu.rows, "notes": [*notes, *gpu.halvings]}

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
                f"row {int(refused.rows[0])} cannot be scored: {refused.reason(0).text} "
                f"({len(refused)} of {record_batch.num_rows} rows)",
                row=int(refused.rows[0]),
            )
        return results

    def score_rows(
        self, features: pa.RecordBatch, blocks: BlockMap[Any, Any] = map
    ) -> tuple[pa.RecordBatch, Refusals]:
        """See `batchinfer.core.Model.score_rows`."""
        if self._agreement is not None and self._agreement.check(features):
            self._agreement = None
        return self._scorer.score(features, blocks)


class _RowReasons:
    """Collects the first reason of each row that cannot be scored."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._reasons: list[str] = []
        self._codes: Array | None = None
        """For each row, 1 + the place of its reason in `_reasons`; 0 for a row that can be scored."""

    def add(self, bad: Array, reason: str) -> None:
        if bad.any():
            codes = self._all_codes()
            codes[bad & (codes == 0)] = self._code(reason)

    def add_row(self, row: int, reason: str) -> None:
        self._all_codes()[row] = self._code(reason)

    def _all_codes(self) -> Array:
        if self._codes is None:
            self._codes = np.zeros(self._rows, np.int32)
        return self._codes

    def _code(self, reason: str) -> int:
        if reason not in self._reasons:
            self._reasons.append(reason)
        return 1 + self._reasons.index(reason)

    def clean(self) -> Array | None:
        """The rows that can be scored; None for all."""
        return None if self._codes is None else np.flatnonzero(self._codes == 0)

    def refusals(self) -> Refusals:
        if self._codes is None:
            return Refusals.none()
        rows = np.flatnonzero(self._codes)
        return Refusals(rows, self._codes[rows] - np.int32(1), tuple(map(Reason, self._reasons)))
