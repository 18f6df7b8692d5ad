"""Scoring columns by hand with ONNX Runtime: the same few lines for the floor and for each peer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort

from .data import FEATURES, Floats

BLOCK_ROWS = 8_192
"""Rows transposed into a tensor at a time: source and target stay in the second-level cache."""

Columns = list[Floats]


def session(model: Path) -> ort.InferenceSession:
    """A session each of whose calls runs on the calling thread alone."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def block() -> Floats:
    return np.empty((BLOCK_ROWS, len(FEATURES)), np.float32)


def fill(columns: Columns, start: int, tensor: Floats) -> Floats:
    """The rows from `start` on as an [N, F] view of `tensor`."""
    stop = min(start + len(tensor), len(columns[0]))
    view = tensor[: stop - start]
    for number, column in enumerate(columns):
        view[:, number] = column[start:stop]
    return view


def score(
    model: ort.InferenceSession, columns: Columns, tensor: Floats, batch_rows: int = BLOCK_ROWS
) -> Floats:
    """One score a row.  `tensor` is overwritten; `batch_rows` are given to the model at a time."""
    scores = np.empty(len(columns[0]), np.float32)
    for start in range(0, len(scores), len(tensor)):
        view = fill(columns, start, tensor)
        for at in range(0, len(view), batch_rows):
            batch = view[at : at + batch_rows]
            (found,) = model.run(["score"], {"input": batch})
            scores[start + at : start + at + len(batch)] = found[:, 0]
    return scores


def score_plainly(model: ort.InferenceSession, columns: Columns) -> Floats:
    """One score a row, as most people write it: the whole batch stacked, one call of the model."""
    (found,) = model.run(["score"], {"input": np.column_stack(columns)})
    scores: Floats = found[:, 0]
    return scores
