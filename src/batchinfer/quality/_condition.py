"""Row conditions: the rows an expectation is about, in every form that a suite states them in.

Taken are the conditions that Great Expectations serialises (comparison, nullity, and, or, pass_through) and both
texts: `col("x") > 5` (condition_parser great_expectations) and pandas' query (comparisons, also chained or of two
columns, `in`, `not in`, and/or/not, & | ~, .isnull(), .notnull(), names in backticks). What else pandas would
understand is `Foreign`: Great Expectations itself must run it. As in pandas, a comparison with a null is false,
and != is true.
"""

from __future__ import annotations

import ast
import difflib
import re
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchinfer.core.arrays import from_texts, to_numpy
from batchinfer.quality._members import Members, members
from batchinfer.quality._rules import comparable, decoded, equal, greater
from batchinfer.quality._values import (
    Kind,
    Limits,
    Mask,
    Unfit,
    kind_of,
    limits,
    missing,
    spread,
    ticks,
)

ACCEPTED = (
    'a comparison as in \'age > 18 and country in ["DE", "FR"]\' (condition_parser pandas), '
    "'col(\"age\") > 18' (condition_parser great_expectations), or a condition as Great Expectations serialises it"
)

_LEGACY = re.compile(
    r"""\s*col\("(?P<column>[^"]+)"\)\s*(?:(?P<notnull>\.notnull\(\))|(?P<op>==|!=|>=|<=|>|<)\s*
    (?:(?P<number>[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)|(?:date\(\s*)?(?P<quote>["'])(?P<text>[^"']*)(?P=quote)\s*\)?))\s*""",
    re.VERBOSE | re.IGNORECASE,
)
_QUOTED = re.compile(r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|`([^`]+)`|([&|])""")
_OPERATORS = {ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
_SWAPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}


class Foreign(Exception):
    """A condition that pandas understands, and this module does not."""


class Condition(Protocol):
    """Which rows of a batch are meant. Pure."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it reads."""

    def rows(self, batch: pa.RecordBatch) -> Mask:
        """True for the rows that are meant."""


def compile_condition(value: Any, parser: str | None, schema: pa.Schema) -> Condition:
    """The condition that a suite states in `row_condition` and `condition_parser`.

    Raises:
        Unfit: it cannot be read, names a column that is not there, or compares what cannot be compared.
        Foreign: only Great Expectations itself can run it.
    """
    try:
        if isinstance(value, dict):
            return _serialised(value, schema)
        if isinstance(value, str) and (parser or "pandas") == "pandas":
            return _query(value, schema)
        if isinstance(value, str):
            return _legacy(value, schema)
    except Unfit as e:
        raise Unfit(str(e), "row_condition") from e
    raise Unfit(f"found {value!r}; accepted is {ACCEPTED}", "row_condition")


@dataclass(frozen=True, slots=True)
class Within:
    """A column's values within limits, or (`but`) outside them; a null is in neither."""

    column: str
    limits: Limits

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def rows(self, batch: pa.RecordBatch) -> Mask:
        values = decoded(batch.column(self.column))
        absent = missing(values)
        outside = self.limits.outside(ticks(values), has_missing=absent is not None)
        return _there(np.ones(len(values), np.bool_) if outside is None else ~outside, absent)


@dataclass(frozen=True, slots=True)
class TextOrder:
    """A text before or after another, by code points."""

    column: str
    op: str
    text: str

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def rows(self, batch: pa.RecordBatch) -> Mask:
        values = decoded(batch.column(self.column))
        other = from_texts([self.text]).cast(values.type)[0]
        compare = {"<": pc.less, "<=": pc.less_equal, ">": pc.greater, ">=": pc.greater_equal}[self.op]
        result, there = to_numpy(compare(values, other))
        return result if there is None else result & there


@dataclass(frozen=True, slots=True)
class In:
    """A column's value is one of a set."""

    column: str
    members: Members

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def rows(self, batch: pa.RecordBatch) -> Mask:
        values = batch.column(self.column)
        if isinstance(values, pa.DictionaryArray):
            found = spread(self.members.contains(values.dictionary), values)
        else:
            found = self.members.contains(values)
        return _there(found, missing(values))


@dataclass(frozen=True, slots=True)
class Columns:
    """Two columns, compared with each other."""

    first: str
    op: str
    second: str

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.first, self.second)

    def rows(self, batch: pa.RecordBatch) -> Mask:
        first, second = decoded(batch.column(self.first)), decoded(batch.column(self.second))
        if self.op == "==":
            result = equal(first, second)
        else:
            result = greater(first, second, or_equal=self.op == ">=")
        return _there(_there(result, missing(first)), missing(second))


@dataclass(frozen=True, slots=True)
class IsNull:
    """A column's value is null or NaN."""

    column: str

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def rows(self, batch: pa.RecordBatch) -> Mask:
        absent = missing(batch.column(self.column))
        return np.zeros(batch.num_rows, np.bool_) if absent is None else absent


@dataclass(frozen=True, slots=True)
class Never:
    """No row: a comparison of what is never equal."""

    columns: tuple[str, ...] = ()

    def rows(self, batch: pa.RecordBatch) -> Mask:
        return np.zeros(batch.num_rows, np.bool_)


@dataclass(frozen=True, slots=True)
class Not:
    """All other rows."""

    condition: Condition

    @property
    def columns(self) -> tuple[str, ...]:
        return self.condition.columns

    def rows(self, batch: pa.RecordBatch) -> Mask:
        return ~self.condition.rows(batch)


@dataclass(frozen=True, slots=True)
class Together:
    """The rows that all conditions mean, or (`any_of`) any of them."""

    conditions: tuple[Condition, ...]
    any_of: bool = field(kw_only=True)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for condition in self.conditions for name in condition.columns))

    def rows(self, batch: pa.RecordBatch) -> Mask:
        masks = [condition.rows(batch) for condition in self.conditions]
        result: Mask = (np.logical_or if self.any_of else np.logical_and).reduce(masks)
        return result


def _there(result: Mask, absent: Mask | None) -> Mask:
    return result if absent is None else result & ~absent


def _kind(schema: pa.Schema, column: str) -> Kind:
    place = schema.get_field_index(column)
    if place < 0:
        near = difflib.get_close_matches(column, schema.names, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else f"; the columns are {', '.join(schema.names)}"
        raise Unfit(f"the input has no column '{column}'{hint}")
    kind = kind_of(schema.field(place).type)
    if kind is None:
        raise Foreign
    return kind


def _comparison(schema: pa.Schema, column: str, op: str, value: Any) -> Condition:
    kind = _kind(schema, column)
    if op == "!=":
        return Not(_comparison(schema, column, "==", value))
    if value is None:
        raise Unfit("nothing equals null; use .isnull()")
    if kind.type == pa.float32() and isinstance(value, float):
        value = float(np.float32(value))  # as pandas' query, so that x == 0.1 can be true of a float32
    if op == "==":
        known = _members(kind, [value])
        return In(column, known) if len(known) else Never((column,))
    if kind.family == "text":
        if not isinstance(value, str):
            raise Unfit(f"{value!r} cannot be compared with a column of {kind}")
        return TextOrder(column, op, value)
    low, high = (value, None) if op in {">", ">="} else (None, value)
    strict = op in {">", "<"}
    return Within(column, limits(kind, low, high, strict_low=strict, strict_high=strict))


def _members(kind: Kind, values: list[Any]) -> Members:
    for value in values:
        if isinstance(value, list | dict):
            raise Unfit(f"a list of numbers or texts, found {value!r}")
    return members(kind, values)


def _serialised(value: dict[str, Any], schema: pa.Schema) -> Condition:
    try:
        match value["type"]:
            case "pass_through":
                return _query(value["pass_through_filter"], schema)
            case "and" | "or" as joined:
                parts = tuple(_serialised(part, schema) for part in value["conditions"])
                if not parts:
                    raise Unfit(f"an '{joined}' of no conditions")
                return Together(parts, any_of=joined == "or")
            case "nullity":
                null = IsNull(_present(value["column"]["name"], schema))
                return null if value["is_null"] else Not(null)
            case "comparison":
                column, op, parameter = value["column"]["name"], value["operator"], value["parameter"]
                if op in {"IN", "NOT_IN"}:
                    one_of = In(column, _members(_kind(schema, column), list(parameter)))
                    return one_of if op == "IN" else Not(one_of)
                if op in _SWAPPED:
                    return _comparison(schema, column, op, parameter)
    except (KeyError, TypeError) as e:
        raise Unfit(f"{value!r} is no condition ({e}); accepted is {ACCEPTED}") from e
    raise Unfit(f"{value!r} is no condition; accepted is {ACCEPTED}")


def _present(column: str, schema: pa.Schema) -> str:
    if schema.get_field_index(column) < 0:
        _kind(schema, column)
    return column


def _legacy(text: str, schema: pa.Schema) -> Condition:
    found = _LEGACY.fullmatch(text)
    if not found:
        raise Unfit(f"cannot read {text!r}; accepted is {ACCEPTED}")
    column = found["column"]
    if found["notnull"]:
        return Not(IsNull(_present(column, schema)))
    number = found["number"]
    value = found["text"] if number is None else _number(number)
    return _comparison(schema, column, found["op"], value)


def _number(text: str) -> float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _query(text: str, schema: pa.Schema) -> Condition:
    names: dict[str, str] = {}

    def replace(found: re.Match[str]) -> str:
        quoted, backticked, joined = found.groups()
        if backticked is not None:
            return names.setdefault(backticked, f"__column_{len(names)}__")
        return quoted if quoted is not None else {"&": " and ", "|": " or "}[joined]

    try:
        tree = ast.parse(_QUOTED.sub(replace, text).strip(), mode="eval")
    except (SyntaxError, ValueError, TypeError) as e:
        raise Unfit(f"cannot read {text!r} ({e}); accepted is {ACCEPTED}") from e
    return _Query(schema, {stand_in: name for name, stand_in in names.items()}).condition(tree.body)


@dataclass(frozen=True, slots=True)
class _Query:
    schema: pa.Schema
    names: dict[str, str]

    def condition(self, node: ast.expr) -> Condition:
        match node:
            case ast.BoolOp(op=op, values=values):
                return Together(tuple(map(self.condition, values)), any_of=isinstance(op, ast.Or))
            case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=operand):
                return Not(self.condition(operand))
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                sides = [left, *comparators]
                pairs = zip(sides, ops, sides[1:], strict=False)
                parts = tuple(self._compare(a, op, b) for a, op, b in pairs)
                return parts[0] if len(parts) == 1 else Together(parts, any_of=False)
            case ast.Call(func=ast.Attribute(value=ast.Name() as name, attr=method), args=[], keywords=[]):
                if method in {"isnull", "isna", "notnull", "notna"}:
                    null = IsNull(_present(self._column(name), self.schema))
                    return null if method.startswith("is") else Not(null)
            case ast.Name():
                column = self._column(node)
                if _kind(self.schema, column).family != "bool":
                    raise Unfit(f"'{column}' alone is no condition: it is not a bool")
                return _comparison(self.schema, column, "==", True)
        raise Foreign

    def _compare(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Condition:
        if isinstance(op, ast.In | ast.NotIn) or isinstance(right, ast.List | ast.Tuple | ast.Set):
            return self._membership(left, op, right)
        operator = _OPERATORS.get(type(op))
        if operator is None:
            raise Foreign
        if isinstance(left, ast.Name) and isinstance(right, ast.Name):
            return self._columns(self._column(left), operator, self._column(right))
        if isinstance(left, ast.Name):
            return _comparison(self.schema, self._column(left), operator, _literal(right))
        if isinstance(right, ast.Name):
            return _comparison(self.schema, self._column(right), _SWAPPED[operator], _literal(left))
        raise Foreign

    def _membership(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Condition:
        is_list = isinstance(right, ast.List | ast.Tuple | ast.Set)
        if not (
            isinstance(left, ast.Name) and is_list and isinstance(op, ast.In | ast.NotIn | ast.Eq | ast.NotEq)
        ):
            raise Foreign
        values = [_literal(one) for one in right.elts]  # type: ignore[attr-defined] # is_list says so
        column = self._column(left)
        one_of = In(column, _members(_kind(self.schema, column), values))
        return one_of if isinstance(op, ast.In | ast.Eq) else Not(one_of)

    def _columns(self, first: str, op: str, second: str) -> Condition:
        one, other = _kind(self.schema, first), _kind(self.schema, second)
        if not comparable(one, other):
            raise Foreign
        if op == "!=":
            return Not(Columns(first, "==", second))
        return Columns(second, _SWAPPED[op], first) if op in {"<", "<="} else Columns(first, op, second)

    def _column(self, name: ast.Name) -> str:
        return self.names.get(name.id, name.id)


def _literal(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=None | bool() | int() | float() | str() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.UnaryOp(op=ast.UAdd(), operand=ast.Constant(value=int() | float() as number)):
            return number
    raise Foreign
