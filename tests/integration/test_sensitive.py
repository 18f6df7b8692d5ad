"""Sensitive columns: planted values are looked for in every file that runs left, and in all that was said."""

from __future__ import annotations

import json
import logging
import os
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import deltalake
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from tests.planted import leaks

import batchinfer
from batchinfer.cli import main
from batchinfer.core import HASH_SECRET, Sensitive
from batchinfer.errors import BatchinferError, QualityGate, RunFailed, SpecError, TransformError
from batchinfer.runs import (
    RunRecords,
    RunReport,
    add_model,
    explain,
    make_plan,
    write_docs,
    write_drift_pages,
)
from batchinfer.runs._stream_plan import StreamPlan, StreamPlanner
from batchinfer.streaming._records import Records, TopicPartition

KEY = "a key of forty and more letters, planted as well"
ROWS, CITIES = 400, ("Planted-City-1", "Planted-City-2", "Planted-City-3")
HANDLED = {"name": "hash", "email": "hash", "city": "hash", "age": "hash", "ssn": "drop", "pay": "drop"}
PLANTED = ("Planted-", "41000", "887000", "52000", KEY)
"""What no file and no message may hold: the beginnings of all values that the sensitive columns have, and the key."""


def people(first: int = 0, rows: int = ROWS) -> pa.Table:
    ids = np.arange(first, first + rows)
    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "x0": pa.array((ids % 97) / 7, pa.float32()),
            "age": pa.array([None if i % 50 == 9 else 4_100_000 + i % 40 for i in ids.tolist()], pa.int32()),
            "pay": pa.array([5_200_000.5 + i % 9 for i in ids.tolist()], pa.float64()),
            "city": pa.array([CITIES[i % 3] for i in ids.tolist()]).dictionary_encode(),
            "name": pa.array([f"Planted-Name-{i}" for i in ids.tolist()]),
            "email": pa.array([f"Planted-{i}@example.org" for i in ids.tolist()]),
            "ssn": pa.array(887_000_000 + ids, pa.int64()),
        }
    )


@pytest.fixture(scope="module")
def people_registry(tmp_path_factory: pytest.TempPathFactory) -> str:
    """`people@champion`: score = x0 + age + pay + a number for each city; its reference holds hashes."""
    from onnx import TensorProto, helper

    folder = tmp_path_factory.mktemp("people")
    names, tensor = ("x0", "age", "pay"), helper.make_tensor_value_info
    labels = helper.make_node(
        "LabelEncoder", ["city"], ["place"], domain="ai.onnx.ml",
        keys_strings=list(CITIES), values_floats=[1.0, 2.0, 3.0], default_float=0.0,
    )  # fmt: skip
    graph = helper.make_graph(
        [labels, helper.make_node("Sum", [*names, "place"], ["score"])],
        "people",
        [tensor("city", TensorProto.STRING, ["N", 1])]
        + [tensor(n, TensorProto.FLOAT, ["N", 1]) for n in names],
        [tensor("score", TensorProto.FLOAT, ["N", 1])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)]
    (folder / "people.onnx").write_bytes(
        helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    )
    table = people().filter(people()["age"].is_valid())
    pq.write_table(table, folder / "people.parquet")
    pq.write_table(table.slice(0, 32), folder / "sample.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(HASH_SECRET, KEY)
        for name, sensitive in (("people", HANDLED), ("open", {})):
            add_model(
                name,
                onnx=folder / "people.onnx",
                sample=folder / "sample.parquet",
                reference=folder / "people.parquet",
                sensitive=sensitive,  # type: ignore[arg-type]
                registry=str(folder / "models"),
                alias="champion",
            )
    return str(folder / "models")


class World:
    """A pipeline over people, with a suite that asks after them."""

    def __init__(self, pipeline: Any, registry: str) -> None:
        self.pipeline, self.registry = pipeline, registry
        pipeline.write_input(people(), row_group_size=100)

    def document(self, **more: Any) -> dict[str, Any]:
        source = {"path": str(self.pipeline.input / "ds={ds}"), "key": ["id"], "sensitive": HANDLED}
        output = {"path": str(self.pipeline.output), "partition_by": ["ds"], "carry": ["name"]}
        return {
            "model": "people@champion",
            "registry": self.registry,
            "input": {**source, **more.pop("input", {})},
            "output": {**output, **more.pop("output", {})},
            "quality": {"suite": "suite.json", "max_quarantined": 0.5, **more.pop("quality", {})},
            "drift": {"reference": "model"},
            **more,
        }

    def spec(self, *stated: tuple[str, Mapping[str, Any]], **more: Any) -> batchinfer.PipelineSpec:
        expectations = [{"type": f"expect_column_{kind}", "kwargs": dict(kwargs)} for kind, kwargs in stated]
        suite = {"name": "people", "expectations": expectations, "meta": {}}
        (self.pipeline.root / "suite.json").write_text(json.dumps(suite))
        return batchinfer.load_spec(self.pipeline.write_spec(**self.document(**more)))

    def table(self, suffix: str = "") -> pa.Table:
        return deltalake.DeltaTable(f"{self.pipeline.output}{suffix}").to_pyarrow_table().sort_by("id")

    def leaks(self, planted: Sequence[str] = PLANTED) -> dict[str, list[str]]:
        return leaks(self.pipeline.root, planted, but=[self.pipeline.input])


@pytest.fixture
def world(pipeline: Any, people_registry: str, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv(HASH_SECRET, KEY)
    return World(pipeline, people_registry)


ASKING = (
    ("values_to_be_between", {"column": "age", "min_value": 4_100_003}),
    ("values_to_not_match_regex", {"column": "name", "regex": "-17$"}),
    ("values_to_be_unique", {"column": "city"}),
    ("values_to_not_be_in_set", {"column": "ssn", "value_set": [887_000_021]}),
    ("pair_values_to_be_equal", {"column_A": "age", "column_B": "ssn", "mostly": 0.1}),
    ("distinct_values_to_be_in_set", {"column": "city", "value_set": ["elsewhere"]}),
    ("most_common_value_to_be_in_set", {"column": "city", "value_set": ["elsewhere"]}),
    ("unique_value_count_to_be_between", {"column": "city", "max_value": 2}),
    ("value_lengths_to_be_between", {"column": "email", "max_value": 3, "mostly": 0.5}),
)
"""The suite's own sets and bounds are no data: what they quote is taken out before anything is looked for."""
STATED = ("4100003", "887000021")


def test_no_file_that_a_run_leaves_holds_a_sensitive_value(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "batchinfer")
    spec = world.spec(*ASKING[:2], ASKING[3])
    report = batchinfer.run(spec, {"ds": "d1"})
    (world.pipeline.root / "suite.json").unlink()
    (world.pipeline.root / "report.txt").write_text(report.to_json() + caplog.text)
    assert report.rows.quarantined > 0
    shown = json.loads(RunRecords().kept(report.run_id, "validation.json") or b"")
    for result in shown["results"]:
        result["expectation_config"] = {}
    validation = world.pipeline.root / "runs" / report.run_id / "validation.json"
    validation.write_text(json.dumps(shown))
    assert world.leaks() == {}


def test_verdicts_and_counts_are_those_of_the_same_run_without_sensitive_columns(world: World) -> None:
    def judged(**more: Any) -> tuple[RunReport, list[Any]]:
        report = batchinfer.run(world.spec(*ASKING, quality={"on_failure": "warn"}, **more), {"ds": "d1"})
        validation = json.loads(RunRecords().kept(report.run_id, "validation.json") or b"")
        counts = ("element_count", "unexpected_count", "missing_count", "unexpected_percent")
        return report, [(r["success"], *(r["result"].get(c) for c in counts)) for r in validation["results"]]

    hidden, told = judged()
    before = world.leaks()
    shown, known = judged(input={"sensitive": {}}, model="open@champion")
    assert told == known
    assert hidden.rows == shown.rows
    assert hidden.quality["quarantined"] == shown.quality["quarantined"]
    # What is looked for is found where nothing is sensitive: the other tests are able to fail.
    found = " ".join(world.leaks().keys() - before.keys())
    assert all(
        part in found for part in ("scores/", "scores_quarantine/", "sample.parquet", "validation.json")
    )


def test_what_a_failed_run_leaves_and_says_holds_none(world: World, caplog: pytest.LogCaptureFixture) -> None:
    spec = world.spec(*ASKING[:5], quality={"on_failure": "fail"})
    with pytest.raises(QualityGate) as gate:
        batchinfer.run(spec, {"ds": "d1"})
    (world.pipeline.root / "suite.json").unlink()
    said = world.pipeline.root / "said.txt"
    said.write_text(f"{gate.value} {gate.value.fields} {caplog.text}")
    staged = [p for p in world.pipeline.root.rglob("*.json") if "receipts" in p.parts]
    assert len(staged) >= 1, "the receipts that a rerun would reuse are what is to be looked into"
    validation = next((world.pipeline.root / "runs").rglob("validation.json"))
    document = json.loads(validation.read_text())
    assert any("hmac:" in str(result["result"]) for result in document["results"]), "examples are hashes"
    for result in document["results"]:
        result["expectation_config"] = {}
    validation.write_text(json.dumps(document))
    assert world.leaks() == {}


def test_quarantine_and_results_hold_hashes_and_nothing_of_what_is_dropped(world: World) -> None:
    batchinfer.run(world.spec(ASKING[0]), {"ds": "d1"})
    refused, results = world.table("_quarantine"), world.table()
    assert {"ssn", "pay"}.isdisjoint(refused.column_names)
    sensitive = Sensitive.of({"name": "hash", "age": "hash"})
    ids = refused["id"].to_pylist()
    expected = people().take(pa.array(ids))
    for column in ("name", "age"):
        hashes = sensitive.hashed(column, expected[column].combine_chunks())
        assert refused[column].to_pylist() == hashes.to_pylist()
    assert refused["age"].null_count == 8, "a null stays one: the reason says so too"
    assert all(name.startswith("hmac:") for name in results["name"].to_pylist())
    assert results.num_rows + refused.num_rows == ROWS


def test_results_hold_in_clear_what_is_asked_for_and_nothing_else_does(world: World) -> None:
    spec = world.spec(ASKING[0], input={"key": ["email"]}, output={"clear": ["email"]})
    report = batchinfer.run(spec, {"ds": "d1"})
    table = deltalake.DeltaTable(str(world.pipeline.output)).to_pyarrow_table()
    assert sorted(table["email"].to_pylist())[0].startswith("Planted-")
    found = world.leaks(["@example.org"])
    assert found
    assert all(f.startswith("results/scores/") for f in found), (
        "the results' own files, and no receipt or record"
    )
    row = explain(spec, {"email": "Planted-11@example.org"}, {"ds": "d1"})
    assert row[0].inputs["name"].startswith("hmac:")
    assert row[0].inputs["ssn"] == "(sensitive)"
    assert row[0].bit_exact
    assert report.rows.scored > 0


def test_a_row_is_explained_by_its_clear_key_or_by_its_hash_and_shows_neither(world: World) -> None:
    spec = world.spec(ASKING[0], input={"key": ["email"]})
    batchinfer.run(spec, {"ds": "d1"})
    (by_value,) = explain(spec, {"email": "Planted-11@example.org"}, {"ds": "d1"})
    (by_hash,) = explain(spec, {"email": str(by_value.key["email"])}, {"ds": "d1"})
    assert by_value == by_hash
    assert "Planted" not in str(by_value)
    assert by_value.bit_exact
    for row in ("0", "9999"):  # quarantined, and not there
        arguments = [
            "explain",
            str(world.pipeline.root),
            "--key",
            f"email=Planted-{row}@example.org",
            "-p",
            "ds=d1",
        ]
        outcome = CliRunner().invoke(main, arguments)
        assert outcome.exit_code == 2
        assert "Planted-" not in outcome.output


def test_drift_of_sensitive_columns_is_measured_on_hashes(world: World) -> None:
    spec = world.spec()
    alike = batchinfer.run(spec, {"ds": "d1"}).drift["columns"]
    assert {"city", "age", "x0", "score"} == alike.keys(), "and nothing of pay, which is dropped"
    assert alike["city"]["psi"] < 0.01
    assert not alike["city"]["drifted"]
    assert alike["city"]["min"] is None
    moved = people().set_column(4, "city", pa.array(["Planted-City-9"] * ROWS).dictionary_encode())
    world.pipeline.write_input(moved, ds="d2")
    other = batchinfer.run(spec, {"ds": "d2"}).drift["columns"]
    assert other["city"]["drifted"]
    assert other["city"]["unseen"] == 1.0
    assert world.leaks() == {}


def test_a_reference_at_a_path_is_hashed_as_it_is_read(world: World) -> None:
    path = world.pipeline.input / "reference.parquet"
    pq.write_table(people(), path)
    report = batchinfer.run(world.spec(drift={"reference": str(path)}, model="open@champion"), {"ds": "d1"})
    assert report.drift["columns"]["city"]["psi"] < 0.01
    assert world.leaks() == {}


@pytest.mark.skipif("BATCHINFER_TORTURE" not in os.environ, reason="imports take long: make torture runs it")
def test_pages_and_workers_elsewhere_show_none(
    world: World, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Evidently, Great Expectations, Dask and Spark themselves."""
    caplog.set_level(logging.DEBUG)
    from distributed import LocalCluster

    aggregates = (
        ("max_to_be_between", {"column": "age", "max_value": 1}),
        ("mean_to_be_between", {"column": "pay", "max_value": 1}),
        ("median_to_be_between", {"column": "age", "max_value": 1}),
        ("values_to_match_strftime_format", {"column": "name", "strftime_format": "%Y"}),
        ("values_to_not_be_outliers", {"column": "name", "method": "iqr", "multiplier": 1.5}),
    )  # fmt: skip
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        engine = {"kind": "dask", "address": cluster.scheduler_address}
        spec = world.spec(ASKING[1], ASKING[5], *aggregates, engine=engine, quality={"on_failure": "warn"})
        report = batchinfer.run(spec, {"ds": "d1"})
        (world.pipeline.root / "features.py").write_text(
            "def build(batch):\n    raise KeyError(batch.column('name')[0].as_py())\n"
        )
        broken = world.spec(engine=engine, transform="features.py:build")
        with pytest.raises(TransformError) as raised:
            batchinfer.run(broken, {"ds": "d1"})
        assert said_by(raised.value) == []
        logs = str(cluster.get_logs())
    assert report.quality["success"] is False
    world.pipeline.write_input(people(), ds="d2")
    spark = {"kind": "spark", "master": "local[1]"}
    assert batchinfer.run(world.spec(ASKING[1], engine=spark), {"ds": "d2"}).rows.quarantined > 0
    with pytest.raises(TransformError):
        batchinfer.run(world.spec(engine=spark, transform="features.py:build"), {"ds": "d2"})
    logs += "".join(capfd.readouterr())
    pages = str(world.pipeline.root / "pages")
    write_drift_pages(spec, str(world.pipeline.output), pages)
    write_docs(pages, 5)
    (world.pipeline.root / "suite.json").unlink()
    (world.pipeline.root / "said.txt").write_text(report.to_json() + caplog.text + logs)
    assert "Great Expectations could not judge" in caplog.text
    assert world.leaks() == {}


def test_the_bundle_holds_no_sensitive_value_of_its_reference(people_registry: str) -> None:
    folder = Path(people_registry) / "people" / "1"
    found = leaks(folder, PLANTED)
    graphs = found.pop("model.onnx")
    assert graphs == ["Planted-"], (
        "what a graph was trained on is in the graph itself: docs/sensitive.md says so"
    )
    assert found == {}
    assert leaks(Path(people_registry) / "open" / "1", PLANTED).keys() > {"profile.json", "reference.parquet"}


def test_evidently_gets_hashes_and_the_labels_are_joined_by_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from batchinfer.runs import _drift_pages

    given: list[Any] = []

    def take(*tables: pa.Table, **_: Any) -> dict[str, str]:
        given.extend(tables)
        return {}

    monkeypatch.setattr(_drift_pages, "write_drift_report", take)
    monkeypatch.setattr(_drift_pages, "write_labels_report", lambda rows, **_: given.append(rows))
    labels = pa.table({"email": people()["email"], "late": [i % 2 for i in range(ROWS)]})
    pq.write_table(labels, world.pipeline.input / "labels.parquet")
    for clear in ([], ["email"]):
        spec = world.spec(input={"key": ["email"]}, output={"clear": clear})
        batchinfer.run(spec, {"ds": "d1"})
        pages = _drift_pages.write_drift_pages(
            spec,
            str(world.pipeline.output),
            str(world.pipeline.root / "pages"),
            labels=str(world.pipeline.input / "labels.parquet"),
            label_column="late",
        )
        assert pages.unlabelled == 0
    assert len(given) == 6
    said = " ".join(str(table.to_pylist()) for table in given)
    assert "hmac:" in said
    assert not any(value in said for value in PLANTED)


def test_a_bundle_that_shows_what_the_spec_hides_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SpecError, match="has its values") as refusal:
        make_plan(world.spec(model="open@champion"), {"ds": "d1"})
    assert "--sensitive" in refusal.value.next_step
    with pytest.raises(SpecError, match="has its hashes"):
        make_plan(world.spec(input={"sensitive": {**HANDLED, "city": "drop"}}), {"ds": "d1"})
    monkeypatch.setenv(HASH_SECRET, KEY[::-1])
    with pytest.raises(SpecError, match=f"another {HASH_SECRET}"):
        make_plan(world.spec(), {"ds": "d1"})


def test_another_key_is_another_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = world.spec(drift=None)
    before = make_plan(spec, {"ds": "d1"}).run_id
    monkeypatch.setenv(HASH_SECRET, KEY[::-1])
    assert make_plan(spec, {"ds": "d1"}).run_id != before


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"input": {"sensitive": {"nmae": "hash"}}}, "did you mean 'name'"),
        ({"input": {"sensitive": {"ds": "hash"}}}, "names of"),
        ({"input": {"sensitive": {"name": "hide"}}}, "'hash' or 'drop'"),
        ({"input": {"sensitive": {"name": "drop"}}}, "results keep it"),
        ({"output": {"clear": ["id"]}}, "no sensitive column of"),
    ],
)
def test_what_could_only_be_a_mistake_is_refused(world: World, more: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        make_plan(world.spec(**more), {"ds": "d1"})


def test_no_error_quotes_what_a_transform_or_a_library_said(world: World) -> None:
    (world.pipeline.root / "features.py").write_text(
        "def build(batch):\n    raise KeyError(batch.column('name')[0].as_py())\n"
    )
    with pytest.raises(TransformError, match="raised KeyError on") as raised:
        batchinfer.run(world.spec(transform="features.py:build"), {"ds": "d1"})
    assert said_by(raised.value) == []

    (world.pipeline.root / "features.py").write_text(
        "class Odd(BaseException): pass\ndef build(batch):\n    return batch\n"
    )
    spec = world.spec(transform="features.py:build")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RunFailed, match="ArrowInvalid") as failed:
        patch.setattr("batchinfer.source.read_unit", quoting_reader)
        batchinfer.run(spec, {"ds": "d1"})
    assert said_by(failed.value) == []
    assert world.leaks() == {}


def quoting_reader(*_: Any, **__: Any) -> Any:
    raise pa.ArrowInvalid("Failed to parse string: 'Planted-Name-3' as a scalar of type int32")


def said_by(error: BaseException) -> list[str]:
    """The planted values that an error shows: in its text, its fields, what it came of, and when it has travelled."""
    import traceback

    shown = "".join(traceback.format_exception(error)) + str(getattr(error, "fields", ""))
    shown += "".join(traceback.format_exception(pickle.loads(pickle.dumps(error))))
    return [value for value in PLANTED if value in shown]


def test_neither_key_nor_value_is_in_what_travels_to_workers(world: World) -> None:
    from batchinfer.runs._job import open_quarantine, open_results
    from batchinfer.runs._work import RunWork
    from batchinfer.runs._worker import Staging

    plan = make_plan(world.spec(*ASKING[5:8]), {"ds": "d1"})
    assert plan.suite is not None
    checks = plan.suite.prepare(plan.units, plan.spec.quality)
    areas = [
        opened(plan.spec, plan.output_path).staging(plan.run_id) for opened in (open_results, open_quarantine)
    ]
    sent = pickle.dumps(RunWork.of(plan, Staging(*areas), (), checks))
    shown = [value for value in PLANTED if value.encode() in sent]
    assert shown == []


def test_a_stream_asks_for_the_types_that_hashes_do_not_tell_and_hides_what_it_writes(world: World) -> None:
    stream: dict[str, Any] = {"input_topic": "people", "output_topic": "scores"}
    with pytest.raises(SpecError, match=r"of which type '(age|city|name|pay)' is"):
        planned(world.spec(stream=stream, output={"partition_by": []}))
    stream |= {"columns": {"age": "int32", "city": "string", "name": "string", "pay": "float64"}}
    with pytest.raises(SpecError, match="did you mean 'name'"):
        misspelt = {**{k: v for k, v in HANDLED.items() if k != "name"}, "nmae": "hash"}
        planned(world.spec(stream=stream, output={"partition_by": []}, input={"sensitive": misspelt}))
    plan = planned(world.spec(stream=stream, output={"partition_by": []}))
    assert [field.type for field in plan.carry] == [pa.string()]
    row = {
        "id": 7,
        "x0": 1.0,
        "age": 4_100_001,
        "pay": 5_200_000.0,
        "city": CITIES[0],
        "name": "Planted-Name-7",
    }
    values = [json.dumps(row).encode(), json.dumps({**row, "age": None}).encode(), b'{"age": "Planted-age"}']
    batch = plan.score(records_of(values), 0.0)
    assert batch.results["name"].to_pylist()[0].startswith("hmac:")
    assert len(batch.refused.reasons) == 2
    assert not any(value in f"{batch.results.to_pylist()} {batch.refused.reasons}" for value in PLANTED)


def planned(spec: batchinfer.PipelineSpec) -> StreamPlan:
    planner = StreamPlanner(spec)
    return planner.plan(planner.resolve())


def records_of(values: list[bytes]) -> Records:
    count = len(values)
    return Records.of(
        values=values,
        keys=[None] * count,
        headers=None,
        timestamps=[None] * count,
        partitions=[TopicPartition("people", 0)] * count,
        offsets=list(range(count)),
    )


def test_an_unset_key_is_an_error_with_the_way_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(HASH_SECRET)
    with pytest.raises(BatchinferError, match=f"{HASH_SECRET} is not set") as refusal:
        batchinfer.run(world.spec(), {"ds": "d1"})
    assert "openssl rand" in refusal.value.next_step
