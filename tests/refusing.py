"""A server that refuses everything, as S3 does: by saying whose key it was. Posts below /taken are taken.

Run as a program it says its port: delta-rs keeps Python's lock while it waits, so it must be a process of its own.
"""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY_ID = "PLANTEDACCESSKEYID"


class Refusing(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        said = f"<Code>InvalidAccessKeyId</Code><Message>The key {KEY_ID} is unknown</Message>"
        self._answer(
            403, f"<?xml version='1.0'?><Error>{said}<AWSAccessKeyId>{KEY_ID}</AWSAccessKeyId></Error>"
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):  # whatever else is asked
            return self.do_GET
        raise AttributeError(name)

    def do_POST(self) -> None:
        self._answer(200 if self.path.startswith("/taken") else 404, "")

    def _answer(self, code: int, body: str) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(code)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body.encode())

    def log_message(self, *_: Any) -> None:
        pass


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()
