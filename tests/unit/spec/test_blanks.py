"""`${VAR:-default}` comes from the environment and `{name}` from run parameters; neither changes structure."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchinfer.errors import SpecError, UsageError
from batchinfer.spec import fill_parameters, parameters_of
from batchinfer.spec._template import fill_environment

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("${A}", "one"),
        ("x/${A}/${A}-y", "x/one/one-y"),
        ("${B:-two}", "two"),
        ("${A:-two}", "one"),
        ("${B:-}", ""),
        ("${EMPTY:-two}", "two"),
        ("${B:-http://h:1/p}", "http://h:1/p"),
        ("{ds} $A $${", "{ds} $A $${"),
    ],
)
def test_variables_and_defaults_are_filled_in(text: str, filled: str) -> None:
    assert fill_environment(text, {"A": "one", "EMPTY": ""}) == filled


def test_blanks_are_filled_at_any_depth_and_nothing_else_is_touched() -> None:
    document: dict[str, Any] = {"a": {"b": ["${A}", 3, None, True]}, "c": 1.5}
    assert fill_environment(document, {"A": "x"}) == {"a": {"b": ["x", 3, None, True]}, "c": 1.5}
    assert document["a"]["b"][0] == "${A}"


def test_a_value_of_the_environment_is_text_and_never_structure() -> None:
    assert fill_environment({"a": "${A}"}, {"A": "{x: 1}, ${B}"}) == {"a": "{x: 1}, ${B}"}


def test_an_unset_variable_names_key_variable_and_how_to_default_it() -> None:
    with pytest.raises(SpecError) as refused:
        fill_environment({"a": {"b": ["", "${NOPE}"]}}, {})
    assert refused.value.fields == {"key": "a.b[1]", "variable": "NOPE"}
    assert "${NOPE:-DEFAULT}" in refused.value.next_step


def test_parameters_are_listed_in_order_each_once() -> None:
    assert parameters_of("{b}/{a}/{b}/${HOME}/{ not }/{}") == ("b", "a")


@given(st.dictionaries(names, st.text(max_size=9), min_size=1, max_size=4))
def test_each_parameter_is_put_where_it_is_named_and_never_filled_again(values: dict[str, str]) -> None:
    template = "/".join(f"{name}={{{name}}}" for name in values)
    expected = "/".join(f"{name}={value}" for name, value in values.items())
    assert fill_parameters(template, values, key="input.path") == expected


def test_a_missing_parameter_says_how_to_pass_it() -> None:
    with pytest.raises(UsageError) as refused:
        fill_parameters("in/{date}", {"data": "x"}, key="input.path")
    assert refused.value.message == "input.path = 'in/{date}' needs the parameter 'date' ('data' was given)"
    assert refused.value.next_step == "pass -p date=VALUE"
