"""Which device scores: what the spec says, what the engine assigned, what is there. And never silently another."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.pretend import cpu_session, pretend_gpu
from tests.unit.model.graphs import F32, Bench, batch, graph, identity, node

from batchinfer.errors import DeviceUnavailable, MissingExtra, ModelError
from batchinfer.model import DeviceOptions, Scorer, _session
from batchinfer.model._agreement import ROWS, Agreement, largest_difference
from batchinfer.model._cuda import Gpu
from batchinfer.model._devices import CPU, Device, choose_device
from batchinfer.spec import EngineSpec

BUILT = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
WITHOUT = ("AzureExecutionProvider", "CPUExecutionProvider")
GPUS = (
    Gpu(0, "NVIDIA A", "0a2e7c1c-0000-0000-0000-000000000000"),
    Gpu(1, "NVIDIA B", "0a2e7c1c-0000-0000-0000-000000000001"),
)


def options(**stated: Any) -> DeviceOptions:
    return DeviceOptions.of(EngineSpec(**stated))


def choose(
    stated: DeviceOptions, assigned: str | None = None, available: Any = BUILT, gpus: tuple[Gpu, ...] = GPUS
) -> Device:
    return choose_device(stated, assigned, available, lambda: gpus)


def test_by_default_a_gpu_scores_where_there_is_one() -> None:
    assert choose(options()).title == "NVIDIA A (cuda)"
    assert choose(options(), gpus=()) is CPU
    assert choose(options(), available=WITHOUT) is CPU


def test_without_cuda_in_onnx_runtime_nobody_asks_the_driver() -> None:
    def never() -> tuple[Gpu, ...]:
        raise AssertionError

    assert choose_device(options(), None, WITHOUT, never) is CPU
    assert choose_device(options(device="cpu"), "0", BUILT, never) is CPU


@pytest.mark.parametrize("assigned", ["1", f"GPU-{GPUS[1].uuid}", f"MIG-{GPUS[1].uuid}"])
def test_the_gpu_that_the_engine_assigned_scores_and_no_other(assigned: str) -> None:
    device = choose(options(), assigned)
    assert (device.name, device.ordinal) == ("NVIDIA B", 1)


def test_the_cpu_scores_where_the_spec_says_so_whatever_is_assigned() -> None:
    assert choose(options(device="cpu"), "1") is CPU


@pytest.mark.parametrize("assigned", ["2", "GPU-0a2e7c1c-0000-0000-0000-000000000009"])
def test_an_assigned_gpu_that_is_not_here_is_an_error(assigned: str) -> None:
    with pytest.raises(DeviceUnavailable, match=assigned):
        choose(options(), assigned)


@pytest.mark.parametrize(("stated", "assigned"), [({"device": "cuda"}, None), ({}, "0")])
def test_a_gpu_that_is_asked_for_where_there_is_none_is_an_error(stated: Any, assigned: str | None) -> None:
    with pytest.raises(DeviceUnavailable, match="sees none"):
        choose(options(**stated), assigned, gpus=())
    with pytest.raises(MissingExtra, match="without cuda") as caught:
        choose(options(**stated), assigned, available=WITHOUT)
    assert "batchinfer[gpu]" in caught.value.next_step


def test_tensorrt_that_is_asked_for_must_be_there() -> None:
    both = options(device="cuda", providers=["tensorrt", "cuda"])
    assert choose(both).title == "NVIDIA A (tensorrt, cuda)"
    with pytest.raises(MissingExtra, match="without tensorrt"):
        choose(both, available=BUILT[1:])


@pytest.mark.parametrize(("stated", "assigned"), [({"device": "cuda"}, None), ({}, "0")])
def test_a_fallback_that_the_spec_allows_is_logged_and_noted(
    stated: Any, assigned: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        device = choose(options(fallback="cpu", **stated), assigned, gpus=())
    assert device.ordinal is None and device.title == "cpu"
    assert "sees none" in device.note and "sees none" in caplog.text


def test_options_travel_as_they_were_stated() -> None:
    stated = options(
        device="cuda",
        providers=["tensorrt", "cuda"],
        provider_options={"cuda": {"gpu_mem_limit": 2_000_000_000, "use_tf32": True}},
    )
    assert stated.providers == (
        ("tensorrt", ()),
        ("cuda", (("gpu_mem_limit", "2000000000"), ("use_tf32", "1"))),
    )
    assert pickle.loads(pickle.dumps(stated)) == stated
    assert hash(stated) == hash(pickle.loads(pickle.dumps(stated)))
    assert options() == DeviceOptions()


# Agreement with the CPU


def results(*values: float) -> pa.RecordBatch:
    return batch(score=np.array(values, np.float32))


@pytest.mark.parametrize(
    ("expected", "found", "difference"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([0.5], [0.25], 0.25),
        ([100.0], [101.0], 0.01),
        ([-100.0], [-99.0], 0.01),
        ([np.nan, np.inf], [np.nan, np.inf], 0.0),
        ([1.0], [np.nan], np.inf),
        ([np.inf], [1e30], np.inf),
        ([np.inf], [-np.inf], np.inf),
    ],
)
def test_differences_are_relative_beyond_one(expected: Any, found: Any, difference: float) -> None:
    one, other = (pa.array(values, pa.float64()) for values in (expected, found))
    assert largest_difference(one, other) == pytest.approx(difference)


def test_labels_must_be_equal_and_lists_are_compared_by_value() -> None:
    assert largest_difference(pa.array([1, 2]), pa.array([1, 2])) == 0
    assert largest_difference(pa.array([1, 2]), pa.array([1, 3])) == np.inf
    kind = pa.list_(pa.float32(), 2)
    assert largest_difference(pa.array([[1, 2]], kind), pa.array([[1, 2.5]], kind)) == pytest.approx(0.25)


@pytest.fixture
def gpu_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pretend_gpu(monkeypatch, tmp_path / "cache")


def test_a_gpu_that_agrees_is_asked_once(bench: Bench, gpu_here: None) -> None:
    scorer = bench.scorer(identity(F32, ["N"]), batch(x=np.arange(64.0)))
    gpu = scorer.moved(DeviceOptions())
    some = batch(x=np.arange(500.0))
    assert gpu.score(some).equals(scorer.score(some))
    assert gpu.told() == {"name": "Pretend (cuda)", "batch_rows": gpu.call_rows(), "notes": []}
    assert gpu._agreement is None


def test_a_gpu_that_computes_something_else_is_found_out_before_a_row_is_kept(
    bench: Bench, gpu_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, wrong = (
        graph(
            [node("Mul", ["x", "by"], ["y"])],
            {"x": (F32, ["N"])},
            {"y": (F32, ["N"])},
            {"by": np.array([by], np.float32)},
        )
        for by in (1, 1.01)
    )
    scorer = bench.scorer(model, batch(x=np.arange(64.0)))
    path = bench.write(wrong, "wrong.onnx")
    monkeypatch.setattr(_session, "_gpu_session", lambda o, _, s, d: cpu_session(o, path, s, d))
    gpu = scorer.moved(DeviceOptions())
    some = batch(x=np.arange(100.0))
    for _ in range(2):
        with pytest.raises(ModelError, match=r"'y' differs by 0\.01 in one of the first 64 rows"):
            gpu.score(some)
    assert gpu.score(batch(x=pa.array([], pa.float64()))).num_rows == 0
    lenient = scorer.moved(DeviceOptions(tolerance=0.02))
    assert lenient.score(some).column("y").to_pylist()[1] == pytest.approx(1.01)


def test_rows_that_one_of_them_refuses_are_left_out_of_the_comparison() -> None:
    from batchinfer.core import Reason, Refusals

    def refusing(rows: Any, *values: float) -> Any:
        places = np.array(rows, np.int64)
        refused = Refusals(places, np.zeros(len(places), np.int32), (Reason("bad"),))
        return lambda _: (results(*values), refused)

    four = results(1, 2, 3, 4)
    agrees = Agreement(refusing([0], 2, 3, 4), refusing([2], 1, 2, 4), CPU, 1e-3)
    assert agrees.check(four)
    differs = Agreement(refusing([0], 2, 3, 4), refusing([2], 1, 2, 5), CPU, 1e-3)
    with pytest.raises(ModelError, match=r"'score' differs by 0\.25"):
        differs.check(four)
    none_left = Agreement(refusing([0, 1, 2, 3]), refusing([0, 1, 2, 3]), CPU, 1e-3)
    assert not none_left.check(four)
    assert ROWS >= 4


def test_a_model_without_kernels_goes_to_the_cpu_only_where_nobody_asked_for_a_gpu(
    bench: Bench, gpu_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_kernel(*_: Any) -> Any:
        raise DeviceUnavailable(
            "TreeEnsembleRegressor would run on the CPU", operators=["TreeEnsembleRegressor"]
        )

    scorer = bench.scorer(identity(F32, ["N"]), batch(x=np.arange(64.0)))
    monkeypatch.setattr(_session, "_gpu_session", no_kernel)
    chosen = scorer.moved(DeviceOptions())
    assert chosen.told() == {"name": "cpu", "notes": ["TreeEnsembleRegressor would run on the CPU"]}
    for asked, assigned in ((DeviceOptions(device="cuda"), None), (DeviceOptions(), "0")):
        with pytest.raises(DeviceUnavailable):
            scorer.moved(asked, assigned)
        allowed = DeviceOptions(device=asked.device, fallback="cpu")
        assert "engine.fallback" in scorer.moved(allowed, assigned).told()["notes"][0]


def test_a_gpu_whose_libraries_are_missing_is_an_error_even_where_nobody_asked(
    bench: Bench, gpu_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_library(*_: Any) -> Any:
        raise DeviceUnavailable("cannot load cuda: libcublas.so.13")

    scorer = bench.scorer(identity(F32, ["N"]), batch(x=np.arange(64.0)))
    monkeypatch.setattr(_session, "_gpu_session", no_library)
    with pytest.raises(DeviceUnavailable, match=r"libcublas\.so\.13"):
        scorer.moved(DeviceOptions())


def test_the_cpu_shares_the_session_that_is_open(bench: Bench) -> None:
    scorer = bench.scorer(identity(F32, ["N"]), batch(x=np.arange(64.0)))
    moved = scorer.moved(DeviceOptions(device="cpu"))
    assert isinstance(moved, Scorer)
    assert moved._scorer is scorer._scorer
    assert moved.told() == {"name": "cpu", "notes": []}
