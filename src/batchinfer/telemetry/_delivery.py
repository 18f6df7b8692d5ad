"""What became of something that was told, and an error in words that hold no secret."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal
from urllib.parse import urlsplit

from batchinfer.errors import BatchinferError, MissingExtra, UsageError

_log = logging.getLogger("batchinfer.telemetry")

TIMEOUT_S = 5.0
"""How long a receiver may take to answer: a run waits for it."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of what a run told; stands in the run's report.

    Attributes:
        channel: textfile, push_gateway or lineage.
        receiver: the file, or the URL's scheme and host: a path or query may hold a secret.
        delivered: whether the receiver took it.
        error: why not.
    """

    channel: Literal["textfile", "push_gateway", "lineage"]
    receiver: str
    delivered: bool
    error: str | None = None


def deliver(
    channel: Literal["textfile", "push_gateway", "lineage"],
    receiver: str,
    act: Callable[[], object],
    run_id: str | None,
) -> Delivery:
    """Try to tell a receiver. Never raises an Exception: what a run has done is not undone by who should hear of it."""
    try:
        act()
    except Exception as e:
        delivery = Delivery(channel, receiver, False, said(e))
        _log.warning("%s: %s was NOT told: %s", channel, receiver, delivery.error, extra={"run_id": run_id})
        if not isinstance(
            e, OSError | BatchinferError
        ):  # a defect, then, and not the network's; no URL is in it
            _log.warning("%s: a defect", channel, exc_info=e, extra={"run_id": run_id})
        return delivery
    return Delivery(channel, receiver, True)


def origin(url: str) -> str:
    """A URL's scheme and host."""
    try:
        parts = urlsplit(url)
        if parts.hostname is not None:
            return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}"
    except ValueError:
        pass
    return "a URL that cannot be read"


def said(error: BaseException) -> str:
    """An error in words that cannot hold a URL, which clients quote whole in their own."""
    response = getattr(error, "response", None)
    code = getattr(error, "code", None) or getattr(response, "status_code", None)
    if code is not None:
        return f"HTTP {code}"
    reason = getattr(error, "reason", None)
    if isinstance(reason, BaseException):
        return said(reason)
    if isinstance(error, MissingExtra | UsageError):  # ours: no URL is in it
        return f"{error.message}: {error.next_step}"
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    name = type(error).__name__
    return "no connection" if "Connection" in name else name


def need(module: str, package: str, extra: str, key: str) -> None:
    """Refuse to go on where a package is absent that a key of the spec takes.

    Raises:
        MissingExtra: names the extra.
    """
    try:
        there = find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it is absent
        there = False
    if not there:
        raise MissingExtra(
            f"{key} takes {package}, which is not installed",
            next_step=f"pip install 'batchinfer[{extra}]'",
            extra=extra,
        )
