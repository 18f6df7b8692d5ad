"""The error tree is the one that its docstring draws; every error keeps its fields wherever it goes."""

from __future__ import annotations

import pickle
import re
from importlib import import_module

import pytest

from batchinfer import errors
from batchinfer.errors import BatchinferError, InputError, MissingExtra, Transient, needs


def all_errors() -> list[type[BatchinferError]]:
    found: list[type[BatchinferError]] = [BatchinferError]
    for kind in found:
        found += kind.__subclasses__()
    return [kind for kind in found if kind.__module__ == errors.__name__]


def drawn() -> dict[str, tuple[str | None, int]]:
    """Each class in the docstring's drawing: its parent and its exit code."""
    tree: dict[str, tuple[str | None, int]] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    ([│├└─ ]*)([A-Z]\w+)(?: +exit (\d+))?", line)
        if not match:
            continue
        branch, name, code = match.groups()
        depth = len(branch) // 4
        parent = above[depth - 1] if depth else None
        above[depth:] = [name]
        tree[name] = (parent, int(code) if code else tree[str(parent)][1])
    return tree


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    real = {
        kind.__name__: (None if kind is BatchinferError else kind.__mro__[1].__name__, kind.exit_code)
        for kind in all_errors()
    }
    assert drawn() == real


def test_every_error_is_exported() -> None:
    assert sorted(errors.__all__) == errors.__all__ == sorted(kind.__name__ for kind in all_errors())


@pytest.mark.parametrize("kind", all_errors())
def test_every_error_survives_pickling_with_all_its_fields(kind: type[BatchinferError]) -> None:
    error = kind("what failed", next_step="do this", path="x", rows=[1, 2], found=None)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        back = pickle.loads(pickle.dumps(error, protocol))
        assert type(back) is kind
        assert (back.message, back.next_step, back.fields) == (error.message, error.next_step, error.fields)
        assert str(back) == str(error)
        assert back.exit_code == kind.exit_code


def test_an_error_says_what_to_do_next_on_a_line_of_its_own() -> None:
    assert str(InputError("no file", next_step="look again")) == "no file\n  → look again"
    assert str(InputError("no file")) == "no file"


def test_a_package_that_cannot_be_imported_is_said_with_its_extra() -> None:
    with pytest.raises(MissingExtra) as caught, needs("dask", "the engine", or_else="or use another"):
        import_module("no_such_package")
    assert str(caught.value) == (
        "the engine needs what batchinfer[dask] installs: No module named 'no_such_package'\n"
        "  → pip install 'batchinfer[dask]', or use another"
    )
    assert caught.value.fields == {"extra": "dask", "package": "no_such_package"}


def test_transient_errors_and_no_others_exit_with_75() -> None:
    for kind in all_errors():
        assert (kind.exit_code == 75) == issubclass(kind, Transient)
