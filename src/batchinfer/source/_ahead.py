"""Reading ahead: batches are decoded in a thread while their predecessors are scored, a few and no more.

For models on a GPU, whose time is not the decoder's. On a CPU both compete for the same cores: see ADR 1.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context

import pyarrow as pa

Piece = tuple[pa.RecordBatch, str, int]
"""A batch, its file's path, and the position in the file of its first row: see `read_unit`."""

AHEAD = 2


def read_ahead(pieces: Iterator[Piece], call_rows: Callable[[], int]) -> Generator[Piece]:
    """The same rows in the same order, decoded ahead, and cut to whole calls of the model.

    Close it, as `yield from` does, and nothing is read on. An error comes where its batch would have come.

    Args:
        pieces: as `read_unit` gives them; iterated in another thread, in this one's context.
        call_rows: how many rows the model takes at a time, asked for each batch; 0 where that is not known yet.
    """
    whole = in_calls(pieces, call_rows)
    context = copy_context()
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:

        def step() -> Piece | None:
            return next(whole, None)

        def decode() -> Future[Piece | None]:
            return reader.submit(context.run, step)

        ahead = deque(decode() for _ in range(AHEAD))
        try:
            while (piece := ahead.popleft().result()) is not None:
                ahead.append(decode())
                yield piece
        finally:
            for future in ahead:
                future.cancel()


def in_calls(pieces: Iterator[Piece], call_rows: Callable[[], int]) -> Generator[Piece]:
    """Batches of as many rows as whole calls take; what is left of a file's rows comes last.

    Wide rows come in small batches, smaller than what a GPU takes at a time. They are gathered, so that calls are
    not filled up with padding.
    """
    held: pa.RecordBatch | None = None
    path, first = "", 0
    for batch, source, position in pieces:
        if held is not None and (source, position) != (path, first + held.num_rows):
            yield held, path, first
            held = None
        if held is None:
            held, path, first = batch, source, position
        else:
            held = pa.concat_batches([held, batch])
        rows = max(call_rows(), 1)
        whole = held.num_rows // rows * rows
        if whole:
            yield held.slice(0, whole), path, first
            held, first = (held.slice(whole), first + whole) if whole < held.num_rows else (None, 0)
    if held is not None:
        yield held, path, first
