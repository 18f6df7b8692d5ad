"""Units hold every row group once, in order, never mix partitions, are of even size and keep their bounds."""

from __future__ import annotations

from array import array
from itertools import pairwise

import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchinfer.core import InputFile, Partition, Slice, WorkUnit
from batchinfer.source import SourceFile, plan_units
from batchinfer.source._footer import RowGroup

SCHEMA = pa.schema([("id", pa.int64()), ("x", pa.float32()), ("blob", pa.binary())])
Groups = list[tuple[int, tuple[int, int, int]]]


def source_file(path: str, groups: Groups) -> SourceFile:
    rows = sum(rows for rows, _ in groups)
    return SourceFile(
        InputFile(path, 1000, 1, rows),
        SCHEMA,
        tuple(RowGroup(rows, array("Q", sizes)) for rows, sizes in groups),
        {},
    )


def even(path: str, row_groups: int, rows: int) -> SourceFile:
    return source_file(path, [(rows, (8 * rows, 4 * rows, 0))] * row_groups)


sizes = st.integers(0, 300)
groups = st.lists(
    st.tuples(st.one_of(st.just(0), st.integers(0, 200)), st.tuples(sizes, sizes, sizes)), max_size=12
)
plans = st.lists(st.tuples(groups, st.sampled_from(["a", "b", "c"])), min_size=1, max_size=8)
# A busy machine is no failure.
patient = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
bounds = st.tuples(st.integers(1, 400), st.integers(1, 1500))


def planned(
    plan: list[tuple[Groups, str]], bound: tuple[int, int], columns: list[str] | None
) -> tuple[list[SourceFile], dict[str, Partition], tuple[WorkUnit, ...]]:
    files = [source_file(f"f{i:02}", of_file) for i, (of_file, _) in enumerate(plan)]
    partitions: dict[str, Partition] = {f"f{i:02}": (("p", p),) for i, (_, p) in enumerate(plan)}
    units = plan_units(files, partitions, columns, unit_rows=bound[0], unit_bytes=bound[1])
    return files, partitions, units


def row_groups_of(piece: Slice) -> list[tuple[str, int]]:
    first = piece.first_row_group
    return [(piece.file.path, i) for i in range(first, first + piece.row_groups)]


@patient
@given(plans, bounds)
def test_every_row_group_with_rows_is_in_exactly_one_unit_and_order_is_kept(
    plan: list[tuple[Groups, str]], bound: tuple[int, int]
) -> None:
    files, partitions, units = planned(plan, bound, None)
    found = [g for unit in units for piece in unit.slices for g in row_groups_of(piece)]
    promised = [
        (file.input.path, i)
        for partition in sorted(set(partitions.values()))
        for file in files
        if partitions[file.input.path] == partition
        for i, group in enumerate(file.row_groups)
        if group.rows
    ]
    assert found == promised
    assert [unit.index for unit in units] == list(range(len(units)))


@patient
@given(plans, bounds)
def test_slices_count_the_rows_of_their_row_groups_and_know_where_they_begin(
    plan: list[tuple[Groups, str]], bound: tuple[int, int]
) -> None:
    files, _, units = planned(plan, bound, None)
    by_path = {file.input.path: file for file in files}
    for piece in (piece for unit in units for piece in unit.slices):
        counts = [group.rows for group in by_path[piece.file.path].row_groups]
        last = piece.first_row_group + piece.row_groups
        assert piece.rows == sum(counts[piece.first_row_group : last])
        assert piece.first_row == sum(counts[: piece.first_row_group])
    assert sum(unit.rows for unit in units) == sum(file.input.rows for file in files)


@patient
@given(plans, bounds)
def test_partitions_never_meet_in_a_unit(plan: list[tuple[Groups, str]], bound: tuple[int, int]) -> None:
    _, partitions, units = planned(plan, bound, None)
    for unit in units:
        assert {partitions[piece.file.path] for piece in unit.slices} == {unit.partition}


@patient
@given(plans, bounds, st.sampled_from([None, ["id"], ["id", "x"], ["ds"]]))
def test_bounds_hold_unless_one_row_group_alone_exceeds_them(
    plan: list[tuple[Groups, str]], bound: tuple[int, int], columns: list[str] | None
) -> None:
    files, _, units = planned(plan, bound, columns)
    needed = [i for i, name in enumerate(SCHEMA.names) if columns is None or name in columns]
    by_path = {file.input.path: file for file in files}
    for unit in units:
        held = [by_path[path].row_groups[i] for piece in unit.slices for path, i in row_groups_of(piece)]
        size = sum(group.column_bytes[i] for group in held for i in needed)
        assert len(held) == 1 or (unit.rows <= bound[0] and size <= bound[1])


@patient
@given(plans, bounds)
def test_no_two_neighbours_of_a_partition_would_fit_in_one_unit_all_along(
    plan: list[tuple[Groups, str]], bound: tuple[int, int]
) -> None:
    """As few units as a greedy cut needs, which is the fewest there can be."""
    files, partitions, units = planned(plan, bound, None)
    fewest = 0
    for partition in set(partitions.values()):
        rows = size = 0
        started = False
        for group in (g for f in files if partitions[f.input.path] == partition for g in f.row_groups):
            if not group.rows:
                continue
            if not started or rows + group.rows > bound[0] or size + sum(group.column_bytes) > bound[1]:
                fewest, rows, size, started = fewest + 1, 0, 0, True
            rows, size = rows + group.rows, size + sum(group.column_bytes)
    assert len(units) == fewest


@patient
@given(plans, bounds)
def test_the_same_files_are_cut_the_same_way(plan: list[tuple[Groups, str]], bound: tuple[int, int]) -> None:
    assert planned(plan, bound, None)[2] == planned(plan, bound, None)[2]


def test_a_large_file_is_split_evenly_with_no_tiny_unit_at_the_end() -> None:
    units = plan_units([even("f", 9, 131_072)], {"f": ()}, None)
    assert [unit.rows // 131_072 for unit in units] == [3, 3, 3]


def test_small_files_are_gathered() -> None:
    files = [even(f"f{i}", 1, 1000) for i in range(100)]
    (unit,) = plan_units(files, {file.input.path: () for file in files}, None)
    assert len(unit.slices) == 100


def test_neighbouring_row_groups_travel_as_one_slice() -> None:
    (unit,) = plan_units([even("f", 4, 100)], {"f": ()}, None)
    assert unit.slices == (Slice(even("f", 4, 100).input, 0, 4, 0, 400),)


def test_row_groups_on_both_sides_of_an_empty_one_are_two_slices() -> None:
    file = source_file("f", [(10, (1, 1, 1)), (0, (0, 0, 0)), (10, (1, 1, 1))])
    (unit,) = plan_units([file], {"f": ()}, None)
    assert [(piece.first_row_group, piece.first_row) for piece in unit.slices] == [(0, 0), (2, 10)]


def test_only_the_bytes_of_columns_that_are_read_count() -> None:
    wide = source_file("f", [(1000, (8000, 4000, 60_000_000))] * 4)
    assert len(plan_units([wide], {"f": ()}, None)) == 4
    assert len(plan_units([wide], {"f": ()}, ["id", "x"])) == 1


def test_files_without_rows_yield_no_unit() -> None:
    assert (
        plan_units([source_file("f", []), source_file("g", [(0, (0, 0, 0))])], {"f": (), "g": ()}, None) == ()
    )


def test_units_are_ordered_by_partition_then_by_file() -> None:
    files = [even(f"f{i}", 1, 400_000) for i in range(4)]
    partitions: dict[str, Partition] = {f"f{i}": (("ds", "ba"[i % 2]),) for i in range(4)}
    units = plan_units(files, partitions, None)
    assert [unit.slices[0].file.path for unit in units] == ["f1", "f3", "f0", "f2"]
    assert all(a.partition <= b.partition for a, b in pairwise(units))
