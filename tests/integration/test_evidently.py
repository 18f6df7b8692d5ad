"""Evidently's reports, written for real: they agree with what was measured, stand alone, and talk to nobody."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batchinfer.drift._evidently import write_drift_report, write_labels_report
from batchinfer.drift._task import Predictions
from batchinfer.errors import BatchinferError, InputError, MissingExtra

ROWS = 120


def sample(seed: int, **columns: Any) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "distance": pa.array(rng.integers(100, 3000, ROWS), pa.int16()),
            "temp": pa.array(rng.normal(40, 9, ROWS), pa.float32()),
            "carrier": pa.array(rng.choice(["AA", "UA", "Ünï <b>"], ROWS)).dictionary_encode(),
            "cancelled": pa.array(rng.uniform(size=ROWS) < 0.1),
            "p_late": rng.uniform(size=ROWS),
            **columns,
        }
    )


def measured(*drifted: str, **extra: str) -> dict[str, dict[str, Any]]:
    kinds = {"distance": "feature", "temp": "feature", "carrier": "feature", "cancelled": "feature"}
    return {
        name: {
            "kind": kind,
            "psi": 7.125 if name in drifted else 0.0625,
            "limit": 0.25,
            "drifted": name in drifted,
        }
        for name, kind in {**kinds, "p_late": "prediction", **extra}.items()
    }


def write(
    path: Path, reference: pa.Table, current: pa.Table, found: dict[str, dict[str, Any]]
) -> dict[str, str]:
    return write_drift_report(reference, current, measured=found, drifted_columns=0.25, path=str(path))


def verdicts(page: str) -> list[str]:
    """Of the predictions, then of the features: dataset drift, and the columns' share."""
    return re.findall(
        r"Dataset Drift is (?:NOT )?detected|Drift is detected for [\d.]+% of columns \(\d+ out of \d+\)",
        page,
    )


def test_the_report_says_what_was_measured_and_not_what_the_sample_looks_like(tmp_path: Path) -> None:
    page = tmp_path / "drift" / "evidently.html"
    # The same rows on both sides: any drift can only come from what was measured on all rows.
    assert write(page, sample(1), sample(1), measured("temp", "carrier")) == {}
    assert verdicts(page.read_text()) == [
        "Dataset Drift is NOT detected",
        "Drift is detected for 0.0% of columns (0 out of 1)",
        "Dataset Drift is detected",
        "Drift is detected for 50.0% of columns (2 out of 4)",
    ]
    # And rows that differ as much as rows can: no drift where none was measured. A quarter is not more than a quarter.
    other = sample(2, temp=pa.array(np.full(ROWS, 1e6)))
    write(page, sample(1), other, measured("distance"))
    assert verdicts(page.read_text())[2:] == [
        "Dataset Drift is NOT detected",
        "Drift is detected for 25.0% of columns (1 out of 4)",
    ]
    write(page, sample(1), sample(1), measured("p_late"))
    assert verdicts(page.read_text())[0] == "Dataset Drift is detected"


def test_columns_that_cannot_be_shown_are_named_and_the_others_shown(tmp_path: Path) -> None:
    empty, infinite = pa.nulls(ROWS, pa.float64()), np.full(ROWS, 3.0)
    infinite[:3] = [np.inf, -np.inf, np.nan]
    reference = sample(
        1,
        null=np.arange(ROWS) * 1.0,
        odd=infinite,
        text=["a"] * ROWS,
        many=[[1.0]] * ROWS,
        constant=np.ones(ROWS),
    )
    current = sample(
        2, null=empty, odd=infinite, text=[1] * ROWS, many=[[1.0]] * ROWS, constant=np.ones(ROWS)
    )
    names = dict.fromkeys(("null", "odd", "text", "many", "absent", "constant"), "feature")
    left_out = write(tmp_path / "page.html", reference, current, measured(**names))
    assert left_out == {
        "null": "no values in the sample of the run",
        "text": "int64 in the run, string in the reference",
        "many": "list<item: double> in the run, list<item: double> in the reference",
        "absent": "not in the sample of the reference",
    }
    assert "(0 out of 6)" in (tmp_path / "page.html").read_text()


def test_one_row_is_enough_and_none_is_said(tmp_path: Path) -> None:
    write(tmp_path / "page.html", sample(1), sample(2).slice(0, 1), measured())
    with pytest.raises(InputError, match="sample of the run has no rows"):
        write(tmp_path / "page.html", sample(1), sample(2).slice(0, 0), measured())
    with pytest.raises(InputError, match="no column can be shown: x: not in the sample of the reference"):
        write(tmp_path / "page.html", sample(1), sample(2), {"x": measured()["temp"]})


def test_the_page_stands_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    write(page, sample(1), sample(2), measured())
    text = page.read_text()
    loaded = set(re.findall(r"""<(?:script|link|img|iframe)[^>]*\b(?:src|href)=["']?([^"'> ]+)""", text))
    assert {address for address in loaded if not address.startswith("data:")} == set()


def test_nothing_is_sent_and_nothing_is_left_in_the_home_folder(tmp_path: Path) -> None:
    program = f"""
import socket
def refuse(*a, **k): raise AssertionError(f"network: {{a}}")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from tests.integration.test_evidently import measured, sample, write
write(Path({str(tmp_path / "page.html")!r}), sample(1), sample(2), measured())
"""
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "DO_NOT_TRACK"}
    environment |= {"HOME": str(home), "MPLCONFIGDIR": str(tmp_path / "mpl")}
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert (tmp_path / "page.html").stat().st_size > 100_000
    assert [path for path in home.rglob("*") if "evidently" in str(path).lower()] == []


def labelled(target: Any, **columns: Any) -> pa.Table:
    return pa.table({**columns, "y": target})


def test_labels_of_two_classes_give_the_classification_report(tmp_path: Path) -> None:
    rng, page = np.random.default_rng(0), tmp_path / "labels.html"
    odds = rng.uniform(size=ROWS)
    rows = labelled(pa.array(odds > 0.5), late=(odds > 0.4).astype(np.int64), p_late=odds)
    task = write_labels_report(
        rows, target="y", predictions=Predictions(("late", "p_late"), {1: "p_late"}, (0, 1)), path=str(page)
    )
    text = page.read_text()
    assert (task.kind, task.positive) == ("binary", "1")
    assert "Classification Model Performance" in text
    # The odds rank perfectly, so a mix-up of the classes or columns would show here.
    assert re.search(
        r'"label": ?"ROC AUC"[^}]*"value": ?"1(\.0)?"|"value": ?"1(\.0)?"[^}]*"label": ?"ROC AUC"', text
    )


def test_labels_of_more_classes_give_the_classification_report(tmp_path: Path) -> None:
    rng, page = np.random.default_rng(0), tmp_path / "labels.html"
    odds = rng.dirichlet([1, 1, 1], ROWS)
    rows = labelled(
        np.array(["u", "v", "w"])[odds.argmax(1)], **{f"p_{name}": odds[:, n] for n, name in enumerate("uvw")}
    )
    found: dict[int | str, str] = {name: f"p_{name}" for name in "uvw"}
    predictions = Predictions(tuple(found.values()), found, tuple(found))
    assert write_labels_report(rows, target="y", predictions=predictions, path=str(page)).kind == "multiclass"
    assert "Classification Model Performance" in page.read_text()


def test_labels_that_are_numbers_give_the_regression_report(tmp_path: Path) -> None:
    rng, page = np.random.default_rng(0), tmp_path / "labels.html"
    rows = labelled(pa.array(rng.normal(size=ROWS)), minutes=pa.array(rng.normal(size=ROWS), pa.float32()))
    task = write_labels_report(rows, target="y", predictions=Predictions(("minutes",)), path=str(page))
    assert task.kind == "regression"
    assert "Regression Model Performance" in page.read_text()


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "evidently", None)
    with pytest.raises(MissingExtra) as caught:
        write(tmp_path / "page.html", sample(1), sample(2), measured())
    assert "pip install 'batchinfer[drift]'" in caught.value.next_step
    assert not (tmp_path / "page.html").exists()


def test_an_error_of_evidently_s_is_said_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import batchinfer.drift._evidently as adapter

    def fail(*_: object) -> None:
        raise ZeroDivisionError("in its depths")

    monkeypatch.setattr(adapter, "_frame", fail)
    with pytest.raises(
        BatchinferError, match="Evidently could not write its report: ZeroDivisionError: in its depths"
    ):
        write(tmp_path / "page.html", sample(1), sample(2), measured())
