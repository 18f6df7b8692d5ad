"""Drift: profiles of features and predictions, taken in the scoring pass and held against the reference's."""

from batchinfer.drift._choose import ScoredRows
from batchinfer.drift._measure import ColumnDrift, DriftReport, Thresholds, measure
from batchinfer.drift._profile import ColumnProfile, Profile, Profiler
from batchinfer.drift._reference import Reference, ReferenceColumn, build_reference
from batchinfer.drift._sample import RowSample

__all__ = [
    "ColumnDrift",
    "ColumnProfile",
    "DriftReport",
    "Profile",
    "Profiler",
    "Reference",
    "ReferenceColumn",
    "RowSample",
    "ScoredRows",
    "Thresholds",
    "build_reference",
    "measure",
]
