"""What a table must do for a stream: rows and positions in one step, each row once, whoever else writes."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.postgres import drop_tables, table_path

from batchinfer.core import LINEAGE, CommitInfo, InputFile, Slice, WorkUnit, constant_label
from batchinfer.errors import CommitRefused, SpecError, StoreError
from batchinfer.store import (
    Move,
    PartWriter,
    ResultsStore,
    StreamedTable,
    open_store,
    open_stream_table,
    part_name,
)

SCHEMA = pa.schema([pa.field("id", pa.int64()), pa.field("score", pa.float32(), nullable=False), *LINEAGE])
DAY, OTHER_DAY = "2013-01-01", "2013-01-02"


@dataclass
class Place:
    kind: str
    path: str

    def stream(self, pipeline: str = "scores") -> StreamedTable:
        table = open_stream_table(self.kind, self.path, ("ds",), pipeline)
        table.begin(SCHEMA)
        return table

    def batch(self) -> ResultsStore:
        return open_store(self.kind, self.path, ("ds",), "scores")

    def found(self) -> list[tuple[str, int, int]]:
        """Source, position and id of each row."""
        rows = self.batch().dataset().to_table(["_source", "_position", "id"])
        return sorted(zip(*(rows[name].to_pylist() for name in ("_source", "_position", "id")), strict=True))


@pytest.fixture(params=["delta", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param == "delta":
        yield Place("delta", str(tmp_path / "table"))
        return
    path = table_path(request.getfixturevalue("postgres_url"), tmp_path)
    monkeypatch.setenv("BATCHINFER_STAGING", str(tmp_path))
    yield Place("postgres", path)
    drop_tables(path)


def rows(low: int, high: int, source: str = "t-0", day: str = DAY, score: float = 0.5) -> pa.Table:
    count = high - low
    columns = [
        pa.array(range(low, high), pa.int64()),
        pa.array([score] * count, pa.float32()),
        constant_label("m@1", count),
        constant_label("run", count),
        constant_label(source, count),
        pa.array(range(low, high), pa.int64()),
    ]
    table = pa.Table.from_arrays(columns, schema=SCHEMA)
    return table.append_column("ds", pa.array([day] * count, pa.string()))


def expected(low: int, high: int, source: str = "t-0") -> list[tuple[str, int, int]]:
    return [(source, n, n) for n in range(low, high)]


def test_rows_and_positions_come_together_and_are_there_for_who_opens_the_table_next(place: Place) -> None:
    table = place.stream()
    assert table.positions(["t-0", "t-1"]) == {}
    table.append(rows(0, 0), {"t-0": Move(None, 0), "t-1": Move(None, 7)}, {})
    assert place.stream().positions(["t-0", "t-1"]) == {"t-0": 0, "t-1": 7}
    both = pa.concat_tables([rows(0, 5), rows(5, 8, day=OTHER_DAY), rows(7, 9, "t-1")])
    version = table.append(both, {"t-0": Move(0, 8), "t-1": Move(7, 9)}, {"run_id": "r", "rows": 10})
    assert place.stream().positions(["t-0", "t-1"]) == {"t-0": 8, "t-1": 9}
    assert place.found() == expected(0, 8) + expected(7, 9, "t-1")
    told = place.batch().history(1)[0]
    assert (told["run_id"], told["version"]) == ("r", version)
    assert told["report"]["offsets"] == {"t-0": [0, 8], "t-1": [7, 9]}


def test_a_zombie_is_refused_and_changes_nothing(place: Place) -> None:
    table = place.stream()
    table.append(rows(0, 3), {"t-0": Move(None, 3), "t-1": Move(None, 0)}, {})
    zombie = place.stream()
    table.append(rows(3, 6), {"t-0": Move(3, 6)}, {})
    for stale in ({"t-0": Move(3, 9)}, {"t-0": Move(None, 2)}, {"t-0": Move(3, 5), "t-1": Move(0, 4)}):
        with pytest.raises(CommitRefused, match="t-0 stands at offset 6"):
            zombie.append(rows(3, 9), stale, {})
    assert table.positions(["t-0", "t-1"]) == {"t-0": 6, "t-1": 0}
    assert place.found() == expected(0, 6)


def test_of_racing_writers_of_a_partition_one_is_taken_and_writers_of_others_all(place: Place) -> None:
    place.stream().append(rows(0, 0), {f"t-{n}": Move(None, 0) for n in range(3)}, {})
    barrier = threading.Barrier(4)

    def write(source: str) -> bool:
        table = place.stream()
        barrier.wait(30)
        try:
            # The same start and another end: it cannot be taken for the other's commit.
            high = 4 + threading.get_ident() % 1000
            table.append(rows(0, high, source), {source: Move(0, high)}, {})
        except CommitRefused:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(write, ["t-0", "t-0", "t-1", "t-2"]))
    ends = place.stream().positions(["t-0", "t-1", "t-2"])
    assert done[2:] == [True, True]
    assert place.found() == [row for source, end in sorted(ends.items()) for row in expected(0, end, source)]
    assert sum(done[:2]) == 1


def test_two_pipelines_have_positions_of_their_own(place: Place) -> None:
    place.stream("a").append(rows(0, 2), {"t-0": Move(None, 2)}, {})
    assert place.stream("b").positions(["t-0"]) == {}


def test_a_run_replaces_what_runs_wrote_and_leaves_the_streams_rows(place: Place) -> None:
    table, store = place.stream(), place.batch()
    replace_by_run(store, "run-1", 100, 103)
    table.append(rows(0, 4), {"t-0": Move(None, 4)}, {})
    assert store.committed("run-1", [(("ds", DAY),)]) is not None, (
        "the stream's rows hide that the run's stand"
    )
    replace_by_run(place.batch(), "run-2", 200, 202)
    files = [("file", n, n) for n in range(200, 202)]
    assert place.found() == files + expected(0, 4)
    table.append(rows(4, 6), {"t-0": Move(4, 6)}, {})
    assert place.found() == files + expected(0, 6)
    assert store.committed("run-2", [(("ds", DAY),)]) is not None


def test_a_repair_replaces_exactly_the_rows_of_a_window(place: Place) -> None:
    table = place.stream()
    replace_by_run(place.batch(), "run-1", 100, 103)
    table.append(
        pa.concat_tables([rows(0, 10), rows(0, 4, "t-1")]), {"t-0": Move(None, 10), "t-1": Move(None, 4)}, {}
    )
    table.append(rows(10, 20, day=OTHER_DAY), {"t-0": Move(10, 20)}, {})
    fresh = [rows(5, 12, score=2.0), rows(13, 15, day=OTHER_DAY, score=2.0)]  # 12 gets no prediction now
    done = table.replace(iter(fresh), {"t-0": (5, 15)}, {"run_id": "repair"})
    assert (done.removed, done.written) == (10, 9)
    files = [("file", n, n) for n in range(100, 103)]
    assert place.found() == files + [e for e in expected(0, 20) if e[1] != 12] + expected(0, 4, "t-1")
    again = place.batch().dataset().to_table(["_position", "score", "_source"])
    mended = {
        p for p, s in zip(again["_position"].to_pylist(), again["score"].to_pylist(), strict=True) if s == 2.0
    }
    assert mended == {*range(5, 12), 13, 14}
    assert table.positions(["t-0", "t-1"]) == {"t-0": 20, "t-1": 4}
    assert place.batch().history(1)[0]["run_id"] == "repair"


def test_repairs_and_appends_do_not_disturb_each_other(place: Place) -> None:
    table = place.stream()
    table.append(rows(0, 10), {"t-0": Move(None, 10)}, {})
    barrier = threading.Barrier(3)

    def repair() -> None:
        mine = place.stream()
        barrier.wait(30)
        mine.replace(iter([rows(2, 6, score=2.0)]), {"t-0": (2, 6)}, {})

    def append() -> None:
        mine = place.stream()
        barrier.wait(30)
        for low in range(10, 30, 5):
            mine.append(rows(low, low + 5), {"t-0": Move(low, low + 5)}, {})

    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(repair), pool.submit(repair), pool.submit(append)]:
            done.result()
    assert place.found() == expected(0, 30)


def test_rows_of_another_schema_are_refused_before_any_message(place: Place) -> None:
    place.stream()
    other = open_stream_table(place.kind, place.path, ("ds",), "scores")
    with pytest.raises(StoreError, match="score"):
        other.begin(SCHEMA.remove(1))


def test_parquet_is_refused_by_name() -> None:
    with pytest.raises(SpecError, match=r"parquet.*exactly once"):
        open_stream_table("parquet", "somewhere", (), "scores")


def test_a_part_that_no_commit_named_is_swept(tmp_path: Path) -> None:
    place = Place("delta", str(tmp_path / "table"))
    table = place.stream()
    table.append(rows(0, 3), {"t-0": Move(None, 3)}, {})
    with pytest.raises(CommitRefused):
        table.append(rows(0, 3), {"t-0": Move(1, 3)}, {})
    assert len(list(tmp_path.rglob("stream-*.parquet"))) == 2
    assert len(place.batch().sweep(-1, dry_run=False)) == 1
    assert place.found() == expected(0, 3)


def test_a_partition_that_was_compacted_with_a_streams_rows_is_not_replaced(tmp_path: Path) -> None:
    from deltalake import DeltaTable

    place = Place("delta", str(tmp_path / "table"))
    replace_by_run(place.batch(), "run-1", 100, 103)
    place.stream().append(rows(0, 4), {"t-0": Move(None, 4)}, {})
    before = place.found()
    DeltaTable(place.path).optimize.compact()
    with pytest.raises(StoreError, match="compacted"):
        replace_by_run(place.batch(), "run-2", 200, 202)
    assert place.found() == before
    done = place.stream().replace(iter([rows(1, 3, score=2.0)]), {"t-0": (1, 3)}, {})
    assert (done.removed, done.written) == (2, 2)
    assert place.found() == before


def replace_by_run(store: ResultsStore, run_id: str, low: int, high: int) -> None:
    """What a batch run commits: the day's partition, with rows of a file."""
    partition = (("ds", DAY),)
    fence = store.begin(run_id, SCHEMA, [partition])
    staging = store.staging(run_id)
    unit = WorkUnit(0, partition, (Slice(InputFile("file", 1, 1, high - low), 0, 1, 0, high - low),))
    writer = PartWriter(staging, partition, part_name(unit, run_id, "a"), SCHEMA, ["id"])
    for batch in rows(low, high, "file").drop_columns(["ds"]).to_batches():
        writer.write(batch)
    part = writer.finish()
    assert part is not None
    store.commit(fence, [(partition, part)], CommitInfo(run_id, "scores", {}))
