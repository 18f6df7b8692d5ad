"""Parity's comparison: by bits, row for row, each row once."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest

from batchinfer.errors import UsageError
from batchinfer.runs import parse_bound
from batchinfer.runs._parity_compare import compare, same_bits


def rows(*found: tuple[str, int, float]) -> pa.Table:
    names = ("_source", "_position", "score")
    kinds = (pa.string(), pa.int64(), pa.float32())
    columns = zip(*found, strict=True) if found else ((), (), ())
    return pa.table({n: pa.array(list(c), k) for n, k, c in zip(names, kinds, columns, strict=True)})


def held(written: pa.Table, scored: pa.Table, **more: Any) -> tuple[int, dict[str, int], int]:
    found = compare(written, scored, ["t-0", "t-1"], ["score"], as_json=False, **more)
    return found.equal, dict(found.different), found.extra


def test_rows_are_matched_by_source_and_position_in_any_order() -> None:
    one = rows(("t-0", 1, 0.5), ("t-1", 1, 1.5), ("t-0", 2, 2.5))
    assert held(one, one.take([2, 0, 1])) == (3, {}, 0)


def test_a_bit_is_a_difference() -> None:
    one, other = rows(("t-0", 1, 0.0), ("t-0", 2, 1.0)), rows(("t-0", 1, -0.0), ("t-0", 2, 1.0))
    assert held(one, other) == (1, {"score": 1}, 0)


def test_a_row_that_stands_twice_is_one_too_many() -> None:
    assert held(rows(("t-0", 1, 0.5), ("t-0", 1, 0.5)), rows(("t-0", 1, 0.5))) == (1, {}, 1)


def test_rows_of_one_message_are_matched_in_their_order() -> None:
    many = rows(("t-0", 1, 0.5), ("t-0", 1, 1.5))
    assert held(many, many) == (2, {}, 0)
    assert held(many, rows(("t-0", 1, 1.5), ("t-0", 1, 0.5))) == (0, {"score": 2}, 0)


def test_nothing_against_something() -> None:
    assert held(rows(), rows(("t-0", 1, 0.5))) == (0, {}, 0)
    assert held(rows(("t-0", 1, 0.5)), rows()) == (0, {}, 1)


@pytest.mark.parametrize(
    ("kind", "written", "scored", "as_json", "same"),
    [
        (pa.float64(), math.nan, math.nan, False, True),
        (pa.float64(), None, math.nan, False, False),
        (pa.float64(), None, math.nan, True, True),
        (pa.float64(), None, math.inf, True, True),
        (pa.float64(), None, 1.0, True, False),
        (pa.float64(), None, None, False, True),
        (pa.float64(), 0.0, None, False, False),
        (pa.string(), "a", "a", False, True),
        (pa.string(), "a", "b", False, False),
        (pa.string(), None, None, False, True),
        (pa.string(), None, "", False, False),
        (pa.list_(pa.float32()), [0.5, 1.5], [0.5, 1.5], False, True),
        (pa.list_(pa.float32()), [0.5], [0.5, 1.5], False, False),
        (pa.list_(pa.float32()), [None], [math.nan], True, True),
    ],
)
def test_values(kind: pa.DataType, written: Any, scored: Any, as_json: bool, same: bool) -> None:
    found = same_bits(pa.array([written], kind), pa.array([scored], kind), as_json=as_json)
    assert found.tolist() == [same]


def test_bounds_are_read_as_they_are_written() -> None:
    assert parse_bound("begin", "--from") == "begin"
    assert parse_bound("0:12,3:4", "--from") == {0: 12, 3: 4}
    assert parse_bound("1970-01-01T00:01", "--from") == 60_000
    assert parse_bound("1970-01-01T01:00:00+01:00", "--from") == 0
    with pytest.raises(UsageError, match="--to 0-12"):
        parse_bound("0-12", "--to")
