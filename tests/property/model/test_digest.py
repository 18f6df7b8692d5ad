"""Whatever byte of a bundle changes: it is refused, or model.yaml says the very same in other words."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.model.conftest import quick_sweep
from tests.unit.model.graphs import Bench, linear

from batchinfer.errors import DigestMismatch, ModelError
from batchinfer.model import Bundle, Scorer, add_model, read_bundle
from batchinfer.model._bundle import local_files

FILES = ("model.onnx", "reference.parquet", "model.yaml")


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    bench = Bench(tmp_path_factory.mktemp("bench"))
    sample = bench.sample({"a": [1.0], "b": [2.0]})
    with pytest.MonkeyPatch.context() as patch:
        quick_sweep(patch)
        yield add_model(
            "m",
            onnx=bench.write(linear([1, 2])),
            sample=sample,
            describe=lambda _, folder: shutil.copyfile(sample, folder / "reference.parquet"),
            config={"inputs": {"x": {"pack": ["a", "b"]}}, "training": {"auc": 0.75, "note": "spring"}},
            registry=bench.registry.location,
        )


@given(data=st.data())
@settings(max_examples=300)
def test_any_byte_that_changes_in_any_file_is_noticed(sealed: Bundle, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(FILES))
    path = Path(sealed.location) / name
    content = path.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    mask = data.draw(st.integers(1, 255))
    try:
        path.write_bytes(content[:place] + bytes([content[place] ^ mask]) + content[place + 1 :])
        if name == "model.yaml":
            try:
                found = read_bundle(sealed.location)
            except ModelError as e:
                assert "model.yaml" in e.message
            else:
                assert found.manifest == sealed.manifest
        else:
            with pytest.raises(DigestMismatch, match=name):
                Scorer.load(sealed.location)
    finally:
        path.write_bytes(content)


@given(
    name=st.text("abz./", min_size=1, max_size=8).filter(
        lambda n: not n.startswith("/") and all(p not in {"", ".", ".."} for p in n.split("/"))
    )
)
@settings(max_examples=50)
def test_any_file_that_is_added_is_noticed(sealed: Bundle, name: str) -> None:
    folder = Path(sealed.location)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    try:
        with pytest.raises(DigestMismatch, match="was added"), local_files(sealed):
            pass
    finally:
        path.unlink()
        if path.parent != folder:
            shutil.rmtree(folder / name.split("/", maxsplit=1)[0])
