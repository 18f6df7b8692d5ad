"""Rows of a stream held against those of a batch."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from batchinfer.core import POSITION, SOURCE
from batchinfer.runs._parity_compare import compare


def rows(scores: list[float], order: list[int]) -> pa.Table:
    """Of a message with several rows, and of one with one."""
    table = pa.table(
        {
            "id": [3, 1, 2, 9],
            "note": pa.array(["a", None, "a", "b"]).dictionary_encode(),
            "score": pa.array(scores, pa.float32()),
            SOURCE: ["in-0", "in-0", "in-0", "in-0"],
            POSITION: [5, 5, 5, 6],
        }
    )
    return table.take(order)


def test_rows_of_a_message_are_paired_whatever_the_order_in_which_the_topic_has_them() -> None:
    batch = rows([0.5, 0.25, 0.125, 1.0], [0, 1, 2, 3])
    columns = ["id", "note", "score"]
    shuffled = rows([0.5, 0.25, 0.125, 1.0], [3, 2, 0, 1])
    same = compare(shuffled, batch, ["in-0"], columns, as_json=True)
    assert (same.equal, dict(same.different), same.extra) == (4, {}, 0)
    other = rows([0.5, float(np.nextafter(np.float32(0.25), np.float32(1))), 0.125, 1.0], [2, 1, 3, 0])
    found = compare(other, batch, ["in-0"], columns, as_json=True)
    assert (found.equal, dict(found.different), found.extra) == (3, {"score": 1}, 0)
