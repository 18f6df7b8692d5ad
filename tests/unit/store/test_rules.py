"""What is an orphan, whoever lists the files."""

from hypothesis import given, settings
from hypothesis import strategies as st

from batchinfer.store._rules import is_part_of, orphans

RUNS = ("run1", "run2", "run12")
PATHS = [f"ds={ds}/part-{n:05d}-{run}-a.parquet" for ds in "ab" for n in range(2) for run in RUNS]
PATHS += ["ds=a/data.parquet", "ds=a/part-00000-run1-a.parquet.crc", "part-00000-4f1c-c000.parquet"]
AGES = st.floats(0, 100)


@settings(deadline=None)
@given(
    run_id=st.sampled_from(RUNS),
    parts=st.dictionaries(st.sampled_from(PATHS), AGES),
    referenced=st.sets(st.sampled_from(PATHS)),
    run_files=st.lists(AGES, max_size=3),
    before=AGES,
)
def test_only_old_unreferenced_parts_of_a_run_at_rest_are_orphans(
    run_id: str, parts: dict[str, float], referenced: set[str], run_files: list[float], before: float
) -> None:
    found = orphans(run_id, parts, referenced, run_files, before)
    candidates = {path for path in parts if f"-{run_id}-" in path and path.endswith("-a.parquet")}
    candidates -= referenced
    at_rest = all(changed <= before for changed in [*run_files, *(parts[path] for path in candidates)])
    assert found == (sorted(candidates) if at_rest else None)


def test_a_part_is_known_by_the_whole_run_id() -> None:
    assert is_part_of("run1", "ds=a/part-00000-run1-a.parquet")
    assert not is_part_of("run1", "ds=a/part-00000-run12-a.parquet")
    assert not is_part_of("run1", "ds=run1/part-00000-other-a.parquet")
    assert not is_part_of("run1", "ds=a/table-run1-a.parquet")
