"""Pipelines whose results go to PostgreSQL: what the commands say of them is what they say of any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner
from tests.postgres import execute, table_path

from batchinfer.cli import main
from batchinfer.errors import SpecError, StoreError
from batchinfer.runs import explain, open_quarantine, open_results, read_drift, run
from batchinfer.spec import load_spec


@pytest.fixture
def spec_file(pipeline: Any, rows: Any, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BATCHINFER_STAGING", str(pipeline.root / "staging"))
    pipeline.write_input(with_hole(rows(0, 500)))
    output = {"store": "postgres", "path": table_path(postgres_url, pipeline.root), "partition_by": ["ds"]}
    written: Path = pipeline.write_spec(output={**output, "carry": ["note"]}, drift={})
    return written


def with_hole(table: pa.Table) -> pa.Table:
    x0 = [None, *table["x0"].to_pylist()[1:]]
    return table.set_column(1, "x0", pa.array(x0, pa.float32()))


def test_a_run_is_explained_told_swept_and_measured(spec_file: Path, pipeline: Any) -> None:
    report = run(load_spec(spec_file), {"ds": "d1"})
    assert (report.rows.scored, report.rows.quarantined) == (499, 1)
    (explained,) = explain(load_spec(spec_file), {"id": "17"}, {"ds": "d1"})
    assert explained.bit_exact
    assert explained.stored["score"] == explained.rescored["score"]
    said = {
        command: CliRunner().invoke(main, [*command.split(), str(spec_file), *arguments])
        for command, arguments in {
            "results history": ["--json"],
            "results sweep": ["--older-than-hours", "0"],
            "drift": ["--json"],
        }.items()
    }
    assert {result.exit_code for result in said.values()} == {0}, [result.output for result in said.values()]
    (commit,) = json.loads(said["results history"].stdout)
    assert (commit["run_id"], commit["version"]) == (report.run_id, report.table_version)
    assert report.run_id in said["drift"].stdout
    assert not list((pipeline.root / "staging").rglob("*.parquet")), (
        "what is in the table is not kept as files too"
    )


def test_a_rerun_finds_its_rows_and_does_nothing(spec_file: Path) -> None:
    first = run(load_spec(spec_file), {"ds": "d1"})
    again = run(load_spec(spec_file), {"ds": "d1"})
    assert again.table_version == first.table_version
    assert again.rows_per_second == 0


def test_the_quarantine_takes_inputs_with_new_columns(spec_file: Path, pipeline: Any, rows: Any) -> None:
    run(load_spec(spec_file), {"ds": "d1"})
    more = with_hole(rows(500, 100)).append_column("seat", pa.array(["12a"] * 100))
    pipeline.write_input(more, ds="d2")
    run(load_spec(spec_file), {"ds": "d2"})
    spec = load_spec(spec_file)
    held = open_quarantine(spec, spec.output.path).dataset().to_table(["ds", "id", "seat"]).sort_by("ds")
    assert held.to_pylist() == [{"ds": "d1", "id": 0, "seat": None}, {"ds": "d2", "id": 500, "seat": "12a"}]


@pytest.mark.parametrize(
    ("missing", "tables"), [("quarantine", ("", "_commits", "_fence")), ("drift", ("",))]
)
def test_a_role_that_may_not_make_a_table_is_told_before_any_work(
    spec_file: Path, pipeline: Any, rows: Any, postgres_url: str, missing: str, tables: tuple[str, ...]
) -> None:
    pipeline.write_input(rows(0, 100), ds="d2")
    table = load_spec(spec_file).output.path.partition("#")[2]
    execute(
        postgres_url,
        "CREATE ROLE looker LOGIN",
        "ALTER DEFAULT PRIVILEGES GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO looker",
    )
    try:
        run(load_spec(spec_file), {"ds": "d2"})  # none of these rows is refused
        spec = load_spec(
            spec_file, **{"output.path": table_path(postgres_url, pipeline.root).replace("batch@", "looker@")}
        )
        execute(postgres_url, *(f"DROP TABLE {table}_{missing}{beside}" for beside in tables))
        with pytest.raises(StoreError, match="looker lacks CREATE on the schema") as refused:
            run(spec, {"ds": "d1"})
        assert "docs/postgres.md" in refused.value.next_step
        assert f"{table.removeprefix('public.')}_{missing}" in refused.value.message
        assert refused.value.fields["report"].rows.read == 0, "no row was scored for nothing"
        execute(postgres_url, *refused.value.fields["statements"])
        assert run(spec, {"ds": "d1"}).rows.quarantined == 1
        assert open_quarantine(spec, spec.output.path).dataset().count_rows() == 1
        drift = read_drift(spec.output.path)
        assert drift is not None and "d1" in "".join(drift["parameters"].to_pylist())
        execute(postgres_url, f"REVOKE INSERT ON {table}_drift FROM looker")
        with pytest.raises(StoreError, match=r"lacks INSERT on .*_drift"):
            run(spec, {"ds": "d2"})
    finally:
        execute(postgres_url, "DROP OWNED BY looker", "DROP ROLE looker")


def test_the_first_run_of_a_role_that_may_makes_the_quarantine_for_those_that_may_not(
    spec_file: Path, pipeline: Any, rows: Any
) -> None:
    pipeline.write_input(rows(0, 100), ds="d2")
    spec = load_spec(spec_file)
    assert run(spec, {"ds": "d2"}).rows.quarantined == 0
    assert open_quarantine(spec, spec.output.path).dataset().count_rows() == 0
    assert run(spec, {"ds": "d1"}).rows.quarantined == 1


def test_upserted_keys_can_be_looked_up(spec_file: Path, pipeline: Any, rows: Any, postgres_url: str) -> None:
    upsert = {"output.mode": "upsert"}
    run(load_spec(spec_file, **upsert), {"ds": "d1"})
    pipeline.write_input(rows(400, 200), ds="d2")
    second = run(load_spec(spec_file, **upsert), {"ds": "d2"})
    spec = load_spec(spec_file, **upsert)
    table = open_results(spec, spec.output.path)
    assert table.dataset().count_rows() == 599
    (explained,) = explain(spec, {"id": "450"})
    assert explained.run_id == second.run_id
    name = spec.output.path.partition("#")[2]
    with pytest.raises(Exception, match="duplicate key"):
        execute(postgres_url, f"INSERT INTO {name} SELECT * FROM {name} WHERE id = 450")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"output.path": "postgresql://me:hunter2@host/db#t"}, "states a password"),
        ({"output.path": "postgresql://host/db"}, "names no table"),
        ({"output.path": "results/scores"}, "goes with output.store: postgres"),
        ({"output.store": "delta"}, "goes with output.store: postgres"),
        (
            {"output.store": "delta", "output.path": "x", "output.mode": "upsert"},
            "needs output.store: postgres",
        ),
    ],
)
def test_a_spec_that_contradicts_itself_is_refused(
    spec_file: Path, overrides: dict[str, str], said: str
) -> None:
    with pytest.raises(SpecError, match=said) as refused:
        load_spec(spec_file, **overrides)
    assert "hunter2" not in str(refused.value)
