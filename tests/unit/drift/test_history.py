"""The history's rows say what the run's report says, and its summary says it in the order that matters."""

from __future__ import annotations

import json
import random
from datetime import timedelta

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.drift.histories import START, column, empty, report, run, two_months

from batchinfer.drift import HISTORY, history_rows, summarise


def test_a_run_adds_a_row_for_each_column_with_the_designed_types() -> None:
    found = report({"temp": column(0.5), "p": column(None, kind="prediction", mean=None)}, rows=7)
    rows = history_rows(run(3, ds="d1"), found)
    assert rows.schema == HISTORY
    first, second = rows.to_pylist()
    assert first == {
        **column(0.5),
        **{"run_id": "run0003", "pipeline": "flights", "parameters": '{"ds": "d1"}', "model": "delay@1"},
        **{"table_version": 3, "committed_at": START + timedelta(minutes=3), "column": "temp"},
        **{"rows": 7, "alarm": True, "drifted_columns": 1.0},
    }
    assert (second["kind"], second["psi"], second["mean"], second["drifted"]) == (
        "prediction",
        None,
        None,
        False,
    )


def test_a_report_without_columns_adds_no_row() -> None:
    assert history_rows(run(0), report({}, rows=0)).num_rows == 0


def test_a_column_that_lacks_a_figure_is_an_error_and_no_silent_null() -> None:
    broken = report({"temp": column(0.5)})
    del broken["columns"]["temp"]["drifted"]
    with pytest.raises(KeyError, match="drifted"):
        history_rows(run(0), broken)


def test_predictions_come_first_then_the_most_drifted() -> None:
    found = summarise(two_months())
    assert [c.column for c in found.columns] == ["p_late", "temp", "dest", "calm"]
    assert [c.drifted_runs for c in found.columns] == [0, 3, 1, 0]
    assert found.runs[-1].drifted == ("temp", "dest")
    assert [r.alarm for r in found.runs] == [False, False, False, True, True, True]


@given(st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(order: random.Random) -> None:
    table = two_months()
    places = list(range(table.num_rows))
    order.shuffle(places)
    assert summarise(table.take(places)) == summarise(table)


def test_a_column_that_a_run_did_not_measure_leaves_a_gap() -> None:
    table = pa.concat_tables(
        [
            history_rows(run(0), report({"old": column(0.1), "both": column(0.2)})),
            history_rows(run(1), report({"both": column(0.1), "new": column(0.0)})),
        ]
    )
    found = {c.column: c for c in summarise(table).columns}
    assert found["old"].points[1] is None
    assert found["old"].sparkline == "▅·"
    assert found["old"].latest is found["old"].points[0]
    assert found["new"].sparkline == "·▁"
    assert [c.column for c in summarise(table).last(1).columns] == ["both", "new"]


def test_the_sparkline_shows_psi_against_its_limit() -> None:
    psis = [0.0, 0.1, 0.2, None, 0.4]
    table = pa.concat_tables([history_rows(run(n), report({"c": column(psi)})) for n, psi in enumerate(psis)])
    assert summarise(table).columns[0].sparkline == "▁▃▅·█"
    zero = history_rows(run(0), report({"c": column(0.0, 0.0)}))
    assert summarise(zero).columns[0].sparkline == "▁"


def test_the_json_holds_each_run_and_the_latest_of_each_column() -> None:
    value = json.loads(json.dumps(summarise(two_months()).to_dict(), allow_nan=False))
    assert [r["run_id"] for r in value["runs"]] == [f"run{n:04}" for n in range(6)]
    temp = value["columns"][1]
    assert (temp["column"], temp["psi"], temp["limit"], temp["drifted_runs"]) == ("temp", 14.0, 5.0, 3)
    assert temp["history"] == [1.0, 1.0, 1.0, 14.0, 14.0, 14.0]


def test_an_empty_history_is_empty() -> None:
    found = summarise(empty())
    assert (found.pipeline, found.runs, found.columns) == ("", (), ())
    assert found.last(5) == found
