"""Datasets are named as OpenLineage's conventions say, and no URL with a password is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchinfer.errors import SpecError
from batchinfer.spec import parse_spec
from batchinfer.telemetry._lineage import name_of


@pytest.mark.parametrize(
    ("location", "named"),
    [
        ("/data/flights", ("file", "/data/flights")),
        ("file:///data/flights/", ("file", "/data/flights")),
        ("s3://bucket/in/flights/", ("s3://bucket", "in/flights")),
        ("gs://bucket/in", ("gs://bucket", "in")),
        ("abfs://box@account.dfs.core.windows.net/in", ("abfss://box@account.dfs.core.windows.net", "/in")),
        ("hdfs://name:8020/in", ("hdfs://name:8020", "/in")),
        ("postgresql://me@db:5433/lake#mart.scores", ("postgres://db:5433", "lake.mart.scores")),
        ("postgresql://db/lake#scores", ("postgres://db:5432", "lake.public.scores")),
    ],
)
def test_a_location_has_a_namespace_and_a_name(location: str, named: tuple[str, str]) -> None:
    assert name_of(location) == named


def test_a_relative_path_is_named_from_the_root() -> None:
    assert name_of("results/scores") == ("file", str(Path.cwd() / "results" / "scores"))


@pytest.mark.parametrize(
    "section",
    [
        {"metrics": {"push_gateway": "https://me:secret@gate"}},
        {"lineage": {"url": "https://me:secret@lineage"}},
    ],
)
def test_a_password_in_a_url_is_refused_unrepeated(section: dict[str, dict[str, str]]) -> None:
    document = {
        "name": "p",
        "model": "m@1",
        "input": {"path": "in", "key": ["id"]},
        "output": {"path": "out"},
        **section,
    }
    with pytest.raises(SpecError, match="states a password") as refused:
        parse_spec(document, file=Path("pipeline.yaml"))
    assert "secret" not in str(refused.value)
