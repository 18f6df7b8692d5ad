"""Dead letters: messages that got no prediction, as they came, with why and where in headers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from batchinfer.core import arrays
from batchinfer.streaming._ports import MicroBatch
from batchinfer.streaming._records import Outgoing, header_array

PREFIX = "batchinfer."
"""What the names of our headers begin with; all others are the message's own."""
REPLAYED = PREFIX + "replayed"
"""How often a message was sent again; it stays with it."""
Header = tuple[str, bytes | None]


def dead_letters(topic: str, batch: MicroBatch, pipeline: str, limit_bytes: int) -> Outgoing:
    """The refused messages of a batch: original value, key, headers and timestamp, with our headers after them.

    Our headers are `batchinfer.reason`, `.expectations` (a JSON list), `.source_topic`, `.source_partition`,
    `.source_offset`, `.model` and `.pipeline`. Headers that cannot be read are left out. So is a
    value that the topic does not take, and `batchinfer.value_bytes` says how long it was: it is still where the source
    headers say.
    """
    letters = batch.records.take(batch.refused.messages)
    values, keys = letters.values.to_pylist(), letters.keys.to_pylist()
    own = letters.headers.to_pylist()
    codes, partitions = letters.partition_codes()
    offsets = letters.offsets.to_pylist()
    headers = []
    for place, (code, offset) in enumerate(zip(codes.tolist(), offsets, strict=True)):
        kept = own_headers(own[place])
        kept += [(h["key"], h["value"]) for h in own[place] or () if h["key"] == REPLAYED]
        told = {
            "reason": batch.refused.reasons[place],
            "expectations": json.dumps(batch.refused.expectations[place]),
            "source_topic": partitions[code].topic,
            "source_partition": str(partitions[code].partition),
            "source_offset": str(offset),
            "model": batch.model,
            "pipeline": pipeline,
        }
        ours: list[Header] = [(PREFIX + name, text.encode()) for name, text in told.items()]
        if values[place] is not None and _size(values[place], keys[place], [*kept, *ours]) > limit_bytes:
            ours.append((PREFIX + "value_bytes", str(len(values[place])).encode()))
            values[place] = None
        headers.append([*kept, *ours])
    return Outgoing(
        topic,
        arrays.from_bytes(values),
        arrays.from_bytes(keys),
        header_array(headers, len(headers)),
        letters.timestamps,
    )


def own_headers(headers: Sequence[Mapping[str, Any]] | None) -> list[Header]:
    """A message's own, without ours and without what stands for those that cannot be read."""
    named = [(h["key"], h["value"]) for h in headers or () if h["key"] is not None]
    return [(name, value) for name, value in named if not name.startswith(PREFIX)]


def _size(value: bytes, key: bytes | None, headers: Sequence[Header]) -> int:
    return len(value) + len(key or b"") + sum(len(name) + len(text or b"") + 10 for name, text in headers)
