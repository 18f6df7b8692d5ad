"""Which report the labels get follows from what the model writes and what the labels are."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from batchinfer.drift._task import Predictions, Task, choose_task, class_texts
from batchinfer.errors import UsageError


def chosen(
    target: Any, columns: dict[str, Any], probabilities: dict[int | str, str] | None = None, classes: Any = ()
) -> Task:
    rows = pa.table({**columns, "y": target})
    return choose_task(rows, "y", Predictions(tuple(columns), probabilities or {}, tuple(classes)))


SHARES = [0.1, 0.9, 0.4, 0.6]


@pytest.mark.parametrize(
    "target", [[False, True, None, True], [0, 1, 1, 0], [0.0, 1.0, 1.0, 0.0], ["0", "1", "1", "0"]]
)
def test_a_probability_of_one_of_two_classes_is_binary_whatever_the_labels_type(target: Any) -> None:
    task = chosen(target, {"late": [0, 1, 0, 1], "p_late": SHARES}, {"1": "p_late"}, [0, 1])
    assert task == Task("binary", "late", {"1": "p_late"}, "1")


def test_the_positive_class_is_the_second_or_the_one_that_has_a_column() -> None:
    both: dict[int | str, str] = {"no": "p_no", "yes": "p_yes"}
    columns = {"p_no": SHARES, "p_yes": SHARES}
    assert chosen(["no", "yes"] * 2, columns, both, ["no", "yes"]) == Task(
        "binary", None, {"yes": "p_yes"}, "yes"
    )
    only: dict[int | str, str] = {"no": "p_no"}
    assert chosen(["no", "yes"] * 2, {"p_no": SHARES}, only, ["no", "yes"]).positive == "no"


def test_probabilities_of_more_classes_are_used_where_all_are_there() -> None:
    three: dict[int | str, str] = {"a": "p_a", "b": "p_b", "c": "p_c"}
    columns: dict[str, Any] = dict.fromkeys(three.values(), SHARES)
    task = chosen(["a", "b", "a", "b"], columns, three, ["a", "b", "c"])
    assert task == Task("multiclass", None, {"a": "p_a", "b": "p_b", "c": "p_c"})
    some: dict[int | str, str] = {"a": "p_a"}
    columns = {"said": ["a", "b", "c", "a"], "p_a": SHARES}
    assert chosen(["a", "b", "a", "b"], columns, some, "abc") == Task("multiclass", "said")
    with pytest.raises(UsageError, match="class 'b' has no probability column"):
        chosen(["a", "b", "a", "b"], {"p_a": SHARES}, some, "abc")


def test_predicted_classes_alone_are_a_classification() -> None:
    assert chosen([True, False] * 2, {"said": [0, 1, 1, 0]}) == Task("binary", "said", {}, "1")
    assert chosen(["a", "b", "c", "a"], {"said": ["a", "b", "a", "a"]}) == Task("multiclass", "said")


def test_one_number_is_a_regression_or_the_probability_of_a_yes() -> None:
    assert chosen([1.5, 2.0, 3.0, 9.0], {"minutes": [1.0, 2.0, 3.0, 4.0]}) == Task("regression", "minutes")
    assert chosen([1, 2, 3, 4], {"minutes": SHARES}) == Task("regression", "minutes")
    assert chosen([True, False, True, True], {"score": SHARES}) == Task("binary", None, {"1": "score"}, "1")
    assert chosen([0, 1, 0, 1], {"score": [-1.0, 2.0, 0.0, 1.0]}) == Task("regression", "score")
    assert chosen(list(range(60)), {"count": list(range(60))}) == Task("regression", "count")
    assert chosen([0.5, 1.0, 1.5, 2.0], {"count": [1, 2, 3, 4]}) == Task("regression", "count")


def test_what_fits_no_report_is_said() -> None:
    with pytest.raises(UsageError, match="all labels are 1: nothing can be measured"):
        chosen([True, True, None, True], {"late": [0, 1, 0, 1]})
    with pytest.raises(UsageError, match="all labels are null"):
        chosen(pa.nulls(4, pa.bool_()), {"late": [0, 1, 0, 1]})
    with pytest.raises(UsageError, match=r"label 'maybe' of 'y' is none of the model's classes: 0, 1"):
        chosen(["0", "1", "maybe", "0"], {"p": SHARES}, {1: "p"}, [0, 1])
    with pytest.raises(UsageError, match=r"writes u, v: it is unclear which of them predicts 'y'"):
        chosen([0.5, 1.5, 2.5, 3.5], {"u": SHARES, "v": SHARES})
    with pytest.raises(UsageError, match=r"labels 'y' are string, but the model writes the number 'u'"):
        chosen(["a", "b", "a", "b"], {"u": SHARES})
    with pytest.raises(UsageError, match="writes no number"):
        chosen([0.5, 1.5], {})


def test_a_class_is_the_same_text_whatever_its_type() -> None:
    same = [
        pa.array([True, False, None]),
        pa.array([1, 0, None]),
        pa.array([1.0, 0.0, None]),
        pa.array(["1", "0", None]).dictionary_encode(),
    ]
    for values in same:
        assert class_texts(pa.chunked_array([values])).to_pylist() == ["1", "0", None]
    assert class_texts(pa.chunked_array([pa.array([1.5, 2.0])])).to_pylist() == ["1.5", "2"]
