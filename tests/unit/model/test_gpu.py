"""Scoring on lanes: bound buffers, calls of one size, a batch that is halved, and no row lost.

ONNX Runtime's own API is used throughout, with the CPU as the device: its `OrtValue`s, `IOBinding` and bound
outputs are the same calls that a GPU gets. What a GPU alone does, to run out of memory or to fail, is faked.
The tests at the end need a GPU.
"""

from __future__ import annotations

import gc
import json
import logging
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
from tests.unit.model.graphs import (
    BOOL,
    F16,
    F32,
    F64,
    I64,
    TEXT,
    Bench,
    batch,
    bits,
    graph,
    identity,
    lookup,
    mlp,
    node,
    refused,
)

from batchinfer.core import Refusals
from batchinfer.errors import DeviceUnavailable, ModelError
from batchinfer.model import DeviceOptions, Scorer, _gpu
from batchinfer.model._cuda import Runtime, visible_gpus
from batchinfer.model._devices import CPU, Device, cache_folder
from batchinfer.model._session import OutOfDeviceMemory, Session, SessionRunError, available_providers

RANDOM = np.random.default_rng(5)
PACK = {"inputs": {"x": {"pack": ["a", "b", "c"]}}}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BATCHINFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_gpu, "SIZES", (4, 16, 64))
    return tmp_path / "cache" / "batch-sizes"


def features(rows: int) -> pa.RecordBatch:
    return batch(**{name: RANDOM.normal(size=rows).astype(np.float32) for name in "abc"})


def on_lanes(scorer: Scorer) -> Scorer:
    """The same model, on lanes whose device is the CPU."""
    copy = Scorer.of(scorer.bundle)
    copy._scorer.run_on(CPU, scorer.bundle.manifest.digest)
    return copy


def reasons(refusals: Refusals) -> dict[int, str]:
    """The reasons by row, without the number of ONNX Runtime's error, which bound calls do not tell."""
    return {row: reason.partition("Non-zero")[2] or reason for row, reason in refused(refusals).items()}


def close(found: pa.RecordBatch, expected: pa.RecordBatch) -> bool:
    assert found.schema == expected.schema
    return all(
        np.allclose(
            np.array(f.to_pylist(), np.float64),
            np.array(e.to_pylist(), np.float64),
            1e-5,
            1e-6,
            equal_nan=True,
        )
        for f, e in zip(found.columns, expected.columns, strict=True)
    )


@pytest.mark.parametrize("rows", [1, 2, 63, 64, 65, 1000, 20_000])
def test_lanes_give_every_row_its_own_score(bench: Bench, rows: int) -> None:
    scorer = bench.scorer(mlp(), features(100), PACK)
    lanes = on_lanes(scorer)
    some = features(rows)
    assert close(lanes.score(some), scorer.score(some))
    assert close(lanes.score(some), scorer.score(some))  # the buffers hold another call's rows now


def test_rows_lie_in_memory_as_they_were_read(bench: Bench) -> None:
    lanes = on_lanes(bench.scorer(identity(F32, ["N", 3]), features(100), PACK))
    some = features(9000)
    found = lanes.score(some)
    packed = np.column_stack([some.column(name).to_numpy() for name in "abc"])
    assert np.array_equal(np.column_stack([column.to_numpy() for column in found.columns]), packed)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (F16, np.arange(300, dtype=np.float16)),
        (F64, np.arange(300.0)),
        (I64, np.arange(300)),
        (BOOL, np.arange(300) % 3 == 0),
    ],
)
def test_every_type_of_number_travels(bench: Bench, kind: int, values: Any) -> None:
    lanes = on_lanes(bench.scorer(identity(kind, ["N"]), batch(x=values[:20])))
    assert np.array_equal(lanes.score(batch(x=values)).column(0).to_numpy(zero_copy_only=False), values)


def test_constants_and_lists_of_any_length_travel(bench: Bench) -> None:
    """The sum of each list times a constant: its width differs from call to call, and the output's with it."""
    model = graph(
        [
            node("Mul", ["ids", "mask"], ["real"]),
            node("Mul", ["real", "by"], ["times"]),
            node("ReduceSum", ["times", "axis"], ["sum"], keepdims=0),
        ],
        {"ids": (F32, ["N", "T"]), "mask": (F32, ["N", "T"]), "by": (F32, [])},
        {"sum": (F32, ["N"])},
        {"axis": np.array([1])},
    )
    config = {
        "inputs": {
            "ids": {"column": "ids", "pad": 9, "max": 40},
            "mask": {"mask_of": "ids"},
            "by": {"constant": 3.0},
        }
    }
    lists = [[float(i)] * (i % 37) for i in range(500)]
    column = pa.array(lists, pa.list_(pa.float32()))
    scorer = bench.scorer(model, {"ids": column}, config)
    found = on_lanes(scorer).score(batch(ids=column))
    assert found.column("sum").to_pylist() == [3.0 * sum(each) for each in lists]


def test_an_output_whose_shape_the_graph_leaves_open(bench: Bench) -> None:
    model = graph(
        [node("Concat", ["x", "x"], ["wide"], axis=1)], {"x": (F32, ["N", 3])}, {"wide": (F32, ["N", "K"])}
    )
    scorer = bench.scorer(model, features(100), PACK)
    some = features(333)
    assert bits(on_lanes(scorer).score(some)) == bits(scorer.score(some))


def test_a_graph_with_a_fixed_batch_is_called_in_its_size(bench: Bench) -> None:
    scorer = bench.scorer(identity(F32, [8, 3]), features(100), PACK)
    lanes = on_lanes(scorer)
    some = features(27)
    assert bits(lanes.score(some)) == bits(scorer.score(some))
    assert lanes.call_rows() == 8


def test_rows_that_cannot_be_scored_are_found_on_lanes_too(bench: Bench) -> None:
    scorer = bench.scorer(lookup(), batch(i=np.arange(5)))
    some = batch(i=pa.array([99 if i % 50 == 7 else None if i % 50 == 9 else i % 5 for i in range(1000)]))
    expected, expected_refused = scorer.score_rows(some)
    found, found_refused = on_lanes(scorer).score_rows(some)
    assert bits(found) == bits(expected)
    assert reasons(found_refused) == reasons(expected_refused)
    assert len(found_refused) == 40


def test_many_threads_share_two_lanes(bench: Bench) -> None:
    scorer = bench.scorer(identity(F32, ["N", 3]), features(100), PACK)
    lanes = on_lanes(scorer)
    batches = [features(200 + 31 * i) for i in range(24)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lanes.score, batches))
    assert [bits(each) for each in found] == [bits(scorer.score(each)) for each in batches]


def test_one_block_is_packed_while_another_is_computed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    lanes = on_lanes(bench.scorer(identity(F32, ["N", 3]), features(100), PACK))
    lanes.score(features(64))
    both = threading.Barrier(2, timeout=20)
    run = Session.run_bound

    def meeting(self: Session, binding: Any) -> None:
        both.wait()  # passes only if two calls are under way at once
        run(self, binding)

    monkeypatch.setattr(Session, "run_bound", meeting)
    lanes.score(features(4 * lanes.call_rows()))


def test_stopping_between_blocks_leaves_none_at_work(bench: Bench) -> None:
    lanes = on_lanes(bench.scorer(identity(F32, ["N", 3]), features(100), PACK))
    some = features(5000)
    expected = bits(lanes.score(some))

    def stop(function: Any, tasks: Any) -> Any:
        function(next(iter(tasks)))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lanes.score_rows(some, stop)
    assert bits(lanes.score(some)) == expected


# The batch size


def test_the_batch_size_is_measured_once_and_remembered(
    bench: Bench, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = bench.scorer(mlp(), features(100), PACK)
    first = on_lanes(scorer)
    assert first.call_rows() == 0
    first.score(features(10))
    (file,) = cache.iterdir()
    kept = json.loads(file.read_text())
    assert kept["batch_rows"] == first.call_rows()
    assert kept["model"] == scorer.bundle.manifest.digest
    assert set(map(int, kept["rows_per_second"])) == {4, 16, 64}

    def never(*_: Any) -> Any:
        raise AssertionError("it was measured already")

    monkeypatch.setattr(_gpu, "sweep", never)
    again = on_lanes(scorer)
    again.score(features(10))
    assert again.call_rows() == first.call_rows()


def test_another_model_is_measured_for_itself(bench: Bench, cache: Path) -> None:
    for seed in (1, 2):
        on_lanes(bench.scorer(mlp(seed=seed), features(100), PACK)).score(features(5))
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"batch_rows": "x"}', '{"batch_rows": -1}', "\x00"])
def test_a_damaged_memory_costs_a_measurement_only(bench: Bench, cache: Path, content: str) -> None:
    scorer = bench.scorer(mlp(), features(100), PACK)
    on_lanes(scorer).score(features(10))
    (file,) = cache.iterdir()
    file.write_text(content)
    lanes = on_lanes(scorer)
    lanes.score(features(10))
    assert json.loads(file.read_text())["batch_rows"] == lanes.call_rows()


def test_where_nothing_can_be_remembered_scoring_goes_on(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BATCHINFER_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        on_lanes(bench.scorer(mlp(), features(100), PACK)).score(features(10))
    assert "BATCHINFER_CACHE" in caplog.text


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BATCHINFER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "batchinfer"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "batchinfer"


# Memory


class _Small:
    """ONNX Runtime's session, on a device whose memory ends at so many rows a call."""

    MESSAGE = (
        "Error in execution: Non-zero status code returned while running Gemm node. Name:'' Status Message: "
        "bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal Failed to allocate memory for "
        "requested buffer of size 939524096"
    )

    def __init__(self, real: Any, most_rows: int) -> None:
        self.real, self.most_rows, self.refused = real, most_rows, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def run_with_iobinding(self, binding: Any) -> None:
        self.real.run_with_iobinding(binding)
        if max(len(value.numpy()) for value in binding.get_outputs()) > self.most_rows:
            self.refused += 1
            raise RuntimeError(self.MESSAGE)


def cramped(scorer: Scorer, most_rows: int) -> tuple[Scorer, _Small]:
    lanes = on_lanes(scorer)
    small = _Small(lanes._scorer.session._session, most_rows)
    lanes._scorer.session._session = small
    return lanes, small


def test_the_measurement_ends_where_the_memory_does(bench: Bench, cache: Path) -> None:
    scorer = bench.scorer(identity(F32, ["N", 3]), features(100), PACK)
    lanes, small = cramped(scorer, 20)
    some = features(500)
    assert bits(lanes.score(some)) == bits(scorer.score(some))
    assert lanes.call_rows() in {4, 16}
    assert small.refused == 1
    (file,) = cache.iterdir()
    assert set(json.loads(file.read_text())["rows_per_second"]) == {"4", "16"}


def test_a_batch_that_is_too_large_is_halved_remembered_and_reported(bench: Bench, cache: Path) -> None:
    scorer = bench.scorer(identity(F32, ["N", 3]), features(100), PACK)
    on_lanes(scorer).score(features(100))
    (file,) = cache.iterdir()
    file.write_text(json.dumps({"batch_rows": 64}))  # there was more memory then
    lanes, _ = cramped(scorer, 20)
    some = features(1000)
    assert bits(lanes.score(some)) == bits(scorer.score(some))
    assert lanes.call_rows() == 16
    kept = json.loads(file.read_text())
    assert (kept["batch_rows"], kept["halved_from"]) == (16, 32)
    assert lanes.told()["batch_rows"] == 16
    assert [note.split(" rows")[0] for note in lanes.told()["notes"]] == ["64", "32"]

    later, small = cramped(scorer, 20)
    later.score(some)
    assert (later.call_rows(), small.refused) == (16, 0)


def test_halving_under_many_threads_loses_no_row(bench: Bench, cache: Path) -> None:
    scorer = bench.scorer(lookup(), batch(i=np.arange(5)))
    lanes, _ = cramped(scorer, 3)
    lanes._scorer.gpu._rows = 64  # type: ignore[union-attr]
    batches = [
        batch(i=pa.array([99 if (i + k) % 40 == 7 else (i + k) % 5 for i in range(700)])) for k in range(16)
    ]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lanes.score_rows, batches))
    for some, (results, refusals) in zip(batches, found, strict=True):
        expected, expected_refusals = scorer.score_rows(some)
        assert bits(results) == bits(expected)
        assert reasons(refusals) == reasons(expected_refusals)
    assert lanes.call_rows() == 2
    assert len(lanes.told()["notes"]) == 5


def test_memory_may_end_at_the_buffers_already(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = bench.scorer(identity(F32, ["N", 3]), features(100), PACK)
    allocate = Session.device_tensor

    def scarce(self: Session, shape: Any, dtype: Any) -> Any:
        if shape[0] > 5:
            raise OutOfDeviceMemory("CUDA failure 2: out of memory")
        return allocate(self, shape, dtype)

    monkeypatch.setattr(Session, "device_tensor", scarce)
    some = features(200)
    lanes = on_lanes(scorer)
    assert bits(lanes.score(some)) == bits(scorer.score(some))
    assert lanes.call_rows() == 4


def test_where_not_even_a_row_fits_the_error_says_so(bench: Bench) -> None:
    lanes, _ = cramped(bench.scorer(identity(F32, ["N", 3]), features(100), PACK), 0)
    with pytest.raises(OutOfDeviceMemory, match="Failed to allocate") as caught:
        lanes.score(features(10))
    assert "gpu_mem_limit" in caught.value.next_step


def test_a_fixed_batch_cannot_be_halved(bench: Bench) -> None:
    lanes, _ = cramped(bench.scorer(identity(F32, [8, 3]), features(100), PACK), 7)
    with pytest.raises(OutOfDeviceMemory):
        lanes.score(features(10))


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (
            "BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 1",
            OutOfDeviceMemory,
        ),
        ("bfc_arena.cc: Available memory of 0 is smaller than requested bytes of 4194304", OutOfDeviceMemory),
        ("CUDA failure 2: out of memory ; GPU=0 ; hostname=h ; file=cuda_allocator.cc", OutOfDeviceMemory),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0", OutOfDeviceMemory),
        ("CUDA failure 719: unspecified launch failure ; GPU=0", DeviceUnavailable),
        ("CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED ; GPU=0", DeviceUnavailable),
        ("Gather_1: indices element out of data bounds, idx=99", SessionRunError),
    ],
)
def test_what_failed_is_told_by_its_words(bench: Bench, said: str, kind: type[ModelError]) -> None:
    """A GPU that fails must not look like rows that cannot be scored."""
    lanes = on_lanes(bench.scorer(mlp(), features(100), PACK))
    session = lanes._scorer.session

    class Failing(_Small):
        def run_with_iobinding(self, binding: Any) -> None:
            raise RuntimeError(f"Error in execution: {said}")

    session._session = Failing(session._session, 0)
    with pytest.raises(ModelError) as caught:
        session.run_bound(session.binding())
    assert type(caught.value) is kind


def test_a_failing_gpu_ends_the_run_and_quarantines_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    lanes = on_lanes(bench.scorer(mlp(), features(100), PACK))
    lanes.score(features(10))

    def fail(self: Session, binding: Any) -> None:
        raise DeviceUnavailable("CUDA failure 719")

    monkeypatch.setattr(Session, "run_bound", fail)
    with pytest.raises(DeviceUnavailable, match="719"):
        lanes.score_rows(features(5000))


def test_buffers_lie_on_pages_and_go_with_their_last_view() -> None:
    runtime = Runtime(None, "")
    tensor = runtime.buffer((100, 3), np.dtype(np.float32))
    assert tensor.shape == (100, 3) and tensor.ctypes.data % 4096 == 0 and tensor.flags.writeable
    gone = weakref.ref(tensor.base)
    view = tensor[5:]
    del tensor
    gc.collect()
    assert gone() is not None
    del view
    gc.collect()
    assert gone() is None


def test_without_cudas_runtime_memory_is_ordinary_and_that_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        runtime = Runtime(0, "0.0")
    runtime.enter()
    assert runtime.buffer((3,), np.dtype(np.int64)).shape == (3,)
    assert "page-locked" in caplog.text


def test_a_model_of_texts_has_no_place_on_a_gpu(bench: Bench) -> None:
    scorer = bench.scorer(identity(TEXT, ["N"]), batch(x=["a", "b"]))
    with pytest.raises(DeviceUnavailable, match="text"):
        on_lanes(scorer)


# ONNX Runtime falls back to the CPU silently


def test_a_session_that_silently_fell_back_is_refused(bench: Bench) -> None:
    """The installed ONNX Runtime has no CUDA here, or no GPU: it gives a session on the CPU, and says nothing."""
    path = bench.write(mlp())
    with pytest.raises(DeviceUnavailable, match=r"cannot load (cuda|the model there)"):
        _open_without_cuda(path, Device("no such GPU", 99, (("cuda", ()),)))


def _open_without_cuda(path: Path, device: Device) -> None:
    if "CUDAExecutionProvider" in available_providers():
        Session(path, device)
        return
    with pytest.warns(UserWarning, match="not in available provider names"):
        Session(path, device)


class _PretendCuda:
    """ONNX Runtime whose sessions hold CUDA, and do what they are told to on the CPU."""

    __version__ = "1"

    def __init__(self) -> None:
        import onnxruntime

        self.real = onnxruntime
        self.asked: list[Any] = []

    def preload_dlls(self) -> None:
        print("Failed to load libcublas.so")

    def InferenceSession(self, path: str, *, providers: Any, **options: Any) -> Any:  # noqa: N802
        self.asked = providers
        session = self.real.InferenceSession(path, providers=["CPUExecutionProvider"], **options)
        session.get_providers = lambda: [name for name, _ in providers]
        return session


def open_pretended(path: Path, device: Device) -> _PretendCuda:
    from batchinfer.model import _session

    pretend = _PretendCuda()
    _session._gpu_session(pretend, path, pretend.real.SessionOptions(), device)
    return pretend


def test_a_graph_whose_work_would_be_done_on_the_cpu_is_refused(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DeviceUnavailable, match="Gemm, Relu of this model would run on the CPU") as caught:
        open_pretended(bench.write(mlp()), Device("GPU", 0, (("cuda", ()),)))
    assert caught.value.fields["operators"] == ["Gemm", "Relu"]
    assert not capsys.readouterr().out


def test_reckoning_with_shapes_may_stay_on_the_cpu(bench: Bench) -> None:
    model = graph(
        [node("Shape", ["x"], ["s"]), node("Expand", ["one", "s"], ["y"])],
        {"x": (F32, ["N", 3])},
        {"y": (F32, ["N", 3])},
        {"one": np.ones((1, 1), np.float32)},
    )
    stated = (("gpu_mem_limit", "1000"), ("use_tf32", "1"))
    pretend = open_pretended(bench.write(model), Device("GPU", 3, (("tensorrt", ()), ("cuda", stated))))
    (tensorrt, tensorrt_options), (cuda, options) = pretend.asked
    assert (tensorrt, cuda) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    assert tensorrt_options["device_id"] == options["device_id"] == "3"
    assert options["gpu_mem_limit"] == "1000"
    assert options["use_tf32"] == "1"
    assert options["cudnn_conv_algo_search"] == "HEURISTIC"


# On a GPU

needs_gpu = pytest.mark.skipif(
    "CUDAExecutionProvider" not in available_providers() or not visible_gpus(),
    reason="needs a GPU, its driver and onnxruntime-gpu",
)


def deep(width: int = 3, hidden: int = 2048) -> onnx.ModelProto:
    return mlp(width, hidden)


@needs_gpu
def test_a_gpu_agrees_with_the_cpu(bench: Bench) -> None:
    scorer = bench.scorer(deep(), features(100), PACK)
    gpu = scorer.moved(DeviceOptions(device="cuda"))
    some = features(10_000)
    assert close(gpu.score(some), scorer.score(some))
    assert gpu.told()["name"] == f"{visible_gpus()[0].name} (cuda)"


@needs_gpu
def test_a_gpu_gives_the_same_bits_again(bench: Bench) -> None:
    scorer = bench.scorer(deep(), features(100), PACK)
    some = features(10_000)
    first, second = (scorer.moved(DeviceOptions(device="cuda")).score(some) for _ in range(2))
    assert bits(first) == bits(second)


@needs_gpu
def test_a_gpus_memory_limit_halves_the_batch(bench: Bench, cache: Path) -> None:
    scorer = bench.scorer(deep(), features(100), PACK)
    limit = ("cuda", (("gpu_mem_limit", str(64 * 1024 * 1024)),))
    gpu = scorer.moved(DeviceOptions(device="cuda", providers=(limit,)))
    gpu._scorer.gpu._rows = 131_072  # type: ignore[union-attr]
    some = features(200_000)
    assert close(gpu.score(some), scorer.score(some))
    assert gpu.told()["notes"]
    assert gpu.call_rows() < 131_072


@needs_gpu
def test_trees_are_refused_by_a_gpu(bench: Bench) -> None:
    model = graph(
        [node("Normalizer", ["x"], ["y"], domain="ai.onnx.ml", norm="L2")],
        {"x": (F32, ["N", 3])},
        {"y": (F32, ["N", 3])},
    )
    scorer = bench.scorer(model, features(100), PACK)
    with pytest.raises(DeviceUnavailable, match="Normalizer"):
        scorer.moved(DeviceOptions(device="cuda"))
    assert "Normalizer" in scorer.moved(DeviceOptions()).told()["notes"][0]
