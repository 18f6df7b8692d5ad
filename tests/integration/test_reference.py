"""`model add --reference`: what the bundle then knows of the training data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from batchinfer.drift import Reference, Thresholds, measure
from batchinfer.errors import DigestMismatch, InputError, UsageError
from batchinfer.model import PROFILE, REFERENCE, Bundle, Registry, Scorer
from batchinfer.runs import add_model

Add = Callable[..., Bundle]
SAMPLES = Path(__file__).parents[2] / "data" / "samples"
DAYS = 12


@pytest.fixture(scope="module")
def training(rows_of: Callable[[int, int], pa.Table]) -> pa.Table:
    """12 days of 1,000 rows, each warmer than the last, with a label and three rows that cannot be scored."""
    table = rows_of(0, DAYS * 1000)
    day = np.arange(table.num_rows) // 1000
    x2 = pa.array(np.sin(np.arange(table.num_rows)) + day, pa.float32())
    x2 = pc.if_else(pa.array(np.isin(np.arange(table.num_rows), [5, 17, 4000])), None, x2)
    table = table.set_column(table.schema.get_field_index("x2"), "x2", x2)
    return table.append_column("label", pa.array(day % 2 == 0)).append_column("day", pa.array(day))


@pytest.fixture(scope="module")
def rows_of() -> Callable[[int, int], pa.Table]:
    def rows(first: int, count: int) -> pa.Table:
        ids = np.arange(first, first + count)
        return pa.table(
            {
                "id": pa.array(ids),
                "x0": pa.array((ids % 97) / 7, pa.float32()),
                "x1": pa.array((ids % 31) / 3, pa.float32()),
                "x2": pa.array(np.sin(ids), pa.float32()),
            }
        )

    return rows


@pytest.fixture
def add(tmp_path: Path, rows_of: Callable[[int, int], pa.Table]) -> Add:
    """Adds a model that takes no nulls: score = 1 where x0 + 2 x1 - x2 > 0."""
    from onnx import TensorProto, helper, numpy_helper

    columns = ["x0", "x1", "x2"]
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["input", "w"], ["sum"]),
            helper.make_node("Greater", ["sum", "zero"], ["more"]),
            helper.make_node("Cast", ["more"], ["score"], to=TensorProto.FLOAT),
            helper.make_node("Cast", ["input"], ["whole"], to=TensorProto.INT32),
        ],
        "steps",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3])],
        [
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N", 1]),
            helper.make_tensor_value_info("whole", TensorProto.INT32, ["N", 3]),
        ],
        [
            numpy_helper.from_array(np.array([[1], [2], [-1]], np.float32), "w"),
            numpy_helper.from_array(np.array([0], np.float32), "zero"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    pq.write_table(rows_of(0, 64), tmp_path / "sample.parquet")

    def add(table: pa.Table | None = None, **arguments: Any) -> Bundle:
        if table is not None:
            pq.write_table(table, tmp_path / "training.parquet", row_group_size=700)
            arguments = {"reference": tmp_path / "training.parquet", **arguments}
        return add_model(
            "m",
            onnx=tmp_path / "model.onnx",
            sample=tmp_path / "sample.parquet",
            config={"inputs": {"input": {"pack": columns}}, "outputs": {"score": {"column": "score"}}},
            registry=str(tmp_path / "models"),
            **arguments,
        )

    return add


def read(bundle: Bundle) -> tuple[Reference, pa.Table]:
    profile, sample = bundle.read(PROFILE), bundle.read(REFERENCE)
    assert profile is not None and sample is not None
    return Reference.from_json(profile), pq.read_table(pa.BufferReader(sample))


def test_the_profile_is_of_all_rows_that_can_be_scored(add: Add, training: pa.Table) -> None:
    bundle = add(training, reference_by="day")
    reference, _ = read(bundle)
    assert (reference.rows, reference.group_column, reference.groups) == (DAYS * 1000 - 3, "day", DAYS)
    scorer = Scorer.of(bundle)
    features = training.drop_null().select(list(scorer.columns)).combine_chunks().to_batches()[0]
    whole = reference.profiler.profile(features, scorer.score(features))
    assert whole == reference.profile
    assert [each.column.name for each in reference.columns] == ["x0", "x1", "x2", "score"]


def test_a_reference_that_cannot_be_decoded_is_named(add: Add, training: pa.Table, tmp_path: Path) -> None:
    path = tmp_path / "damaged.parquet"
    pq.write_table(training, path, compression="snappy", use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[4:2000] = b"\x55" * 1996  # the head of the first page, and its first values
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"damaged\.parquet: cannot read the reference: "):
        add(reference=path)


def test_a_reference_with_views_is_that_with_plain_texts(add: Add, training: pa.Table) -> None:
    days = training["day"].cast(pa.string())
    plain = training.append_column("text", days)
    viewed = training.append_column("text", days.cast(pa.string_view()))
    assert read(add(viewed, reference_by="text")) == read(add(plain, reference_by="text"))


def test_a_day_of_the_reference_does_not_drift_and_one_beyond_its_days_does(
    add: Add, training: pa.Table
) -> None:
    bundle = add(training, reference_by="day")
    (reference, _), scorer = read(bundle), Scorer.of(bundle)

    def drifted(rows: pa.Table) -> set[str]:
        batch = rows.drop_null().combine_chunks().to_batches()[0]
        profile = reference.profiler.profile(batch, scorer.score(batch))
        return {n for n, c in measure(reference, profile, Thresholds()).columns.items() if c.drifted}

    for day in range(DAYS):
        assert drifted(training.slice(day * 1000, 1000)) == set()
    hot = training.set_column(3, "x2", pc.add(training["x2"], pa.scalar(30, pa.float32())))
    assert drifted(hot.slice(0, 1000)) == {"x2", "score"}
    ungrouped, _ = read(add(training))
    assert all(each.natural == 0 for each in ungrouped.columns)


def test_the_sample_has_5000_rows_of_the_file_with_their_scores(add: Add, training: pa.Table) -> None:
    bundle = add(training)
    _, sample = read(bundle)
    assert sample.num_rows == 5000
    assert sample.schema.names == ["id", "x0", "x1", "x2", "label", "day", "score"]
    ids = sample["id"].to_numpy()
    assert (np.diff(ids) > 0).all() and abs(ids.mean() - 6000) < 200
    assert sample.drop(["score"]).equals(training.take(sample["id"]))
    scored = Scorer.of(bundle).score(sample.combine_chunks().to_batches()[0])
    assert sample["score"].combine_chunks().equals(scored["score"])


def test_the_same_reference_gives_the_same_files_and_a_short_one_is_kept_whole(
    add: Add, training: pa.Table
) -> None:
    first, second = add(training), add(training)
    assert [first.read(f) for f in (PROFILE, REFERENCE)] == [second.read(f) for f in (PROFILE, REFERENCE)]
    _, sample = read(add(training.slice(100, 10)))
    assert sample["id"].to_pylist() == list(range(100, 110))


def test_a_bundle_without_a_reference_stays_valid(add: Add) -> None:
    bundle = add()
    assert bundle.read(PROFILE) is None and bundle.read(REFERENCE) is None
    Scorer.load(bundle.location)


def test_a_changed_profile_is_refused(add: Add, training: pa.Table) -> None:
    bundle = add(training.slice(0, 100))
    path = Path(bundle.location) / PROFILE
    path.write_bytes(path.read_bytes().replace(b"0", b"1", 1))
    with pytest.raises(DigestMismatch, match=r"'profile\.json' is not the file"):
        bundle.read(PROFILE)
    path.unlink()
    with pytest.raises(DigestMismatch, match=r"'profile\.json' is missing"):
        bundle.read(PROFILE)


def test_a_reference_that_cannot_be_used_is_refused_by_name(
    add: Add, training: pa.Table, tmp_path: Path
) -> None:
    unscorable = training.set_column(3, "x2", pa.nulls(training.num_rows, pa.float32()))
    refused: list[tuple[pa.Table | None, dict[str, Any], str]] = [
        (None, {"reference": tmp_path / "nothing.parquet"}, "cannot read the reference"),
        (None, {"reference": tmp_path / "model.onnx"}, "cannot read the reference"),
        (training.slice(0, 0), {}, "has no rows that the model can score"),
        (unscorable, {}, "has no rows that the model can score"),
        (training.drop(["x1"]), {}, r"training\.parquet: no column 'x1', which the model takes"),
        (training, {"reference_by": "days"}, "no column 'days' to group the reference by"),
        (training, {"reference_by": "id"}, "more than 10,000 values: it names rows, not groups"),
        (training.slice(0, 900), {"reference_by": "day"}, "1 groups of 100 rows or more, expected 2"),
        (training.slice(0, 90), {"reference_by": "day"}, "0 groups of 100 rows or more, expected 2"),
        (training.append_column("score", training["x0"]), {}, "'score' has the name of a prediction"),
    ]
    for table, arguments, message in refused:
        with pytest.raises(InputError, match=message):
            add(table, **arguments)
    with pytest.raises(UsageError, match="there is none"):
        add(reference_by="day")
    assert not list((tmp_path / "models").rglob("model.yaml"))


SAMPLE_THRESHOLDS = Thresholds(psi=0.2, drifted_columns=0.05)


@pytest.mark.parametrize("ds", sorted(path.name for path in (SAMPLES / "flights").glob("ds=*")))
def test_of_the_sample_days_those_of_july_drift_and_those_of_january_do_not(ds: str) -> None:
    scorer = Scorer.of(Registry(str(SAMPLES / "models")).resolve("flight-delay@champion"))
    reference, _ = read(scorer.bundle)
    (flights,) = pq.read_table(SAMPLES / "flights" / ds, partitioning=None).combine_chunks().to_batches()
    profile = reference.profiler.profile(flights, scorer.score(flights))
    report = measure(reference, profile, SAMPLE_THRESHOLDS)
    drifted = {name for name, column in report.columns.items() if column.drifted}
    assert (report.alarm, drifted) == ((True, {"temp"}) if ds.startswith("ds=2013-07") else (False, set()))
