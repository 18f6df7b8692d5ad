"""The same work has the same name; other work has another."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchinfer.core import InputFile, Slice, WorkUnit, partition_path, rows_of_partition, run_id

FILE = InputFile("in/x.parquet", 100, 7, 10)
WORK: dict[str, Any] = {
    "pipeline": "p",
    "parameters": {"ds": "2013-01-01", "hub": "EWR"},
    "spec_digest": "s",
    "model_digest": "m",
    "inputs": [FILE, replace(FILE, path="in/y.parquet")],
}


def test_a_run_id_is_twenty_hexadecimal_digits_and_stays_the_same_for_ever() -> None:
    """Receipts and commits of earlier releases are found by it."""
    assert run_id(**WORK) == "fe91b3f39730e927b003"


def test_the_order_of_parameters_does_not_matter() -> None:
    turned = dict(reversed(WORK["parameters"].items()))
    assert run_id(**{**WORK, "parameters": turned}) == run_id(**WORK)


@pytest.mark.parametrize(
    "other",
    [
        {"pipeline": "q"},
        {"parameters": {"ds": "2013-01-02", "hub": "EWR"}},
        {"parameters": {"ds": "2013-01-01"}},
        {"spec_digest": "t"},
        {"model_digest": "n"},
        {"parameters": {"ds": "2013-01-01", "hub": "JFK"}},
        {"inputs": []},
        {"inputs": WORK["inputs"][:1]},
        {"inputs": [FILE, FILE]},
        {"inputs": [*WORK["inputs"][:1], replace(FILE, path="in/y.parquet", rows=11)]},
        {"inputs": [*WORK["inputs"][:1], replace(FILE, path="in/y.parquet", modified_ns=8)]},
        {"inputs": [*WORK["inputs"][:1], replace(FILE, path="in/y.parquet", size_bytes=8)]},
    ],
    ids=str,
)
def test_whatever_decides_what_is_written_decides_the_id(other: dict[str, Any]) -> None:
    assert run_id(**{**WORK, **other}) != run_id(**WORK)
    assert re.fullmatch(r"[0-9a-f]{20}", run_id(**{**WORK, **other}))


def test_a_units_digest_covers_its_place_its_partition_and_its_slices() -> None:
    unit = WorkUnit(1, (("ds", "a"),), (Slice(FILE, 0, 2, 0, 10),))
    others = [
        replace(unit, index=2),
        replace(unit, partition=(("ds", "b"),)),
        replace(unit, slices=(Slice(FILE, 0, 1, 0, 5),)),
        replace(unit, slices=(Slice(FILE, 1, 2, 0, 10),)),
        replace(unit, slices=(Slice(FILE, 0, 2, 0, 9),)),
        replace(unit, slices=(Slice(replace(FILE, modified_ns=8), 0, 2, 0, 10),)),
    ]
    assert len({other.digest() for other in [unit, *others]}) == 1 + len(others)
    assert unit.digest() == replace(unit).digest()
    assert (unit.name, unit.rows) == ("00001", 10)


@pytest.mark.parametrize(
    ("partition", "path"),
    [
        ((), ""),
        ((("ds", "2013-01-01"),), "ds=2013-01-01"),
        ((("ds", "a/b"), ("at", "10:30")), "ds=a%2Fb/at=10%3A30"),
        ((("a=b", "c=d%"),), "a%3Db=c%3Dd%25"),
        ((("ds", "é"),), "ds=%C3%A9"),
    ],
)
def test_a_partitions_folder_is_escaped(partition: tuple[tuple[str, str], ...], path: str) -> None:
    assert partition_path(partition) == path


columns = st.text(min_size=1, max_size=6).filter(lambda text: text.isprintable())


@given(st.lists(st.tuples(columns, columns), max_size=3))
def test_a_partitions_folder_says_the_partition(pairs: list[tuple[str, str]]) -> None:
    folders = partition_path(tuple(pairs)).split("/") if pairs else []
    assert [tuple(map(unquote, folder.split("="))) for folder in folders] == pairs


def test_a_partition_in_words() -> None:
    assert rows_of_partition((("ds", "a"), ("hub", "b"))) == "ds=a, hub=b"
    assert rows_of_partition(()) == "the whole table"
