"""A check about rows: which it considers, which are unexpected, and what Great Expectations says then."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa

from batchinfer.core import NOTHING_SENSITIVE, POSITION, SOURCE, Lineage, Sensitive
from batchinfer.core.arrays import from_numpy, to_numpy
from batchinfer.quality._condition import Condition
from batchinfer.quality._expectation import Expectation, Judgement, State
from batchinfer.quality._values import Mask, at, missing

EXAMPLES = 20
"""So many unexpected values stay in the state: those of the first rows by file and position."""


class Rule(Protocol):
    """Which rows are unexpected, given the columns. Pure; says nothing about rows that do not count."""

    def __call__(self, columns: Sequence[pa.Array], missing: Mask | None) -> Mask | None:
        """None: no row is unexpected. What it says of a missing row is not heard."""


@dataclass(frozen=True, slots=True)
class RowCheck:
    """A compiled expectation about each row.

    Attributes:
        expectation: what it was compiled from.
        reads: the columns that the rule takes.
        rule: which rows are unexpected.
        ignores: which rows do not count: those where any or all of the columns are missing, or none.
        shape: how an unexpected value is shown: of one column, as a pair, or by column.
        counts_missing: whether the result tells of missing rows (not for null and not null themselves).
        condition: the rows that the expectation is about.
        sensitive: columns of which examples show hashes, or nothing.
    """

    expectation: Expectation
    reads: tuple[str, ...]
    rule: Rule
    ignores: Literal["any", "all", "none"] = "any"
    shape: Literal["value", "pair", "record"] = "value"
    counts_missing: bool = True
    condition: Condition | None = None
    sensitive: Sensitive = NOTHING_SENSITIVE

    @property
    def columns(self) -> tuple[str, ...]:
        """The input columns it reads, those of its row condition included."""
        more = self.condition.columns if self.condition else ()
        return tuple(dict.fromkeys((*self.reads, *more)))

    def measure(self, batch: pa.RecordBatch, lineage: Lineage) -> tuple[State, Mask | None]:
        """The counts of these rows, up to 20 unexpected values, and which rows are unexpected."""
        inside = self.condition.rows(batch) if self.condition else None
        columns = [batch.column(name) for name in self.reads]
        absent = self._missing(columns)
        unexpected = self.rule(columns, absent)
        if absent is not None:
            unexpected = None if unexpected is None else unexpected & ~absent
            absent = absent if inside is None else absent & inside
        if inside is not None and unexpected is not None:
            unexpected = unexpected & inside
        count = 0 if unexpected is None else int(np.count_nonzero(unexpected))
        state: State = {
            "rows": batch.num_rows if inside is None else int(np.count_nonzero(inside)),
            "missing": 0 if absent is None else int(np.count_nonzero(absent)),
            "unexpected": count,
            "examples": self._examples(columns, unexpected, lineage) if count else [],
        }
        return state, unexpected if count else None

    def merge(self, one: State, other: State) -> State:
        """The state of the rows of both."""
        counts = {key: one[key] + other[key] for key in ("rows", "missing", "unexpected")}
        examples = sorted(one["examples"] + other["examples"], key=lambda example: example[:2])
        return {**counts, "examples": examples[:EXAMPLES]}

    def judge(self, state: State) -> Judgement:
        """Great Expectations' verdict on these counts, and its result in the format SUMMARY."""
        counted = state["rows"] - state["missing"]
        mostly = self.expectation.kwargs.get("mostly")
        mostly = 1 if mostly is None else mostly
        success = counted == 0 or (counted - state["unexpected"]) / counted >= mostly
        return Judgement(success, self._result(state, counted))

    def _missing(self, columns: Sequence[pa.Array]) -> Mask | None:
        """Which rows do not count for what they lack."""
        if self.ignores == "none":
            return None
        masks = [missing(column) for column in columns]
        if self.ignores == "all":
            if any(mask is None for mask in masks):
                return None
            all_of: Mask = np.logical_and.reduce([mask for mask in masks if mask is not None])
            return all_of
        some = [mask for mask in masks if mask is not None]
        any_of: Mask | None = np.logical_or.reduce(some) if some else None
        return any_of

    def _examples(self, columns: Sequence[pa.Array], unexpected: Any, lineage: Lineage) -> list[Any]:
        found = np.flatnonzero(unexpected)
        positions = to_numpy(lineage.positions)[0]
        if len(found) > EXAMPLES:
            places = positions[found]
            if (places[1:] > places[:-1]).all():  # as files are read
                found = found[:EXAMPLES]
            else:
                found = found[np.argpartition(places, EXAMPLES)[:EXAMPLES]]
        found = found[np.argsort(positions[found], kind="stable")]
        shown = [self._shown(name, column, found) for name, column in zip(self.reads, columns, strict=True)]
        values: list[Any]
        if self.shape == "value":
            values = shown[0]
        elif self.shape == "pair":
            values = [list(row) for row in zip(*shown, strict=True)]
        else:
            values = [dict(zip(self.reads, row, strict=True)) for row in zip(*shown, strict=True)]
        first = zip(positions[found].tolist(), values, strict=True)
        return [[lineage.source, position, value] for position, value in first]

    def _shown(self, name: str, column: pa.Array, rows: Any) -> list[Any]:
        if name not in self.sensitive:
            return at(column, rows)
        hidden = self.sensitive.shown(name, column.take(from_numpy(rows)))
        return at(hidden, np.arange(len(rows)))

    def _result(self, state: State, counted: int) -> dict[str, Any]:
        rows, absent, unexpected = state["rows"], state["missing"], state["unexpected"]
        of_all = unexpected / rows * 100 if rows else None
        of_counted = unexpected / counted * 100 if counted else None
        values = [value for _, _, value in state["examples"]]
        result: dict[str, Any] = {
            "element_count": rows,
            "unexpected_count": unexpected,
            "unexpected_percent": of_counted if self.counts_missing else of_all,
            "partial_unexpected_list": values,
            "unexpected_index_column_names": [SOURCE, POSITION],
        }
        if self.counts_missing:
            result |= {
                "missing_count": absent,
                "missing_percent": absent / rows * 100 if rows else None,
                "unexpected_percent_total": of_all,
                "unexpected_percent_nonmissing": of_counted,
            }
        return result | {
            "partial_unexpected_counts": self._most_common(values),
            "partial_unexpected_index_list": [
                {**self._by_column(value), SOURCE: source, POSITION: position}
                for source, position, value in state["examples"]
            ],
        }

    def _by_column(self, value: Any) -> dict[str, Any]:
        if self.shape == "record":
            return dict(value)
        return dict(zip(self.reads, value if self.shape == "pair" else [value], strict=True))

    def _most_common(self, values: list[Any]) -> list[dict[str, Any]]:
        """Of the examples: the most frequent first, as Great Expectations counts its partial list."""
        keys = [tuple(value.values()) if isinstance(value, dict) else value for value in values]
        counted = Counter(tuple(key) if isinstance(key, list) else key for key in map(_hashable, keys))
        ordered = sorted(counted.items(), key=lambda item: (-item[1], str(item[0])))
        return [{"value": list(v) if isinstance(v, tuple) else v, "count": n} for v, n in ordered]


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value
