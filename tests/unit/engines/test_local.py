"""The local engine: bounded, quick to stop, and each unit's report exactly once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from batchinfer.core import RowCounts, UnitReport, WorkUnit
from batchinfer.engines import _local, open_engine
from batchinfer.engines._local import LocalEngine
from batchinfer.errors import InputChanged, InputError, Transient, UsageError
from batchinfer.spec import EngineSpec

PATIENCE_SECONDS = 10.0


def units(count: int) -> list[WorkUnit]:
    return [WorkUnit(i, (), ()) for i in range(count)]


def report(unit: WorkUnit) -> UnitReport:
    return UnitReport(unit.index, unit.digest(), (), RowCounts(), None, None, {}, {})


def waits_for(event: threading.Event) -> None:
    assert event.wait(PATIENCE_SECONDS)


@pytest.fixture
def engine() -> Iterator[LocalEngine]:
    with LocalEngine(2) as opened:
        yield opened


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_unit_is_reported_once(threads: int) -> None:
    with LocalEngine(threads) as engine:
        found = sorted(r.unit for r in engine.map(report, units(50)))
    assert found == list(range(50))


def test_no_units_no_reports(engine: LocalEngine) -> None:
    assert list(engine.map(report, [])) == []


def test_reports_come_as_units_are_done_not_in_their_order(engine: LocalEngine) -> None:
    second_reported = threading.Event()

    def work(unit: WorkUnit) -> UnitReport:
        if unit.index == 0:
            waits_for(second_reported)
        return report(unit)

    order = []
    for found in engine.map(work, units(3)):
        order.append(found.unit)
        second_reported.set()
    assert order[-1] == 0 or order[0] != 0
    assert sorted(order) == [0, 1, 2]


def test_never_more_units_in_work_than_threads_nor_begun_before_reports_are_taken() -> None:
    lock = threading.Lock()
    in_work = most = begun = 0

    def work(unit: WorkUnit) -> UnitReport:
        nonlocal in_work, most, begun
        with lock:
            begun += 1
            in_work += 1
            most = max(most, in_work)
        time.sleep(0.002)
        with lock:
            in_work -= 1
        return report(unit)

    with LocalEngine(3) as engine:
        reports = engine.map(work, units(60))
        next(reports)
        time.sleep(0.05)
        assert begun <= 3, "a slow taker of reports holds the work back"
        assert len(list(reports)) == 59
    assert most <= 3


def test_the_first_error_is_raised_and_starts_no_more(engine: LocalEngine) -> None:
    begun: list[int] = []
    failing = threading.Event()

    def work(unit: WorkUnit) -> UnitReport:
        begun.append(unit.index)
        if unit.index == 3:
            failing.set()
            raise InputError("the fourth is bad", path="x")
        if unit.index > 3:
            assert failing.wait(PATIENCE_SECONDS), "the fourth came before"
            time.sleep(0.001)  # as a unit that works, and lets the failure be seen
        return report(unit)

    with pytest.raises(InputError, match="the fourth is bad"):
        list(engine.map(work, units(1000)))
    assert len(begun) < 10


def blocks_without_end(engine: LocalEngine, running: threading.Event) -> Callable[[WorkUnit], UnitReport]:
    """Work that only a stop ends: blocks of a few milliseconds. Where none comes, the test fails."""

    def block(_: int) -> None:
        running.set()
        time.sleep(0.002)

    def work(unit: WorkUnit) -> UnitReport:
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            list(engine.blocks(block, range(4)))
        raise AssertionError("nothing stopped this unit")

    return work


def test_an_error_stops_units_in_work_at_their_next_block(engine: LocalEngine) -> None:
    running = threading.Event()
    endless = blocks_without_end(engine, running)

    def work(unit: WorkUnit) -> UnitReport:
        if unit.index == 0:
            return endless(unit)
        waits_for(running)
        raise InputError("bad")

    started = time.monotonic()
    with pytest.raises(InputError):
        list(engine.map(work, units(2)))
    assert time.monotonic() - started < PATIENCE_SECONDS


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C interrupts, as under a user's shell; what a script started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_stops_units_in_work_at_their_next_block() -> None:
    running = threading.Event()

    def interrupt() -> None:
        waits_for(running)
        os.kill(os.getpid(), signal.SIGINT)

    killer = threading.Thread(target=interrupt)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), LocalEngine(2) as engine:
        killer.start()
        list(engine.map(blocks_without_end(engine, running), units(5)))
    killer.join()
    assert time.monotonic() - started < PATIENCE_SECONDS
    assert not [t for t in threading.enumerate() if t.name.startswith(("unit", "block"))]


def test_leaving_the_loop_early_stops_the_rest() -> None:
    begun: list[int] = []

    def work(unit: WorkUnit) -> UnitReport:
        begun.append(unit.index)
        return report(unit)

    with LocalEngine(2) as engine:
        for _ in engine.map(work, units(1000)):
            break
    assert len(begun) <= 4


def test_after_an_error_the_engine_works_again(engine: LocalEngine) -> None:
    def bad(unit: WorkUnit) -> UnitReport:
        raise InputError("bad")

    def works_in_blocks(unit: WorkUnit) -> UnitReport:
        assert list(engine.blocks(abs, [-1, -2])) == [1, 2]
        return report(unit)

    for _ in range(2):
        with pytest.raises(InputError):
            list(engine.map(bad, units(5)))
        assert len(list(engine.map(works_in_blocks, units(5)))) == 5


def test_blocks_come_in_order_whoever_computes_them(engine: LocalEngine) -> None:
    def work(unit: WorkUnit) -> UnitReport:
        assert list(engine.blocks(lambda i: i * i, range(100))) == [i * i for i in range(100)]
        assert list(engine.blocks(abs, iter([]))) == []
        return report(unit)

    assert len(list(engine.map(work, units(7)))) == 7


def test_the_blocks_of_the_last_unit_are_shared_by_all_threads(engine: LocalEngine) -> None:
    both = threading.Barrier(2)

    def block(_: int) -> str:
        both.wait(PATIENCE_SECONDS)
        return threading.current_thread().name

    def work(unit: WorkUnit) -> UnitReport:
        assert len(set(engine.blocks(block, range(2)))) == 2
        return report(unit)

    list(engine.map(work, units(1)))


def test_a_single_block_is_computed_where_it_is(engine: LocalEngine) -> None:
    def work(unit: WorkUnit) -> UnitReport:
        assert list(engine.blocks(lambda _: threading.current_thread().name, [0])) == [
            threading.current_thread().name
        ]
        return report(unit)

    list(engine.map(work, units(1)))


def test_an_error_in_a_block_is_the_units_error(engine: LocalEngine) -> None:
    def block(i: int) -> int:
        if i == 5:
            raise InputError(f"block {i}")
        return i

    def work(unit: WorkUnit) -> UnitReport:
        list(engine.blocks(block, range(10)))
        return report(unit)

    with pytest.raises(InputError, match="block 5"):
        list(engine.map(work, units(4)))


def test_engines_are_opened_by_name() -> None:
    with open_engine(EngineSpec(threads=3)) as engine:
        assert isinstance(engine, LocalEngine)
        assert engine.threads == 3
    with pytest.raises(UsageError, match="no engine is called 'ray'"):
        open_engine(EngineSpec.model_construct(kind="ray"))


def test_a_transient_error_is_tried_again_but_not_for_ever(engine: LocalEngine) -> None:
    begun: list[int] = []

    def work(unit: WorkUnit) -> UnitReport:
        begun.append(unit.index)
        if unit.index == 1 and begun.count(1) < 3:
            raise Transient("the storage does not answer")
        return report(unit)

    assert sorted(r.unit for r in engine.map(work, units(3))) == [0, 1, 2]
    assert begun.count(1) == 3

    def hopeless(unit: WorkUnit) -> UnitReport:
        begun.append(unit.index)
        raise Transient("the storage does not answer")

    begun.clear()
    with pytest.raises(Transient):
        list(engine.map(hopeless, units(1)))
    assert begun == [0, 0, 0]


def test_a_file_that_changed_is_not_tried_again(engine: LocalEngine) -> None:
    begun: list[int] = []

    def work(unit: WorkUnit) -> UnitReport:
        begun.append(unit.index)
        raise InputChanged("another file lies there")

    with pytest.raises(InputChanged):
        list(engine.map(work, units(1)))
    assert begun == [0]


def test_cores_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    for quota, cores in ((None, 4), (8.0, 4), (2.0, 2), (1.5, 2), (0.2, 1)):
        monkeypatch.setattr(_local, "_container_quota", lambda _, quota=quota: quota)
        assert _local.available_cores() == cores


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.0),
        ({}, None),
    ],
    ids=["v2 no quota", "v2", "v1 no quota", "v1", "no container"],
)
def test_a_containers_quota_is_read(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert _local._container_quota(tmp_path) == quota


def test_units_are_pulled_one_by_one_as_threads_become_free(engine: LocalEngine) -> None:
    pulled = 0

    class Many(list[WorkUnit]):
        def __iter__(self) -> Iterator[WorkUnit]:
            nonlocal pulled
            for unit in super().__iter__():
                pulled += 1
                yield unit

    reports = engine.map(report, Many(units(100_000)))
    for _ in range(3):
        next(reports)
    assert pulled <= 3 + 2 * engine.threads


def test_no_thread_outlives_the_context() -> None:
    before = set(threading.enumerate())
    with LocalEngine(3) as engine:
        work = lambda unit: next(iter(engine.blocks(lambda _: report(unit), range(8))))  # noqa: E731
        assert len(list(engine.map(work, units(5)))) == 5
        assert set(threading.enumerate()) - before
    assert set(threading.enumerate()) == before
