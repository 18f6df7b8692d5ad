"""Secrets are taken out of whatever is said: by where they stand in a text, and by what the environment holds.

A net below everything that writes messages, not a leave to write them: nothing of ours states a secret on purpose, but
drivers quote addresses, servers quote keys, and a spec may hold what it should not.
"""

from __future__ import annotations

import os
import re
from typing import Any

HIDDEN = "***"

_NAME = (
    r"(?:[\w.-]*[._-])?(?:ssl|pg)?"
    r"(?:password|passwd|secret|token|signature|(?:api|access|secret|account|private)[._-]?key(?:[._-]?id)?)"
)
_IN_URL = re.compile(r"(?<=://)([^\s/:@'\"]*):[^\s/]+@")
_ASSIGNED = re.compile(rf"((?<![\w.-]){_NAME}['\"]?\s*=\s*)('[^']*'|\"[^\"]*\"|[^\s,;&#'\"]+)", re.IGNORECASE)
_IN_MAPPING = re.compile(rf"(['\"]{_NAME}['\"]\s*:\s*)('[^']*'|\"[^\"]*\")", re.IGNORECASE)
_SECRET_VARIABLE = re.compile(
    r"(?:^|_|PG)(?:PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|WEBHOOK|APIKEY|(?:ACCESS|API|SECRET|PRIVATE|ACCOUNT)_KEY(?:_ID)?)(?:$|_)"
)
_LEAST_CHARACTERS = 8
"""What is shorter may be any word."""


def without_secrets(text: str) -> str:
    """The text with `***` for each secret in it.

    That is the password of a URL, the value of what is called password, secret, token or key in a URL's query, a
    connection string or a mapping, and each value of eight characters or more of an environment variable whose
    name says that it is one (`AWS_SECRET_ACCESS_KEY`, `PGPASSWORD`, `ALERT_WEBHOOK`).
    """
    for value in _of_environment():
        text = text.replace(value, HIDDEN)
    text = _IN_URL.sub(rf"\1:{HIDDEN}@", text)
    text = _ASSIGNED.sub(rf"\1{HIDDEN}", text)
    return _IN_MAPPING.sub(rf"\1'{HIDDEN}'", text)


def values_without_secrets(value: Any) -> Any:
    """The same for the texts in a value of JSON's kinds; anything else stays as it is."""
    if isinstance(value, str):
        return without_secrets(value)
    if type(value) is dict:
        return {name: values_without_secrets(one) for name, one in value.items()}
    if type(value) in {list, tuple}:
        return type(value)(values_without_secrets(one) for one in value)
    return value


def _of_environment() -> list[str]:
    """The longest first: one may be part of another."""
    found = {
        value
        for name, value in os.environ.items()
        if len(value) >= _LEAST_CHARACTERS
        and not name.endswith(("_FILE", "_PATH"))
        and _SECRET_VARIABLE.search(name.upper())
    }
    return sorted(found, key=len, reverse=True)
