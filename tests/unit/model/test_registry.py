"""A registry finds what was added, whole; and gives every bundle a version of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.unit.model.graphs import Bench, batch, linear

from batchinfer.errors import ModelError, StoreError
from batchinfer.model import Bundle, Registry, Scorer, add_model

SAMPLE = {"a": [1.0, 2.0], "b": [0.5, 0.25]}
PACK = {"inputs": {"x": {"pack": ["a", "b"]}}}


def add(bench: Bench, name: str = "m", alias: str | None = None, weight: float = 1) -> Bundle:
    return bench.add(linear([weight, 2]), SAMPLE, PACK, name=name, alias=alias)


def test_a_bundle_is_found_by_version_alias_and_path(bench: Bench) -> None:
    added = add(bench, alias="champion")
    for reference in ("m@1", "m@champion", added.location, added.location + "/"):
        assert bench.registry.resolve(reference).manifest == added.manifest
    assert added.identity == "m@1"


def test_versions_count_up_and_are_sorted_as_numbers(bench: Bench) -> None:
    add(bench)
    for version in range(2, 10):
        (Path(bench.registry.location) / "m" / str(version)).mkdir()
        (Path(bench.registry.location) / "m" / str(version) / "model.yaml").write_text("")
    assert add(bench).manifest.version == "10"
    assert bench.registry.model("m").versions == tuple(str(v) for v in range(1, 11))
    assert bench.registry.models() == [bench.registry.model("m")]


def test_a_folder_that_an_upload_left_half_done_is_no_version_and_is_not_written_to(bench: Bench) -> None:
    half = Path(bench.registry.location) / "m" / "1"
    half.mkdir(parents=True)
    (half / "weights.bin").write_bytes(b"half")
    assert bench.registry.models() == []
    assert add(bench).manifest.version == "2"
    assert bench.registry.model("m").versions == ("2",)


def test_a_model_that_is_not_there_is_answered_with_the_nearest_name(bench: Bench) -> None:
    empty = bench.registry
    with pytest.raises(ModelError, match="not in the registry") as caught:
        empty.resolve("flight@1")
    assert "batchinfer model add" in caught.value.next_step
    add(bench, "flight-delay")
    with pytest.raises(ModelError, match="'flight-dely@champion' is not in the registry") as caught:
        bench.registry.resolve("flight-dely@champion")
    assert caught.value.next_step == "did you mean flight-delay@…?"
    with pytest.raises(ModelError) as caught:
        bench.registry.resolve("zzz@1")
    assert caught.value.next_step == "the registry holds flight-delay"


def test_a_reference_without_or_with_a_wrong_version_is_answered_with_what_there_is(bench: Bench) -> None:
    add(bench, alias="champion")
    for reference, message in {
        "m": "names no version",
        "m@": "names no version",
        "m@2": "no such version or alias",
        "m@challenger": "no such version or alias",
        "m@..": "no such version or alias",
    }.items():
        with pytest.raises(ModelError, match=message) as caught:
            bench.registry.resolve(reference)
        assert "m@champion, m@1" in caught.value.next_step


@pytest.mark.parametrize("reference", ["models/m/3", "/nowhere/at/all", "../m@1", "@champion", "", "."])
def test_a_path_without_a_bundle_is_said_to_be_one(bench: Bench, reference: str) -> None:
    add(bench, alias="champion")
    with pytest.raises(ModelError, match="is no bundle"):
        bench.registry.resolve(reference)


def test_the_location_comes_from_the_environment_else_is_models_here(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BATCHINFER_REGISTRY", raising=False)
    assert Registry().location == "models"
    monkeypatch.setenv("BATCHINFER_REGISTRY", "/elsewhere")
    assert Registry().location == "/elsewhere"
    assert Registry("here").location == "here"


def test_an_alias_moves_and_the_others_stay(bench: Bench) -> None:
    add(bench, alias="champion")
    add(bench, alias="challenger")
    bench.registry.set_alias("m", "champion", "2")
    assert bench.registry.model("m").aliases == {"champion": "2", "challenger": "2"}
    assert bench.registry.resolve("m@champion").identity == "m@2"


@pytest.mark.parametrize("alias", ["1", "2", "", "a b", "a/b", "a.b", "@"])
def test_what_could_be_a_version_or_a_path_is_no_alias(bench: Bench, alias: str) -> None:
    add(bench)
    with pytest.raises(ModelError, match="cannot be an alias"):
        bench.registry.set_alias("m", alias, "1")
    with pytest.raises(ModelError, match="cannot be an alias"):
        add(bench, alias=alias)
    assert bench.registry.model("m").versions == ("1",), "nothing is added under an alias that cannot be"


def test_a_version_wins_over_an_alias_that_somebody_wrote_by_hand(bench: Bench) -> None:
    add(bench)
    add(bench)
    (Path(bench.registry.location) / "m" / "aliases.yaml").write_text("'2': 1\n")
    assert bench.registry.resolve("m@2").identity == "m@2"


def test_an_alias_is_set_only_to_a_version_that_is_there(bench: Bench) -> None:
    with pytest.raises(ModelError, match="has no version '1'"):
        bench.registry.set_alias("m", "champion", "1")
    add(bench, alias="champion")
    with pytest.raises(ModelError, match="has no version '2'"):
        bench.registry.set_alias("m", "champion", "2")
    shutil.rmtree(Path(bench.registry.location) / "m" / "1")
    add(bench)
    with pytest.raises(ModelError, match="the alias means version 1, which is gone"):
        bench.registry.resolve("m@champion")


def test_a_bundle_copied_to_another_name_does_not_pass_for_it(bench: Bench) -> None:
    added = add(bench)
    home = Path(bench.registry.location)
    shutil.copytree(added.location, home / "m" / "2")
    shutil.copytree(home / "m" / "1", home / "other" / "1")
    for reference in ("m@2", "other@1"):
        with pytest.raises(ModelError, match="was made as m@1, and copied here"):
            bench.registry.resolve(reference)


@pytest.mark.parametrize("content", [b"", b"\xff", b"- a", b"a: [", b"a: 1\na: 2"])
def test_a_broken_list_of_aliases_is_an_error_of_the_model(bench: Bench, content: bytes) -> None:
    add(bench)
    (Path(bench.registry.location) / "m" / "aliases.yaml").write_bytes(content)
    with pytest.raises(ModelError, match=r"aliases\.yaml"):
        bench.registry.model("m")


def test_readers_see_the_old_alias_or_the_new_never_neither(bench: Bench) -> None:
    add(bench, alias="champion")
    add(bench)
    registry, done = bench.registry, threading.Event()

    def read() -> set[str]:
        seen = set()
        while not done.is_set():
            seen.add(registry.resolve("m@champion").identity)
        return seen

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            for i in range(60):
                registry.set_alias("m", "champion", "12"[i % 2])
        finally:
            done.set()
        assert set().union(*(reader.result() for reader in readers)) <= {"m@1", "m@2"}


def test_aliases_that_are_set_at_the_same_time_are_all_kept(bench: Bench) -> None:
    add(bench)
    names = [f"alias-{i}" for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: bench.registry.set_alias("m", name, "1"), names))
    assert sorted(bench.registry.model("m").aliases) == sorted(names)


def test_threads_that_add_the_same_model_get_different_versions_and_whole_bundles(bench: Bench) -> None:
    count = 8
    sample = bench.sample(SAMPLE)
    models = [bench.write(linear([i, 2]), f"{i}.onnx") for i in range(count)]
    gate = threading.Barrier(count)

    def one(i: int) -> Bundle:
        gate.wait()
        place = bench.registry.location
        return add_model("m", onnx=models[i], sample=sample, config=PACK, registry=place)

    with ThreadPoolExecutor(count) as pool:
        bundles = list(pool.map(one, range(count)))
    assert sorted(int(b.manifest.version) for b in bundles) == list(range(1, count + 1))
    for i, bundle in enumerate(bundles):
        scored = Scorer.load(bundle.location).score(batch(a=[1.0], b=[0.0]))
        assert scored.to_pydict() == {"score": [float(i)]}
        assert bench.registry.resolve(bundle.identity).manifest == bundle.manifest


CHILD = """
import sys, time
from batchinfer.model import add_model, _certify
_certify._SIZES, _certify._SECONDS_A_SIZE = (1, 8), 1e-9
import batchinfer.model._add, onnx, onnxruntime
folder, i = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
config = {"inputs": {"x": {"pack": ["a", "b"]}}}
sample = f"{folder}/sample.parquet"
bundle = add_model("m", onnx=f"{folder}/{i}.onnx", sample=sample, config=config, registry=f"{folder}/models")
print(bundle.manifest.version)
"""


def test_processes_that_add_the_same_model_get_different_versions_and_whole_bundles(bench: Bench) -> None:
    bench.sample(SAMPLE)
    for i in range(3):
        bench.write(linear([i, 2]), f"{i}.onnx")
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(bench.root), str(i)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(3)
    ]
    for child in children:
        assert child.stdout
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin
        child.stdin.write("\n")
        child.stdin.flush()
    versions = [child.communicate(timeout=60)[0].strip() for child in children]
    assert sorted(versions) == ["1", "2", "3"]
    for i, version in enumerate(versions):
        scorer = Scorer.of(bench.registry.resolve(f"m@{version}"))
        assert scorer.score(batch(a=[1.0], b=[0.0])).to_pydict() == {"score": [float(i)]}


class Killed(BaseException):
    """As a signal: nothing catches it."""


@pytest.mark.parametrize("step", ["model.onnx", "model.yaml", "rename"])
def test_an_add_that_is_killed_leaves_nothing_that_resolves(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    add(bench, alias="champion")
    before = bench.registry.model("m")

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        # A killed process tidies nothing.
        patch.setattr("batchinfer.model._registry.shutil.rmtree", lambda *_, **__: None)
        patch.setattr(
            *{
                "model.onnx": ("batchinfer.model._add.shutil.copytree", killed),
                "model.yaml": ("batchinfer.model._add.write_manifest", killed),
                "rename": ("pathlib.Path.rename", killed),
            }[step]
        )
        with pytest.raises(Killed):
            add(bench, alias="champion")
    assert bench.registry.model("m") == before
    assert bench.registry.models() == [before]
    assert bench.registry.resolve("m@champion").identity == "m@1"
    assert add(bench).identity == "m@2"


def test_an_add_that_fails_leaves_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    add(bench)
    home = Path(bench.registry.location) / "m"

    def full(*_: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("batchinfer.model._add.write_manifest", full)
    with pytest.raises(StoreError, match="No space left"):
        add(bench)
    assert [path.name for path in home.iterdir()] == ["1"]


def test_a_registry_can_be_read_by_others(bench: Bench) -> None:
    folder = Path(add(bench, alias="champion").location)
    assert folder.stat().st_mode & 0o755 == 0o755
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in folder.iterdir())
    assert yaml.safe_load((folder.parent / "aliases.yaml").read_text()) == {"champion": "1"}
