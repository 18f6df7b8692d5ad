"""The table sink against a table in memory: when parts are cut, and where it goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batchinfer.core import LINEAGE, constant_label
from batchinfer.errors import CommitRefused, GroupFenced, StoreError
from batchinfer.store import Move
from batchinfer.streaming import MicroBatch, Records, Refused, TablePlan, TableSink, TopicPartition

SCHEMA = pa.schema([pa.field("id", pa.int64()), *LINEAGE])
ONE, OTHER = TopicPartition("t", 0), TopicPartition("t", 1)
DAY_MS = 86_400_000


class Memory:
    """A table whose commits are kept."""

    def __init__(self) -> None:
        self.held: dict[str, int] = {}
        self.commits: list[pa.Table] = []

    def positions(self, sources: Sequence[str]) -> dict[str, int]:
        return {source: self.held[source] for source in sources if source in self.held}

    def append(self, rows: pa.Table, moves: Mapping[str, Move], told: Mapping[str, Any]) -> int:
        if any(self.held.get(source) != move.at for source, move in moves.items()):
            raise CommitRefused("elsewhere")
        self.held |= {source: move.to for source, move in moves.items()}
        self.commits.append(rows)
        return len(self.commits)


class World:
    def __init__(self, **plan: Any) -> None:
        self.table, self.now, self.committed, self.end = Memory(), 0.0, dict[TopicPartition, int](), 1000
        self.plan = {"partition": {}, "max_bytes": 10**9, "max_seconds": 30.0, **plan}
        self.sink = self.member()

    def member(self) -> TableSink:
        return TableSink(
            TablePlan(schema=SCHEMA, run_id="run", **self.plan),
            self.table,
            Move,
            committed=lambda ps: {p: self.committed[p] for p in ps if p in self.committed},
            begin_offsets=lambda ps: dict.fromkeys(ps, 0),
            end_offsets=lambda ps: dict.fromkeys(ps, self.end),
            clock=lambda: self.now,
        )

    def rows(self) -> list[tuple[str, int]]:
        pairs = [
            zip(t["_source"].to_pylist(), t["_position"].to_pylist(), strict=True) for t in self.table.commits
        ]
        return [pair for each in pairs for pair in each]


def batch(
    low: int, high: int, partition: TopicPartition = ONE, timestamps: Sequence[int | None] = ()
) -> MicroBatch:
    count = high - low
    records = Records.of(
        values=[b"{}"] * count,
        keys=[None] * count,
        headers=None,
        timestamps=list(timestamps) or [0] * count,
        partitions=[partition] * count,
        offsets=list(range(low, high)),
    )
    offsets = pa.array(range(low, high), pa.int64())
    labels = [constant_label(text, count) for text in ("m@1", "run", str(partition))]
    results = pa.RecordBatch.from_arrays([offsets, *labels, offsets], schema=SCHEMA)
    none = Refused(np.empty(0, np.int64), [], [])
    return MicroBatch(records, records.next_offsets(), results, np.arange(count), none, "m@1", None, 0.0)


def test_a_part_is_cut_when_its_first_row_has_waited_long_enough() -> None:
    world = World()
    world.sink.assigned([ONE])
    assert world.sink.deliver([batch(0, 5)]) == {ONE: 0}
    world.now = 29.9
    assert world.sink.deliver([batch(5, 7)]) == {ONE: 0}
    world.now = 30.0
    assert world.sink.tick() == {ONE: 7}
    assert world.rows() == [("t-0", n) for n in range(7)]
    world.now = 100.0
    assert world.sink.tick() == {ONE: 7}
    assert len(world.table.commits) == 2, "one claims the start, one has the rows"


def test_parts_are_cut_by_bytes_within_a_delivery() -> None:
    world = World(max_bytes=1)
    world.sink.assigned([ONE])
    assert world.sink.deliver([batch(0, 5), batch(5, 9)]) == {ONE: 9}
    assert [t.num_rows for t in world.table.commits] == [0, 5, 4]


def test_what_was_gathered_of_a_partition_that_went_is_forgotten() -> None:
    world = World()
    world.sink.assigned([ONE, OTHER])
    world.sink.deliver([batch(0, 5), batch(0, 3, OTHER)])
    world.sink.revoked([ONE])
    assert world.sink.flush() == {OTHER: 3}
    assert world.rows() == [("t-1", n) for n in range(3)]


def test_what_was_read_twice_is_written_once() -> None:
    world = World()
    world.sink.assigned([ONE])
    world.sink.deliver([batch(0, 5)])
    world.sink.flush()
    assert world.sink.assigned([ONE]) == {ONE: 5}
    world.sink.deliver([batch(3, 8)])
    world.sink.flush()
    assert world.rows() == [("t-0", n) for n in range(8)]


def test_a_start_stays_whatever_the_group_commits_before_the_first_part() -> None:
    world = World()
    world.committed = {OTHER: 40}
    assert world.sink.assigned([ONE, OTHER]) == {ONE: 0, OTHER: 40}
    world.committed = {ONE: 100, OTHER: 100}
    assert world.member().assigned([ONE, OTHER]) == {ONE: 0, OTHER: 40}


def test_a_member_that_lost_its_partitions_is_fenced_and_goes_on_behind_the_other() -> None:
    world = World()
    zombie, owner = world.sink, world.member()
    zombie.assigned([ONE])
    zombie.deliver([batch(0, 5)])
    owner.assigned([ONE])
    owner.deliver([batch(0, 7)])
    owner.flush()
    with pytest.raises(GroupFenced):
        zombie.flush()
    assert zombie.assigned([ONE]) == {ONE: 7}
    assert zombie.flush() == {ONE: 7}
    assert world.rows() == [("t-0", n) for n in range(7)]


def test_a_topic_that_is_shorter_than_the_table_was_made_anew() -> None:
    world = World()
    world.table.held = {"t-0": 1001}
    with pytest.raises(StoreError, match="made anew"):
        world.sink.assigned([ONE])


def test_partitions_are_days_of_the_messages_or_values_of_a_column() -> None:
    world = World(partition={"ds": "timestamp", "part": "id"})
    world.sink.assigned([ONE])
    stamps = [0, DAY_MS - 1, DAY_MS, -1, 365 * DAY_MS, None]
    world.sink.deliver([batch(0, 6, timestamps=stamps)])
    world.sink.flush()
    found = world.table.commits[-1]
    days = ["1970-01-01", "1970-01-01", "1970-01-02", "1969-12-31", "1971-01-01", "unknown"]
    assert found["ds"].to_pylist() == days
    assert found["part"].to_pylist() == [str(n) for n in range(6)]
