"""`batchinfer.spark.score`: the bits that a run writes, for rows that are in a DataFrame."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from batchinfer import Scorer
from batchinfer.engines import open_engine
from batchinfer.errors import InputError, ModelError, UsageError
from batchinfer.spec import EngineSpec

pytestmark = [
    pytest.mark.skipif(
        shutil.which("java") is None and "JAVA_HOME" not in os.environ,
        reason="Spark needs Java, and there is none",
    ),
]
FEATURES = ["x0", "x1", "x2"]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("classic", marks=pytest.mark.xdist_group("spark-local")),
        pytest.param("connect", marks=pytest.mark.xdist_group("spark-connect")),
    ],
)
def session(request: pytest.FixtureRequest) -> Iterator[Any]:
    options: dict[str, Any] = {"master": "local[2]", "conf": {"spark.ui.enabled": False}}
    if request.param == "connect":
        options = {"remote": request.getfixturevalue("connect_server")}
    with open_engine(EngineSpec.model_validate({"kind": "spark", **options})) as engine:
        yield engine.session  # type: ignore[attr-defined]


@pytest.fixture
def table(rows: Callable[[int, int], pa.Table]) -> pa.Table:
    return rows(0, 3_000)


def test_scores_are_those_of_the_model_bit_for_bit(session: Any, registry: str, table: pa.Table) -> None:
    from batchinfer import spark

    scored = spark.score(session.createDataFrame(table), model="linear@champion", registry=registry)
    assert scored.columns == [*table.column_names, "score", "_reason"]
    found = scored.toArrow().sort_by("id")
    assert found.select(table.column_names).equals(table)
    expected = Scorer.load(f"{registry}/linear/1").score(table.combine_chunks().to_batches()[0])
    assert found["score"].combine_chunks().equals(expected.column("score"))
    assert found["_reason"].null_count == table.num_rows


def test_rows_that_cannot_be_scored_say_why(session: Any, registry: str, table: pa.Table) -> None:
    from batchinfer import spark

    holes = table.set_column(
        1, "x0", pa.array([None if i % 3 == 0 else 1.0 for i in range(3_000)], pa.float32())
    )
    df = session.createDataFrame(holes)
    found = spark.score(df, model="linear@champion", registry=registry).toArrow().sort_by("id")
    for row in found.slice(0, 6).to_pylist():
        refused = row["id"] % 3 == 0
        assert (row["score"] is None) is refused
        assert (row["_reason"] is not None) is refused
    assert found["score"].null_count == 1_000 == 3_000 - found["_reason"].null_count
    with pytest.raises(Exception, match="cannot be scored"):
        spark.score(df, model="linear@champion", registry=registry, on_refused="raise").toArrow()


def test_what_cannot_work_is_said_before_a_job(
    session: Any, registry: str, table: pa.Table, tmp_path: Path
) -> None:
    from batchinfer import spark

    df = session.createDataFrame(table)
    with pytest.raises(InputError, match="no column 'x1'"):
        spark.score(df.drop("x1"), model="linear@champion", registry=registry)
    with pytest.raises(InputError, match="'score' already"):
        spark.score(df.withColumnRenamed("note", "SCORE"), model="linear@champion", registry=registry)
    with pytest.raises(ModelError):
        spark.score(df, model="linear@champion", registry=str(tmp_path))
    with pytest.raises(UsageError, match="found 'drop'"):
        spark.score(df, model="linear@champion", registry=registry, on_refused="drop")  # type: ignore[arg-type]


def test_a_relative_registry_is_the_drivers_wherever_the_workers_are(
    session: Any, registry: str, table: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    from batchinfer import spark

    monkeypatch.chdir(registry)
    scored = spark.score(session.createDataFrame(table), model="linear@champion", registry=".")
    monkeypatch.chdir("/")
    assert scored.filter("score IS NOT NULL").count() == table.num_rows
