"""Headers become Arrow's lists, each message's in its order."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from batchinfer.streaming import header_array
from batchinfer.streaming._records import HEADERS

pairs = st.tuples(st.text(max_size=3), st.one_of(st.none(), st.binary(max_size=3)))


@given(st.lists(st.one_of(st.none(), st.lists(pairs, max_size=3)), max_size=10))
def test_headers_are_kept_in_order(headers: list[list[tuple[str, bytes | None]] | None]) -> None:
    array = header_array(headers, len(headers))
    array.validate(full=True)
    assert array.type == HEADERS
    told = [each and [(h["key"], h["value"]) for h in each] for each in array.to_pylist()]
    assert told == [each or None for each in headers]


def test_without_headers_all_are_null() -> None:
    assert header_array(None, 3).equals(pa.nulls(3, HEADERS))
