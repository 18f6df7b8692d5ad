"""What the plan learns of each input file, and how a file is found again and told from a changed one."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from batchinfer.core import InputFile
from batchinfer.errors import InputError, Transient
from batchinfer.source import discover
from batchinfer.source._files import changed
from batchinfer.source._footer import _why

ROWS = pa.table({"id": pa.array([1, 2, 3]), "name": ["a", "b", "c"]})


def write(path: Path, table: pa.Table = ROWS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


def test_a_footer_is_kept_as_rows_and_bytes_of_each_row_group(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"id": range(1000), "text": ["t" * 50] * 1000}), path, row_group_size=400)
    (file,) = discover(str(path)).files
    stat = path.stat()
    assert file.input == InputFile(str(path), stat.st_size, stat.st_mtime_ns, 1000)
    assert [group.rows for group in file.row_groups] == [400, 400, 200]
    metadata = pq.read_metadata(path)
    for i, group in enumerate(file.row_groups):
        own = [metadata.row_group(i).column(c).total_uncompressed_size for c in range(2)]
        assert list(group.column_bytes) == own


def test_bytes_of_nested_columns_are_counted_for_the_column_they_are_in(tmp_path: Path) -> None:
    table = pa.table(
        {
            "point": pa.array([{"x": 1.5, "y": 2}] * 9),
            "tags": pa.array([["a", "b"]] * 9),
            "a.b": pa.array(range(9)),
        }
    )
    (file,) = discover(str(write(tmp_path / "x.parquet", table))).files
    group = pq.read_metadata(tmp_path / "x.parquet").row_group(0)
    sizes = [group.column(i).total_uncompressed_size for i in range(4)]
    assert list(file.row_groups[0].column_bytes) == [sizes[0] + sizes[1], sizes[2], sizes[3]]


def test_files_alike_share_one_schema_whatever_metadata_they_carry(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    write(tmp_path / "b.parquet", ROWS.replace_schema_metadata({"pandas": "{}"}))
    one, other = discover(str(tmp_path)).files
    assert one.schema is other.schema


def test_a_file_at_a_url_is_called_by_a_url_that_finds_it_again(tmp_path: Path) -> None:
    write(tmp_path / "in put" / "at=10%3A30" / "x y.parquet")
    (file,) = discover(f"file://{quote(str(tmp_path))}/in%20put/").files
    assert file.input.path.endswith("/in%20put/at=10%253A30/x%20y.parquet")
    assert file.hive == {"at": "10:30"}
    assert discover(file.input.path).files[0].input == file.input
    assert changed(file.input) is None


def test_a_missing_url_is_answered_with_what_is_near(tmp_path: Path) -> None:
    write(tmp_path / "flights.parquet")
    with pytest.raises(InputError, match=r"holds flights\.parquet"):
        discover(f"file://{tmp_path}/fligths.parquet")


@pytest.mark.parametrize("name", ["x.parq", "x.PARQUET"])
def test_both_endings_in_any_case_are_parquet(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name)
    assert [file.input.path for file in discover(str(tmp_path)).files] == [str(path)]


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "x.parquet")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "day").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "y.parquet").symlink_to(tmp_path / "elsewhere" / "x.parquet")
    found = [file.input.path for file in discover(str(tmp_path / "in")).files]
    assert found == [f"{tmp_path}/in/day/x.parquet", f"{tmp_path}/in/y.parquet"]


def test_what_is_neither_file_nor_folder_is_refused() -> None:
    with pytest.raises(InputError, match="neither a file nor a folder"):
        discover("/dev/null")


def test_every_byte_of_a_footer_that_breaks_is_reported_or_harmless(tmp_path: Path) -> None:
    """Never another error than ours."""
    path = tmp_path / "x.parquet"
    pq.write_table(ROWS, path, write_statistics=False, store_schema=False)
    good = path.read_bytes()
    footer = len(good) - int.from_bytes(good[-8:-4], "little") - 8
    refused = 0
    for i in range(footer, footer + 40):
        path.write_bytes(good[:i] + bytes([good[i] ^ 0xFF]) + good[i + 1 :])
        try:
            discover(str(path))
        except InputError:
            refused += 1
    assert refused > 20


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    write(tmp_path / "x.parquet").chmod(0)
    with pytest.raises(InputError, match=r"x\.parquet: no permission to read it"):
        discover(str(tmp_path))


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOENT, "the file was removed while the run was planned"),
        (errno.EACCES, "no permission to read it"),
        (errno.EIO, "cannot be read: Input/output error"),
    ],
)
def test_what_the_filesystem_refuses_is_not_blamed_on_the_file(
    tmp_path: Path, number: int, said: str
) -> None:
    info = fs.LocalFileSystem().get_file_info(str(write(tmp_path / "x.parquet")))
    assert _why(info, OSError(number, "refused")) == said


def test_changes_of_a_file_are_told_apart(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet")
    (file,) = discover(str(path)).files
    assert changed(file.input) is None
    whole = path.read_bytes()
    os.utime(path, ns=(0, file.input.modified_ns + 1))
    assert changed(file.input) == "was replaced"
    path.write_bytes(whole[:-1])
    assert str(changed(file.input)).startswith("was cut from")
    path.write_bytes(whole + b"x")
    assert str(changed(file.input)).startswith("has grown from")
    path.unlink()
    assert changed(file.input) == "was removed"


def test_a_filesystem_that_does_not_answer_is_transient(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        def get_file_info(self, path: str) -> None:
            raise OSError("timed out")

    monkeypatch.setattr("batchinfer.core.files.locate", lambda path: (Silent(), path))
    with pytest.raises(Transient, match=r"x\.parquet: cannot be looked up: timed out"):
        changed(InputFile("x.parquet", 1, 1, 1))
