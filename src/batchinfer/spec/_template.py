"""Two kinds of blanks: `${VAR:-default}` is filled from the environment, `{ds}` from run parameters."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from batchinfer.errors import SpecError, UsageError

_ENVIRONMENT = re.compile(r"\$\{([A-Za-z_]\w*)(?::-([^}]*))?\}")
_PARAMETER = re.compile(r"(?<!\$)\{([A-Za-z_]\w*)\}")


def fill_environment(value: Any, environment: Mapping[str, str], *, key: str = "") -> Any:
    """Replace `${VAR}` and `${VAR:-default}` in every string of a parsed document.

    Values are filled in after YAML was parsed, so that no value can change the document's structure.

    Raises:
        SpecError: a variable is unset and has no default; names the key and the variable.
    """
    if isinstance(value, dict):
        return {
            k: fill_environment(v, environment, key=f"{key}.{k}" if key else str(k)) for k, v in value.items()
        }
    if isinstance(value, list):
        return [fill_environment(v, environment, key=f"{key}[{i}]") for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replaced(match: re.Match[str]) -> str:
        variable, default = match.groups()
        found = environment.get(variable) or default
        if found is None:
            raise SpecError(
                f"{key}: the environment variable {variable} is not set",
                next_step=f"set it, or write ${{{variable}:-DEFAULT}}",
                key=key,
                variable=variable,
            )
        return found

    return _ENVIRONMENT.sub(replaced, value)


def parameters_of(template: str) -> tuple[str, ...]:
    """The names of the run parameters that a template asks for, in order, each once."""
    return tuple(dict.fromkeys(_PARAMETER.findall(template)))


def fill_parameters(template: str, parameters: Mapping[str, str], *, key: str) -> str:
    """Fill `{name}` blanks of the spec's value at `key`.

    Raises:
        UsageError: a parameter is missing; names it and how to pass it.
    """
    for name in parameters_of(template):
        if name not in parameters:
            near = difflib.get_close_matches(name, parameters, n=1)
            hint = f" ('{near[0]}' was given)" if near else ""
            raise UsageError(
                f"{key} = '{template}' needs the parameter '{name}'{hint}",
                next_step=f"pass -p {name}=VALUE",
                parameter=name,
            )
    return _PARAMETER.sub(lambda match: parameters[match.group(1)], template)
