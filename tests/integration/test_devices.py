"""Runs with a word about devices: the report tells what scored, and a GPU that is not there stops a run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import deltalake
import pyarrow as pa
import pytest
from tests.pretend import pretend_gpu

import batchinfer
from batchinfer import source
from batchinfer.errors import DeviceUnavailable, MissingExtra
from batchinfer.model import _scorer
from batchinfer.model._cuda import visible_gpus
from batchinfer.model._devices import CPU
from batchinfer.runs import RunRecords

Rows = Callable[[int, int], pa.Table]
no_gpu = pytest.mark.skipif(bool(visible_gpus()), reason="there is a GPU here, and the run would use it")


def table(pipeline: Any) -> pa.Table:
    return deltalake.DeltaTable(str(pipeline.output)).to_pyarrow_table().sort_by("id")


@no_gpu
def test_a_run_tells_that_the_cpu_scored(pipeline: Any, rows: Rows) -> None:
    pipeline.write_input(rows(0, 100))
    report = batchinfer.run(pipeline.spec(), {"ds": "d1"})
    assert report.devices == [{"name": "cpu", "units": 1, "notes": []}]
    again = batchinfer.run(pipeline.spec(), {"ds": "d1"})
    assert again.devices == report.devices
    assert RunRecords().find(report.run_id).devices == report.devices


@no_gpu
def test_a_gpu_that_is_not_there_stops_the_run_before_any_commit(pipeline: Any, rows: Rows) -> None:
    pipeline.write_input(rows(0, 100))
    with pytest.raises((MissingExtra, DeviceUnavailable)) as caught:
        batchinfer.run(pipeline.spec(**{"engine.device": "cuda"}), {"ds": "d1"})
    assert caught.value.exit_code == 2
    assert not deltalake.DeltaTable.is_deltatable(str(pipeline.output)) or not table(pipeline).num_rows


@no_gpu
def test_a_fallback_that_the_spec_allows_is_in_the_report(pipeline: Any, rows: Rows) -> None:
    pipeline.write_input(rows(0, 100))
    spec = pipeline.spec(**{"engine.device": "cuda", "engine.fallback": "cpu"})
    report = batchinfer.run(spec, {"ds": "d1"})
    assert report.rows.scored == 100
    (device,) = report.devices
    assert device["name"] == "cpu"
    assert device["notes"][0].startswith("engine.fallback: the CPU in a GPU's place: ")


@pytest.mark.parametrize("transform", [False, True])
def test_a_run_on_a_gpu_reads_ahead_and_writes_the_same_rows(
    pipeline: Any, rows: Rows, monkeypatch: pytest.MonkeyPatch, transform: bool
) -> None:
    pretend_gpu(monkeypatch, pipeline.root / "cache")
    readers = set()
    read = source.read_unit

    def recording(unit: Any, columns: Any) -> Any:
        for piece in read(unit, columns):
            readers.add(threading.current_thread().name.partition("_")[0])
            yield piece

    monkeypatch.setattr(source, "read_unit", recording)
    inputs = rows(0, 5000)
    missing = pa.array(
        [None if i % 700 == 3 else v for i, v in enumerate(inputs["x1"].to_pylist())], pa.float32()
    )
    pipeline.write_input(inputs.set_column(2, "x1", missing), row_group_size=777)
    overrides: dict[str, Any] = {}
    if transform:
        (pipeline.root / "features.py").write_text(
            "def build(batch):\n    return batch.select(['x0', 'x1', 'x2'])\n"
        )
        overrides["transform"] = "features.py:build"
    report = batchinfer.run(pipeline.spec(**overrides), {"ds": "d1"})
    assert readers == {"read-ahead"}
    (device,) = report.devices
    assert (device["name"], device["units"]) == ("Pretend (cuda)", report.units["total"])
    assert device["batch_rows"] in {16, 64}
    assert report.rows.quarantined == 8
    on_gpu = table(pipeline)
    monkeypatch.setattr(_scorer, "choose_device", lambda *_: CPU)
    batchinfer.run(pipeline.spec(**{**overrides, "output.path": str(pipeline.root / "cpu")}), {"ds": "d1"})
    on_cpu = deltalake.DeltaTable(str(pipeline.root / "cpu")).to_pyarrow_table().sort_by("id")
    own = ["_run_id"]
    assert on_gpu.drop(own).equals(on_cpu.drop(own))
    assert on_gpu.num_rows == 4992


def test_options_of_providers_make_it_other_work(pipeline: Any) -> None:
    plain = pipeline.spec().digest()
    assert pipeline.spec(**{"engine.device": "cuda", "engine.threads": 3}).digest() == plain
    assert pipeline.spec(**{"engine.provider_options": {"cuda": {"use_tf32": True}}}).digest() != plain
    assert pipeline.spec(**{"engine.providers": ["tensorrt", "cuda"]}).digest() != plain


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ({"device": "gpu"}, "engine.device"),
        ({"providers": ["rocm"]}, "engine.providers"),
        ({"providers": []}, "engine.providers"),
        ({"providers": ["cuda", "cuda"]}, "named twice"),
        ({"provider_options": {"tensorrt": {}}}, "'tensorrt' is not among engine.providers: cuda"),
        ({"provider_options": {"cuda": {"device_id": 1}}}, "the engine assigns the device_id"),
        ({"tolerance": 0}, "engine.tolerance"),
        ({"fallback": "gpu"}, "engine.fallback"),
    ],
    ids=str,
)
def test_a_wrong_word_about_devices_names_its_key(pipeline: Any, stated: Any, said: str) -> None:
    with pytest.raises(batchinfer.errors.SpecError, match=said):
        pipeline.spec(engine=stated)
