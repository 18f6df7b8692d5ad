"""YAML is read strictly, and what is wrong is told with file, line and column."""

from __future__ import annotations

import pytest

from batchinfer.errors import ModelError, SpecError
from batchinfer.spec import read_yaml


def test_a_mapping_is_read() -> None:
    assert read_yaml("a: 1\nb: [x, y]\n", name="f") == {"a": 1, "b": ["x", "y"]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", r"f\.yaml:3:1: not valid YAML: key 'a' stands twice"),
        ("a:\n  b: 1\n  b: 2\n", r"f\.yaml:3:3: .*key 'b' stands twice"),
        ("a: [1, 2\nb: 3\n", r"f\.yaml:2:"),
        ("- a\n- b\n", "expected a mapping of keys, found list"),
        ("", "expected a mapping of keys, found nothing"),
        ("just text", "found str"),
        ("a: !!python/object:os.system x\n", r"f\.yaml:1:4: not valid YAML"),
        ("a: \x07", "not valid YAML"),
        ("? [1]\n: 2\n", "not valid YAML|expected a mapping"),
    ],
    ids=["twice", "twice below", "unclosed", "list", "empty", "text", "object", "control", "list as key"],
)
def test_what_is_no_plain_mapping_is_refused_with_its_place(text: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        read_yaml(text, name="f.yaml")


def test_the_error_is_the_callers() -> None:
    with pytest.raises(ModelError, match=r"model\.yaml: expected a mapping"):
        read_yaml("", name="model.yaml", error=ModelError)


def test_anchors_and_merges_are_yaml_too() -> None:
    assert read_yaml("a: &x {k: 1}\nb: {<<: *x, l: 2}\n", name="f")["b"] == {"k": 1, "l": 2}
