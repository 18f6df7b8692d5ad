"""The reference: the profile of what the model was trained on, and how much its groups vary by nature."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from batchinfer.core import NOTHING_SENSITIVE, Sensitive, arrays
from batchinfer.drift._bins import bins_from
from batchinfer.drift._choose import ScoredRows, choose_columns
from batchinfer.drift._distance import psi
from batchinfer.drift._profile import Column, ColumnProfile, Profile, Profiler
from batchinfer.errors import InputError, ModelError

LEAST_GROUP_ROWS = 100
"""A group of fewer rows varies by chance, not by nature, and is not looked at."""
MOST_GROUPS = 10_000
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class ReferenceColumn:
    """A column of the reference.

    Attributes:
        column: what it is, and its bins.
        profile: of all rows.
        natural: the largest PSI that any group showed against all others; 0 without groups.
    """

    column: Column
    profile: ColumnProfile
    natural: float = 0.0


@dataclass(frozen=True, slots=True)
class Reference:
    """What runs are held against. Part of the bundle, as `profile.json`.

    Attributes:
        rows: rows it was made of.
        columns: what is profiled.
        left_out: columns that are not, and why.
        group_column: the column that `natural` comes from; None without groups.
        groups: how many groups were compared.
        sensitive: columns of which it holds hashes, or nothing.
    """

    rows: int
    columns: tuple[ReferenceColumn, ...]
    left_out: dict[str, str]
    group_column: str | None = None
    groups: int = 0
    sensitive: Sensitive = NOTHING_SENSITIVE

    @property
    def profiler(self) -> Profiler:
        """Profiles runs on the reference's bins."""
        return Profiler([each.column for each in self.columns], self.sensitive)

    @property
    def profile(self) -> Profile:
        """The reference's own rows, profiled like a run."""
        return Profile(self.rows, {each.column.name: each.profile for each in self.columns})

    def to_json(self) -> str:
        """As `profile.json` holds it; the same reference gives the same text."""
        columns = [
            {
                "name": each.column.name,
                "kind": each.column.kind,
                "field": each.column.field,
                "natural": each.natural,
                "bins": each.column.bins.to_dict(),
                "profile": each.profile.to_dict(),
            }
            for each in self.columns
        ]
        stated: dict[str, Any] = {
            "format": _FORMAT,
            "rows": self.rows,
            "group_column": self.group_column,
            "groups": self.groups,
            "left_out": self.left_out,
            "columns": columns,
        }
        if self.sensitive:
            stated["sensitive"] = {"columns": dict(self.sensitive.columns), "key_id": self.sensitive.key_id}
        return json.dumps(stated, allow_nan=False, ensure_ascii=False, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Reference:
        """What `to_json` wrote.

        Raises:
            ModelError: another version of batchinfer wrote it.
        """
        value = json.loads(text)
        if value.get("format") != _FORMAT:
            raise ModelError(
                f"the model's reference profile has the format {value.get('format')!r}, expected {_FORMAT}",
                next_step="add the model again with this version: batchinfer model add … --reference PARQUET",
            )
        columns = tuple(
            ReferenceColumn(
                Column(each["name"], each["kind"], each["field"], bins_from(each["bins"])),
                ColumnProfile.from_dict(each["profile"]),
                each["natural"],
            )
            for each in value["columns"]
        )
        sensitive = Sensitive(**value["sensitive"]) if "sensitive" in value else NOTHING_SENSITIVE
        return cls(
            value["rows"], columns, value["left_out"], value["group_column"], value["groups"], sensitive
        )


def build_reference(
    read: Callable[[], Iterable[ScoredRows]],
    *,
    group_column: str | None = None,
    sensitive: Sensitive = NOTHING_SENSITIVE,
) -> Reference:
    """The reference of scored rows, in memory that does not grow with them.

    Args:
        read: gives the same batches each time; is called twice, to choose bins and to count on them.
        group_column: the name of what groups the rows, where `read` gives groups.
        sensitive: features of which the reference is to hold hashes, or nothing.

    Raises:
        InputError: no rows, or groups that cannot be compared.
    """
    columns, left_out = choose_columns(read(), sensitive)
    profiler = Profiler(columns, sensitive)
    whole: Profile | None = None
    groups: dict[str, Profile] = {}
    for features, predictions, labels in read():
        for name, rows in _split(features.num_rows, labels, group_column):
            chosen = (
                (features, predictions) if rows is None else (features.take(rows), predictions.take(rows))
            )
            part = profiler.profile(*chosen)
            whole = part if whole is None else whole.merge(part)
            if name is not None:
                groups[name] = groups[name].merge(part) if name in groups else part
        if len(groups) > MOST_GROUPS:
            raise InputError(
                f"column '{group_column}' has more than {MOST_GROUPS:,} values: it names rows, not groups",
                next_step="group the reference by what a run holds, as its day",
                column=group_column,
            )
    assert whole is not None  # there are columns, so there were rows
    compared = [group for group in groups.values() if group.rows >= LEAST_GROUP_ROWS]
    if group_column is not None and len(compared) < 2:
        raise InputError(
            f"column '{group_column}': {len(compared)} groups of {LEAST_GROUP_ROWS} rows or more, "
            "expected 2 or more to compare",
            next_step="group the reference by what a run holds, as its day, or leave out --reference-by",
            column=group_column,
            found=len(compared),
        )
    return Reference(
        whole.rows,
        tuple(
            ReferenceColumn(
                column,
                whole.columns[column.name],
                max((_beside_others(whole, group, column.name) for group in compared), default=0.0),
            )
            for column in columns
        ),
        left_out,
        group_column,
        len(compared),
        sensitive,
    )


def _beside_others(whole: Profile, group: Profile, column: str) -> float:
    found = group.columns[column].counts
    others = [all_ - own for all_, own in zip(whole.columns[column].counts, found, strict=True)]
    return psi(others, found)


def _split(
    rows: int, labels: pa.Array | None, group_column: str | None
) -> Iterator[tuple[str | None, pa.Array | None]]:
    """The groups of a batch and their rows; (None, None) for a batch without groups."""
    if labels is None:
        yield None, None
        return
    try:
        coded = labels.cast(pa.string()).dictionary_encode()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as e:
        raise InputError(
            f"column '{group_column}' is {labels.type}: it cannot name groups", column=group_column
        ) from e
    codes, present = arrays.to_numpy(coded.indices)
    codes = codes if present is None else np.where(present, codes, -1)
    order = np.argsort(codes, kind="stable")
    names: list[str | None] = [None, *coded.dictionary.to_pylist()]
    ends = np.searchsorted(codes[order], np.arange(len(names)))
    for name, start, end in zip(names, [0, *ends[:-1]], ends, strict=True):
        if end > start:
            yield name, arrays.from_numpy(order[start:end])
