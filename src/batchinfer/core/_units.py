"""Work travels as units: what a worker is to read, and what it reports back.

All values here are small, frozen, picklable and JSON-able: they cross processes and are kept as receipts.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

Partition = tuple[tuple[str, str], ...]
"""Partition columns and their values, in the order of `output.partition_by`."""


@dataclass(frozen=True, slots=True)
class InputFile:
    """One input file as the plan saw it; a worker refuses it if it has changed since."""

    path: str
    size_bytes: int
    modified_ns: int
    rows: int


@dataclass(frozen=True, slots=True)
class Slice:
    """A range of one file's row groups. `first_row` is the position in the file of the range's first row."""

    file: InputFile
    first_row_group: int
    row_groups: int
    first_row: int
    rows: int


@dataclass(frozen=True, slots=True)
class WorkUnit:
    """What one task of an engine scores: slices that all belong to one result partition."""

    index: int
    partition: Partition
    slices: tuple[Slice, ...]

    @property
    def rows(self) -> int:
        """Rows to read, by the Parquet footers."""
        return sum(piece.rows for piece in self.slices)

    @property
    def name(self) -> str:
        """The unit's name in its run, as receipts and parts carry it."""
        return f"{self.index:05d}"

    def digest(self) -> str:
        """Identifies the unit's content, so that no receipt is taken for another unit's."""
        stated = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(stated.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class RowCounts:
    """read = scored + quarantined + skipped, for a unit and for a run."""

    read: int = 0
    scored: int = 0
    quarantined: int = 0
    skipped: int = 0

    def __add__(self, other: RowCounts) -> RowCounts:
        return RowCounts(
            self.read + other.read,
            self.scored + other.scored,
            self.quarantined + other.quarantined,
            self.skipped + other.skipped,
        )

    @property
    def balanced(self) -> bool:
        """Whether every row read is accounted for, once."""
        return self.read == self.scored + self.quarantined + self.skipped


@dataclass(frozen=True, slots=True)
class StagedPart:
    """A Parquet file that a worker wrote and no reader sees yet.

    `path` is relative to the staging area's root; `minimum` and `maximum` are of each key column.
    """

    path: str
    rows: int
    size_bytes: int
    sha256: str
    minimum: dict[str, Any] = field(default_factory=dict)
    maximum: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UnitReport:
    """What a worker says of a finished unit. Written as its receipt, and all that the driver gets.

    `reasons` counts the quarantined rows by reason, `nonfinite` the NaN and infinite values by result column;
    `checks` and `profile` are tallies as JSON values, `sample` some of the scored rows: see `RowSample`;
    `device` is what scored them: its `name`, and `notes` of what was unlike planned; `seconds` where the time of
    this attempt went: reading, scoring, writing.
    """

    unit: int
    unit_digest: str
    partition: Partition
    rows: RowCounts
    results: StagedPart | None
    quarantine: StagedPart | None
    reasons: dict[str, int]
    nonfinite: dict[str, int]
    checks: dict[str, Any] | None = None
    profile: dict[str, Any] | None = None
    sample: str | None = None
    device: dict[str, Any] | None = None
    model_loads: int = 0
    reused: bool = False
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def parts(self) -> tuple[StagedPart, ...]:
        """The files that the unit staged."""
        return tuple(part for part in (self.results, self.quarantine) if part is not None)

    def to_json(self) -> str:
        """The receipt."""
        stated = {each.name: getattr(self, each.name) for each in fields(self)}
        return json.dumps(stated, sort_keys=True, default=asdict)  # asdict of all would copy every count

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a receipt back.

        Raises:
            ValueError, KeyError, TypeError: it is not one.
        """
        value = json.loads(text)

        def part(stated: dict[str, Any] | None) -> StagedPart | None:
            return StagedPart(**stated) if stated else None

        return cls(
            **{
                **value,
                "partition": tuple((name, text) for name, text in value["partition"]),
                "rows": RowCounts(**value["rows"]),
                "results": part(value["results"]),
                "quarantine": part(value["quarantine"]),
            }
        )


def total_rows(reports: Iterable[UnitReport]) -> RowCounts:
    """The counts of many units together."""
    return sum((report.rows for report in reports), RowCounts())


def merge_counts(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Add up counters; the most frequent first."""
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(total.most_common())
