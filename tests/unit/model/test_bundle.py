"""A bundle is loaded as it was made, or not at all."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyarrow import fs
from tests.unit.model.graphs import Bench, batch, linear

from batchinfer.core import files
from batchinfer.errors import DigestMismatch, ModelError
from batchinfer.model import Bundle, Scorer, add_model, read_bundle

SAMPLE = {"a": [1.0, 2.0], "b": [0.5, 0.25]}
PACK = {"inputs": {"x": {"pack": ["a", "b"]}}}


@pytest.fixture
def bundle(bench: Bench) -> Bundle:
    model, sample = bench.write(linear([1, 2])), bench.sample(SAMPLE)

    def describe(scorer: Scorer, folder: Path) -> None:
        assert scorer.columns == ("a", "b")
        shutil.copyfile(sample, folder / "reference.parquet")

    return add_model(
        "m", onnx=model, sample=sample, config=PACK, describe=describe, registry=bench.registry.location
    )


def edit(key: str, value: Any) -> Callable[[Path], None]:
    """Change one value of model.yaml."""

    def change(folder: Path) -> None:
        document = yaml.safe_load((folder / "model.yaml").read_text())
        *path, last = key.split(".")
        section = document
        for part in path:
            section = section[part]
        assert section.get(last) != value
        section[last] = value
        (folder / "model.yaml").write_text(yaml.safe_dump(document))

    return change


@pytest.mark.parametrize("name", ["model.onnx", "reference.parquet"])
def test_a_changed_a_missing_and_an_added_file_are_refused_by_name(bundle: Bundle, name: str) -> None:
    path = Path(bundle.location) / name
    content = path.read_bytes()
    for changed in (content + b"\0", content[:-1], bytes([content[0] ^ 1]) + content[1:], b""):
        path.write_bytes(changed)
        with pytest.raises(DigestMismatch, match=f"'{name}' is not the file that the bundle was made with"):
            Scorer.load(bundle.location)
    path.unlink()
    with pytest.raises(DigestMismatch, match=f"'{name}' is missing"):
        Scorer.load(bundle.location)
    path.write_bytes(content)
    Scorer.load(bundle.location)
    for stranger in ("weights.bin", "below/model.yaml"):
        added = Path(bundle.location) / stranger
        added.parent.mkdir(exist_ok=True)
        added.write_bytes(b"")
        with pytest.raises(DigestMismatch, match=f"'{stranger}' was added") as caught:
            Scorer.load(bundle.location)
        assert caught.value.fields["file"] == stranger
        added.unlink()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "other"),
        ("version", "7"),
        ("inputs.x.pack", ["b", "a"]),
        ("inputs.x.fill_null", 0),
        ("outputs.score.column", "late"),
        ("certificate.batch_size", 3),
        ("certificate.bit_exact", False),
        ("certificate.takes_nan", ["a"]),
        ("training", {"auc": 0.99}),
        ("files", {}),
        ("digest", "sha256:0"),
        ("digest", ""),
    ],
)
def test_an_edited_manifest_is_refused(bundle: Bundle, key: str, value: Any) -> None:
    edit(key, value)(Path(bundle.location))
    with pytest.raises(DigestMismatch, match=r"'model\.yaml' is not the file"):
        read_bundle(bundle.location)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("certificat", {}, "unknown key 'certificat'; did you mean 'certificate'"),
        ("certificate.batch_size", 0, r"'certificate\.batch_size'"),
        ("certificate.paddin", 1, r"unknown key 'certificate\.paddin'; did you mean 'padding'"),
        ("inputs.x.column", "a", "found pack and column"),
    ],
)
def test_a_manifest_with_unknown_keys_or_wrong_values_is_refused_by_key(
    bundle: Bundle, key: str, value: Any, message: str
) -> None:
    edit(key, value)(Path(bundle.location))
    with pytest.raises(ModelError, match=message):
        read_bundle(bundle.location)


@pytest.mark.parametrize("content", [b"", b"- a list", b"name: [", b"\xff\xfe", b"name: a\nname: b\n"])
def test_a_manifest_that_is_none_is_refused(bundle: Bundle, content: bytes) -> None:
    (Path(bundle.location) / "model.yaml").write_bytes(content)
    with pytest.raises(ModelError):
        read_bundle(bundle.location)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(ModelError, match="no bundle here") as caught:
            read_bundle(str(path))
        assert "batchinfer model add" in caught.value.next_step


def test_the_digest_is_checked_at_each_load(bundle: Bundle) -> None:
    found = read_bundle(bundle.location)
    Scorer.of(found)
    with (Path(bundle.location) / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(DigestMismatch):
        Scorer.of(found)


def test_training_facts_of_any_kind_survive_and_verify(bench: Bench) -> None:
    training = {
        "date": datetime.date(2024, 5, 1),
        "nothing": None,
        "nan": float("nan"),
        "tiny": 1e-300,
        "huge": 10**30,
        "text": "ü\x85\u2028🛫: #'\"\n",
        "like_a_number": "1e5",
        "nested": {"list": [1, {"a": None}], 5: "five", True: "yes"},
    }
    bundle = bench.add(linear([1, 2]), SAMPLE, {**PACK, "training": training})
    again = read_bundle(bundle.location)
    assert again.manifest.digest == bundle.manifest.digest == again.manifest.computed_digest()
    assert again.manifest.training["text"] == training["text"]
    assert again.manifest.training["like_a_number"] == "1e5"


def test_a_bundle_keeps_its_mappings_as_they_were_stated(bench: Bench) -> None:
    config = {
        "inputs": {"x": {"pack": ["a", "b"], "fill_null": 0}},
        "outputs": {"score": {"columns": {0: "s"}}},
    }
    bundle = bench.add(linear([1, 2]), SAMPLE, config)
    scorer = Scorer.load(bundle.location)
    assert scorer.score(batch(a=[None, 1.0], b=[1.0, 1.0])).to_pydict() == {"s": [2.0, 3.0]}
    assert type(scorer.bundle.manifest.inputs["x"].fill_null) is int
    assert scorer.columns == ("a", "b")
    assert scorer.identity == "m@1"


def test_a_bundle_behind_a_url_is_scored_and_verified(
    bundle: Bundle, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = fs.SubTreeFileSystem(str(bench.root), fs.LocalFileSystem())

    def locate(path: str) -> tuple[fs.FileSystem, str]:
        inner = path.removeprefix("mem://")
        return (store, inner) if inner != path else (fs.LocalFileSystem(), path)

    monkeypatch.setattr(files, "locate", locate)
    scorer = Scorer.load("mem://models/m/1")
    assert scorer.score(batch(**SAMPLE)).to_pydict() == {"score": [2.0, 2.5]}
    with (Path(bundle.location) / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(DigestMismatch, match=r"model\.onnx"):
        Scorer.load("mem://models/m/1")
    second = add_model(
        "m",
        onnx=bench.root / "graph.onnx",
        sample=bench.root / "sample.parquet",
        config=PACK,
        registry="mem://models",
        alias="champion",
    )
    assert second.location == "mem://models/m/2"
    assert Scorer.load("mem://models/m/2").identity == "m@2"
