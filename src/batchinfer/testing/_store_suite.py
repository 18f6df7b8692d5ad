"""The promises of a results store, as a suite that every adapter runs."""

from __future__ import annotations

import multiprocessing
import random
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from batchinfer.errors import CommitRefused, CommitUnknown, StoreError
from batchinfer.testing._digest import table_digest
from batchinfer.testing._faults import Fault, kill, tripping
from batchinfer.testing._store_runs import (
    ODD_VALUES,
    SCHEMA,
    TWO_DAYS,
    WHOLE,
    Factory,
    StoreUnderTest,
    age,
    day,
    info,
    ours,
    parts_of,
    run,
    seen,
    stage,
)

_PATIENCE_SECONDS = 120


class StoreConformance:
    """Subclass it in a test module, and set `factory`. The store must be on the local filesystem.

    `steps` are the store's steps of a commit (`module:Class.method`): the process is killed before and after
    each of their first two calls; with `every_kill` unset, at a sample of these moments that has each step.
    `decisive_step` is the one after which the commit has taken place.
    """

    factory: ClassVar[Factory]
    steps: ClassVar[tuple[str, ...]] = ()
    decisive_step: ClassVar[str] = ""
    every_kill: ClassVar[bool] = True

    def open(self, folder: Path, *, by: Sequence[str] = ("ds",), pipeline: str = "suite") -> StoreUnderTest:
        """The store under test, in a folder that the test owns."""
        return type(self).factory(str(folder / "table"), by, pipeline)

    # Whole or not at all

    def test_nothing_is_visible_before_the_commit_and_all_of_it_after(self, tmp_path: Path) -> None:
        store = self.open(tmp_path)
        run(store, "run1", {day("d1"): range(10)})
        fence = store.begin("run2", SCHEMA, [day("d1")])
        parts = stage(store, "run2", {day("d1"): range(200)}, parts=3)
        assert seen(store) == {("d1", "run1"): 10}
        version = store.commit(fence, parts, info("run2"))
        assert seen(store) == {("d1", "run2"): 200}
        assert store.committed("run2", [day("d1")]) == (version, info("run2"))

    def test_a_partition_is_replaced_and_the_others_stay(self, tmp_path: Path) -> None:
        store = self.open(tmp_path)
        run(store, "run1", TWO_DAYS)
        run(store, "run2", {day("d2"): range(7)})
        assert seen(store) == {("d1", "run1"): 300, ("d2", "run2"): 7}

    def test_a_table_without_partitions_is_replaced_whole(self, tmp_path: Path) -> None:
        store = self.open(tmp_path, by=())
        run(store, "run1", {WHOLE: range(10)})
        run(store, "run2", {WHOLE: range(20)})
        assert seen(store) == {("", "run2"): 20}

    def test_a_run_without_rows_empties_its_partition_alone(self, tmp_path: Path) -> None:
        store = self.open(tmp_path)
        run(store, "run1", TWO_DAYS)
        version = run(store, "run2", {day("d1"): range(0)})
        assert seen(store) == {("d2", "run1"): 200}
        assert store.committed("run2", [day("d1")]) == (version, info("run2"))
        assert store.committed("run1", [day("d1")]) is None

    def test_the_first_run_may_have_no_rows(self, tmp_path: Path) -> None:
        store = self.open(tmp_path)
        version = run(store, "run1", {day("d1"): range(0)})
        assert store.committed("run1", [day("d1")]) == (version, info("run1"))
        assert run(store, "run2", {day("d1"): range(5)}) > version
        assert seen(store) == {("d1", "run2"): 5}

    def test_a_reader_never_sees_two_runs_mixed(self, tmp_path: Path) -> None:
        store = self.open(tmp_path)
        run(store, "run0", {day("d1"): range(30)}, parts=3)
        done = threading.Event()
        views: list[dict[tuple[str, str], int]] = []

        def read() -> None:
            reader = self.open(tmp_path)
            while not done.is_set():
                try:
                    views.append(seen(reader))
                except (OSError, pa.ArrowInvalid):
                    continue  # a reader may have to look again; what it must not do is see something wrong

        thread = threading.Thread(target=read)
        thread.start()
        try:
            for number in range(1, 51):
                run(store, f"run{number}", {day("d1"): range(30 + number)}, parts=3)
        finally:
            done.set()
            thread.join(_PATIENCE_SECONDS)
        whole = [{("d1", f"run{number}"): 30 + number} for number in range(51)]
        assert views, "the reader saw nothing at all"
        assert [view for view in views if view not in whole] == []

    # Once

    def test_a_rerun_gives_the_same_table(self, tmp_path: Path) -> None:
        store = self.open(tmp_path)
        first = run(store, "run1", TWO_DAYS, parts=2)
        before = table_digest(store)
        assert run(store, "run1", TWO_DAYS, parts=3) > first
        assert table_digest(store) == before

    def test_a_rerun_that_reuses_every_part_gives_the_same_table(self, tmp_path: Path) -> None:
        store = self.open(tmp_path)
        fence = store.begin("run1", SCHEMA, list(TWO_DAYS))
        parts = stage(store, "run1", TWO_DAYS)
        store.commit(fence, parts, info("run1"))
        before = table_digest(store)
        store.commit(store.begin("run1", SCHEMA, list(TWO_DAYS)), parts, info("run1"))
        assert table_digest(store) == before
        run(store, "run2", TWO_DAYS)
        store.commit(store.begin("run1", SCHEMA, list(TWO_DAYS)), parts, info("run1"))
        assert table_digest(store) == before

    def test_committing_twice_with_one_fence_is_committing_once(self, tmp_path: Path) -> None:
        store = self.open(tmp_path)
        fence = store.begin("run1", SCHEMA, list(TWO_DAYS))
        first = store.commit(fence, stage(store, "run1", TWO_DAYS), info("run1"))
        before = table_digest(store)
        assert store.commit(fence, stage(store, "run1", TWO_DAYS, attempt="b"), info("run1")) == first
        assert table_digest(store) == before
        assert len(ours(store)) == 1

    def test_a_run_whose_twin_came_to_its_end_first_is_done(self, tmp_path: Path) -> None:
        store = self.open(tmp_path)
        fence = store.begin("run1", SCHEMA, list(TWO_DAYS))
        parts = stage(store, "run1", TWO_DAYS)
        first = store.commit(store.begin("run1", SCHEMA, list(TWO_DAYS)), parts, info("run1"))
        before = table_digest(store)
        store.clear("run1")
        assert store.commit(fence, parts, info("run1")) == first
        assert table_digest(store) == before

    def test_a_zombie_with_a_stale_fence_is_refused_and_told_by_whom(self, tmp_path: Path) -> None:
        store = self.open(tmp_path)
        fence = store.begin("zombie", SCHEMA, list(TWO_DAYS))
        parts = stage(store, "zombie", TWO_DAYS)
        run(store, "run1", {day("d2"): range(5)})
        with pytest.raises(CommitRefused) as refused:
            store.commit(fence, parts, info("zombie"))
        assert refused.value.fields["holder"] == "run1"
        assert "ds=d2" in str(refused.value)
        assert seen(store) == {("d2", "run1"): 5}
        assert store.committed("zombie", list(TWO_DAYS)) is None

    def test_two_pipelines_that_write_one_partition_meet_at_one_fence(self, tmp_path: Path) -> None:
        store, other = self.open(tmp_path), self.open(tmp_path, pipeline="other")
        fence = store.begin("run1", SCHEMA, [day("d1")])
        run(other, "run2", {day("d1"): range(5)})
        with pytest.raises(CommitRefused):
            store.commit(fence, stage(store, "run1", {day("d1"): range(3)}), info("run1"))
        assert seen(store) == {("d1", "run2"): 5}

    @pytest.mark.parametrize("there_before", [False, True])
    def test_of_racing_threads_one_wins_and_the_others_are_refused(
        self, tmp_path: Path, there_before: bool
    ) -> None:
        if there_before:
            run(self.open(tmp_path), "before", TWO_DAYS)
        gate = threading.Barrier(4)
        outcomes: list[str] = []
        factory, path = type(self).factory, str(tmp_path / "table")

        def race(run_id: str) -> None:
            outcomes.append(_race(factory, path, run_id, gate))

        threads = [threading.Thread(target=race, args=(f"racer{i}",)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(_PATIENCE_SECONDS)
        self._one_won(tmp_path, outcomes)

    def test_of_racing_processes_one_wins_and_the_others_are_refused(self, tmp_path: Path) -> None:
        processes = _processes(self.steps)
        gate, answers = processes.Barrier(3), processes.Queue()
        factory, path = type(self).factory, str(tmp_path / "table")
        racers = [
            processes.Process(target=_race_in_process, args=(factory, path, f"racer{i}", gate, answers))
            for i in range(3)
        ]
        for racer in racers:
            racer.start()
        outcomes = [answers.get(timeout=_PATIENCE_SECONDS) for _ in racers]
        for racer in racers:
            racer.join(_PATIENCE_SECONDS)
        self._one_won(tmp_path, outcomes)

    def _one_won(self, folder: Path, outcomes: Sequence[str]) -> None:
        winners = [outcome for outcome in outcomes if outcome.startswith("racer")]
        assert len(winners) == 1, outcomes
        assert sorted(set(outcomes) - set(winners)) == ["refused"]
        assert seen(self.open(folder)) == {("d1", winners[0]): 300, ("d2", winners[0]): 200}

    def test_commits_of_different_partitions_do_not_stand_in_each_others_way(self, tmp_path: Path) -> None:
        run(self.open(tmp_path), "before", {day(f"d{i}"): range(3) for i in range(4)})
        gate = threading.Barrier(4)
        failures: list[BaseException] = []

        def replace(number: int) -> None:
            try:
                store = self.open(tmp_path)
                rows = {day(f"d{number}"): range(10 + number)}
                fence = store.begin(f"run{number}", SCHEMA, list(rows))
                parts = stage(store, f"run{number}", rows)
                gate.wait(_PATIENCE_SECONDS)
                store.commit(fence, parts, info(f"run{number}"))
            except BaseException as e:
                failures.append(e)

        threads = [threading.Thread(target=replace, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(_PATIENCE_SECONDS)
        assert failures == []
        assert seen(self.open(tmp_path)) == {(f"d{i}", f"run{i}"): 10 + i for i in range(4)}

    # After a failure

    def test_a_kill_at_any_step_and_a_rerun_give_the_same_table(self, tmp_path: Path) -> None:
        undisturbed = self.open(tmp_path / "undisturbed")
        run(undisturbed, "run1", TWO_DAYS)
        expected = table_digest(undisturbed)
        struck = set()
        for number, (fault, there_before) in enumerate(self._kills()):
            folder = tmp_path / str(number)
            store = self.open(folder)
            if there_before:
                run(store, "before", {day("d1"): range(9), day("d2"): range(9)})
            if self._killed(folder, fault):
                struck.add(fault.step)
                self._each_partition_is_whole(store)
            if store.committed("run1", list(TWO_DAYS)) is None:
                run(store, "run1", TWO_DAYS, attempt="again")
            assert table_digest(store) == expected, f"{fault}, there before: {there_before}"
            assert ours(store)[0] == "run1"
        assert struck == set(self.steps), "a step was never called"

    def _kills(self) -> list[tuple[Fault, bool]]:
        """When to kill, and whether the table is there before."""
        faults = [Fault(s, when, call) for s in self.steps for when in ("before", "after") for call in (1, 2)]
        # A table that is there already is replaced step by step; one that is not, has a first step of its own.
        cases = [(fault, True) for fault in faults] + [(fault, False) for fault in faults if fault.call == 1]
        if self.every_kill:
            return cases
        first = [case for case in cases if (case[0].when, case[0].call) == ("before", 1)]
        others = [case for case in cases if case not in first]
        return first + random.Random(2013).sample(others, len(self.steps) // 2)

    def _killed(self, folder: Path, fault: Fault) -> bool:
        args = (type(self).factory, str(folder / "table"), fault)
        child = _processes(self.steps).Process(target=_commit_until_killed, args=args)
        child.start()
        child.join(_PATIENCE_SECONDS)
        assert child.exitcode in {0, -signal.SIGKILL}, fault
        return bool(child.exitcode)

    def _each_partition_is_whole(self, store: StoreUnderTest) -> None:
        try:
            view = seen(store)
        except StoreError:
            return  # not even the table is there
        whole = {("d1", "run1"): 300, ("d2", "run1"): 200, ("d1", "before"): 9, ("d2", "before"): 9}
        assert all(whole[place] == rows for place, rows in view.items()), view
        assert len({value for value, _ in view}) == len(view), view

    def test_a_commit_that_failed_after_it_took_place_returns_its_version(self, tmp_path: Path) -> None:
        store = self.open(tmp_path)
        run(store, "before", {day("d1"): range(9)})
        fence = store.begin("run1", SCHEMA, [day("d1")])
        parts = stage(store, "run1", {day("d1"): range(20)})
        with tripping(Fault(self.decisive_step, "after"), _fail):
            version = store.commit(fence, parts, info("run1"))
        assert store.committed("run1", [day("d1")]) == (version, info("run1"))
        assert seen(store) == {("d1", "run1"): 20}
        assert ours(store) == ["run1", "before"]

    def test_a_commit_that_failed_before_it_took_place_changes_nothing(self, tmp_path: Path) -> None:
        store = self.open(tmp_path)
        run(store, "before", {day("d1"): range(9)})
        fence = store.begin("run1", SCHEMA, [day("d1")])
        parts = stage(store, "run1", {day("d1"): range(20)})
        with tripping(Fault(self.decisive_step), _fail), pytest.raises((StoreError, CommitUnknown)):
            store.commit(fence, parts, info("run1"))
        assert seen(store) == {("d1", "before"): 9}
        store.commit(fence, parts, info("run1"))
        assert seen(store) == {("d1", "run1"): 20}

    def test_a_staged_part_that_is_gone_is_never_committed(self, tmp_path: Path) -> None:
        store = self.open(tmp_path)
        run(store, "before", {day("d1"): range(9)})
        fence = store.begin("run1", SCHEMA, [day("d1")])
        parts = stage(store, "run1", {day("d1"): range(20)}, parts=2)
        Path(store.staging("run1").parts, parts[1][1].path).unlink()
        with pytest.raises(StoreError, match="run again"):
            store.commit(fence, parts, info("run1"))
        assert seen(store) == {("d1", "before"): 9}

    # What a table takes

    def test_odd_partition_values_come_back_as_they_were(self, tmp_path: Path) -> None:
        store = self.open(tmp_path)
        for round_ in ("run1", "run2"):
            run(store, round_, {day(value): range(3) for value in ODD_VALUES})
            assert seen(store) == {(value, round_): 3 for value in ODD_VALUES}
        assert store.committed("run2", [day(value) for value in ODD_VALUES]) is not None

    @pytest.mark.parametrize("value", ["", "__HIVE_DEFAULT_PARTITION__"])
    def test_a_partition_value_that_readers_take_for_null_is_refused(
        self, tmp_path: Path, value: str
    ) -> None:
        with pytest.raises(StoreError, match="'ds'"):
            self.open(tmp_path).begin("run1", SCHEMA, [day(value)])

    @pytest.mark.parametrize(
        ("schema", "column"),
        [
            (SCHEMA.set(1, pa.field("score", pa.float64())), "score"),
            (SCHEMA.remove(1), "score"),
            (SCHEMA.append(pa.field("label", pa.string())), "label"),
        ],
    )
    def test_another_schema_is_refused_by_column(
        self, tmp_path: Path, schema: pa.Schema, column: str
    ) -> None:
        store = self.open(tmp_path)
        run(store, "run1", {day("d1"): range(3)})
        with pytest.raises(StoreError, match=f"'{column}'"):
            store.begin("run2", schema, [day("d2")])
        assert seen(store) == {("d1", "run1"): 3}

    def test_the_same_columns_in_another_order_are_taken(self, tmp_path: Path) -> None:
        store = self.open(tmp_path)
        run(store, "run1", {day("d1"): range(3)})
        store.begin("run2", pa.schema(list(SCHEMA)[::-1]), [day("d2")])

    def test_other_partition_columns_are_refused(self, tmp_path: Path) -> None:
        run(self.open(tmp_path), "run1", {day("d1"): range(3)})
        with pytest.raises(StoreError, match="partitioned by"):
            self.open(tmp_path, by=()).begin("run2", SCHEMA, [WHOLE])
        with pytest.raises(StoreError, match="expected by"):
            self.open(tmp_path).begin("run2", SCHEMA, [WHOLE])

    def test_a_place_that_cannot_be_written_is_refused_at_the_beginning(self, tmp_path: Path) -> None:
        (tmp_path / "table").write_text("a file in the folder's place")
        with pytest.raises(StoreError) as refused:
            self.open(tmp_path).begin("run1", SCHEMA, [day("d1")])
        assert refused.value.next_step
        with pytest.raises(StoreError):
            self.open(tmp_path / "table").begin("run1", SCHEMA, [day("d1")])

    def test_a_part_of_a_partition_that_is_not_fenced_is_refused(self, tmp_path: Path) -> None:
        store = self.open(tmp_path)
        fence = store.begin("run1", SCHEMA, [day("d1")])
        with pytest.raises(StoreError):
            store.commit(fence, stage(store, "run1", TWO_DAYS), info("run1"))

    # What a table remembers

    def test_a_run_counts_as_committed_only_while_readers_see_its_rows(self, tmp_path: Path) -> None:
        store = self.open(tmp_path)
        assert store.committed("run1", [day("d1")]) is None
        version = run(store, "run1", TWO_DAYS)
        assert store.committed("run1", list(TWO_DAYS)) == (version, info("run1"))
        assert store.committed("run1", [day("d2")]) == (version, info("run1"))
        assert store.committed("run1", [day("d1"), day("d3")]) is None
        assert store.committed("run", list(TWO_DAYS)) is None
        run(store, "run2", {day("d2"): range(5)})
        assert store.committed("run1", list(TWO_DAYS)) is None
        assert store.committed("run1", [day("d1")]) == (version, info("run1"))

    def test_the_history_tells_each_commit_newest_first(self, tmp_path: Path) -> None:
        store = self.open(tmp_path)
        assert store.history(5) == []
        versions = [run(store, f"run{i}", {day("d1"): range(3)}) for i in range(30)]
        assert ours(store, 100) == [f"run{i}" for i in range(30)][::-1]
        newest = store.history(1)
        assert len(newest) == 1
        told = {key: newest[0][key] for key in ("version", "run_id", "pipeline", "report")}
        assert told == {
            "version": versions[-1],
            "run_id": "run29",
            "pipeline": "suite",
            "report": info("run29").report,
        }
        assert abs(newest[0]["timestamp_ms"] - time.time() * 1000) < 600_000
        assert newest[0]["operation"]

    def test_the_sweep_takes_old_orphans_and_nothing_else(self, tmp_path: Path) -> None:
        store = self.open(tmp_path)
        run(store, "old1", TWO_DAYS)
        run(store, "old2", {day("d1"): range(4)})
        for abandoned in ("dead", "young"):
            store.begin(abandoned, SCHEMA, [day("d1")])
            stage(store, abandoned, {day("d1"): range(5)})
        for run_id in ("old1", "old2", "dead"):
            age(tmp_path, run_id, 7200)
        before = table_digest(store)
        planned = store.sweep(3600, dry_run=True)
        assert parts_of(tmp_path, "dead") and set(parts_of(tmp_path, "dead")) <= set(planned)
        assert sorted(store.sweep(3600, dry_run=False)) == sorted(planned)
        assert not any(Path(path).exists() for path in planned)
        assert parts_of(tmp_path, "dead") == []
        assert parts_of(tmp_path, "young") != []
        assert table_digest(store) == before
        assert store.committed("old2", [day("d1")]) is not None
        assert store.sweep(3600, dry_run=False) == []

    def test_the_sweep_spares_what_a_run_staged_long_ago_and_is_about_to_commit(self, tmp_path: Path) -> None:
        store = self.open(tmp_path)
        store.begin("run1", SCHEMA, [day("d1")])
        parts = stage(store, "run1", {day("d1"): range(5)})
        age(tmp_path, "run1", 7200)
        fence = store.begin("run1", SCHEMA, [day("d1")])
        assert store.sweep(3600, dry_run=False) == []
        store.commit(fence, parts, info("run1"))
        assert seen(store) == {("d1", "run1"): 5}

    def test_a_table_that_is_not_there_has_nothing_to_sweep(self, tmp_path: Path) -> None:
        assert self.open(tmp_path).sweep(0, dry_run=False) == []


def _processes(steps: Sequence[str]) -> Any:
    # Fresh processes without this one's threads, which need not import everything anew.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["batchinfer.testing", *(step.partition(":")[0] for step in steps)])
    return context


def _race(factory: Factory, path: str, run_id: str, gate: Any) -> str:
    try:
        store = factory(path, ("ds",), "suite")
        fence = store.begin(run_id, SCHEMA, list(TWO_DAYS))
        parts = stage(store, run_id, TWO_DAYS)
        gate.wait(_PATIENCE_SECONDS)
        store.commit(fence, parts, info(run_id))
    except CommitRefused:
        return "refused"
    except BaseException as e:
        return repr(e)
    return run_id


def _race_in_process(factory: Factory, path: str, run_id: str, gate: Any, answers: Any) -> None:
    answers.put(_race(factory, path, run_id, gate))


def _commit_until_killed(factory: Factory, path: str, fault: Fault) -> None:
    store = factory(path, ("ds",), "suite")
    with tripping(fault, kill):
        run(store, "run1", TWO_DAYS)


def _fail() -> None:
    raise OSError(5, "the connection broke")
