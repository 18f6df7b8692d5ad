"""Files by path or URL: small ones are written whole or not at all, and failures say what to do."""

from __future__ import annotations

import errno
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import fs

from batchinfer.core import files
from batchinfer.errors import StoreError, UsageError


@pytest.mark.parametrize("path", ["a/b", "./a", "/a b/ö", "ds=2013-01-01/x%20y"])
def test_a_path_without_a_scheme_is_local_and_stays_as_it_is(path: str) -> None:
    filesystem, inner = files.locate(path)
    assert files.is_local(filesystem)
    assert inner == path


def test_a_url_is_unescaped() -> None:
    filesystem, inner = files.locate("file:///data/x%20y")
    assert isinstance(filesystem, fs.LocalFileSystem)
    assert inner == "/data/x y"


@pytest.mark.parametrize("url", ["ftp://host/x", "nothing://x", "file:///a b"])
def test_a_url_that_cannot_be_opened_is_wrong_use(url: str) -> None:
    with pytest.raises(UsageError, match="cannot open this location"):
        files.locate(url)


def test_names_are_joined_and_empty_ones_left_out() -> None:
    assert files.join("a/", "b", "", "c") == "a/b/c"
    assert files.join("s3://bucket/x", "ds=1") == "s3://bucket/x/ds=1"


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_bytes_are_written_with_their_folders_and_read_back(tmp_path: Path, scheme: str) -> None:
    path = f"{scheme}{tmp_path}/deep/er/x"
    for data in (b"one", b"", b"two"):
        files.write_bytes(path, data)
        assert files.read_bytes(path) == data
    assert files.exists(path)
    assert [info.base_name for info in files.list_files(str(tmp_path), recursive=True)] == ["x"]
    files.delete(f"{scheme}{tmp_path}/deep")
    assert not files.exists(path)
    files.delete(path)


def test_a_write_that_fails_leaves_the_old_content_and_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    files.write_bytes(str(path), b"old")

    def full(self: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StoreError, match="cannot write: No space left on device") as refused:
        files.write_bytes(str(path), b"new")
    assert "free some space" in refused.value.next_step
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_file_and_an_empty_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.read_bytes(str(tmp_path / "nowhere"))
    assert files.list_files(str(tmp_path)) == []
    assert files.list_files(str(tmp_path / "nowhere")) == []


@pytest.mark.parametrize(
    ("number", "step"),
    [
        (errno.EACCES, "writable"),
        (errno.EROFS, "writable"),
        (errno.EDQUOT, "space"),
        (errno.EIO, "reason above"),
    ],
)
def test_a_refused_write_says_what_to_do(number: int, step: str) -> None:
    with pytest.raises(StoreError) as refused, files.storing("results/x"):
        raise OSError(number, "refused")
    assert step in refused.value.next_step
    assert refused.value.fields["path"] == "results/x"


def test_an_arrow_error_without_a_number_is_told_by_its_text() -> None:
    with pytest.raises(StoreError, match="AWS is away"), files.storing("s3://b/x"):
        raise OSError("AWS is away")
    assert issubclass(pa.ArrowException, Exception)
