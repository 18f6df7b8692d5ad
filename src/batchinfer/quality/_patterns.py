"""Python's regular expressions in RE2's syntax, where both mean the same: RE2 searches without Python's lock."""

from __future__ import annotations

import re
from functools import lru_cache
from re import _constants as op  # type: ignore[attr-defined]  # Python's own parser knows what it means
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_SETS = {
    op.CATEGORY_DIGIT: r"0-9",
    op.CATEGORY_WORD: r"0-9A-Za-z_",
    op.CATEGORY_SPACE: r"\t-\r\x1c-\x20",
}
"""What Python's classes hold among the characters of ASCII; RE2's own \\s lacks some."""
_NEGATED = {
    op.CATEGORY_NOT_DIGIT: op.CATEGORY_DIGIT,
    op.CATEGORY_NOT_WORD: op.CATEGORY_WORD,
    op.CATEGORY_NOT_SPACE: op.CATEGORY_SPACE,
}

_MOST_REPEATS = 1000


class _Different(Exception):
    pass


def in_re2(pattern: str, texts: pa.Array) -> str | None:
    """The pattern for RE2 if it finds the same in these texts, else None. Takes ASCII texts only."""
    translated = _translate(pattern)
    return translated if translated is not None and _is_ascii(texts) else None


def _is_ascii(texts: pa.Array) -> bool:
    data = texts.buffers()[2]
    if data is None or not data.size:
        return True
    return (
        int(np.frombuffer(data, np.uint8).max()) < 0x80
    )  # of the whole buffer: a slice may only be cautious


@lru_cache(maxsize=256)
def _translate(pattern: str) -> str | None:
    try:
        parsed = parser.parse(pattern)
        if parsed.state.flags & ~re.UNICODE:
            return None
        translated = _sequence(list(parsed), last=True)
        pc.match_substring_regex(pa.nulls(0, pa.string()), pattern=translated)
    except (_Different, pa.ArrowInvalid):
        return None
    return translated


def _sequence(nodes: list[Any], *, last: bool) -> str:
    return "".join(_node(node, last=last and place == len(nodes) - 1) for place, node in enumerate(nodes))


def _node(node: Any, *, last: bool) -> str:
    kind, value = node
    if kind is op.LITERAL:
        return _literal(value)
    if kind is op.NOT_LITERAL:
        return f"[^{_literal(value)}]"
    if kind is op.ANY:
        return r"[^\n]"
    if kind is op.IN:
        return _set(value)
    if kind is op.AT:
        return _anchor(value, last=last)
    if kind is op.SUBPATTERN:
        _, added, removed, inner = value
        if added or removed:
            raise _Different
        return f"(?:{_sequence(list(inner), last=last)})"
    if kind is op.BRANCH:
        return f"(?:{'|'.join(_sequence(list(inner), last=last) for inner in value[1])})"
    if kind is op.MAX_REPEAT or kind is op.MIN_REPEAT:
        return _repeat(*value)  # greedy or not, a search finds it or does not
    raise _Different  # look-around, back references, atomic groups …


def _repeat(low: int, high: Any, inner: Any) -> str:
    if low > _MOST_REPEATS or (high is not op.MAXREPEAT and high > _MOST_REPEATS):
        raise _Different
    return f"(?:{_sequence(list(inner), last=False)}){{{low},{'' if high is op.MAXREPEAT else high}}}"


def _anchor(value: Any, *, last: bool) -> str:
    if value is op.AT_BEGINNING or value is op.AT_BEGINNING_STRING:
        return r"\A"
    if value is op.AT_END_STRING:
        return r"\z"
    if value is op.AT_END and last:
        return r"\n?\z"  # Python's $ looks past one newline at the end
    raise _Different


def _set(parts: list[Any]) -> str:
    negated, inside = "", ""
    for kind, value in parts:
        if kind is op.NEGATE:
            negated = "^"
        elif kind is op.LITERAL:
            inside += _literal(value)
        elif kind is op.RANGE:
            inside += f"{_literal(value[0])}-{_literal(value[1])}"
        elif kind is op.CATEGORY and value in _SETS:
            inside += _SETS[value]
        elif kind is op.CATEGORY and len(parts) == 1 and value in _NEGATED:
            return f"[^{_SETS[_NEGATED[value]]}]"
        else:
            raise _Different
    return f"[{negated}{inside}]"


def _literal(code: int) -> str:
    return f"\\x{{{code:x}}}"
