"""Receipts: written once, read back as they were, and told apart from everything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchinfer.core import RowCounts, StagedPart, UnitReport

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
counts = st.integers(0, 2**62)
parts = st.builds(
    StagedPart,
    texts,
    counts,
    counts,
    texts,
    st.dictionaries(texts, st.none() | texts | st.integers() | st.booleans()),
    st.dictionaries(texts, st.floats(allow_nan=False)),
)
reports = st.builds(
    UnitReport,
    unit=counts,
    unit_digest=texts,
    partition=st.lists(st.tuples(texts, texts), max_size=3).map(tuple),
    rows=st.builds(RowCounts, counts, counts, counts, counts),
    results=st.none() | parts,
    quarantine=st.none() | parts,
    reasons=st.dictionaries(texts, counts, max_size=3),
    nonfinite=st.dictionaries(texts, counts, max_size=3),
    model_loads=counts,
    reused=st.booleans(),
)


@given(reports)
def test_a_receipt_reads_back_as_it_was_written(report: UnitReport) -> None:
    assert UnitReport.from_json(report.to_json()) == report
    assert UnitReport.from_json(report.to_json().encode()) == report


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "{}",
        "3",
        '{"unit": 1}',
        '{"partition": [], "rows": {}}',
        '{"rows": {}, "more": 1}',
        b"\xff\xfe",
    ],
)
def test_what_is_no_receipt_is_told_apart(text: str | bytes) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        UnitReport.from_json(text)
