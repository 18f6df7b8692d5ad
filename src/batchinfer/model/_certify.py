"""Does a row's score depend on the batch it is scored in? Measured, and written into the bundle.

The same row can get other bits in another batch size or place: a matrix product sums in another order, a
kernel switches its code path. So `model add` scores the sample in many ways, and searches the cheapest rule
(any size; sizes filled up to a multiple of k; one fixed size) under which the bits stay the same.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchinfer.core import arrays
from batchinfer.model._manifest import Certificate, InputMapping, OutputMapping, Padding
from batchinfer.model._scorer import BlockScorer
from batchinfer.model._session import Session, SessionRunError
from batchinfer.model._tensors import is_list

Array = npt.NDArray[Any]

_MULTIPLES = (2, 4, 8, 16, 32, 64)
_SIZES = (1, 4, 16, 64, 256, 1024, 2048, 4096, 8192, 16384, 32768)
_NEAR_ENOUGH = 0.98
"""A smaller batch at this share of the best rate wins: it stays in cache and bounds memory."""
_CALL_SECONDS = 120e-6
"""Charged for each call on top of its own time: what a run spends around it, much of it under Python's lock.
Measured with 200 trees: 256 rows a call were 3% faster alone than 4,096, and took 10% more of a run's processor time.
"""
_FIXED_ENOUGH = 0.9
_ROUNDS = 5
_SECONDS_A_SIZE = 0.03
"""In each round, so that a moment in which others take the machine does not decide between sizes."""
_LONGEST_CALL_SECONDS = 1.0
_FEWEST_CALLS = 40
"""How often each of the small sizes is tried, however slow the model is."""
_SECONDS_OF_SMALL_CALLS = 0.1
"""For each of them, to score the rest of the sample so."""


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
    computed. Only columns of float inputs are tried; other tensors cannot hold a NaN. A list is an image, a
    sound or tokens: a missing value in it is no missing feature. A graph without a float output, as one that
    gives labels only, shows nothing.

    Args:
        candidate: the model, all of its outputs.
        sample: rows that can be fed if every float column took NaN; best such that miss nothing.
    """
    specs = {spec.name: spec for spec in candidate.session.inputs}
    floats = [
        column
        for name, mapping in candidate.inputs.items()
        for column in mapping.columns
        if specs[name].dtype.kind == "f" and mapping.fill_null is None
    ]
    everything = tuple(dict.fromkeys(c for c in floats if not is_list(sample.schema.field(c).type)))
    size = candidate.fixed_rows or 64
    scorer = candidate.scorer(Certificate(batch_size=size, padding=_padding(candidate), takes_nan=everything))
    rows = sample.slice(0, size)
    return tuple(c for c in everything if _stays_finite(scorer, _with_nan(rows, c)))


def _with_nan(batch: pa.RecordBatch, column: str) -> pa.RecordBatch:
    missing = arrays.from_numpy(np.full(batch.num_rows, np.nan))
    return batch.set_column(batch.schema.get_field_index(column), column, missing)


def _stays_finite(scorer: BlockScorer, batch: pa.RecordBatch) -> bool:
    names = [spec.name for spec in scorer.session.outputs]
    padded = scorer.certificate.padding.padded(batch.num_rows)
    feeds = scorer.bind(batch)
    try:
        tensors = scorer.session.run(names, {n: f.block(0, batch.num_rows, padded) for n, f in feeds.items()})
    except SessionRunError:
        return False
    floats = [tensor for tensor in tensors if tensor.dtype.kind == "f"]
    return bool(floats) and all(np.isfinite(tensor).all() for tensor in floats)


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
    """Rows a second by batch size, one thread, tensors and the cost of a call included."""
    sizes = (candidate.fixed_rows,) if candidate.fixed_rows else _SIZES
    calls: dict[int, Callable[[], object]] = {}
    fastest: dict[int, float] = {}
    for size in sizes:
        rows = repeated(sample, size)
        certificate = Certificate(batch_size=size, padding=_padding(candidate), takes_nan=takes_nan)
        scorer = candidate.scorer(certificate)
        calls[size] = partial(scorer.run_block, scorer.bind(rows), 0, size)
        calls[size]()  # the first call allocates
        fastest[size] = _fastest(calls[size])
        if fastest[size] > _LONGEST_CALL_SECONDS:
            break
    for _ in range(_ROUNDS - 1):
        for size, call in calls.items():
            fastest[size] = min(fastest[size], _fastest(call))
    return {size: int(size / (seconds + _CALL_SECONDS)) for size, seconds in fastest.items()}


def _fastest(call: Callable[[], object]) -> float:
    """Seconds of processor time of the fastest of several calls: other work on the machine does not count."""
    best, until = float("inf"), time.perf_counter() + _SECONDS_A_SIZE
    while best == float("inf") or time.perf_counter() < until:
        started = time.thread_time()
        call()
        best = min(best, max(time.thread_time() - started, 1e-9))
    return best


def _smallest_near_best(rates: dict[int, int], share: float) -> int:
    best = max(rates.values())
    return next(size for size, rate in rates.items() if rate >= share * best)


def repeated(sample: pa.RecordBatch, rows: int) -> pa.RecordBatch:
    """`rows` rows of a sample, again from its first where it is shorter."""
    return sample.take(arrays.from_numpy(np.arange(rows) % sample.num_rows))


def _largest_difference(candidate: Candidate, certificate: Certificate, sample: pa.RecordBatch) -> int:
    """The largest difference in ULP between a row's scores in different batches under one rule."""
    scorer = candidate.scorer(certificate)
    full = certificate.batch_size
    rows = repeated(sample, min(max(sample.num_rows, 512, 2 * full), 4 * full))
    expected = _scores(scorer, rows, full)
    worst = _difference_beside_strangers(scorer, rows, expected)
    for order, size in _arrangements(rows.num_rows, sample.num_rows, certificate):
        found = _scores(scorer, rows.take(arrays.from_numpy(order)), size)
        for before, after in zip(expected, found, strict=True):
            worst = max(worst, ulp_distance(before[order], after))
        if worst and certificate.padding.rule != "none":
            return worst
    return worst


def _difference_beside_strangers(scorer: BlockScorer, rows: pa.RecordBatch, expected: list[Array]) -> int:
    """The same where every other row is replaced by one that is far from the sample.

    Rows of a sample may be too alike to show that a model mixes them, as one that normalises over the batch
    or quantises by the batch's range does.
    """
    replaced = np.arange(rows.num_rows) % 2 == 1
    for reach in (2, 0, None):
        strangers = _strangers(rows, reach)
        strangers_fed = replaced.copy()
        strangers_fed[scorer.unfeedable(strangers).rows] = False
        both = pa.Table.from_batches([rows, strangers]).combine_chunks().to_batches()[0]
        chosen = np.arange(rows.num_rows) + rows.num_rows * strangers_fed
        try:
            found = _scores(scorer, both.take(arrays.from_numpy(chosen)), scorer.certificate.batch_size)
        except SessionRunError:
            continue  # an embedding has no row for a number that it never saw
        return max(ulp_distance(b[~replaced], a[~replaced]) for b, a in zip(expected, found, strict=True))
    return 0


def _strangers(batch: pa.RecordBatch, reach: int | None) -> pa.RecordBatch:
    """`batch` with other numbers: floats far away, integers up to `reach` beyond their range (None: the same)."""
    random = np.random.default_rng(0)
    for index, field in enumerate(batch.schema):
        column = batch.column(index)
        values = column.flatten() if is_list(field.type) else column
        if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
            continue
        if column.null_count or values.null_count or not len(values):
            continue
        view, _ = arrays.to_numpy(values)
        if view.dtype.kind == "f":
            with np.errstate(over="ignore", invalid="ignore"):
                far = view * random.uniform(-8, 8, len(view)) + random.normal(0, 8, len(view))
                far = far.astype(view.dtype)
            other = np.where(np.isfinite(far), far, view)
        elif reach is not None:
            limits = np.iinfo(view.dtype)
            low = max(int(view.min()) - reach, limits.min)
            high = min(int(view.max()) + reach, limits.max)
            other = random.integers(low, high, len(view), view.dtype, endpoint=True)
        else:
            continue
        batch = batch.set_column(index, field, _like(column, other))
    return batch


def _like(column: pa.Array, values: Array) -> pa.Array:
    """The array with other values."""
    flat = arrays.from_numpy(values)
    if not is_list(column.type):
        return flat
    if pa.types.is_fixed_size_list(column.type):
        return pa.FixedSizeListArray.from_arrays(flat, type=column.type)
    offsets = np.concatenate([[0], np.cumsum(pc.list_value_length(column).to_numpy())])
    kind = pa.LargeListArray if pa.types.is_large_list(column.type) else pa.ListArray
    width = np.int64 if kind is pa.LargeListArray else np.int32
    return kind.from_arrays(arrays.from_numpy(offsets.astype(width)), flat, type=column.type)


def _arrangements(rows: int, distinct: int, certificate: Certificate) -> Iterator[tuple[Array, int]]:
    """Orders of the rows, and sizes of the calls they are scored in, seeded: the same at every call.

    The first `distinct` rows are the sample, the others repeat it. Small calls score all of it where time allows: one
    row alone may take another kernel, of which a linear model's scores show no more than a few in a hundred.
    """
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
        1023,
        3000,
        unit,
        2 * unit,
        3 * unit,
    }
    for size in sorted(s for s in sizes if s <= full):
        if size * _FEWEST_CALLS < distinct:
            calls = max(_FEWEST_CALLS, int(_SECONDS_OF_SMALL_CALLS / _seconds_a_call(certificate, size)))
            yield random.permutation(min(distinct, rows))[: size * calls], size
        else:
            yield random.permutation(rows)[: size * _FEWEST_CALLS], size
    for _ in range(3):  # all rows, in calls of the full size with another tail
        yield random.permutation(rows)[: rows - int(random.integers(0, max(rows // 3, 1)))], full


def _seconds_a_call(certificate: Certificate, size: int) -> float:
    """What a call for `size` rows takes at most, by the nearest size of the sweep that is not smaller."""
    filled = certificate.padding.padded(size)
    rates = certificate.rows_per_second
    measured = min((s for s in rates if s >= filled), default=max(rates))
    return max(filled, measured) / max(rates[measured], 1)


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
    # 0.0 and -0.0 are one place of the line, and two patterns of bits.
    return max(int(np.max(np.abs(ordered(left[unequal]) - ordered(right[unequal])))), 1)
