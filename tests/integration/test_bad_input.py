"""What is wrong is said in one message, with exit code 2 or 3, and never leaves a part of a result behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deltalake
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from batchinfer.cli import main

Rows = Callable[[int, int], pa.Table]
Change = Callable[[pa.Table], pa.Table]


class World:
    """A pipeline that is run by the command line, with its tables as other programs see them."""

    def __init__(self, pipeline: Any) -> None:
        self.pipeline, self.root, self.write = pipeline, pipeline.root, pipeline.write_input
        self.spec: Path = pipeline.write_spec()

    def command(self, *arguments: str) -> Result:
        result = CliRunner().invoke(main, list(arguments))
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert "Traceback" not in result.output
        return result

    def run(self, *arguments: str, ds: str = "d1") -> Result:
        return self.command("run", str(self.spec), "-p", f"ds={ds}", *arguments)

    def scored(self) -> Any:
        result = self.run()
        assert result.exit_code == 0, result.output
        return self.table()

    def table(self, suffix: str = "") -> Any:
        return deltalake.DeltaTable(f"{self.pipeline.output}{suffix}").to_pyarrow_table().sort_by("id")

    def visible(self) -> dict[str, bytes]:
        """All that readers of the tables see: the live files' bytes, and the log."""
        seen: dict[str, bytes] = {}
        for path in (str(self.pipeline.output), f"{self.pipeline.output}_quarantine"):
            if deltalake.DeltaTable.is_deltatable(path):
                live = deltalake.DeltaTable(path).file_uris()
                logs = [str(p) for p in Path(path, "_delta_log").rglob("*") if p.is_file()]
                seen |= {name: Path(name).read_bytes() for name in [*live, *logs]}
        return seen

    def refuses(self, *arguments: str, says: tuple[str, ...], code: int = 2, ds: str = "d1") -> str:
        """The run ends with this code and one message that says all of `says`, and readers see no change."""
        before = self.visible()
        result = self.run(*arguments, ds=ds)
        assert result.exit_code == code, result.output
        assert self.visible() == before
        return one_message(result.stderr, says, result.stdout)


def one_message(stderr: str, says: tuple[str, ...], stdout: str = "") -> str:
    message = stderr.strip()
    assert message.count("batchinfer: ") == 1 and message.startswith("batchinfer: "), stderr
    assert "Traceback" not in message
    assert stdout == ""
    for word in says:
        assert word in message, f"{word!r} is not in: {message}"
    return message


@pytest.fixture
def world(pipeline: Any, rows: Rows) -> World:
    """A pipeline whose partition d1 is scored already, from one file of 100 rows."""
    made = World(pipeline)
    made.write(rows(0, 100))
    made.scored()
    return made


def column(name: str, values: Any, kind: pa.DataType | None = None) -> Change:
    def change(table: pa.Table) -> pa.Table:
        array = values(table) if callable(values) else pa.array(values, kind)
        return table.set_column(table.schema.get_field_index(name), name, array)

    return change


def cell(name: str, row: int, value: Any) -> Change:
    def change(table: pa.Table) -> pa.Array:
        values = table[name].to_pylist()
        values[row] = value
        return pa.array(values, table.schema.field(name).type)

    return column(name, change)


# Paths and files


def test_a_path_that_is_not_there_is_named_with_what_is_there_instead(world: World) -> None:
    world.refuses(ds="d9", says=("NoInput", "ds=d9", "no such file or folder", "ds=d1"))


def test_an_empty_folder_is_named(world: World) -> None:
    (world.pipeline.input / "ds=d8").mkdir()
    world.refuses(ds="d8", says=("NoInput", "ds=d8", "no Parquet file", "nothing"))


def test_a_folder_of_other_files_is_named_with_what_it_holds(world: World) -> None:
    folder = world.pipeline.input / "ds=d8"
    folder.mkdir()
    (folder / "rows.csv").write_text("id\n1\n")
    (folder / "_SUCCESS").touch()
    world.refuses(ds="d8", says=("NoInput", "no Parquet file", "rows.csv"))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda content: b"", "0 bytes"),
        (lambda content: content[: len(content) // 2], "not a whole Parquet file"),
        (lambda content: content[:-1], "not a whole Parquet file"),
        (lambda content: b"not parquet at all", "not a whole Parquet file"),
        (lambda content: content[:-60] + b"\xff" * 52 + content[-8:], "not a whole Parquet file"),
    ],
    ids=["empty", "cut in half", "last byte gone", "text", "footer overwritten"],
)
def test_a_file_that_is_not_whole_is_named_among_good_ones(
    world: World, rows: Rows, damage: Callable[[bytes], bytes], says: str
) -> None:
    for number in range(1, 4):
        path = world.write(rows(number * 100, 100), f"part-{number}")
    path.write_bytes(damage(path.read_bytes()))
    world.refuses(says=("InputError", str(path), says, "1 of 4 input files"))


def test_a_damaged_page_is_named_by_file_and_row_group(world: World, rows: Rows) -> None:
    path = world.write(rows(100, 4000), "part-1", row_group_size=1000, use_dictionary=False)
    metadata = pq.read_metadata(path)
    place = metadata.row_group(2).column(metadata.schema.names.index("x1")).data_page_offset
    content = bytearray(path.read_bytes())
    content[place : place + 40] = b"\xff" * 40
    path.write_bytes(bytes(content))
    world.refuses(says=("InputError", str(path), "row group 2"))


# Columns


def test_a_missing_column_is_named_with_the_nearest_there_is(world: World, rows: Rows) -> None:
    path = world.write(rows(0, 100).rename_columns(["id", "x0", "x_1", "x2", "note"]))
    world.refuses(says=("InputError", str(path), "no column 'x1'", "did you mean 'x_1'?"))


@pytest.mark.parametrize("name", ["id", "x1", "note"])
def test_a_column_that_is_missing_in_one_file_is_named_with_the_file(
    world: World, rows: Rows, name: str
) -> None:
    world.write(rows(100, 100), "part-1")
    path = world.write(rows(200, 100).drop_columns([name]), "part-2")
    world.refuses(says=("InputError", str(path), f"no column '{name}'"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (column("x1", ["a"] * 100), ("'x1'", "string")),
        (column("x1", [{"a": 1.0}] * 100), ("'x1'", "struct")),
        (column("x1", [[1.0]] * 100), ("'x1'", "list")),
        (column("x1", ["a"] * 100, pa.dictionary(pa.int8(), pa.string())), ("'x1'", "dictionary")),
        (column("x1", [b"a"] * 100), ("'x1'", "binary")),
        (column("id", [f"{i}" for i in range(100)]), ("'id'", "string", "int64")),
        (column("note", [{"a": 1}] * 100), ("'note'", "struct")),
    ],
    ids=["text", "struct", "list", "dictionary", "binary", "key as text", "carried struct"],
)
def test_a_column_of_another_type_in_one_file_is_named_with_the_file(
    world: World, rows: Rows, change: Change, says: tuple[str, ...]
) -> None:
    world.write(rows(100, 100), "part-1")
    path = world.write(change(rows(200, 100)), "part-2")
    world.refuses(says=("InputError", str(path), *says))


def test_a_map_column_cannot_be_carried(world: World, rows: Rows) -> None:
    kind = pa.map_(pa.string(), pa.int64())
    world.write(column("note", [[("a", 1)]] * 100, kind)(rows(0, 100)))
    world.refuses(says=("InputError", "'note'", "map", "part-0"))


def test_further_columns_another_order_and_other_number_types_give_the_same_scores(
    world: World, rows: Rows
) -> None:
    before = world.table()
    table = rows(0, 100)
    world.write(table.slice(0, 25), "part-0")
    world.write(table.slice(25, 25).select(["note", "x2", "x0", "id", "x1"]), "part-1")
    wider = table.slice(50, 25)
    for name in ("x0", "x1", "x2"):
        wider = column(name, wider[name].cast(pa.float64()))(wider)
    world.write(wider.append_column("more", pa.array([{"a": 1}] * 25)), "part-2")
    world.write(column("id", table.slice(75)["id"].cast(pa.int32()))(table.slice(75)), "part-3")

    after = world.scored()

    assert after.select(["id", "note", "score", "ds"]).equals(before.select(["id", "note", "score", "ds"]))
    assert after.schema.equals(before.schema)


def test_a_null_in_a_key_is_kept(world: World, rows: Rows) -> None:
    world.write(cell("id", 3, None)(rows(0, 100)))
    table = world.scored()
    (row,) = [r for r in table.to_pylist() if r["id"] is None]
    assert (table.num_rows, row["_position"]) == (100, 3)


# Values


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (cell("x1", 7, None), "null in 'x1'"),
        (cell("x1", 7, float("nan")), "NaN in 'x1'"),
        (
            column("x1", [2**24 + 1 if i == 7 else i for i in range(100)]),
            "number that float32 cannot hold in 'x1'",
        ),
        (
            column("x1", [2**63 - 1 if i == 7 else i for i in range(100)]),
            "number that float32 cannot hold in 'x1'",
        ),
        (
            column("x1", [1e300 if i == 7 else 1.0 for i in range(100)]),
            "number that float32 cannot hold in 'x1'",
        ),
    ],
    ids=["null", "NaN", "int64 just too wide", "largest int64", "float64 too large"],
)
def test_a_value_that_cannot_be_fed_quarantines_its_row_and_is_counted(
    world: World, rows: Rows, change: Change, reason: str
) -> None:
    world.write(change(rows(0, 100)))
    result = world.run()
    assert result.exit_code == 0
    assert f"1 × {reason}" in result.stdout
    assert world.table("_quarantine").select(["id", "_reason", "_position"]).to_pylist() == [
        {"id": 7, "_reason": reason, "_position": 7}
    ]
    assert world.table()["id"].to_pylist() == [i for i in range(100) if i != 7]


def test_more_refused_rows_than_allowed_are_exit_3_and_change_nothing(world: World, rows: Rows) -> None:
    world.write(column("x1", [None] * 6 + [1.0] * 94, pa.float32())(rows(0, 100)))
    world.refuses(code=3, says=("QualityGate", "6 of 100 rows", "6.00%", "5.00%", "null in 'x1': 6"))


def test_a_column_of_nothing_but_nulls_changes_nothing(world: World, rows: Rows) -> None:
    world.write(column("x1", [None] * 100, pa.float32())(rows(0, 100)))
    world.refuses(code=3, says=("QualityGate", "100 of 100 rows"))


@pytest.fixture(scope="module")
def list_registry(tmp_path_factory: pytest.TempPathFactory) -> str:
    """`wide@champion`: the mean of three numbers that come as one list column."""
    from onnx import TensorProto, helper

    from batchinfer.model import add_model

    folder = tmp_path_factory.mktemp("lists")
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["values"], ["mean"], axes=[1], keepdims=0)],
        "wide",
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["N"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (folder / "wide.onnx").write_bytes(model.SerializeToString())
    pq.write_table(list_rows(64), folder / "sample.parquet")
    add_model(
        "wide",
        onnx=folder / "wide.onnx",
        sample=folder / "sample.parquet",
        registry=str(folder / "models"),
        alias="champion",
    )
    return str(folder / "models")


def list_rows(count: int, odd: Any = ()) -> pa.Table:
    values = [[float(i), 1.0, 2.0] for i in range(count)]
    for row, value in odd:
        values[row] = value
    return pa.table(
        {"id": pa.array(range(count), pa.int64()), "values": pa.array(values, pa.list_(pa.float32()))}
    )


def test_a_list_of_the_wrong_length_quarantines_its_row(pipeline: Any, list_registry: str) -> None:
    world = World(pipeline)
    world.spec = pipeline.write_spec(
        model="wide@champion",
        registry=list_registry,
        output={"path": str(pipeline.output), "partition_by": ["ds"]},
    )
    odd = [(5, [1.0]), (6, [1.0, 2.0, 3.0, 4.0]), (7, []), (8, None), (9, [1.0, None, 2.0])]
    world.write(list_rows(200, odd))
    result = world.run()
    assert result.exit_code == 0, result.output
    refused = world.table("_quarantine")
    assert refused["id"].to_pylist() == [5, 6, 7, 8, 9]
    reasons = refused["_reason"].to_pylist()
    assert [r for r in reasons if r == "list that is not 3 long in 'values'"] == reasons[:3]
    assert reasons[3] == reasons[4] == "null in 'values'"
    good = [i for i in range(200) if i not in {5, 6, 7, 8, 9}]
    assert world.table()["id"].to_pylist() == good
    np.testing.assert_allclose(world.table()["mean"].to_numpy(), [(i + 3) / 3 for i in good], rtol=1e-6)

    world.write(column("values", [["a"]] * 200)(list_rows(200)))
    world.refuses(says=("InputError", "'values'", "list", "string"))


# The spec


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: [", ("not valid YAML", "pipeline.yaml:2:1")),
        ("", ("expected a mapping", "nothing")),
        ("- a\n- b\n", ("expected a mapping", "list")),
        ("name: a\nname: b\n", ("'name' stands twice",)),
        ("name: a\n", ("'model' is missing", "'input' is missing")),
        ("name: a\tb: c", ("pipeline.yaml:1:",)),
    ],
    ids=["broken", "empty", "a list", "a key twice", "keys missing", "a tab"],
)
def test_a_spec_that_cannot_be_read_is_named(world: World, text: str, says: tuple[str, ...]) -> None:
    world.spec.write_text(text)
    world.refuses(says=("SpecError", "pipeline.yaml", *says))


def test_a_spec_that_is_not_text_or_not_there_is_named(world: World, tmp_path: Path) -> None:
    world.spec.write_bytes(b"name: \xff\xfe")
    world.refuses(says=("SpecError", "pipeline.yaml", "not UTF-8"))
    world.spec.unlink()
    world.refuses(says=("SpecError", "pipeline.yaml", "cannot read"))
    world.spec = tmp_path / "nowhere"
    world.refuses(says=("SpecError", "nowhere", "cannot read"))


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("inptu", {}, ("unknown key 'inptu'", "did you mean 'input'?")),
        (
            "output",
            {"path": "x", "partitionby": ["ds"]},
            ("'output.partitionby'", "did you mean 'partition_by'?"),
        ),
        ("folder", "/tmp", ("unknown key 'folder'",)),
        ("model", 3, ("'model'", "string", "found 3")),
        ("quality", {"max_quarantined": 2}, ("'quality.max_quarantined'", "found 2")),
        ("engine", {"kind": "abacus"}, ("'engine.kind'", "'local'", "abacus")),
        ("engine", {"threads": 0}, ("'engine.threads'", "found 0")),
        ("output", {"path": "x", "store": "excel"}, ("'output.store'", "'delta'", "excel")),
        ("output", {"path": "x", "carry": ["id"]}, ("'id'", "twice")),
        ("output", {"path": "x", "carry": ["_note"]}, ("'_note'", "lineage")),
        ("transform", "features.py", ("'transform'", "found 'features.py'")),
        ("model", "${BATCHINFER_TEST_UNSET}", ("model", "BATCHINFER_TEST_UNSET", "not set")),
    ],
)
def test_a_wrong_key_or_value_of_the_spec_is_named_with_what_is_allowed(
    world: World, key: str, value: Any, says: tuple[str, ...]
) -> None:
    world.pipeline.write_spec(**{key: value})
    world.refuses(says=("SpecError", *says))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], ("'ds'", "-p ds=")),
        (["-p", "ds="], ("'ds'", "empty")),
        (["-p", "ds=d1", "-p", "region=eu"], ("'region'", "it takes ds")),
        (["-p", "ds"], ("-p ds", "NAME=VALUE")),
        (["-p", "=d1"], ("-p =d1", "NAME=VALUE")),
        (["-p", "ds=d1", "-p", "ds=d2"], ("'ds'", "twice")),
        (["-p", "ds=d1", "--set", "name"], ("--set name", "NAME=VALUE")),
        (["-p", "ds=d1", "--set", "name=[a"], ("--set name=…", "YAML")),
        (["-p", "ds=d1", "--set", "name={a: b"], ("--set name=…", "YAML")),
        (["-p", "ds=d1", "--set", "name.x=1"], ("name.x", "holds a value")),
        (["-p", "ds=d1", "--set", "outptu.path=x"], ("'outptu'", "did you mean 'output'?")),
        (["-p", "ds=d1", "--set", "output=3"], ("'output'", "found 3")),
        (["-p", "ds=d1", "--set", "folder=/tmp"], ("unknown key 'folder'",)),
        (["-p", "ds=d1", "--engine", "abacus"], ("'engine.kind'", "abacus")),
    ],
)
def test_wrong_arguments_are_answered_with_the_right_ones(
    world: World, arguments: list[str], says: tuple[str, ...]
) -> None:
    before = world.visible()
    result = world.command("run", str(world.spec), *arguments)
    assert result.exit_code == 2, result.output
    one_message(result.stderr, says, result.stdout)
    assert world.visible() == before


# Models


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("liner@champion", ("did you mean linear@",)),
        ("other@champion", ("'other@champion'", "the registry holds linear")),
        ("linear@nobody", ("'linear@nobody'", "linear@champion", "linear@1")),
        ("linear@7", ("'linear@7'", "linear@1")),
        ("linear", ("names no version", "linear@champion")),
        ("../linear@1", ("'../linear@1'",)),
        ("@champion", ("'@champion'",)),
    ],
)
def test_a_model_that_is_not_there_is_answered_with_those_that_are(
    world: World, model: str, says: tuple[str, ...]
) -> None:
    world.refuses("--set", f'model="{model}"', says=("ModelError", *says))


def test_a_registry_that_is_not_there_is_named(world: World, tmp_path: Path) -> None:
    world.refuses("--set", f"registry={tmp_path}/none", says=("ModelError", f"{tmp_path}/none", "model add"))


@pytest.mark.parametrize("name", ["model.onnx", "model.yaml"])
def test_one_changed_byte_of_a_bundle_is_refused(world: World, tmp_path: Path, name: str) -> None:
    registry = tmp_path / "copy"
    shutil.copytree(world.pipeline.registry, registry)
    file = registry / "linear" / "1" / name
    content = bytearray(file.read_bytes())
    place = content.index(b"linear")
    content[place] ^= 1
    file.write_bytes(bytes(content))
    world.refuses(
        "--set", f"registry={registry}", says=("DigestMismatch", name, "linear/1", "digest mismatch")
    )


def test_an_added_or_removed_file_of_a_bundle_is_refused(world: World, tmp_path: Path) -> None:
    registry = tmp_path / "copy"
    shutil.copytree(world.pipeline.registry, registry)
    extra = registry / "linear" / "1" / "weights.bin"
    extra.write_bytes(b"x")
    world.refuses("--set", f"registry={registry}", says=("DigestMismatch", "weights.bin"))
    extra.unlink()
    (registry / "linear" / "1" / "model.onnx").unlink()
    world.refuses("--set", f"registry={registry}", says=("DigestMismatch", "model.onnx"))


def test_a_broken_alias_file_is_named(world: World, tmp_path: Path) -> None:
    registry = tmp_path / "copy"
    shutil.copytree(world.pipeline.registry, registry)
    (registry / "linear" / "aliases.yaml").write_text("champion: [")
    world.refuses("--set", f"registry={registry}", says=("ModelError", "aliases.yaml", "YAML"))
    (registry / "linear" / "aliases.yaml").write_text("champion: '9'")
    world.refuses("--set", f"registry={registry}", says=("ModelError", "linear@champion", "linear@1"))


def too_new() -> bytes:
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Identity", ["x0"], ["y"])],
        "new",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["N"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 999)], ir_version=9)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda: b"", ("not an ONNX model",)),
        (lambda: bytes(range(256)) * 8, ("not an ONNX model",)),
        (lambda: too_new()[:-20], ("model.onnx",)),
        (lambda: b"\x80\x04K\x01.", ("pickle",)),
        (lambda: b"PK\x03\x04rest", ("PyTorch archive",)),
        (too_new, ("opset", "older opset")),
    ],
    ids=["empty", "garbage", "cut", "pickle", "archive", "opset too new"],
)
def test_a_graph_that_cannot_be_used_is_not_added(
    world: World, rows: Rows, tmp_path: Path, content: Callable[[], bytes], says: tuple[str, ...]
) -> None:
    (tmp_path / "model.onnx").write_bytes(content())
    pq.write_table(rows(0, 20), tmp_path / "sample.parquet")
    files = ["--onnx", f"{tmp_path}/model.onnx", "--sample", f"{tmp_path}/sample.parquet"]
    result = world.command("model", "add", "bad", *files, "--registry", f"{tmp_path}/new")
    assert result.exit_code == 2, result.output
    one_message(result.stderr, ("ModelError", *says), result.stdout)
    assert not (tmp_path / "new").exists()


# The transform

GOOD = """
import pyarrow as pa

def build(batch):
    return batch.select(["x0", "x1", "x2"])
"""


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (
            "def build(batch):\n    raise ValueError('odd row')\n",
            ("raised ValueError", "odd row", "rows 0 to 99"),
        ),
        ("def build(batch):\n    return batch.slice(1)\n", ("returned 99 rows for 100",)),
        ("def build(batch):\n    return batch.slice(0, 0)\n", ("returned 0 rows for 100",)),
        ("def build(batch):\n    return None\n", ("returned NoneType",)),
        ("def build(batch):\n    return batch.to_pydict()\n", ("returned dict",)),
        ("def build(batch):\n    raise SystemExit(4)\n", ("raised SystemExit", "rows 0 to 99")),
        ("def other(batch):\n    return batch\n", ("no function 'build'",)),
        ("import no_such_module\n", ("importing", "no_such_module")),
        ("def build(batch:\n", ("importing", "SyntaxError")),
        ("raise RuntimeError('at import')\n", ("importing", "at import")),
        ("raise SystemExit(3)\n", ("importing", "SystemExit")),
    ],
    ids=[
        "raises",
        "drops a row",
        "drops all",
        "returns nothing",
        "returns a dict",
        "exits",
        "no such function",
        "import fails",
        "syntax",
        "raises at import",
        "exits at import",
    ],
)
def test_a_transform_that_breaks_its_contract_is_named_with_the_rows_it_got(
    world: World, source: str, says: tuple[str, ...]
) -> None:
    (world.root / "features.py").write_text(source)
    world.refuses("--set", "transform=features.py:build", says=("TransformError", "features.py", *says))


def test_a_transform_that_is_not_there_is_named(world: World) -> None:
    world.refuses("--set", "transform=gone.py:build", says=("TransformError", "no such file", "gone.py"))


def test_a_transform_that_leaves_out_a_model_column_is_told_which(world: World) -> None:
    (world.root / "features.py").write_text(GOOD.replace('"x0", "x1"', '"x1"'))
    world.refuses("--set", "transform=features.py:build", says=("no column 'x0'", "x1, x2"))


def test_a_transform_that_changes_its_schema_on_a_later_file_is_named_with_that_file(
    world: World, rows: Rows
) -> None:
    path = world.write(rows(100, 100), "part-1")
    (world.root / "features.py").write_text(
        "import pyarrow as pa\n\ndef build(batch):\n    x1 = batch['x1']\n"
        "    if batch['id'][0].as_py() >= 100:\n        x1 = x1.cast(pa.float64())\n"
        "    return pa.record_batch({'x0': batch['x0'], 'x1': x1, 'x2': batch['x2']})\n"
    )
    says = ("TransformError", "another schema", "x1 double", "x1 float", str(path))
    world.refuses("--set", "transform=features.py:build", "--set", "engine.threads=1", says=says)


# The output


def test_an_output_path_that_is_a_file_is_named_and_kept(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for store in ("delta", "parquet"):
        arguments = ["--set", f"output.path={tmp_path}/file", "--set", f"output.store={store}"]
        world.refuses(*arguments, code=1, says=("StoreError", f"{tmp_path}/file"))
        assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("store", ["delta", "parquet"])
@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("output.carry=[]", ("another schema", "'note'")),
        ("output.carry=[note, x0]", ("another schema", "'x0'", "absent")),
        ("input.key=[id, x1]", ("another schema", "'x1'")),
        ("output.partition_by=[]", ("partitioned by ['ds']",)),
    ],
)
def test_a_results_table_of_another_shape_is_left_as_it_is(
    world: World, tmp_path: Path, store: str, setting: str, says: tuple[str, ...]
) -> None:
    into = ["--set", f"output.store={store}", "--set", f"output.path={tmp_path}/table"]
    assert world.run(*into).exit_code == 0
    before = {p: p.read_bytes() for p in (tmp_path / "table").rglob("*.parquet")}
    world.refuses(*into, "--set", setting, code=1, says=("StoreError", f"{tmp_path}/table", *says))
    table = ds.dataset(sorted(str(p) for p in before)).to_table()
    assert table.num_rows == 100
    assert {p: p.read_bytes() for p in (tmp_path / "table").rglob("*.parquet")} == before


def test_a_folder_of_foreign_files_is_never_replaced(world: World, rows: Rows, tmp_path: Path) -> None:
    folder = tmp_path / "theirs" / "ds=d1"
    folder.mkdir(parents=True)
    pq.write_table(rows(0, 5), folder / "theirs.parquet")
    before = (folder / "theirs.parquet").read_bytes()
    into = ["--set", "output.store=parquet", "--set", f"output.path={tmp_path}/theirs"]
    world.refuses(*into, code=1, says=("StoreError", "theirs"))
    assert (folder / "theirs.parquet").read_bytes() == before


# The same through a process of its own


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["-p", "ds=d9"], 2, ("NoInput", "ds=d9")),
        (["-p", "ds=d1", "--set", "modle=a"], 2, ("SpecError", "did you mean 'model'?")),
        (
            ["-p", "ds=d1", "--set", "input.key=[note]", "--set", "output.carry=[]"],
            1,
            ("StoreError", "another schema"),
        ),
        (["-p", "ds=bad"], 3, ("QualityGate", "100 of 100 rows")),
    ],
)
def test_a_process_ends_with_the_code_of_its_error_and_no_traceback(
    world: World, rows: Rows, arguments: list[str], code: int, says: tuple[str, ...]
) -> None:
    world.write(column("x1", [None] * 100, pa.float32())(rows(0, 100)), ds="bad")
    before = world.visible()
    command = [sys.executable, "-c", "from batchinfer.cli import main; main()", "run", str(world.spec)]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == code, done.stderr
    one_message(done.stderr, says, done.stdout)
    assert world.visible() == before
