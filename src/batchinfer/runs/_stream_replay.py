"""Dead letters sent again: from the dead-letter topic to where they came from, each once."""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from batchinfer.core import arrays
from batchinfer.errors import BrokerRefused, Transient
from batchinfer.runs._stream_plan import stream_of
from batchinfer.spec import PipelineSpec
from batchinfer.streaming import (
    PREFIX,
    REPLAYED,
    Client,
    Consumer,
    Listener,
    Offsets,
    Outgoing,
    Producer,
    Records,
    TopicPartition,
    header_array,
    open_client,
    own_headers,
)

_log = logging.getLogger("batchinfer.stream")
_MOST = 5_000


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What a replay did. `left` are letters that were not sent: another reason, or their value is not in them."""

    pipeline: str
    topic: str
    sent: int
    left: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))


def replay_dead_letters(
    spec: PipelineSpec, *, reason: str | None = None, stop: threading.Event | None = None
) -> ReplayReport:
    """Send the dead letters that have not been sent yet to the input topic again, as they came.

    Reads up to where the dead-letter topic ends now, in a group of its own, so that each letter is read by one replay
    alone; with exactly-once delivery the letters and that progress are one transaction.

    Args:
        spec: the pipeline.
        reason: send those alone whose reason holds this text; the others are passed over for good.
        stop: ends it between two batches.

    Raises:
        SpecError: the spec has no stream. BrokerRefused: there is no dead-letter topic. Transient: try again.
    """
    stream = stream_of(spec)
    client, topic = open_client(stream), stream.dead_letters
    group = f"{stream.group or f'batchinfer-{spec.name}'}-replay"
    partitions = client.partitions(topic)
    if partitions is None:
        raise BrokerRefused(f"there is no topic '{topic}' at {stream.bootstrap_servers}", topic=topic)
    exactly_once = stream.delivery == "exactly-once"
    consumer = client.consumer(group)
    replay = _Replay(client, consumer, group if exactly_once else None, stream.input_topic, reason)
    try:
        ends = consumer.end_offsets([TopicPartition(topic, n) for n in range(partitions)])
        replay.run(topic, ends, stop or threading.Event())
    finally:
        consumer.close()
        replay.close()
    return ReplayReport(spec.name, topic, replay.sent, dict(replay.left))


class _Replay:
    def __init__(
        self, client: Client, consumer: Consumer, group: str | None, to_topic: str, reason: str | None
    ) -> None:
        self._consumer, self._to, self._reason = consumer, to_topic, reason
        self._transactional = group is not None
        self._producer: Producer = client.producer(f"{group}-{uuid.uuid4().hex}" if group else None)
        self.sent = 0
        self.left: Counter[str] = Counter()
        self._assigned = False

    def run(self, topic: str, ends: Offsets, stop: threading.Event) -> None:
        self._consumer.subscribe([topic], Listener(self._on_assigned, lambda _: None, lambda _: None))
        while not stop.is_set() and not self._reached(ends):
            records = self._consumer.poll(_MOST, 0.2)
            if len(records):
                self._send(records)

    def close(self) -> None:
        self._producer.close()

    def _on_assigned(self, partitions: Sequence[TopicPartition]) -> Offsets:
        self._assigned = True
        return {}

    def _reached(self, ends: Offsets) -> bool:
        ours = self._consumer.assignment()
        positions = self._consumer.positions(ours)
        return self._assigned and all(positions.get(p, -1) >= ends[p] for p in ours if p in ends)

    def _send(self, records: Records) -> None:
        letters = self._letters(records)
        for attempt in range(5):
            try:
                self._producer.begin()
                if len(letters):
                    self._producer.produce_batch(letters)
                if self._transactional:
                    self._producer.send_offsets(records.next_offsets(), self._consumer.group())
                self._producer.commit()
                break
            except Transient as e:
                _log.warning("%s; doing it again", e.message)
                self._producer.abort()
                if attempt == 4:
                    raise
                time.sleep(0.2 * 2**attempt)
        if not self._transactional:
            self._consumer.commit(records.next_offsets())
        self.sent += len(letters)

    def _letters(self, records: Records) -> Outgoing:
        rows: list[dict[str, Any]] = []
        headers = []
        for row in records.batch.to_pylist():
            told = {h["key"] or "": h["value"] or b"" for h in row["headers"] or ()}
            reason = told.get(PREFIX + "reason", b"").decode(errors="replace")
            if self._reason is not None and self._reason not in reason:
                self.left["another reason"] += 1
                continue
            if PREFIX + "value_bytes" in told:
                self.left["their values are at their sources alone"] += 1
                continue
            times = _number(told.get(REPLAYED, b"")) + 1
            rows.append(row)
            headers.append([*own_headers(row["headers"]), (REPLAYED, str(times).encode())])
        return Outgoing(
            self._to,
            arrays.from_bytes([row["value"] for row in rows]),
            arrays.from_bytes([row["key"] for row in rows]),
            header_array(headers, len(headers)),
            pa.array([row["timestamp_ms"] for row in rows], pa.int64()),
        )


def _number(text: bytes) -> int:
    """How often it says; never where somebody else has written what is no number."""
    return int(text) if text.isdigit() else 0
