"""Alerts: someone is told when a pipeline's state changes, by a webhook, a command, or both.

A run that ended is handled in this order, so that a kill at any moment repeats an alert at worst and never loses one:

1. `next_alert` decides: None where this run was heard already, or where the pipeline's state stays as it is
2. `send` delivers
3. `next_state` is written, as `runs/alerts/<pipeline>.json`

Delivery is at least once: a run that is killed between 2 and 3 and started again sends the same alert under the same
`id`, by which a receiver can drop it. An alert that not every receiver took leaves the state as it was, so that the
pipeline's next run tells it again; the failure is logged and stands in the run's report, and fails nothing: the
predictions are committed.
"""

from __future__ import annotations

import http.client
import json
import logging
import math
import os
import signal
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from typing import Any, Literal, Self, cast, get_args
from urllib.parse import urlsplit

from batchinfer.errors import SpecError
from batchinfer.secrets import without_secrets

_log = logging.getLogger("batchinfer.drift")

State = Literal["ok", "drift", "quality-failed", "failed"]
"""What a run says of its pipeline."""

_TIMEOUT_S = 10.0
_PAUSES_S = (1.0, 2.0, 4.0)
"""Between the attempts at a webhook; one attempt more than pauses."""
_LONGEST_PAUSE_S = 30.0
_COMMAND_TIMEOUT_S = 60.0
_REMEMBERED_RUNS = 1000
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What a run that ended tells the alerts.

    Attributes:
        pipeline: the spec's name.
        run_id: the run's; empty where it failed before it had one, and then each attempt is heard.
        state: what the run says of the pipeline.
        why: one sentence for the person who is woken.
        time: when the run ended; UTC, ISO 8601.
        parameters: the run's.
        drift: the summary of the run's drift, of values that JSON knows; NaN and infinity are sent as null.
        quality: the summary of the run's quality, likewise.
    """

    pipeline: str
    run_id: str
    state: State
    why: str
    time: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    drift: Mapping[str, Any] = field(default_factory=dict)
    quality: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Alert:
    """A pipeline's change of state. `previous` is None at its first run, `id` the same for the same run and state."""

    id: str
    pipeline: str
    previous: State | None
    state: State
    why: str
    run_id: str
    parameters: Mapping[str, str]
    time: str
    drift: Mapping[str, Any]
    quality: Mapping[str, Any]

    def to_json(self) -> bytes:
        """What the webhook is posted and the command reads: one JSON object, its keys in the order of the fields."""
        return json.dumps(_plain(asdict(self)), ensure_ascii=False, allow_nan=False, default=str).encode()


def _plain(value: Any) -> Any:
    """NaN and infinity as null: a number that JSON lacks must not cost somebody the alert."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {str(name): _plain(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_plain(inner) for inner in value]
    return value


@dataclass(frozen=True, slots=True)
class AlertState:
    """What is remembered of a pipeline.

    Attributes:
        state: as its latest run left it.
        runs: the state of each of the latest runs that were heard, oldest first.
    """

    state: State
    runs: Mapping[str, State]

    def to_bytes(self) -> bytes:
        """The content of the pipeline's file."""
        return json.dumps(asdict(self), indent=1).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Read a state back.

        Raises:
            ValueError: it is not one.
        """
        value = json.loads(content)
        known = get_args(State)
        match value:
            case {"state": state, "runs": dict(runs)} if all(s in known for s in (state, *runs.values())):
                return cls(cast(State, state), runs)
        raise ValueError(f"not an alert state: {content[:80]!r}")


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of an alert at one receiver; stands in the run's report.

    Attributes:
        channel: webhook or command.
        receiver: the webhook's scheme and host, or the command's program: neither holds a secret.
        delivered: whether the receiver took it.
        attempts: how often it was tried.
        error: why the last attempt failed.
    """

    channel: Literal["webhook", "command"]
    receiver: str
    delivered: bool
    attempts: int
    error: str | None = None


def next_alert(previous: AlertState | None, facts: RunFacts) -> Alert | None:
    """What to say of a run that ended, or None. Pure.

    A pipeline's first run is told only where it is not ok. A run that was heard in this state before is not told
    again, whatever came after it; one that failed and then succeeds under the same id is.
    """
    before = previous.state if previous is not None else None
    if _was_heard(previous, facts) or facts.state == (before or "ok"):
        return None
    return Alert(
        id=f"{facts.run_id or facts.time}/{facts.state}",
        pipeline=facts.pipeline,
        previous=before,
        state=facts.state,
        why=facts.why,
        run_id=facts.run_id,
        parameters=dict(facts.parameters),
        time=facts.time,
        drift=dict(facts.drift),
        quality=dict(facts.quality),
    )


def next_state(
    previous: AlertState | None, facts: RunFacts, deliveries: Sequence[Delivery]
) -> AlertState | None:
    """What to remember after a run and the deliveries of its alert (none where there was no alert). Pure.

    `previous` itself where there is nothing to write: the run was heard before, or its alert was not taken.
    """
    if _was_heard(previous, facts) or not all(delivery.delivered for delivery in deliveries):
        return previous
    runs = dict(previous.runs) if previous is not None else {}
    runs.pop(facts.run_id, None)
    if facts.run_id:
        runs[facts.run_id] = facts.state
    return AlertState(facts.state, dict(list(runs.items())[-_REMEMBERED_RUNS:]))


def _was_heard(previous: AlertState | None, facts: RunFacts) -> bool:
    return previous is not None and previous.runs.get(facts.run_id) == facts.state


def check_webhook(url: str) -> None:
    """Refuse a webhook that `send` would not post to. The message names scheme and host only.

    Raises:
        SpecError: it is no URL, not HTTPS (plain HTTP is for localhost), or it holds a user or password.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise SpecError("alerts.webhook: not a URL", key="alerts.webhook") from None
    if not host or not url.isascii() or any(c <= " " or c == "\x7f" for c in url):
        raise SpecError("alerts.webhook: not a URL with a host", key="alerts.webhook")
    if parts.username is not None or parts.password is not None:
        raise SpecError(
            f"alerts.webhook: the URL of {host} holds a user or password, which HTTP does not send",
            next_step="put the token into the path or query, as the receiver's documentation says",
            key="alerts.webhook",
        )
    if parts.scheme != "https" and not (parts.scheme == "http" and host in _LOCAL_HOSTS):
        raise SpecError(
            f"alerts.webhook: expected an https:// URL, found {parts.scheme}://{host}",
            next_step="plain http:// is taken for localhost only",
            key="alerts.webhook",
        )


def send(
    alert: Alert,
    webhook: str | None,
    command: Sequence[str] | None,
    *,
    timeout_s: float = _TIMEOUT_S,
    command_timeout_s: float = _COMMAND_TIMEOUT_S,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Delivery]:
    """Deliver an alert to each receiver that is given, the webhook first. Never raises for what a receiver does.

    The webhook gets up to 4 attempts: connection errors, timeouts, 429 and 5xx are tried again after 1, 2 and 4 s, or
    after the Retry-After that the receiver asks for, up to 30 s. Anything but 2xx else is final, a redirect too.
    The command is tried once.

    Args:
        alert: what to say.
        webhook: an https:// URL that is posted the JSON.
        command: a program and its arguments, run without a shell; it reads the JSON on stdin.
        timeout_s: how long to wait for each answer of the webhook.
        command_timeout_s: after so long the command and all it started are killed.
        sleep: waits so many seconds; tests give their own.
    """
    body = alert.to_json()
    found = []
    if webhook is not None:
        found.append(_post(webhook, body, timeout_s, sleep))
    if command:
        found.append(_run(command, body, command_timeout_s))
    for delivery in found:
        if delivery.delivered:
            _log.info("alert %s: taken by %s %s", alert.id, delivery.channel, delivery.receiver)
        else:
            _log.error(
                "alert %s (%s is now %s) was NOT delivered to %s %s after %d attempts: %s",
                *(alert.id, alert.pipeline, alert.state),
                *(delivery.channel, delivery.receiver, delivery.attempts, delivery.error),
                extra={"run_id": alert.run_id},
            )
    return found


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    # A redirected POST would become a GET, and the alert with its secret URL might go to another host.
    def redirect_request(self, *_request: Any) -> None:
        return None


def _post(url: str, body: bytes, timeout_s: float, sleep: Callable[[float], None]) -> Delivery:
    try:
        check_webhook(url)
    except SpecError as e:
        return Delivery("webhook", "", False, 0, e.message)
    parts = urlsplit(url)
    receiver = f"{parts.scheme}://{parts.netloc}"
    # localhost is meant literally, whatever proxy the environment names.
    proxies: dict[str, str] | None = {} if parts.hostname in _LOCAL_HOSTS else None
    opener = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler(proxies))
    headers = {"Content-Type": "application/json", "User-Agent": "batchinfer"}
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")
    error = ""
    for attempt, pause_s in enumerate([*_PAUSES_S, None], start=1):
        try:
            with opener.open(request, timeout=timeout_s):
                return Delivery("webhook", receiver, True, attempt)
        except urllib.error.HTTPError as e:
            error, asked_s = _status(e.code), _retry_after(e.headers.get("Retry-After"))
            e.close()
            final = e.code != HTTPStatus.TOO_MANY_REQUESTS and e.code < HTTPStatus.INTERNAL_SERVER_ERROR
        except (OSError, http.client.HTTPException) as e:
            reason = e.reason if isinstance(e, urllib.error.URLError) else e
            error, asked_s, final = _said(reason), 0.0, isinstance(reason, ssl.SSLCertVerificationError)
        if final or pause_s is None:
            break
        _log.warning("alert to %s: %s; trying again", receiver, error)
        sleep(min(max(pause_s, asked_s), _LONGEST_PAUSE_S))
    return Delivery("webhook", receiver, False, attempt, error)


def _status(code: int) -> str:
    redirected = " (redirects are not followed: state the final URL)" if 300 <= code < 400 else ""
    try:
        return f"HTTP {code} {HTTPStatus(code).phrase}{redirected}"
    except ValueError:
        return f"HTTP {code}{redirected}"


def _retry_after(value: str | None) -> float:
    return float(value) if value is not None and value.isdecimal() else 0.0


def _said(reason: object) -> str:
    """An error in words that cannot hold the URL: http.client's own messages may quote it."""
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    if isinstance(reason, OSError):
        return reason.strerror or type(reason).__name__
    return type(reason).__name__


def _run(command: Sequence[str], body: bytes, timeout_s: float) -> Delivery:
    def failed(error: str) -> Delivery:
        return Delivery("command", command[0], False, 1, error)

    # Output goes to a file, not a pipe: a pipe would be held open by whatever the command leaves behind.
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                list(command), stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True
            )
        except (OSError, ValueError) as e:
            return failed(f"cannot be started: {e.strerror if isinstance(e, OSError) else e}")
        try:
            process.communicate(body, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return failed(f"not done after {timeout_s:g} s, killed")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if process.returncode:
            output.seek(max(output.seek(0, os.SEEK_END) - 500, 0))
            said = output.read().decode(errors="replace").strip()
            for argument in command[1:]:  # one may hold a token, and what the command says may quote it
                said = said.replace(argument, "…") if len(argument) > 3 else said
            return failed(f"exit {process.returncode}" + (f": {without_secrets(said)}" if said else ""))
    return Delivery("command", command[0], True, 1)
