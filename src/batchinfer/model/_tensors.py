"""Columns become tensors: first which rows cannot be fed, then views that are packed block by block.

Nothing here loops over rows. A numeric column is a NumPy view of Arrow's memory; the one copy is the
block that the model takes, made while it fits the processor's cache.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchinfer.core import arrays
from batchinfer.errors import InputError
from batchinfer.model._manifest import InputMapping, Scalar
from batchinfer.model._session import TensorSpec

Array = npt.NDArray[Any]
Refuse = Callable[[Any, str], None]
"""Takes a boolean mask over a batch's rows and the reason why those rows cannot be scored."""


class Feed(Protocol):
    """The values of one ONNX input for a batch of clean rows."""

    def block(self, start: int, stop: int, padded: int) -> Array:
        """The tensor of rows [start, stop), filled up to `padded` rows with copies of the last."""


@dataclass(frozen=True, slots=True)
class ColumnRule:
    """How values of one column become values of a tensor's dtype."""

    column: str
    dtype: np.dtype[Any]
    takes_nan: bool
    fill_null: Scalar | None

    def refuse(self, values: pa.Array, refuse: Refuse, rows: Array | None = None) -> None:
        """Report the rows whose value cannot be fed. `rows` maps values to rows where a row has several."""

        def report(bad: Any, reason: str) -> None:
            mask = np.asarray(bad)
            if rows is not None:
                mask = np.bincount(rows[mask], minlength=int(rows[-1]) + 1 if len(rows) else 0) > 0
            refuse(mask, f"{reason} in '{self.column}'")

        present = arrays.valid(values)
        if present is not None and self.fill_null is None and not self._nan_for_null:
            report(~present, "null")
        if self.dtype.kind == "f":
            self._refuse_unfit_floats(values, report)
        elif self.dtype.kind in "iu":
            self._refuse_unfit_integers(values, report)

    @property
    def _nan_for_null(self) -> bool:
        return self.takes_nan and self.dtype.kind == "f"

    def _refuse_unfit_floats(self, values: pa.Array, report: Callable[[Any, str], None]) -> None:
        view, present = arrays.to_numpy(values)
        if view.dtype.kind in "iu":
            exact = 2 ** (np.finfo(self.dtype).nmant + 1)
            if len(view) and (int(view.min()) < -exact or int(view.max()) > exact):
                bad = _inexact(view, self.dtype)
                report(bad if present is None else bad & present, f"number that {self.dtype} cannot hold")
            return
        if view.dtype.kind != "f":
            return
        with np.errstate(over="ignore", invalid="ignore"):
            # The sum of finite numbers is finite: one pass decides for nearly all batches.
            narrows = view.dtype.itemsize > self.dtype.itemsize
            if not narrows and np.isfinite(np.add.reduce(view)):
                return
            if not self.takes_nan:
                nan = np.isnan(view)
                report(nan if present is None else nan & present, "NaN")
            if narrows:
                lost = np.isinf(view.astype(self.dtype)) & np.isfinite(view)
                report(lost if present is None else lost & present, f"number that {self.dtype} cannot hold")

    def _refuse_unfit_integers(self, values: pa.Array, report: Callable[[Any, str], None]) -> None:
        view, present = arrays.to_numpy(values)
        if view.dtype.kind == "b" or np.can_cast(view.dtype, self.dtype):
            return
        limits = np.iinfo(self.dtype)
        known = True if present is None else present
        with np.errstate(invalid="ignore"):
            if view.dtype.kind == "f":
                report(~(np.trunc(view) == view) & known, "number that is not whole")
            outside = (view < limits.min) | (view > limits.max)
            report(outside & known, f"number that {self.dtype} cannot hold")

    def view(self, values: pa.Array) -> Array:
        """The values of clean rows as a NumPy array: a view of Arrow's memory where none is null."""
        if self.dtype == np.object_:
            return _text_view(values, "" if self.fill_null is None else str(self.fill_null))
        view, present = arrays.to_numpy(values)
        if present is None:
            return view
        return np.where(present, view, np.nan if self.fill_null is None else self.fill_null)


def _inexact(whole: Array, dtype: np.dtype[Any]) -> Array:
    rounded = whole.astype(dtype).astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        back = rounded.astype(whole.dtype)
    # 2**63 rounds up to a float that wraps around on the way back, so the bound is checked apart.
    limit = float(np.iinfo(whole.dtype).max)
    unequal: Array = (back != whole) | (np.abs(rounded) >= limit)
    return unequal


def _text_view(values: pa.Array, null: str) -> Array:
    """Python strings, made once for each distinct value: rows then share them."""
    if not pa.types.is_dictionary(values.type):
        values = values.dictionary_encode()
    words = np.array(
        [*(null if word is None else word for word in values.dictionary.to_pylist()), null], object
    )
    indices, present = arrays.to_numpy(values.indices)
    view: Array = words.take(indices if present is None else np.where(present, indices, len(words) - 1))
    return view


def _padded(block: Array, padded: int) -> Array:
    short = padded - len(block)
    if not short:
        return block
    return np.concatenate([block, np.repeat(block[-1:], short, axis=0)])


@dataclass(frozen=True, slots=True)
class PackFeed:
    """Columns packed into [N, F].

    Each thread keeps its last tensors and writes over them: a session has read its inputs when it returns.
    Columns are laid side by side first and then transposed in one sweep, which is faster than writing them
    with a stride one by one.
    """

    name: str
    views: tuple[Array, ...]
    dtype: np.dtype[Any]

    def block(self, start: int, stop: int, padded: int) -> Array:
        """One row of the tensor is one row of the batch. Valid until the thread's next call."""
        rows, width = stop - start, len(self.views)
        side_by_side = _scratch(f"{self.name}, columns", (width, padded), self.dtype)
        for i, view in enumerate(self.views):
            side_by_side[i, :rows] = view[start:stop]
        side_by_side[:, rows:] = side_by_side[:, rows - 1 : rows]
        tensor = _scratch(self.name, (padded, width), self.dtype)
        tensor[...] = side_by_side.T
        return tensor


_workspace = threading.local()


def _scratch(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    kept: dict[Any, Array] = _workspace.__dict__
    array = kept.get(name)
    if array is None or array.shape != shape or array.dtype != dtype:
        array = kept[name] = np.empty(shape, dtype)
    return array


@dataclass(frozen=True, slots=True)
class ColumnFeed:
    """One value a row ([N] or [N, 1]), or one fixed-size list a row ([N, *shape])."""

    view: Array
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def block(self, start: int, stop: int, padded: int) -> Array:
        """A view where dtype and size fit already."""
        width = int(np.prod(self.shape, dtype=np.int64))
        flat = self.view[start * width : stop * width].reshape(stop - start, *self.shape)
        return _padded(np.ascontiguousarray(flat, self.dtype), padded)


@dataclass(frozen=True, slots=True)
class PaddedFeed:
    """Lists of varying size, padded to [N, T]; T is the longest of the block, or always `full_width`."""

    values: Array
    offsets: Array
    dtype: np.dtype[Any]
    pad: float
    full_width: int | None
    mask_dtype: np.dtype[Any] | None = None

    def block(self, start: int, stop: int, padded: int) -> Array:
        """The padded lists, or with `mask_dtype` the mask over them."""
        offsets = self.offsets[start : stop + 1]
        lengths = np.diff(offsets)
        width = self.full_width or max(int(lengths.max(initial=0)), 1)
        real = np.arange(width) < lengths[:, None]
        if self.mask_dtype is not None:
            return _padded(real.astype(self.mask_dtype), padded)
        tensor = np.full(real.shape, self.pad, self.dtype)
        tensor[real] = self.values[offsets[0] : offsets[-1]]
        return _padded(tensor, padded)


@dataclass(frozen=True, slots=True)
class ConstantFeed:
    """The same value for every call."""

    value: Scalar
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]

    def block(self, start: int, stop: int, padded: int) -> Array:
        """`shape` filled with the value; None stands for the batch size."""
        return np.full([padded if d is None else d for d in self.shape], self.value, self.dtype)


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """How all of a model's inputs are made from columns: built once, used for every batch.

    `takes_nan` and `full_width` are the certificate's.
    """

    mappings: dict[str, InputMapping]
    specs: dict[str, TensorSpec]
    takes_nan: frozenset[str]
    full_width: bool

    def refuse(self, batch: pa.RecordBatch, refuse: Refuse) -> None:
        """Report every row that cannot be fed, with each of its reasons.

        Raises:
            InputError: a column is missing or has a type that the input cannot take.
        """
        for name, mapping in self.mappings.items():
            spec = self.specs[name]
            for column in mapping.columns:
                values = _column(batch, column)
                check_type(column, values.type, mapping, spec)
                rule = self._rule(column, mapping, spec)
                if _is_list(values.type):
                    self._refuse_lists(values, mapping, spec, rule, refuse)
                else:
                    rule.refuse(values, refuse)

    def _refuse_lists(
        self,
        lists: pa.Array,
        mapping: InputMapping,
        spec: TensorSpec,
        rule: ColumnRule,
        refuse: Refuse,
    ) -> None:
        column = rule.column
        lengths, present = arrays.to_numpy(pc.list_value_length(lists))
        if present is not None:
            refuse(~present, f"null in '{column}'")
            lengths = np.where(present, lengths, 0)
        longest = _longest(mapping, spec)
        if mapping.pad is None:
            expected = int(np.prod(list_shape(mapping, spec), dtype=np.int64))
            refuse(lengths != expected, f"list that is not {expected} long in '{column}'")
        elif longest is not None:
            refuse(lengths > longest, f"list longer than {longest} in '{column}'")
        rows = np.append(np.repeat(np.arange(len(lists)), lengths), len(lists) - 1)
        flat = lists.flatten()
        rule.refuse(pa.concat_arrays([flat, flat[:1]]) if len(flat) else flat, refuse, rows[: len(flat) + 1])

    def bind(self, batch: pa.RecordBatch) -> dict[str, Feed]:
        """The feeds of a batch whose rows are all clean."""
        feeds: dict[str, Feed] = {}
        for name, mapping in self.mappings.items():
            if mapping.mask_of is None:
                feeds[name] = self._feed(batch, mapping, self.specs[name])
        for name, mapping in self.mappings.items():
            if mapping.mask_of is not None:
                lists = feeds[mapping.mask_of]
                assert isinstance(lists, PaddedFeed)
                feeds[name] = PaddedFeed(
                    lists.values,
                    lists.offsets,
                    lists.dtype,
                    lists.pad,
                    lists.full_width,
                    self.specs[name].dtype,
                )
        return feeds

    def _feed(self, batch: pa.RecordBatch, mapping: InputMapping, spec: TensorSpec) -> Feed:
        if mapping.constant is not None:
            return ConstantFeed(mapping.constant, spec.dtype, _constant_shape(mapping, spec))
        if mapping.pack is not None:
            views = tuple(self._rule(c, mapping, spec).view(_column(batch, c)) for c in mapping.pack)
            return PackFeed(spec.name, views, spec.dtype)
        assert mapping.column is not None
        values = _column(batch, mapping.column)
        rule = self._rule(mapping.column, mapping, spec)
        if not _is_list(values.type):
            return ColumnFeed(rule.view(values), spec.dtype, (1,) * (len(spec.shape) - 1))
        flat = rule.view(values.flatten())
        if mapping.pad is None:
            return ColumnFeed(flat, spec.dtype, list_shape(mapping, spec))
        lengths, _ = arrays.to_numpy(pc.list_value_length(values))
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        fixed = spec.shape[1] if len(spec.shape) > 1 else None
        width = fixed if fixed is not None else (_longest(mapping, spec) if self.full_width else None)
        return PaddedFeed(flat, offsets, spec.dtype, mapping.pad, width)

    def _rule(self, column: str, mapping: InputMapping, spec: TensorSpec) -> ColumnRule:
        return ColumnRule(column, spec.dtype, column in self.takes_nan, mapping.fill_null)


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    if batch.schema.get_field_index(name) < 0:
        raise InputError(
            f"no column '{name}', which the model takes; there are {', '.join(batch.schema.names[:20])}",
            column=name,
        )
    return batch.column(name)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _longest(mapping: InputMapping, spec: TensorSpec) -> int | None:
    bounds = [b for b in (mapping.max, spec.shape[1] if len(spec.shape) > 1 else None) if b is not None]
    return min(bounds) if bounds else None


def list_shape(mapping: InputMapping, spec: TensorSpec) -> tuple[int, ...]:
    """The shape of one row's tensor: as the mapping states it, else as the graph does.

    Raises:
        InputError: neither says it.
    """
    if mapping.shape is not None:
        return tuple(int(d) for d in mapping.shape)
    row = spec.shape[1:]
    if any(d is None for d in row):
        raise InputError(
            f"input '{spec.name}' is {spec}: the size of its lists is not known",
            next_step=f"state it in the config: {spec.name}: {{column: {mapping.column}, shape: [...]}}",
        )
    return tuple(d for d in row if d is not None)


def _constant_shape(mapping: InputMapping, spec: TensorSpec) -> tuple[int | None, ...]:
    if mapping.shape is not None:
        return tuple(None if d == "batch" else int(d) for d in mapping.shape)
    return tuple(1 if d is None else d for d in spec.shape)


def accepted_types(mapping: InputMapping, spec: TensorSpec) -> Sequence[Callable[[pa.DataType], bool]]:
    """The kinds of Arrow types whose values the input can take, row by row."""
    if spec.dtype == np.object_:
        return (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    if spec.dtype.kind == "b":
        return (pa.types.is_boolean,)
    return (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)


def check_type(column: str, kind: pa.DataType, mapping: InputMapping, spec: TensorSpec) -> None:
    """Hold a column's type against what its ONNX input takes.

    Raises:
        InputError: it cannot be fed; names the column, the expected and the found type.
    """
    value = kind.value_type if _is_list(kind) or pa.types.is_dictionary(kind) else kind
    lists_wanted = mapping.column is not None and (mapping.pad is not None or _row_is_list(mapping, spec))
    fits = any(accepts(value) for accepts in accepted_types(mapping, spec))
    if (
        not fits
        or _is_list(kind) != lists_wanted
        or (spec.dtype != np.object_ and pa.types.is_dictionary(kind))
    ):
        wanted = "string" if spec.dtype == np.object_ else "bool" if spec.dtype.kind == "b" else "a number"
        expected = f"a list of {wanted}s" if lists_wanted else wanted
        raise InputError(
            f"column '{column}' has the type {kind}, but the model's input '{spec.name}' ({spec}) "
            f"takes {expected.replace('a list of a ', 'a list of ')}",
            column=column,
            expected=expected,
            found=str(kind),
        )


def _row_is_list(mapping: InputMapping, spec: TensorSpec) -> bool:
    return mapping.shape is not None or any(d != 1 for d in spec.shape[1:])
