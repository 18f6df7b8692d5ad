"""The schema registry, asked over HTTP: any that answers as Confluent's does (Karapace, Apicurio, Redpanda …).

What an id stands for never changes, so that each is asked for once. An id that the registry does not know is asked for
again after a while: it may be a follower that lags behind.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchinfer.errors import BatchinferError, InputError, RegistryRefused, RegistryUnavailable, SpecError

USER, PASSWORD, TOKEN = "SCHEMA_REGISTRY_USER", "SCHEMA_REGISTRY_PASSWORD", "SCHEMA_REGISTRY_TOKEN"
"""The environment variables that hold credentials: of basic authentication, or a bearer's token."""
_FILES = ("ca_file", "certificate_file", "key_file")
_SETTINGS = (*_FILES, "timeout_seconds", "subject", "register")
_MEDIA = "application/vnd.schemaregistry.v1+json"
_ATTEMPTS = 4
_PAUSE_S = 0.2
"""Before the second attempt; each further pause is twice as long."""
_UNKNOWN_S = 30.0
_MOST_UNKNOWN = 10_000
_NOT_FOUND = (40401, 40402, 40403)
"""The codes of a subject, version or schema that is not there: any other 404 is of something that is no registry."""
_AGAIN = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Reference:
    """A schema that another one imports: under which name, and where it is registered."""

    name: str
    subject: str
    version: int


@dataclass(frozen=True, slots=True)
class Registered:
    """A schema as the registry has it. `kind` is AVRO or PROTOBUF; `text` is the schema in that language."""

    kind: str
    text: str
    references: tuple[Reference, ...]


class SchemaRegistry:
    """A client. Thread-safe; what is asked for twice at once is merely asked twice.

    Args:
        url: where the registry is.
        settings: `ca_file`, `certificate_file`, `key_file` (PEM), `timeout_seconds` for each attempt.
        pause: waits so many seconds between attempts.
        clock: seconds, monotonic.

    Every method raises:
        RegistryUnavailable: it does not answer, or says that it cannot now; transient.
        RegistryRefused: it wants other credentials, refuses for good, or has a certificate that is not trusted.
    """

    def __init__(
        self,
        url: str,
        settings: Mapping[str, Any] | None = None,
        *,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url.rstrip("/")
        given = dict(settings or {})
        if urllib.parse.urlsplit(url).password is not None:
            raise SpecError(f"stream.format.registry: states a password; set {USER} and {PASSWORD}")
        if unknown := sorted(given.keys() - set(_SETTINGS)):
            raise SpecError(
                f"stream.format.registry_settings: there is no '{unknown[0]}'; allowed: {', '.join(_SETTINGS)}"
            )
        self._timeout_s = float(given.get("timeout_seconds", 5))
        self._tls = _tls(given) if self.url.startswith("https:") else None
        self._pause = pause
        self._clock = clock
        self._schemas: dict[tuple[int, str], Registered] = {}
        self._unknown: dict[tuple[int, str], tuple[float, str]] = {}
        self._ids: dict[tuple[str, str], int] = {}

    def schema(self, number: int, form: str = "") -> Registered:
        """What an id stands for. `form=serialized` gives a Protobuf schema as its descriptor, in base64.

        Raises:
            InputError: the registry has no such id.
        """
        key = (number, form)
        if key not in self._schemas:
            until, message = self._unknown.get(key, (0.0, ""))
            if self._clock() < until:
                raise InputError(message, schema_id=number)
            try:
                answer = self._get(f"/schemas/ids/{number}" + (f"?format={form}" if form else ""))
            except InputError as e:
                if len(self._unknown) >= _MOST_UNKNOWN:  # whoever sends noise must not fill the memory
                    self._unknown.clear()
                self._unknown[key] = (self._clock() + _UNKNOWN_S, f"schema {number} is not in the registry")
                raise InputError(self._unknown[key][1], schema_id=number) from e
            self._schemas[key] = _registered(answer)
        return self._schemas[key]

    def references(self, schema: Registered, form: str = "") -> list[tuple[str, Registered]]:
        """All that a schema imports, by name, and what that imports: each after those that it needs itself.

        Raises:
            InputError: the registry has no such subject or version.
        """
        found: dict[str, Registered] = {}
        for each in schema.references:
            if each.name not in found:
                subject = urllib.parse.quote(each.subject, safe="")
                answer = self._get(f"/subjects/{subject}/versions/{each.version}")
                imported = self.schema(int(answer["id"]), form)
                found |= {name: inner for name, inner in self.references(imported, form) if name not in found}
                found[each.name] = imported
        return list(found.items())

    def named(self, number: int) -> str:
        """An id in words, with a subject and version that it is registered as, as far as the registry tells."""
        with suppress(InputError, RegistryRefused):
            for subject, version in self._places(number):
                return f"schema {number} ({subject}, version {version})"
        return f"schema {number}"

    def siblings(self, number: int) -> list[int]:
        """The other schemas of an id's subjects, the latest first."""
        found: dict[int, None] = {}
        with suppress(InputError, RegistryRefused):
            for subject, _ in self._places(number):
                path = f"/subjects/{urllib.parse.quote(subject, safe='')}/versions"
                for version in sorted(self._get(path), reverse=True):
                    found[int(self._get(f"{path}/{version}")["id"])] = None
        return [each for each in found if each != number]

    def _places(self, number: int) -> list[tuple[str, int]]:
        answer = self._get(f"/schemas/ids/{number}/versions")
        return [(str(place["subject"]), int(place["version"])) for place in answer]

    def register(self, subject: str, kind: str, text: str, *, may_write: bool = True) -> int:
        """The id of a schema, which is registered under the subject where it is not yet and may be.

        Raises:
            InputError: the registry finds it invalid or incompatible with what the subject has, or has it not.
        """
        key = (subject, text)
        if key not in self._ids:
            body = {"schema": text} | ({} if kind == "AVRO" else {"schemaType": kind})
            path = f"/subjects/{urllib.parse.quote(subject, safe='')}" + ("/versions" if may_write else "")
            self._ids[key] = int(self._ask(path, json.dumps(body).encode())["id"])
        return self._ids[key]

    def _get(self, path: str) -> Any:
        return self._ask(path, None)

    def _ask(self, path: str, body: bytes | None) -> Any:
        pause_s = _PAUSE_S
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._ask_once(path, body)
            except RegistryUnavailable:
                if attempt == _ATTEMPTS:
                    raise
            self._pause(pause_s)
            pause_s *= 2
        raise AssertionError("the last attempt returns or raises")

    def _ask_once(self, path: str, body: bytes | None) -> Any:
        request = urllib.request.Request(self.url + path, body, {"Accept": _MEDIA, "Content-Type": _MEDIA})
        if credentials := _credentials():
            request.add_unredirected_header("Authorization", credentials)
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s, context=self._tls) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as e:
            with e:
                raise self._refusal(e, path) from e
        except (OSError, ValueError) as e:  # no connection, no answer in time, an answer that is no JSON
            reason = getattr(e, "reason", None) or e
            if isinstance(reason, ssl.SSLCertVerificationError):  # it does not pass by waiting
                raise RegistryRefused(
                    f"{self.url}: the schema registry's certificate is not trusted: {reason.verify_message}",
                    next_step="state the authority in registry_settings.ca_file",
                    url=self.url,
                ) from e
            raise RegistryUnavailable(
                f"{self.url}: the schema registry does not answer: {reason}", url=self.url
            ) from e

    def _refusal(self, error: urllib.error.HTTPError, path: str) -> BatchinferError:
        try:
            answer = json.loads(error.read())
            code, says = answer.get("error_code"), f": {answer.get('message', '')}"
        except (OSError, ValueError, AttributeError):
            code, says = None, ""
        told = f"{self.url}{path}: the schema registry answers {error.code}{says}"
        if error.code in _AGAIN:
            return RegistryUnavailable(told, url=self.url, status=error.code)
        if error.code in {409, 422} or (error.code == 404 and code in _NOT_FOUND):
            return InputError(told, url=self.url, status=error.code)
        step = f"set {USER} and {PASSWORD}, or {TOKEN}" if error.code in {401, 403} else ""
        return RegistryRefused(told, next_step=step, url=self.url, status=error.code)


def _registered(answer: Mapping[str, Any]) -> Registered:
    references = tuple(
        Reference(each["name"], each["subject"], int(each["version"]))
        for each in answer.get("references") or ()
    )
    return Registered(answer.get("schemaType") or "AVRO", answer["schema"], references)


def _credentials() -> str:
    if token := os.environ.get(TOKEN):
        return f"Bearer {token}"
    if user := os.environ.get(USER):
        pair = f"{user}:{os.environ.get(PASSWORD, '')}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"
    return ""


def _tls(settings: Mapping[str, Any]) -> ssl.SSLContext:
    for key in _FILES:
        if key in settings and not Path(str(settings[key])).is_file():
            raise SpecError(f"stream.format.registry_settings.{key}: there is no file '{settings[key]}'")
    given = {key: str(settings[key]) for key in _FILES if key in settings}
    try:
        context = ssl.create_default_context(cafile=given.get("ca_file"))
        if "certificate_file" in given:
            context.load_cert_chain(given["certificate_file"], given.get("key_file"))
    except ssl.SSLError as e:
        raise SpecError(
            f"stream.format.registry_settings: {', '.join(given)} cannot be used: {e.reason or e}",
        ) from e
    return context
