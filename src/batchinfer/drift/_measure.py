"""How far a run lies from the reference, and whether that is drift. Pure arithmetic on counts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from batchinfer.drift._distance import jensen_shannon, noise, psi
from batchinfer.drift._profile import ColumnProfile, Kind, Profile
from batchinfer.drift._reference import Reference, ReferenceColumn


@dataclass(frozen=True, slots=True)
class Thresholds:
    """When a run has drifted.

    Attributes:
        psi: a column whose PSI is above this, above its natural variation and above chance has drifted.
        drifted_columns: an alarm is raised where more than this share of the feature columns has drifted.
    """

    psi: float = 0.2
    drifted_columns: float = 0.3


@dataclass(frozen=True, slots=True)
class ColumnDrift:
    """A column of a run beside the same of the reference. What does not exist is None, never NaN.

    Attributes:
        kind: feature or prediction.
        psi: the population stability index; None for a run without rows.
        js: the Jensen-Shannon distance to base 2: 0 is equal, 1 is disjoint.
        limit: what the PSI may reach: the greatest of threshold, natural variation and noise.
        drifted: psi > limit.
        null_rate: share of nulls and NaN in the run.
        reference_null_rate: the same in the reference.
        unseen: share of rows with a category that the reference never saw, or outside its range.
        mean: of the run's finite numbers.
        reference_mean: of the reference's.
        min: the run's least finite number.
        max: its greatest.
    """

    kind: Kind
    psi: float | None
    js: float | None
    limit: float | None
    drifted: bool
    null_rate: float | None
    reference_null_rate: float
    unseen: float | None
    mean: float | None
    reference_mean: float | None
    min: float | None
    max: float | None


@dataclass(frozen=True, slots=True)
class DriftReport:
    """A run's drift.

    Attributes:
        alarm: too many feature columns drifted, or a prediction did.
        drifted_columns: the share of the feature columns that drifted.
        rows: rows that were scored.
        columns: by name.
    """

    alarm: bool
    drifted_columns: float
    rows: int
    columns: dict[str, ColumnDrift]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def measure(reference: Reference, profile: Profile, thresholds: Thresholds) -> DriftReport:
    """Hold a run's profile against the reference.

    A run without scored rows has not drifted: nothing is known of it.
    """
    columns = {
        each.column.name: _measure_column(each, profile.columns[each.column.name], thresholds)
        for each in reference.columns
    }
    features = [column.drifted for column in columns.values() if column.kind == "feature"]
    share = sum(features) / len(features) if features else 0.0
    predictions = any(column.drifted for column in columns.values() if column.kind == "prediction")
    return DriftReport(share > thresholds.drifted_columns or predictions, share, profile.rows, columns)


def _measure_column(stated: ReferenceColumn, found: ColumnProfile, thresholds: Thresholds) -> ColumnDrift:
    expected = stated.profile
    distance = js = limit = null_rate = unseen = None
    if found.rows:
        distance = psi(expected.counts, found.counts)
        js = jensen_shannon(expected.counts, found.counts)
        limit = max(thresholds.psi, stated.natural, noise(expected.counts, found.rows))
        null_rate = found.nulls / found.rows
        unseen = sum(found.counts[place] for place in stated.column.bins.unseen) / found.rows
    return ColumnDrift(
        kind=stated.column.kind,
        psi=distance,
        js=js,
        limit=limit,
        drifted=distance is not None and limit is not None and distance > limit,
        null_rate=null_rate,
        reference_null_rate=expected.nulls / expected.rows,
        unseen=unseen,
        mean=found.mean,
        reference_mean=expected.mean,
        min=None if found.numbers is None else found.numbers.minimum,
        max=None if found.numbers is None else found.numbers.maximum,
    )
