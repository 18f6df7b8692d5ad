"""The history as a person reads it in a terminal or a pipe, and as a program reads it."""

from __future__ import annotations

import json

import pytest
from tests.unit.drift import histories

from batchinfer.cli._drift import render_history, render_history_json
from batchinfer.drift import summarise


def test_a_pipe_gets_whole_lines_without_colours(capsys: pytest.CaptureFixture[str]) -> None:
    render_history(summarise(histories.two_months()))
    out = capsys.readouterr().out
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert "\x1b" not in out
    assert lines["temp"].split() == [
        *("temp", "feature", "14", "5", "drifted", "0.1", "0%", "1.0%", "85", "1.5", "▁▁▁███")
    ]
    assert "ALARM" in lines["run0005"]
    assert "temp, dest" in lines["run0005"]
    assert "ALARM" not in lines["run0000"]


def test_the_json_is_one_line_of_the_same_values(capsys: pytest.CaptureFixture[str]) -> None:
    found = summarise(histories.two_months())
    render_history_json(found)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == found.to_dict()


def test_no_history_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    render_history(summarise(histories.empty()))
    assert capsys.readouterr().out == "no run has measured drift yet\n"
