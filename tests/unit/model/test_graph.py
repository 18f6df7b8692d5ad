"""The file that a bundle is made of: what is refused before anything is loaded."""

from __future__ import annotations

import pickle
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import external_data_helper, numpy_helper
from tests.unit.model.graphs import F32, Bench, batch, graph, identity, linear, mlp, node

from batchinfer.errors import InputError, MissingExtra, ModelError, UsageError
from batchinfer.model import Scorer, add_model
from batchinfer.model._bundle import local_files

SAMPLE = {"a": [1.0, 2.0], "b": [0.5, 0.25]}
PACK = {"inputs": {"x": {"pack": ["a", "b"]}}}


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return sys.exit, ("a pickle was loaded",)


def with_external_data(bench: Bench, location: str) -> Path:
    """A linear model whose weights lie in the file `location`, as its graph says."""
    model = linear([2, 3])
    weights = model.graph.initializer[0]
    content = weights.raw_data
    external_data_helper.set_external_data(weights, location=location, length=len(content))
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    target = bench.root / location
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return bench.write(model)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_refused_and_not_loaded(bench: Bench, protocol: int) -> None:
    with pytest.raises(ModelError, match="pickle or a PyTorch archive") as caught:
        bench.add(bench.write(pickle.dumps(Bomb(), protocol), "model.pkl"), SAMPLE, PACK)
    assert "ONNX" in caught.value.next_step


@pytest.mark.parametrize("protocol", [0, 1])
def test_an_old_pickle_is_no_onnx_model_and_not_loaded(bench: Bench, protocol: int) -> None:
    with pytest.raises(ModelError, match="not an ONNX model"):
        bench.add(bench.write(pickle.dumps(Bomb(), protocol), "model.pkl"), SAMPLE, PACK)


def test_a_torch_archive_is_refused_and_not_loaded(bench: Bench) -> None:
    path = bench.root / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Bomb()))
    with pytest.raises(ModelError, match="pickle or a PyTorch archive"):
        bench.add(path, SAMPLE, PACK)


@pytest.mark.parametrize(
    "content",
    [b"", b"this is a text\n", b"\x00" * 100, b"\x08\x09", mlp(2).SerializeToString()[:-20]],
    ids=["empty", "text", "zeros", "no graph", "cut off"],
)
def test_what_is_no_onnx_model_is_refused(bench: Bench, content: bytes) -> None:
    with pytest.raises(ModelError, match="not an ONNX model"):
        bench.add(content, SAMPLE, PACK)


def test_a_graph_that_the_runtime_cannot_load_is_refused_with_its_reason(bench: Bench) -> None:
    model = graph([node("NoSuchOperator", ["x"], ["y"])], {"x": (F32, ["N"])}, {"y": (F32, ["N"])})
    with pytest.raises(ModelError, match=r"cannot load this graph.*NoSuchOperator"):
        bench.add(model, {"x": [1.0]})


def test_an_opset_that_is_too_new_is_refused_with_what_to_do(bench: Bench) -> None:
    model = identity(F32, ["N"])
    model.opset_import[0].version = 999
    with pytest.raises(ModelError, match="cannot load this graph") as caught:
        bench.add(model, {"x": [1.0]})
    assert "older opset" in caught.value.next_step
    assert set(re.findall(r"/\S+?\.onnx", caught.value.message)) == {str(bench.root / "graph.onnx")}
    assert caught.value.fields["path"] == str(bench.root / "graph.onnx")


def test_missing_files_are_named(bench: Bench) -> None:
    with pytest.raises(ModelError, match=r"nothing\.onnx: cannot read the model: No such file"):
        bench.add(bench.root / "nothing.onnx", SAMPLE, PACK)
    model, place = bench.write(linear([1, 2])), bench.registry.location
    missing = bench.root / "nothing"
    with pytest.raises(InputError, match="cannot read the sample"):
        add_model("m", onnx=model, sample=missing, config=PACK, registry=place)
    sample = bench.sample(SAMPLE)
    with pytest.raises(UsageError, match="cannot read the config"):
        add_model("m", onnx=model, sample=sample, config=missing, registry=place)
    assert bench.registry.models() == []


def test_a_sample_that_is_no_parquet_or_has_no_rows_is_refused(bench: Bench) -> None:
    model, place = bench.write(linear([1, 2])), bench.registry.location
    text = bench.root / "sample.csv"
    text.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="cannot read the sample"):
        add_model("m", onnx=model, sample=text, config=PACK, registry=place)
    with pytest.raises(InputError, match="the sample has no rows"):
        bench.add(model, {"a": np.empty(0), "b": np.empty(0)}, PACK)


def test_a_sample_of_small_row_groups_is_used_up_to_its_limit(bench: Bench) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = bench.root / "groups.parquet"
    values = np.arange(9000, dtype=np.float32)
    pq.write_table(pa.table({"a": values, "b": values}), path, row_group_size=1000)
    bundle = add_model(
        "m", onnx=bench.write(linear([1, 2])), sample=path, config=PACK, registry=bench.registry.location
    )
    assert bundle.manifest.certificate.measured_on["sample_rows"] == 8192


@pytest.mark.parametrize(
    "location", ["weights.bin", "deep/er/weights.bin", "./weights.bin", "deep/model.yaml"]
)
def test_external_data_beside_the_model_is_part_of_the_bundle(bench: Bench, location: str) -> None:
    bundle = bench.add(with_external_data(bench, location), SAMPLE, PACK)
    (bench.root / location).unlink()
    with local_files(bundle) as folder:
        assert (folder / location).is_file()
    assert len(bundle.manifest.files) == 2
    assert Scorer.load(bundle.location).score(batch(**SAMPLE)).to_pydict() == {"score": [3.5, 4.75]}


@pytest.mark.parametrize("location", ["../weights.bin", "deep/../../weights.bin", "/tmp/weights.bin"])
def test_external_data_outside_the_models_folder_is_refused(bench: Bench, location: str) -> None:
    home = bench.root / "home" / "below"
    home.mkdir(parents=True)
    model = linear([2, 3])
    weights = model.graph.initializer[0]
    external_data_helper.set_external_data(weights, location=location)
    weights.data_location = onnx.TensorProto.EXTERNAL
    path = home / "graph.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="lies outside the model's folder"):
        bench.add(path, SAMPLE, PACK)


def test_external_data_behind_a_link_to_elsewhere_is_refused(bench: Bench) -> None:
    home = bench.root / "home"
    home.mkdir()
    (bench.root / "secret").write_bytes(np.array([2, 3], np.float32).tobytes())
    (home / "weights.bin").symlink_to(bench.root / "secret")
    path = with_external_data(bench, "weights.bin").rename(home / "graph.onnx")
    with pytest.raises(ModelError, match="lies outside the model's folder"):
        bench.add(path, SAMPLE, PACK)


def test_external_data_that_is_missing_or_named_as_a_file_of_ours_is_refused(bench: Bench) -> None:
    path = with_external_data(bench, "weights.bin")
    (bench.root / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"'weights\.bin' is missing"):
        bench.add(path, SAMPLE, PACK)
    for location in ("model.onnx", "./model.yaml"):
        with pytest.raises(ModelError, match="may not be called 'model"):
            bench.add(with_external_data(bench, location), SAMPLE, PACK)


@pytest.mark.parametrize("where", ["sparse", "function", "branch", "constant"])
def test_external_data_is_found_wherever_a_graph_can_hide_it(bench: Bench, where: str) -> None:
    tensor = numpy_helper.from_array(np.ones(1, np.float32), "hidden")
    external_data_helper.set_external_data(tensor, location="../outside.bin")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    constant = node("Constant", [], ["c"])
    constant.attribute.append(onnx.helper.make_attribute("value", tensor))
    model = identity(F32, ["N"])
    if where == "sparse":
        model.graph.sparse_initializer.add().values.CopyFrom(tensor)
    elif where == "function":
        model.functions.append(
            onnx.helper.make_function("own", "F", ["x"], ["c"], [constant], model.opset_import)
        )
    elif where == "branch":
        inner = onnx.helper.make_graph([constant], "inner", [], [onnx.ValueInfoProto(name="c")])
        model.graph.node.append(node("If", ["x"], ["z"], then_branch=inner, else_branch=inner))
    else:
        model.graph.node.append(constant)
    with pytest.raises(ModelError, match=r"'\.\./outside\.bin' lies outside"):
        bench.add(model, {"x": [1.0]})


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_names_the_extra_that_installs_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    bundle = bench.add(linear([1, 2]), SAMPLE, PACK)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra) as caught:
        bench.add(linear([1, 2]), SAMPLE, PACK)
    assert "pip install 'batchinfer[cpu]'" in caught.value.next_step
    if package == "onnxruntime":
        with pytest.raises(MissingExtra, match="ONNX Runtime"):
            Scorer.load(bundle.location)
    else:
        Scorer.load(bundle.location)  # scoring needs the runtime alone


@pytest.mark.parametrize("name", ["", "a/b", "..", "-m", "a b", "a@b", "x" * 101])
def test_a_name_that_cannot_be_a_folder_is_refused(bench: Bench, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be a model's name"):
        bench.add(linear([1, 2]), SAMPLE, PACK, name=name)
