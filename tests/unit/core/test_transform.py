"""A transform is held to its contract on every batch, and blamed by name when it breaks it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from batchinfer.core import Transform
from batchinfer.errors import TransformError

BATCH = pa.record_batch({"id": [1, 2, 3], "x": [0.5, 1.5, 2.5]})


def broken(function: Callable[[Any], Any], *before: pa.RecordBatch) -> TransformError:
    transform = Transform("features.py:build", function)
    for batch in before:
        transform(batch, "before")
    with pytest.raises(TransformError, match=r"^transform features\.py:build") as refused:
        transform(BATCH, "in/x.parquet, rows 0 to 2")
    assert refused.value.exit_code == 2
    assert "in/x.parquet, rows 0 to 2" in refused.value.message
    return refused.value


def test_what_the_function_returns_is_handed_on() -> None:
    transform = Transform("f.py:f", lambda batch: batch.select(["x"]))
    assert transform(BATCH, "here") == BATCH.select(["x"])


def test_a_table_is_taken_as_one_batch_whatever_its_chunks() -> None:
    table = pa.Table.from_batches([BATCH.slice(0, 1), BATCH.slice(1)])
    assert Transform("f.py:f", lambda _: table)(BATCH, "here") == BATCH


def test_what_it_raises_is_told_with_the_place() -> None:
    error = broken(lambda batch: batch.column("nope"))
    assert "raised KeyError on" in error.message
    assert isinstance(error.__cause__, KeyError)


@pytest.mark.parametrize("returned", [None, {"x": [1]}, [1, 2, 3]], ids=str)
def test_anything_but_arrow_is_refused(returned: object) -> None:
    assert "not a pyarrow RecordBatch or Table" in broken(lambda _: returned).message


@pytest.mark.parametrize("rows", [0, 2, 4])
def test_dropped_or_added_rows_are_refused(rows: int) -> None:
    error = broken(lambda _: pa.record_batch({"x": [0.0] * rows}))
    assert f"returned {rows} rows for 3" in error.message


def test_a_schema_that_depends_on_the_values_is_refused() -> None:
    def build(batch: pa.RecordBatch) -> pa.RecordBatch:
        x = batch.column("x")
        return pa.record_batch({"x": x if pc.max(x).as_py() > 2 else x.cast(pa.float32(), safe=False)})

    error = broken(build, BATCH.slice(0, 1))
    assert "returned another schema: x double, before x float" in error.message


def test_columns_in_another_order_are_another_schema() -> None:
    calls = iter([["id", "x"], ["x", "id"]])
    error = broken(lambda batch: batch.select(next(calls)), BATCH)
    assert "the same columns in another order" in error.message


def test_a_function_is_loaded_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "features.py"
    file.write_text("def build(batch):\n    return batch.select(['x'])\n")
    transform = Transform.load(file, "features.py:build")
    assert transform.name == "features.py:build"
    assert transform(BATCH, "here").schema.names == ["x"]


def test_files_of_the_same_name_are_two_modules(tmp_path: Path) -> None:
    loaded = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "features.py").write_text(f"def build(batch): return batch.select(['{name}'])")
        loaded.append(Transform.load(tmp_path / name / "features.py", "features.py:build"))
    both = pa.record_batch({"a": [1], "b": [2]})
    assert [t(both, "here").schema.names for t in loaded] == [["a"], ["b"]]


def test_classes_of_its_file_are_found_again_by_name(tmp_path: Path) -> None:
    """As dataclasses and pickle need it: the module is registered."""
    file = tmp_path / "features.py"
    file.write_text(
        "from dataclasses import dataclass\n"
        "@dataclass\nclass Setting:\n    x: 'int' = 1\n"
        "def build(batch): return batch\n"
        "build.setting = Setting()\n"
    )
    setting = Transform.load(file, "features.py:build")._function.setting  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(setting)) == setting


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (None, "no such file"),
        ("x = 1", "has no function 'build'"),
        ("build = 3", "has no function 'build'"),
        ("import nonexistent_module_of_ours", "raised ModuleNotFoundError"),
        ("def build(:", "raised SyntaxError"),
    ],
    ids=["no file", "no function", "not callable", "import", "syntax"],
)
def test_a_file_without_the_function_is_refused(tmp_path: Path, source: str | None, said: str) -> None:
    file = tmp_path / "features.py"
    if source is not None:
        file.write_text(source)
    with pytest.raises(TransformError, match=said) as refused:
        Transform.load(file, "features.py:build")
    assert refused.value.fields["path"] == str(file)


def test_views_that_it_returns_are_handed_on_as_plain_types() -> None:
    kinds = {"x": pa.string_view(), "y": pa.list_(pa.string_view())}
    columns = {"x": pa.array(["a", None], kinds["x"]), "y": pa.array([["b"], None], kinds["y"])}
    features = Transform("f.py:build", lambda _: pa.record_batch(columns))(BATCH.slice(1), "here")
    assert features.schema.types == [pa.string(), pa.list_(pa.field("item", pa.string()))]
    assert features.take(pa.array([1, 0])).to_pydict() == {"x": [None, "a"], "y": [None, ["b"]]}
