"""URLs of databases, as specs name them: without secrets."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

_SECRETS = {"password", "sslpassword", "account_key", "sas_token", "secret_key", "token"}


def is_database(path: str) -> bool:
    """Whether a path is the URL of a PostgreSQL database."""
    return path.startswith(("postgresql://", "postgres://"))


def holds_password(url: str) -> bool:
    """Whether a URL states a password, before the host or among its parameters."""
    try:
        parts = urlsplit(url)
        return parts.password is not None or bool(_SECRETS & {name for name, _ in parse_qsl(parts.query)})
    except ValueError:  # not a URL at all; who opens it says so
        return False
