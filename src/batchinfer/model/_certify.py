"""Does a row's score depend on the batch it is scored in? Measured, and written into the bundle.

The same row can get other bits in another batch size or place: a matrix product sums in another order, a
kernel switches its code path. So `model add` scores the sample in many ways, and searches the cheapest rule
(any size; sizes filled up to a multiple of k; one fixed size) under which the bits stay the same.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchinfer.core import arrays
from batchinfer.model._manifest import Certificate, InputMapping, OutputMapping, Padding
from batchinfer.model._scorer import BlockScorer
from batchinfer.model._session import Session, SessionRunError

Array = npt.NDArray[Any]

_MULTIPLES = (2, 4, 8, 16, 32, 64)
_SIZES = (1, 4, 16, 64, 256, 1024, 2048, 4096, 8192, 16384, 32768)
_NEAR_ENOUGH = 0.97
"""A smaller batch at this share of the best rate wins: it stays in cache and bounds memory."""
_SHORTEST_CALL_SECONDS = 0.002
"""But not one whose calls are shorter: beside other threads, the way to and from the session would show."""
_FIXED_ENOUGH = 0.9
_SECONDS_A_SIZE = 0.15
_LONGEST_CALL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model before it has a certificate: what is needed to score with any rule."""

    session: Session
    inputs: dict[str, InputMapping]
    outputs: dict[str, OutputMapping]
    fixed_rows: int | None

    def scorer(self, certificate: Certificate) -> BlockScorer:
        """The model under a rule."""
        return BlockScorer(self.session, self.inputs, self.outputs, certificate)


def find_nan_columns(candidate: Candidate, sample: pa.RecordBatch) -> tuple[str, ...]:
    """The columns in which NaN still gives finite scores: there the model handles missing values itself.

    One column at a time is set to NaN for some rows of the sample, and all of the graph's outputs are
    computed. Only columns of float inputs are tried; other tensors cannot hold a NaN.
    """
    specs = {spec.name: spec for spec in candidate.session.inputs}
    floats = [
        column
        for name, mapping in candidate.inputs.items()
        for column in mapping.columns
        if specs[name].dtype.kind == "f" and mapping.fill_null is None
    ]
    everything = tuple(dict.fromkeys(floats))
    trusting = Certificate(
        batch_size=candidate.fixed_rows or 64, padding=_padding(candidate), takes_nan=everything
    )
    scorer = candidate.scorer(trusting)
    rows = sample.slice(0, 64)
    return tuple(c for c in everything if _stays_finite(scorer, _with_nan(rows, c)))


def _with_nan(batch: pa.RecordBatch, column: str) -> pa.RecordBatch:
    index = batch.schema.get_field_index(column)
    values = batch.column(index)
    if isinstance(values, pa.FixedSizeListArray | pa.ListArray | pa.LargeListArray):
        return batch.slice(
            0, 0
        )  # a list is an image, a sound or tokens: a missing value is no missing feature
    missing = arrays.from_numpy(np.full(batch.num_rows, np.nan))
    return batch.set_column(index, column, missing)


def _stays_finite(scorer: BlockScorer, batch: pa.RecordBatch) -> bool:
    if not batch.num_rows:
        return False
    names = [spec.name for spec in scorer.session.outputs]
    size = min(batch.num_rows, scorer.certificate.batch_size)
    padded = scorer.certificate.padding.padded(size)
    feeds = scorer.bind(batch)
    try:
        tensors = scorer.session.run(names, {n: f.block(0, size, padded) for n, f in feeds.items()})
    except SessionRunError:
        return False
    return all(np.isfinite(t).all() for t in tensors if t.dtype.kind == "f")


def certify(candidate: Candidate, sample: pa.RecordBatch, takes_nan: tuple[str, ...]) -> Certificate:
    """Measure the batch size and the padding rule of a model on rows that it can score.

    Args:
        candidate: the model.
        sample: clean rows, at least one.
        takes_nan: what `find_nan_columns` found.
    """
    rates = _sweep(candidate, sample, takes_nan)
    size = _smallest_near_best(rates, _NEAR_ENOUGH)
    fixed = candidate.fixed_rows or _smallest_near_best(rates, _FIXED_ENOUGH)
    worst = 0
    rules = [Padding(rule="fixed", rows=fixed)]
    if candidate.fixed_rows is None:
        rules = [Padding(), *(Padding(rule="multiple", rows=k) for k in _MULTIPLES), *rules]
    for full_width in (False, True) if _has_open_lists(candidate) else (False,):
        for padding in rules:
            certificate = Certificate(
                batch_size=_aligned(fixed if padding.rule == "fixed" else size, padding),
                padding=padding,
                full_width=full_width,
                takes_nan=takes_nan,
                rows_per_second=rates,
                measured_on=_measured_on(candidate, sample),
            )
            difference = _largest_difference(candidate, certificate, sample)
            if difference == 0:
                return certificate
            worst = difference if padding.rule == "none" or worst == 0 else worst
    return certificate.model_copy(
        update={
            "padding": _padding(candidate),
            "batch_size": candidate.fixed_rows or size,
            "full_width": False,
            "bit_exact": False,
            "max_ulp": worst,
        }
    )


def _padding(candidate: Candidate) -> Padding:
    rows = candidate.fixed_rows
    return Padding(rule="fixed", rows=rows) if rows else Padding()


def _aligned(size: int, padding: Padding) -> int:
    return max(size // padding.rows, 1) * padding.rows


def _has_open_lists(candidate: Candidate) -> bool:
    shapes = {spec.name: spec.shape for spec in candidate.session.inputs}
    return any(
        m.pad is not None and m.max is not None and shapes[name][1:2] == (None,)
        for name, m in candidate.inputs.items()
    )


def _measured_on(candidate: Candidate, sample: pa.RecordBatch) -> dict[str, str | int]:
    return {
        "onnxruntime": candidate.session.runtime_version,
        "machine": platform.machine(),
        "cores": os.cpu_count() or 1,
        "sample_rows": sample.num_rows,
    }


def _sweep(candidate: Candidate, sample: pa.RecordBatch, takes_nan: tuple[str, ...]) -> dict[int, int]:
    """Rows a second by batch size, one thread, tensors included."""
    rates: dict[int, int] = {}
    sizes = (candidate.fixed_rows,) if candidate.fixed_rows else _SIZES
    for size in sizes:
        rows = _repeated(sample, size)
        certificate = Certificate(batch_size=size, padding=_padding(candidate), takes_nan=takes_nan)
        scorer = candidate.scorer(certificate)
        feeds = scorer.bind(rows)
        scorer.run_block(feeds, 0, size)  # the first call allocates
        fastest = _fastest(lambda s=scorer, f=feeds, n=size: s.run_block(f, 0, n))
        rates[size] = int(size / fastest)
        if fastest > _LONGEST_CALL_SECONDS:
            break
    return rates


def _fastest(call: Any) -> float:
    best, spent = float("inf"), 0.0
    while spent < _SECONDS_A_SIZE:
        started = time.perf_counter()
        call()
        seconds = max(time.perf_counter() - started, 1e-9)
        best, spent = min(best, seconds), spent + seconds
    return best


def _smallest_near_best(rates: dict[int, int], share: float) -> int:
    best = max(rates.values())
    near = [size for size, rate in rates.items() if rate >= share * best]
    return next((size for size in near if size / rates[size] >= _SHORTEST_CALL_SECONDS), near[-1])


def _repeated(sample: pa.RecordBatch, rows: int) -> pa.RecordBatch:
    return sample.take(arrays.from_numpy(np.arange(rows) % sample.num_rows))


def _largest_difference(candidate: Candidate, certificate: Certificate, sample: pa.RecordBatch) -> int:
    """The largest difference in ULP between a row's scores in different batches under one rule."""
    scorer = candidate.scorer(certificate)
    rows = _repeated(sample, min(max(sample.num_rows, 512), 4 * certificate.batch_size, 8192))
    expected = _scores(scorer, rows, certificate.batch_size)
    worst = 0
    for order, size in _arrangements(rows.num_rows, certificate):
        found = _scores(scorer, rows.take(arrays.from_numpy(order)), size)
        for before, after in zip(expected, found, strict=True):
            worst = max(worst, ulp_distance(before[order], after))
        if worst and certificate.padding.rule != "none":
            return worst
    return worst


def _arrangements(rows: int, certificate: Certificate) -> Iterator[tuple[Array, int]]:
    """Orders of the rows, and sizes of the calls they are scored in, seeded: the same at every call."""
    random = np.random.default_rng(0)
    yield random.permutation(rows), certificate.batch_size
    unit, full = certificate.padding.rows, certificate.batch_size
    sizes = {
        1,
        2,
        3,
        5,
        7,
        8,
        9,
        15,
        17,
        31,
        33,
        63,
        64,
        100,
        127,
        255,
        256,
        511,
        unit,
        2 * unit,
        3 * unit,
    }
    for size in sorted(s for s in sizes if s <= full):
        count = min(rows, 40 * size)
        yield random.permutation(rows)[:count], size
    for _ in range(3):  # all rows, in calls of the full size with another tail
        yield random.permutation(rows)[: rows - int(random.integers(0, max(rows // 3, 1)))], full


def _scores(scorer: BlockScorer, rows: pa.RecordBatch, size: int) -> list[Array]:
    """Every output of all rows, in calls of `size` rows (padded by the rule)."""
    feeds = scorer.bind(rows)
    calls = [
        [tensor[: stop - start] for tensor in scorer.run_block(feeds, start, stop)]
        for start in range(0, rows.num_rows, size)
        for stop in [min(start + size, rows.num_rows)]
    ]
    return [np.concatenate(tensors) for tensors in zip(*calls, strict=True)]


def ulp_distance(before: Array, after: Array) -> int:
    """The largest distance of two arrays of equal shape, in units in the last place; 0 for equal bits.

    Values that are not floats count as 1 apart where they differ.
    """
    if before.dtype.kind != "f":
        return int(not np.array_equal(before, after))
    kind = np.dtype(f"i{before.dtype.itemsize}")
    left, right = np.ascontiguousarray(before).view(kind), np.ascontiguousarray(after).view(kind)
    if np.array_equal(left, right):
        return 0
    lowest = np.iinfo(kind).min

    def ordered(bits: Array) -> Array:
        # Negative floats count down from the sign bit; this makes neighbours differ by 1 across zero.
        as_python: Array = np.where(bits < 0, int(lowest) - bits.astype(object), bits.astype(object))
        return as_python

    unequal = left != right
    return int(np.max(np.abs(ordered(left[unequal]) - ordered(right[unequal]))))
