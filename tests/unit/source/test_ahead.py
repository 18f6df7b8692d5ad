"""Reading ahead: the same rows in the same order, a few batches early, and nothing left running."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextvars import ContextVar
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchinfer.source._ahead import AHEAD, Piece, in_calls, read_ahead

place: ContextVar[str] = ContextVar("place", default="nowhere")


def piece(path: str, first: int, rows: int) -> Piece:
    values = [f"{path} {row}" for row in range(first, first + rows)]
    return pa.record_batch({"row": pa.array(values, pa.string())}), path, first


def rows_of(pieces: Iterator[Piece]) -> list[str]:
    found = []
    for batch, path, first in pieces:
        names = batch.column(0).to_pylist()
        assert names == [f"{path} {row}" for row in range(first, first + batch.num_rows)]
        found += names
    return found


slices = st.lists(
    st.tuples(
        st.sampled_from("ab"), st.integers(0, 30), st.lists(st.integers(1, 40), min_size=1, max_size=6)
    ),
    max_size=5,
)


def cut(stated: list[tuple[str, int, list[int]]]) -> Iterator[Piece]:
    for path, first, sizes in stated:
        at = first
        for size in sizes:
            yield piece(path, at, size)
            at += size


@given(slices, st.integers(0, 50))
def test_every_row_comes_once_in_order_under_its_own_position(
    stated: list[tuple[str, int, list[int]]], call_rows: int
) -> None:
    expected = rows_of(cut(stated))
    assert rows_of(in_calls(cut(stated), lambda: call_rows)) == expected
    assert rows_of(read_ahead(cut(stated), lambda: call_rows)) == expected


@given(slices, st.integers(1, 50))
def test_all_but_the_last_batch_of_a_stretch_are_whole_calls(
    stated: list[tuple[str, int, list[int]]], call_rows: int
) -> None:
    pieces = list(in_calls(cut(stated), lambda: call_rows))
    for (batch, path, first), (_, next_path, next_first) in pairwise(pieces):
        if (path, first + batch.num_rows) == (next_path, next_first):
            assert batch.num_rows % call_rows == 0


def test_the_size_of_a_call_may_come_to_be_known_on_the_way() -> None:
    sizes = iter([0, 0, 8, 8, 8])
    pieces = in_calls(cut([("a", 0, [3, 3, 3, 3, 3])]), lambda: next(sizes))
    assert [batch.num_rows for batch, _, _ in pieces] == [3, 3, 8, 1]


def test_a_batch_that_fits_is_not_copied() -> None:
    batch, path, first = piece("a", 0, 32)
    ((same, _, _),) = in_calls(iter([(batch, path, first)]), lambda: 8)
    assert same.column(0).buffers()[2].address == batch.column(0).buffers()[2].address


def test_no_more_is_decoded_than_was_said() -> None:
    decoded: list[int] = []
    more = threading.Semaphore(0)

    def endless() -> Iterator[Piece]:
        for number in range(1000):
            decoded.append(number)
            more.release()
            yield piece("a", number, 1)

    ahead = read_ahead(endless(), lambda: 1)
    next(ahead)
    for _ in range(AHEAD + 1):  # the one taken, and those in front
        assert more.acquire(timeout=20)
    assert not more.acquire(timeout=0.1)
    ahead.close()
    assert decoded == list(range(AHEAD + 1))


def test_decoding_goes_on_while_the_last_batch_is_at_work() -> None:
    second = threading.Event()

    def pieces() -> Iterator[Piece]:
        yield piece("a", 0, 1)
        second.set()
        yield piece("a", 1, 1)

    ahead = read_ahead(pieces(), lambda: 1)
    next(ahead)
    assert second.wait(20)  # and nobody has asked for it yet
    assert len(list(ahead)) == 1


def test_an_error_comes_where_its_batch_would_have_come() -> None:
    def broken() -> Iterator[Piece]:
        yield piece("a", 0, 1)
        raise ValueError("page 2")

    ahead = read_ahead(broken(), lambda: 1)
    assert next(ahead)[0].num_rows == 1
    with pytest.raises(ValueError, match="page 2"):
        next(ahead)


def test_leaving_early_closes_the_file_and_ends_the_thread() -> None:
    closed: list[bool] = []

    def pieces() -> Iterator[Piece]:
        try:
            for number in range(100):
                yield piece("a", number, 1)
        finally:
            closed.append(True)

    before = threading.active_count()
    for _ in read_ahead(pieces(), lambda: 1):
        break
    assert closed == [True]
    assert threading.active_count() == before


def test_the_reader_works_in_the_callers_context() -> None:
    def where() -> Iterator[Piece]:
        yield piece(place.get(), 0, 1)

    token = place.set("here")
    try:
        assert [path for _, path, _ in read_ahead(where(), lambda: 1)] == ["here"]
    finally:
        place.reset(token)
