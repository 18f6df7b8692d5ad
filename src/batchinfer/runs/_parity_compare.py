"""Comparing rows by where their messages stand, and values by their bits. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchinfer.core import POSITION, SOURCE

Keys = npt.NDArray[Any]
_KEY = np.dtype([("source", np.int64), ("position", np.int64), ("row", np.int64)])
_MOST_EXAMPLES = 20


@dataclass(frozen=True, slots=True)
class Compared:
    """Rows with equal bits; by column, those with others; rows that only the stream has; the first differences."""

    equal: int = 0
    different: Counter[str] = field(default_factory=Counter)
    extra: int = 0
    examples: tuple[dict[str, Any], ...] = ()

    def joined(self, other: Compared) -> Compared:
        """Both together."""
        return Compared(
            self.equal + other.equal,
            self.different + other.different,
            self.extra + other.extra,
            (self.examples + other.examples)[:_MOST_EXAMPLES],
        )


def keys_of(rows: pa.Table, sources: Sequence[str]) -> Keys:
    """For each row its source's place among `sources`, its position, and how many of that message stand before it."""
    keys = np.zeros(rows.num_rows, _KEY)
    if not rows.num_rows:
        return keys
    places = pc.index_in(rows[SOURCE].cast(pa.string()), pa.array(sources, pa.string()))
    keys["source"] = places.to_numpy()
    keys["position"] = rows[POSITION].to_numpy()
    order = np.argsort(keys, kind="stable", order=("source", "position"))
    ordered = keys[order]
    first = np.ones(len(ordered), np.bool_)
    first[1:] = ordered[1:] != ordered[:-1]
    starts = np.flatnonzero(first)
    keys["row"][order] = np.arange(len(ordered)) - starts[np.cumsum(first) - 1]
    return keys


def compare(
    written: pa.Table, scored: pa.Table, sources: Sequence[str], columns: Sequence[str], *, as_json: bool
) -> Compared:
    """Hold rows of a stream against those of a batch, both with source and position.

    Args:
        written: what the stream wrote.
        scored: what the batch path makes of it.
        sources: all that stand in either.
        columns: which to compare; those of `written` may be of wider types.
        as_json: NaN and infinities count as null: JSON has neither.
    """
    if keys_of(scored, sources)["row"].any():
        written, scored = _in_order(written, columns), _in_order(scored, columns)
    _, mine, theirs = np.intersect1d(
        keys_of(written, sources), keys_of(scored, sources), assume_unique=True, return_indices=True
    )
    left, right = written.take(pa.array(mine)), scored.take(pa.array(theirs))
    agrees = np.ones(len(mine), np.bool_)
    different: Counter[str] = Counter()
    examples: list[dict[str, Any]] = []
    for name in columns:
        one, other = left[name].combine_chunks(), right[name].combine_chunks()
        same = same_bits(one, other, as_json=as_json)
        agrees &= same
        places = np.flatnonzero(~same)
        if len(places):
            different[name] = len(places)
        for place in places[: _MOST_EXAMPLES - len(examples)].tolist():
            values = {"written": _plain(one[place]), "scored": _plain(other[place])}
            examples.append({**_where(left, place), "column": name, **values})
    extra = np.setdiff1d(np.arange(written.num_rows), mine)
    examples += [
        {**_where(written, place), "column": None, "written": "a row", "scored": "no row"}
        for place in extra[: _MOST_EXAMPLES - len(examples)].tolist()
    ]
    return Compared(int(agrees.sum()), different, len(extra), tuple(examples))


def _in_order(rows: pa.Table, columns: Sequence[str]) -> pa.Table:
    """In the order of their values, the key first: a topic keeps none among rows of a message that has no key."""
    plain = {}
    for name in columns:
        kind = rows.schema.field(name).type
        if pa.types.is_dictionary(kind):
            plain[name] = rows[name].cast(kind.value_type)
        elif not pa.types.is_nested(kind):
            plain[name] = rows[name]
    order = pc.sort_indices(pa.table(plain), sort_keys=[(name, "ascending") for name in plain])
    return rows.take(order)


def _where(rows: pa.Table, place: int) -> dict[str, Any]:
    return {"source": rows[SOURCE][place].as_py(), "position": rows[POSITION][place].as_py()}


def same_bits(written: pa.Array, scored: pa.Array, *, as_json: bool = False) -> npt.NDArray[np.bool_]:
    """Whether each pair of values has the same bits; nulls equal each other."""
    if pa.types.is_dictionary(scored.type):
        scored = scored.cast(scored.type.value_type)
    if pa.types.is_list(scored.type):
        pairs = zip(written.to_pylist(), scored.to_pylist(), strict=True)
        return np.array([repr(a) == repr(_as_json(b) if as_json else b) for a, b in pairs], np.bool_)
    written = written.cast(scored.type)
    if pa.types.is_floating(scored.type):
        whole = np.dtype(f"u{scored.type.bit_width // 8}")
        one, other = (c.fill_null(0).to_numpy(zero_copy_only=False) for c in (written, scored))
        there = pc.is_valid(written).to_numpy(zero_copy_only=False)
        due = pc.is_valid(scored).to_numpy(zero_copy_only=False)
        if as_json:
            due = due & np.isfinite(other)
        equal = (one.view(whole) == other.view(whole)) | ~there
        return np.asarray(equal & (there == due), np.bool_)
    equal = pc.fill_null(pc.equal(written, scored), False).to_numpy(zero_copy_only=False)
    neither = pc.and_(pc.is_null(written), pc.is_null(scored)).to_numpy(zero_copy_only=False)
    return np.asarray(equal | neither, np.bool_)


def _as_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_json(each) for each in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _plain(value: pa.Scalar) -> Any:
    found = value.as_py()
    return found if isinstance(found, bool | int | float | str | None) else str(found)
