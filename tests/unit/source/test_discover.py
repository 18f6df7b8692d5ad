"""Finding Parquet files: which are taken, which are named as bad, and what is said when there are none."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchinfer.errors import InputError, NoInput
from batchinfer.source import discover, has_parquet


def write(path: Path, rows: int = 3, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": pa.array(range(rows), pa.int64())}), path, **options)
    return path


def paths(where: str | Path) -> list[str]:
    return [file.input.path for file in discover(str(where)).files]


def test_a_folder_is_searched_to_its_depth_and_files_are_sorted_by_path(tmp_path: Path) -> None:
    expected = [write(tmp_path / name) for name in ("a.parquet", "b/c/d.PARQUET", "b/e.parq", "f.parquet")]
    (tmp_path / "notes.txt").write_text("not an input")
    assert paths(tmp_path) == [str(path) for path in expected]


def test_a_single_file_is_taken_whatever_its_name(tmp_path: Path) -> None:
    for name in ("one.parquet", "_hidden", "data.bin"):
        assert paths(write(tmp_path / name)) == [str(tmp_path / name)]


@pytest.mark.parametrize(
    "name",
    ["a.parquet", "a.parq", "A.PARQUET", "x/a.parquet", "_temporary/0/a.parquet", "x/.a.parquet", "a.csv"],
)
def test_parquet_is_said_to_be_there_exactly_when_a_run_would_read_it(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "ds=2013-01-08"
    assert not has_parquet(str(folder))
    write(folder / name)
    try:
        read = bool(paths(folder))
    except NoInput:
        read = False
    assert has_parquet(str(folder)) is read
    assert has_parquet(str(folder / name))  # a file that is named itself is read whatever its name


def test_hidden_names_are_skipped_at_any_level_below_the_root_but_not_at_it(tmp_path: Path) -> None:
    root = tmp_path / "_staged" / ".now"
    shown = write(root / "a" / "b.parquet")
    for name in ("_x.parquet", ".x.parquet", "a/_tmp/y.parquet", "a/.git/b/z.parquet", "_c/d/w.parquet"):
        write(root / name)
    assert paths(root) == [str(shown)]


def test_folders_that_say_name_equals_value_are_read_and_unescaped(tmp_path: Path) -> None:
    write(tmp_path / "in" / "ds=2013-01-08" / "to=K%C3%B6ln%2FBonn" / "x=a=b" / "p.parquet")
    (file,) = discover(str(tmp_path / "in")).files
    hive = {name: value for name, value in file.hive.items() if name in ("ds", "to", "x")}
    assert hive == {"ds": "2013-01-08", "to": "Köln/Bonn", "x": "a=b"}


def test_a_path_that_does_not_exist_is_answered_with_what_is_near(tmp_path: Path) -> None:
    write(tmp_path / "in" / "ds=2013-01-08" / "p.parquet")
    with pytest.raises(InputError, match=r"no such file or folder; .*in holds ds=2013-01-08") as caught:
        discover(str(tmp_path / "in" / "ds=2013-01-09"))
    assert caught.value.fields["path"].endswith("ds=2013-01-09")
    with pytest.raises(InputError, match=r"p\.parquet is a file, not a folder"):
        discover(str(tmp_path / "in" / "ds=2013-01-08" / "p.parquet" / "deeper"))


def test_a_folder_without_parquet_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no Parquet file in this folder \(it holds nothing\)"):
        discover(str(tmp_path))
    (tmp_path / "flights.csv").write_text("a,b")
    with pytest.raises(InputError, match=r"it holds flights\.csv"):
        discover(str(tmp_path))


def test_all_files_that_are_not_whole_are_named_in_one_error(tmp_path: Path) -> None:
    good = write(tmp_path / "good.parquet", 1000)
    whole = good.read_bytes()
    bad = {
        "cut.parquet": whole[: len(whole) // 2],
        "empty.parquet": b"",
        "footer.parquet": whole[:-40] + b"\xff" * 32 + whole[-8:],
        "text.parquet": b"id\n1\n2\n3\n" * 10,
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=r"^4 of 5 input files cannot be read") as caught:
        discover(str(tmp_path))
    for name in bad:
        assert name in caught.value.message
    assert "0 bytes" in caught.value.message
    assert "good.parquet" not in caught.value.message
    assert caught.value.fields["paths"] == [str(tmp_path / name) for name in sorted(bad)]


def test_many_bad_files_are_counted_and_the_first_named(tmp_path: Path) -> None:
    for i in range(30):
        (tmp_path / f"{i:02d}.parquet").write_bytes(b"")
    with pytest.raises(InputError, match=r"30 of 30 .*(?s:.)*… and 25 more") as caught:
        discover(str(tmp_path))
    assert len(caught.value.fields["paths"]) == 30


def test_files_and_row_groups_without_rows_are_inputs_as_any_other(tmp_path: Path) -> None:
    write(tmp_path / "none.parquet", 0)
    schema = pa.schema([("id", pa.int64())])
    with pq.ParquetWriter(tmp_path / "some.parquet", schema) as writer:
        for rows in (0, 2, 0, 3):
            writer.write_table(pa.table({"id": pa.array(range(rows), pa.int64())}))
    none, some = discover(str(tmp_path)).files
    assert none.input.rows == 0
    assert some.input.rows == 5
    assert sum(group.rows for group in some.row_groups) == 5


@pytest.mark.parametrize("start", ["in", "in/", "./in", "other/../in"])
def test_relative_paths_stay_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str) -> None:
    write(tmp_path / "in" / "ds=1" / "p.parquet")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    assert paths(start) == [f"{start.rstrip('/')}/ds=1/p.parquet"]


def test_a_file_url_names_its_files_by_url_and_finds_them_again(tmp_path: Path) -> None:
    write(tmp_path / "in" / "ds=1" / "p 1.parquet")
    (name,) = paths(f"file://{tmp_path}/in")
    assert name == f"file://{tmp_path}/in/ds=1/p%201.parquet"
    assert paths(name) == [name]


@pytest.mark.parametrize("log", ["_delta_log", ".hoodie"])
def test_a_folder_of_a_table_format_is_refused_from_its_partitions_too(tmp_path: Path, log: str) -> None:
    write(tmp_path / "t" / "ds=1" / "p.parquet")
    (tmp_path / "t" / log).mkdir()
    (tmp_path / "t" / log / "0.json").write_text("{}")
    for where in ("t", "t/ds=1"):
        with pytest.raises(InputError, match=r"belongs to a (Delta|Hudi) table"):
            discover(str(tmp_path / where))


def test_a_link_to_nowhere_is_no_less_than_a_missing_file(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").symlink_to(tmp_path / "gone.parquet")
    with pytest.raises(InputError, match=r"1 of 2 input files.*\n.*b\.parquet: a link to nowhere"):
        discover(str(tmp_path))


def test_a_name_that_is_no_text_is_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet").rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.parquet"))
    with pytest.raises(InputError, match=r"not UTF-8.*\\xff\.parquet"):
        discover(str(tmp_path))


def test_a_password_in_a_url_is_refused_and_not_shown() -> None:
    with pytest.raises(InputError) as caught:
        discover("s3://key:hunter2@bucket/in")
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(caught.value.fields)
