"""Decisions that every results table shares: which partitions and schemas it takes, and what is an orphan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from operator import and_
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from batchinfer.core import NULL_TO_READERS, Fence, Partition, StagedPart, rows_of_partition
from batchinfer.errors import CommitRefused, StoreError


def check_partitions(table: str, partition_by: Sequence[str], partitions: Iterable[Partition]) -> None:
    """Hold the partitions of a run against the table's partition columns.

    Raises:
        StoreError: other columns, or a value that readers would take for null.
    """
    for partition in partitions:
        names = tuple(name for name, _ in partition)
        if names != tuple(partition_by):
            raise StoreError(
                f"{table}: a partition by {list(names)}, expected by {list(partition_by)}",
                table=table,
                expected=list(partition_by),
                found=list(names),
            )
        for name, value in partition:
            if value in NULL_TO_READERS:
                raise StoreError(
                    f"{table}: partition column '{name}' is {value!r}, which readers take for null",
                    next_step=f"give the run parameter behind '{name}' a value",
                    table=table,
                    column=name,
                    found=value,
                )


def check_partition_columns(table: str, expected: Sequence[str], found: Sequence[str]) -> None:
    """Hold the spec's partition columns against the table's.

    Raises:
        StoreError: they differ.
    """
    if list(expected) != list(found):
        raise StoreError(
            f"{table}: the table is partitioned by {list(found)}, the pipeline by {list(expected)}",
            next_step="set output.partition_by to the table's columns, or write to another output.path",
            table=table,
            expected=list(expected),
            found=list(found),
        )


def check_schema(
    table: str, expected: Mapping[str, str], found: Mapping[str, str], *, widens: bool = False
) -> None:
    """Hold the columns that a run will write (name → type) against the table's; order does not matter.

    In a table that `widens`, columns may be new or gone.

    Raises:
        StoreError: a column is new, gone or of another type; names each.
    """
    compared = expected.keys() & found.keys() if widens else expected.keys() | found.keys()
    unlike = sorted(name for name in compared if expected.get(name) != found.get(name))
    if unlike:
        said = "; ".join(
            f"column '{name}' is {found.get(name, 'absent')} in the table and {expected.get(name, 'absent')}"
            " in this run"
            for name in unlike
        )
        raise StoreError(
            f"{table}: the rows have another schema: {said}",
            next_step="move the table away: the next run makes a new one"
            if widens
            else "write to another output.path, or restore the columns (input.key, output.carry, model)",
            table=table,
            columns=unlike,
            expected={name: expected.get(name) for name in unlike},
            found={name: found.get(name) for name in unlike},
        )


def refusal(table: str, partition: Partition, run_id: str, holder: str | None) -> CommitRefused:
    """Say whose rows stand."""
    by = f"run {holder}" if holder else "another writer"
    where = rows_of_partition(partition)
    return CommitRefused(
        f"{table}: {where} was replaced by {by} while run {run_id} was under way; its rows stand",
        next_step=f"run again to replace the rows of {by}",
        table=table,
        partition=where,
        run_id=run_id,
        holder=holder,
    )


def matching(dataset: Any, equal: Mapping[str, pa.Scalar]) -> pa.Table:
    """The rows of a `pyarrow.dataset.Dataset` whose columns have these values."""
    terms = [pc.field(column) == value for column, value in equal.items()]
    return dataset.to_table(filter=reduce(and_, terms) if terms else None)


def is_part_of(run_id: str, path: str) -> bool:
    """Whether a file is a part that this run staged, by its name."""
    return is_part(path) and f"-{run_id}-" in path.rpartition("/")[2]


def is_part(path: str) -> bool:
    """Whether a file is a part that a run staged, by its name. Compactions write `part-….zstd.parquet`."""
    name = path.rpartition("/")[2].removesuffix(".parquet")
    return path.endswith(".parquet") and name.startswith("part-") and "." not in name


def orphans(
    run_id: str,
    parts: Mapping[str, float],
    referenced: Iterable[str],
    run_files: Iterable[float],
    before: float,
) -> list[str] | None:
    """Which of a run's parts (path → time of change) to delete; None where the run may be in flight.

    A run that touched anything since `before` is left alone as a whole: it may be about to commit parts that
    it staged long ago and reuses now.
    """
    unreferenced = sorted({path for path in parts if is_part_of(run_id, path)}.difference(referenced))
    if any(changed > before for changed in [*run_files, *(parts[path] for path in unreferenced)]):
        return None
    return unreferenced


def check_staged(table: str, fence: Fence, parts: Iterable[tuple[Partition, StagedPart]]) -> None:
    """Hold the parts of a commit against its fence: a part of another partition would be added unfenced.

    Raises:
        StoreError: a part's partition is not fenced, or a part is named twice.
    """
    seen: set[str] = set()
    for partition, part in parts:
        if partition not in fence.tokens:
            raise StoreError(
                f"{table}: {part.path} is of {rows_of_partition(partition)}, which this run does not replace",
                table=table,
                path=part.path,
            )
        if part.path in seen:
            raise StoreError(f"{table}: {part.path} is staged twice", table=table, path=part.path)
        seen.add(part.path)
