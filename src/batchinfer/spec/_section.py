"""What all sections of a spec share: they are frozen and strict, and numbers may come from the environment."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

from pydantic import BeforeValidator, ConfigDict, Field

FROZEN = ConfigDict(frozen=True, extra="forbid", strict=True)
"""How every section is read: unknown keys are errors."""


def _read_number(value: object) -> object:
    """The number that a text says: what comes from the environment is text."""
    if isinstance(value, str):
        for kind in (int, float):
            with suppress(ValueError):
                return kind(value)
    return value


Number = BeforeValidator(_read_number)
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
Count = Annotated[int, Number, Field(ge=1, le=1024)]
