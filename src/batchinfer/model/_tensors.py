"""Columns become tensors: first which rows cannot be fed, then views that are packed block by block.

Nothing here loops over rows. A numeric column is a NumPy view of Arrow's memory; the one copy is the
block that the model takes, made while it fits the processor's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchinfer.core import arrays
from batchinfer.errors import InputError
from batchinfer.model._feeds import ColumnFeed, ConstantFeed, Feed, PackFeed, PaddedFeed
from batchinfer.model._manifest import InputMapping, Scalar
from batchinfer.model._session import TensorSpec

Array = npt.NDArray[Any]
Refuse = Callable[[Any, str], None]
"""Takes a boolean mask over a batch's rows and the reason why those rows cannot be scored."""


@dataclass(frozen=True, slots=True)
class ColumnRule:
    """How values of one column become values of a tensor's dtype."""

    column: str
    dtype: np.dtype[Any]
    takes_nan: bool
    fill_null: Scalar | None

    def refuse(self, values: pa.Array, refuse: Refuse) -> None:
        """Report each value that cannot be fed."""

        def report(bad: Any, reason: str) -> None:
            refuse(bad, f"{reason} in '{self.column}'")

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
            # The smallest of numbers is NaN where one of them is: one pass decides for nearly all batches.
            narrows = view.dtype.itemsize > self.dtype.itemsize
            if not narrows and (self.takes_nan or not np.isnan(view.min(initial=0))):
                return
            if (
                narrows
                and np.abs([view.min(initial=0), view.max(initial=0)]).max() < np.finfo(self.dtype).max
            ):
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
        if view.dtype.kind == "f":
            view = view.astype(np.float64, copy=False)
            report(np.isnan(view) & known, "NaN")
            report((np.trunc(view) != view) & known, "number that is not whole")
            # The largest integers are no floats, but the powers of two next to them are.
            outside = (view < float(limits.min)) | (view >= float(limits.max) + 1)
        else:
            outside = (view < limits.min) | (view > limits.max)
        report(outside & known, f"number that {self.dtype} cannot hold")

    def view(self, values: pa.Array) -> Array:
        """The values of clean rows as a NumPy array: a view of Arrow's memory where none is null."""
        if self.dtype == np.object_:
            return _text_view(values, "" if self.fill_null is None else str(self.fill_null))
        view, present = arrays.to_numpy(values)
        if present is None:
            return view
        with np.errstate(invalid="ignore", over="ignore"):  # what lies at a null is anything
            filled = view.astype(self.dtype)
        filled[~present] = np.nan if self.fill_null is None else self.fill_null
        return filled


def _inexact(whole: Array, dtype: np.dtype[Any]) -> Array:
    with np.errstate(invalid="ignore", over="ignore"):
        rounded = whole.astype(dtype).astype(np.float64)
        back = rounded.astype(whole.dtype)
    # The largest integers round up to a float that wraps around on the way back; float16 knows only infinity.
    limits = np.iinfo(whole.dtype)
    wrapped = (rounded >= float(limits.max) + 1) | (rounded < float(limits.min))
    unequal: Array = (back != whole) | wrapped
    return unequal


def _text_view(values: pa.Array, null: str) -> Array:
    """Python strings, made once for each distinct value: rows then share them."""
    if not pa.types.is_dictionary(values.type):
        values = values.dictionary_encode()
    words = np.array(
        [*(null if word is None else word for word in values.dictionary.to_pylist()), null], object
    )
    indices, present = arrays.to_numpy(values.indices)
    if present is not None:
        indices = np.where(present, indices.astype(np.int64), len(words) - 1)
    view: Array = words.take(indices)
    return view


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
                if is_list(values.type):
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

        def refuse_rows(bad: Array, reason: str) -> None:
            if bad.any():
                rows = np.repeat(np.arange(len(lists)), lengths)
                refuse(np.bincount(rows[bad], minlength=len(lists)) > 0, reason)

        rule.refuse(lists.flatten(), refuse_rows)

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
        if not is_list(values.type):
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


def take_rows(batch: pa.RecordBatch, rows: Array) -> pa.RecordBatch:
    """Some rows of a batch."""
    indices = arrays.from_numpy(rows)
    columns = [
        # Arrow cannot take from views.
        (column.cast(pa.large_string()) if pa.types.is_string_view(column.type) else column).take(indices)
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    if batch.schema.get_field_index(name) < 0:
        if name in batch.schema.names:
            raise InputError(f"column '{name}' stands twice; which one is meant?", column=name)
        raise InputError(
            f"no column '{name}', which the model takes; there are {', '.join(batch.schema.names[:20])}",
            column=name,
        )
    values = batch.column(name)
    if pa.types.is_dictionary(values.type) and values.dictionary.null_count:
        return values.dictionary_decode()  # a row can also be null by way of its word
    return values


def is_list(kind: pa.DataType) -> bool:
    """Whether values of the type are lists."""
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
    value = kind.value_type if is_list(kind) or pa.types.is_dictionary(kind) else kind
    takes_list, takes_value = _takes(mapping, spec)
    lists_wanted = takes_list and not takes_value
    fits = any(accepts(value) for accepts in accepted_types(mapping, spec))
    if (
        not fits
        or not (takes_list if is_list(kind) else takes_value)
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


def _takes(mapping: InputMapping, spec: TensorSpec) -> tuple[bool, bool]:
    """Whether a row's value may be a list, and whether it may be a single value."""
    if mapping.pack is not None:
        return False, True
    if mapping.pad is not None or mapping.shape is not None:
        return True, False
    row = spec.shape[1:]
    return any(d != 1 for d in row), all(d in {1, None} for d in row)
