"""A schema registry for the tests: over HTTP, with the answers of Confluent's, as far as clients of ours ask.

Confluent's own is in no public package index and under a licence of its own, Karapace is in none either; what is tested
against this one is the client and the decoders, and both only know the answers that the API's description gives.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


@dataclass
class TestRegistry:
    """What is registered, what was asked, and what goes wrong on purpose.

    `failures` are answered first, one status each, 0 for none; `requests` are those that came: method, path and
    Authorization.
    """

    __test__ = False
    url: str = ""
    schemas: list[dict[str, Any]] = field(default_factory=list)
    places: list[tuple[str, int]] = field(default_factory=list)
    failures: list[int] = field(default_factory=list)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    incompatible: bool = False

    def add(self, subject: str, schema: str, kind: str = "AVRO", references: tuple[Any, ...] = ()) -> int:
        """Register a schema; the same one has the same id under every subject."""
        entry = {"schema": schema, "schemaType": kind, "references": list(references)}
        if entry not in self.schemas:
            self.schemas.append(entry)
        number = self.schemas.index(entry) + 1
        if (subject, number) not in self.places:
            self.places.append((subject, number))
        return number

    def versions(self, subject: str) -> list[int]:
        return [number for place, number in self.places if place == subject]

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        if found := re.fullmatch(r"/schemas/ids/(\d+)(/versions)?(\?format=serialized)?", path):
            number = int(found[1])
            if not 0 < number <= len(self.schemas):
                return 404, {"error_code": 40403, "message": "Schema not found"}
            if not found[2]:
                return 200, {key: value for key, value in self.schemas[number - 1].items() if value != "AVRO"}
            spots = [(s, self.versions(s).index(n) + 1) for s, n in self.places if n == number]
            return 200, [{"subject": subject, "version": version} for subject, version in spots]
        if found := re.fullmatch(r"/subjects/([^/]+)/versions(?:/(\d+))?", path):
            subject, known = found[1], self.versions(found[1])
            if method == "POST":
                if self.incompatible:
                    return 409, {"error_code": 409, "message": "Schema is incompatible with an earlier one"}
                return 200, {"id": self.add(subject, body["schema"], body.get("schemaType", "AVRO"))}
            if not found[2]:
                return 200, list(range(1, len(known) + 1))
            number = known[int(found[2]) - 1]
            return 200, self.schemas[number - 1] | {
                "subject": subject,
                "version": int(found[2]),
                "id": number,
            }
        return 404, {"error_code": 404, "message": "HTTP 404 Not Found"}


@contextmanager
def schema_registry() -> Iterator[TestRegistry]:
    """A registry that runs until the end of the block."""
    registry = TestRegistry()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._do(None)

        def do_POST(self) -> None:
            self._do(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _do(self, body: Any) -> None:
            registry.requests.append((self.command, self.path, self.headers.get("Authorization", "")))
            status = registry.failures.pop(0) if registry.failures else 0
            answer: Any = {"message": "on purpose"}
            if not status:
                status, answer = registry.answer(self.command, self.path, body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    registry.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
