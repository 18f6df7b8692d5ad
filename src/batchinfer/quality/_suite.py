"""Reads a suite: JSON as Great Expectations' `ExpectationSuite` serialises it, or a Python file that builds one."""

from __future__ import annotations

import difflib
import json
import re
import runpy
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast, get_args

from batchinfer.errors import SpecError, needs
from batchinfer.quality._catalog import CATALOG, COMMON
from batchinfer.quality._expectation import Expectation, Severity
from batchinfer.quality._values import Unfit, parse_bound


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite as its file states it."""

    path: str
    name: str
    expectations: tuple[Expectation, ...]
    meta: Mapping[str, Any]

    def wrong(self, expectation: Expectation, key: str | None, message: str) -> SpecError:
        """The error that names the file, the expectation and the key."""
        return _wrong(self.path, expectation.index, expectation.type, key, message)


def load_suite(path: str | Path) -> Suite:
    """Read and check a suite. A JSON suite is read without importing Great Expectations.

    Args:
        path: a `.json` file, or a `.py` file with an `ExpectationSuite` at module level or a function `build()`
            that returns one.

    Raises:
        SpecError: the file cannot be read, is no suite, or an expectation is wrong: names the file, the
            expectation's place and type, and the key.
        MissingExtra: a Python file, and Great Expectations is not installed.
    """
    path = Path(path)
    document = _python_suite(path) if path.suffix == ".py" else _json_suite(path)
    if not isinstance(document, dict) or not isinstance(document.get("expectations"), list):
        raise SpecError(f"{path}: no suite: it needs a list 'expectations'", path=str(path))
    if "expectation_suite_name" in document:
        raise SpecError(
            f"{path}: a suite of Great Expectations 0.x",
            next_step="load and save it with Great Expectations 1.x, which writes 'name' and 'type'",
            path=str(path),
        )
    stated = [_expectation(path, index, entry) for index, entry in enumerate(document["expectations"])]
    return Suite(str(path), str(document.get("name") or path.stem), tuple(stated), document.get("meta") or {})


def nearest(name: str, known: Iterable[str]) -> str:
    """What a message says after an unknown name."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}"


def _json_suite(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise SpecError(f"{path}: the suite cannot be read: {e.strerror}", path=str(path)) from e
    except ValueError as e:
        raise SpecError(f"{path}: the suite is no JSON: {e}", path=str(path)) from e


def _python_suite(path: Path) -> Any:
    if not path.is_file():
        raise SpecError(f"{path}: the suite cannot be read: no such file", path=str(path))
    with needs("quality", f"{path}: a suite in Python", or_else="or save the suite as JSON"):
        from great_expectations import ExpectationSuite
    try:
        names = runpy.run_path(str(path))
        suites = [value for value in names.values() if isinstance(value, ExpectationSuite)]
        if callable(names.get("build")):
            suites = [names["build"]()]
    except (Exception, SystemExit) as e:  # a suite that ends the process would end the run as if it were done
        raise SpecError(f"{path}: the suite raised {type(e).__name__}: {e}", path=str(path)) from e
    if len(suites) != 1 or not isinstance(suites[0], ExpectationSuite):
        raise SpecError(
            f"{path}: found {len(suites)} suites; it needs one ExpectationSuite at module level, "
            "or a function build() that returns one",
            path=str(path),
        )
    return json.loads(json.dumps(suites[0].to_json_dict()))


def _expectation(path: Path, index: int, entry: Any) -> Expectation:
    if not isinstance(entry, dict):
        raise _wrong(str(path), index, "?", None, f"an expectation is an object, found {entry!r}")
    name = entry.get("type")
    if not isinstance(name, str):
        hint = "; 'expectation_type' is Great Expectations 0.x" if "expectation_type" in entry else ""
        raise _wrong(str(path), index, "?", "type", f"is missing{hint}")
    kwargs = entry.get("kwargs") or {}
    severity = entry.get("severity") or "critical"
    if severity not in get_args(Severity):
        allowed = ", ".join(get_args(Severity))
        raise _wrong(str(path), index, name, "severity", f"one of {allowed}, found {severity!r}")
    _check_arguments(path, index, name, kwargs)
    meta = entry.get("meta") or {}
    if not isinstance(meta, dict):
        raise _wrong(str(path), index, name, "meta", f"an object, found {meta!r}")
    meta = dict(meta)
    meta |= {key: entry[key] for key in ("notes", "description") if entry.get(key)}
    return Expectation(index, name, kwargs, cast("Severity", severity), meta, entry.get("id"))


def _check_arguments(path: Path, index: int, name: str, kwargs: Any) -> None:
    def wrong(key: str | None, message: str) -> SpecError:
        return _wrong(str(path), index, name, key, message)

    if not isinstance(kwargs, dict):
        raise wrong("kwargs", f"an object, found {kwargs!r}")
    known = CATALOG.get(name)
    if known is None:
        if path.suffix == ".py" and name in _registered():
            return  # the file's own expectation class: Great Expectations runs it, and knows its arguments
        raise wrong("type", f"unknown expectation; {nearest(name, CATALOG)}")
    for key in kwargs:
        if key not in known.arguments and key not in COMMON:
            raise wrong(key, f"unknown argument; {nearest(key, known.arguments)}")
    for key in known.required:
        if kwargs.get(key) is None:
            raise wrong(key, "is missing")
    for key, value in kwargs.items():
        if isinstance(value, dict) and "$PARAMETER" in value:
            raise wrong(key, "suite parameters are not supported; state the value")
        if value is not None and key in _RULES:
            problem = _RULES[key](value)
            if problem:
                raise wrong(key, f"{problem}, found {value!r}")
    if name == "expect_column_values_to_match_regex" and kwargs.get("regex") is None:
        raise wrong("regex", "is missing")
    _check_bounds(name, kwargs, wrong)


def _check_bounds(name: str, kwargs: dict[str, Any], wrong: Callable[[str | None, str], SpecError]) -> None:
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    if low is None and high is None and name.endswith("_to_be_between") and "quantile" not in name:
        raise wrong("min_value", "min_value and max_value cannot both be missing")
    bounds: dict[str, Any] = {}
    for key, value in (("min_value", low), ("max_value", high)):
        if value is not None and name not in _OF_VALUES and (problem := _number(value)):
            raise wrong(key, f"{problem}, found {value!r}")
        try:
            bounds[key] = None if value is None else parse_bound(value)
        except Unfit as e:
            raise wrong(key, str(e)) from e
    if low is None or high is None:
        return
    try:
        contradictory = bounds["min_value"] > bounds["max_value"]
    except TypeError as e:
        raise wrong("max_value", f"{high!r} cannot be compared with min_value {low!r}") from e
    if contradictory:
        raise wrong("min_value", f"{low!r} is above max_value {high!r}: no value can satisfy both")


_OF_VALUES = (
    "expect_column_max_to_be_between",
    "expect_column_min_to_be_between",
    "expect_column_values_to_be_between",
)
"""Whose bounds may be dates: all others bound counts, lengths, shares and sums."""


def _registered() -> set[str]:
    from great_expectations.expectations.registry import list_registered_expectation_implementations

    assert "great_expectations" in sys.modules
    return set(list_registered_expectation_implementations())


def _wrong(path: str, index: int, name: str, key: str | None, message: str) -> SpecError:
    where = f"{path}: expectation {index} ({name})"
    where += f", '{key}'" if key else ""
    return SpecError(f"{where}: {message}", path=path, expectation=index, type=name, key=key)


def _boolean(value: Any) -> str:
    return "" if isinstance(value, bool) else "true or false"


def _text(value: Any) -> str:
    return "" if isinstance(value, str) and value else "a text that is not empty"


def _texts(value: Any) -> str:
    well = isinstance(value, list) and value and all(isinstance(one, str) for one in value)
    return "" if well else "a list of texts that is not empty"


def _column_list(value: Any) -> str:
    return _texts(value) or ("" if len(set(value)) == len(value) else "a list that names no column twice")


def _scalars(value: Any) -> str:
    if not isinstance(value, list) or not value:
        return "a list that is not empty"
    return "a list of numbers and texts" if any(isinstance(one, list | dict) for one in value) else ""


def _pairs(value: Any) -> str:
    well = isinstance(value, list) and value and all(isinstance(p, list) and len(p) == 2 for p in value)
    return "" if well else "a list of pairs that is not empty"


def _mostly(value: Any) -> str:
    well = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    return "" if well else "a number from 0 to 1"


def _number(value: Any) -> str:
    return "" if isinstance(value, int | float) and not isinstance(value, bool) else "a number"


def _column_index(value: Any) -> str:
    return "" if isinstance(value, int) and not isinstance(value, bool) else "a whole number"


def _column_set(value: Any) -> str:
    well = isinstance(value, list) and all(isinstance(one, str) for one in value)
    return "" if well else "a list of texts"


def _interpolation(value: Any) -> str:
    return "" if isinstance(value, bool | str) else "true, false or the name of an interpolation"


def _quantile_ranges(value: Any) -> str:
    if not isinstance(value, dict) or not _numbers(value.get("quantiles")):
        return "an object with 'quantiles', a list of numbers, and their 'value_ranges'"
    quantiles, ranges = value["quantiles"], value.get("value_ranges")
    if any(_mostly(one) for one in quantiles):
        return "'quantiles' from 0 to 1"
    if not isinstance(ranges, list) or any(_pairs([one]) for one in ranges):
        return "'value_ranges', a list of pairs"
    ends = [[end for end in one if end is not None] for one in ranges]
    if not all(map(_numbers, ends)):
        return "numbers or nulls in 'value_ranges'"
    if len(ranges) != len(quantiles):
        return f"as many 'value_ranges' as 'quantiles' ({len(quantiles)})"
    reversed_ = next((one for one in ends if sorted(one) != one), None)
    return f"pairs that rise in 'value_ranges', and {reversed_} does not" if reversed_ else ""


def _partition(value: Any) -> str:
    if not isinstance(value, dict) or "weights" not in value or not {"bins", "values"} & value.keys():
        return "an object with 'weights', and 'bins' or 'values'"
    weights, tails = value["weights"], value.get("tail_weights") or []
    if not _numbers(weights) or not _numbers(tails):
        return "'weights' that are numbers"
    if "bins" not in value:
        tails = []
        if _scalars(value["values"]) or len(value["values"]) != len(weights):
            return f"a number or text in 'values' for each of the {len(weights)} weights"
    elif not _numbers(value["bins"]) or len(value["bins"]) != len(weights) + 1:
        return f"numbers in 'bins', one more than there are weights ({len(weights)})"
    elif any(not low < high for low, high in pairwise(value["bins"])):
        return "'bins' that rise"
    if "bins" in value and len(tails) not in (0, 2):
        return "two 'tail_weights'"
    total = sum(weights) + sum(tails)
    return "" if abs(total - 1) <= 1e-8 + 1e-5 else f"'weights' whose sum is 1, not {total:g}"


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and not any(_number(one) for one in value)


def _regex(value: Any) -> str:
    if not isinstance(value, str):
        return "a regular expression"
    try:
        re.compile(value)
    except (re.error, OverflowError, RecursionError) as e:
        return f"bad regular expression ({e})"
    return ""


def _regexes(value: Any) -> str:
    return _texts(value) or next((problem for problem in map(_regex, value) if problem), "")


_RULES: dict[str, Callable[[Any], str]] = {
    "column": _text,
    "column_A": _text,
    "column_B": _text,
    "column_list": _column_list,
    "type_": _text,
    "type_list": _texts,
    "value_set": _scalars,
    "value_pairs_set": _pairs,
    "mostly": _mostly,
    "regex": _regex,
    "regex_list": _regexes,
    "match_on": lambda value: "" if value in ("any", "all") else "'any' or 'all'",
    "strict_min": _boolean,
    "strict_max": _boolean,
    "or_equal": _boolean,
    "exact_match": _boolean,
    "ties_okay": _boolean,
    "bucketize_data": _boolean,
    "column_index": _column_index,
    "column_set": _column_set,
    "quantile_ranges": _quantile_ranges,
    "allow_relative_error": _interpolation,
    "partition_object": _partition,
    "threshold": _number,
    "internal_weight_holdout": _mostly,
    "tail_weight_holdout": _mostly,
    "value": _number,
    "sum_total": _number,
    "condition_parser": lambda value: (
        ""
        if value in ("pandas", "great_expectations", "great_expectations__experimental__")
        else "'pandas' or 'great_expectations'"
    ),
}
"""What a value must be, by the name of its argument; "" where it is well."""
