"""YAML, read strictly: a key that stands twice is an error, not a silent last one wins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from batchinfer.errors import BatchinferError, SpecError

try:
    from yaml import CSafeLoader as _SafeLoader
except ImportError:  # PyYAML built without libyaml
    from yaml import SafeLoader as _SafeLoader  # type: ignore[assignment]


class _StrictLoader(_SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue  # `<<: *anchor` is no key; the base class unfolds it, and own keys win
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (list, dict)):
                continue  # the base class says what is wrong with it
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key '{key}' stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def read_yaml(text: str, *, name: str | Path, error: type[BatchinferError] = SpecError) -> dict[str, Any]:
    """Parse `text`, the content of the file called `name`, into a mapping.

    Raises:
        SpecError (or `error`): not YAML, or not a mapping; with file, line and column.
    """
    try:
        value = yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else str(name)
        raise error(f"{where}: not valid YAML: {e.problem}", path=str(name)) from e
    except yaml.YAMLError as e:
        raise error(f"{name}: not valid YAML: {e}", path=str(name)) from e
    if not isinstance(value, dict):
        found = "nothing" if value is None else type(value).__name__
        raise error(f"{name}: expected a mapping of keys, found {found}", path=str(name))
    return value
