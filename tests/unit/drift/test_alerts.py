"""An alert is sent once for each change of a pipeline's state, whatever is rerun, and its receiver may fail."""

from __future__ import annotations

import json
import logging
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchinfer.drift._alerts import (
    Alert,
    AlertState,
    Delivery,
    RunFacts,
    State,
    check_webhook,
    next_alert,
    next_state,
    send,
)
from batchinfer.errors import SpecError

TAKEN = [Delivery("webhook", "https://hooks.test", True, 1)]
NOT_TAKEN = [Delivery("webhook", "https://hooks.test", False, 4, "HTTP 500")]


def facts(run_id: str, state: State) -> RunFacts:
    return RunFacts(
        "flights", run_id, state, "why", "2026-01-31T00:00:00+00:00", {"ds": "d1"}, {"psi": float("nan")}
    )


def alert() -> Alert:
    found = next_alert(None, facts("r1", "drift"))
    assert found is not None
    return found


def told(runs: list[tuple[str, State]]) -> list[tuple[str, State | None, State]]:
    state: AlertState | None = None
    said = []
    for run_id, outcome in runs:
        run = facts(run_id, outcome)
        found = next_alert(state, run)
        if found is not None:
            said.append((found.run_id, found.previous, found.state))
        state = next_state(state, run, TAKEN if found else [])
    return said


def test_each_change_of_state_is_told_once() -> None:
    runs: list[tuple[str, State]] = [
        ("a", "ok"),
        ("b", "drift"),
        ("c", "drift"),
        ("d", "ok"),
        ("e", "ok"),
        ("f", "quality-failed"),
    ]
    assert told(runs) == [("b", "ok", "drift"), ("d", "drift", "ok"), ("f", "ok", "quality-failed")]


def test_a_first_run_is_told_only_where_it_is_not_ok() -> None:
    assert told([("a", "ok")]) == []
    assert told([("a", "drift")]) == [("a", None, "drift")]


def test_a_rerun_is_not_told_again_even_when_other_runs_came_between() -> None:
    assert told([("a", "drift"), ("a", "drift")]) == [("a", None, "drift")]
    again: list[tuple[str, State]] = [("a", "drift"), ("b", "ok"), ("a", "drift"), ("c", "ok")]
    assert told(again) == [("a", None, "drift"), ("b", "drift", "ok")]


def test_a_run_that_failed_and_then_succeeds_is_told_as_recovered() -> None:
    assert told([("a", "failed"), ("a", "ok")]) == [("a", None, "failed"), ("a", "failed", "ok")]


def test_runs_that_failed_before_they_had_an_id_are_not_taken_for_one_another() -> None:
    runs: list[tuple[str, State]] = [("", "failed"), ("", "failed"), ("a", "ok"), ("", "failed")]
    assert told(runs) == [("", None, "failed"), ("a", "failed", "ok"), ("", "ok", "failed")]


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["ok", "drift", "quality-failed"]))))
def test_rerunning_each_run_at_once_changes_nothing_that_is_told(runs: list[tuple[str, State]]) -> None:
    assert told([run for run in runs for _ in range(2)]) == told(runs)


def test_an_alert_that_was_not_taken_is_told_again_by_the_next_run() -> None:
    ok = next_state(None, facts("a", "ok"), [])
    after = next_state(ok, facts("b", "drift"), NOT_TAKEN)
    assert after == ok
    for run_id in ("b", "c"):
        again = next_alert(after, facts(run_id, "drift"))
        assert again is not None
        assert (again.previous, again.state) == ("ok", "drift")


def test_the_state_survives_its_file_and_a_damaged_file_is_refused() -> None:
    state = AlertState("drift", {"a": "ok", "b": "drift"})
    assert AlertState.from_bytes(state.to_bytes()) == state
    for content in (
        b"",
        b"[]",
        b"{}",
        b'{"state": "well", "runs": {}}',
        b'{"state": "ok", "runs": {"a": []}}',
        b'{"state": ["ok"], "runs": {}}',
        b"\xff",
    ):
        with pytest.raises(ValueError, match=r"not an alert state|Expecting value|codec"):
            AlertState.from_bytes(content)


def test_the_state_does_not_grow_without_bound() -> None:
    state = None
    for number in range(1100):
        state = next_state(state, facts(f"r{number}", "ok"), [])
    assert state is not None
    assert (len(state.runs), "r1099" in state.runs, "r0" in state.runs) == (1000, True, False)


def test_the_payload_is_json_even_where_a_number_is_not() -> None:
    value = json.loads(alert().to_json())
    assert value["drift"] == {"psi": None}
    assert list(value) == [
        *("id", "pipeline", "previous", "state", "why", "run_id", "parameters", "time", "drift", "quality")
    ]


# The webhook.

Answer = Callable[[BaseHTTPRequestHandler], None]


class Hook:
    """A real HTTP server that answers as the test says, the last answer from then on."""

    def __init__(self) -> None:
        self.answers: list[Answer] = [status(200)]
        self.bodies: list[dict[str, object]] = []
        self.methods: list[str] = []
        self.released = threading.Event()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.methods.append(self.command)
                hook.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                answer = hook.answers[min(len(hook.bodies), len(hook.answers)) - 1]
                answer(self)

            def do_GET(self) -> None:
                hook.methods.append(self.command)
                status(200)(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def status(code: int, **headers: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


@pytest.fixture
def hook() -> Iterator[Hook]:
    found = Hook()
    yield found
    found.close()


def post(url: str, pauses: list[float] | None = None, timeout_s: float = 10) -> Delivery:
    waited = pauses if pauses is not None else []
    (delivery,) = send(alert(), url, None, sleep=waited.append, timeout_s=timeout_s)
    return delivery


def test_the_webhook_is_posted_the_alert_once(hook: Hook) -> None:
    receiver = f"http://127.0.0.1:{hook.port}"
    assert post(f"{receiver}/in?token=s3cret") == Delivery("webhook", receiver, True, 1)
    assert hook.bodies == [json.loads(alert().to_json())]


def test_a_server_error_is_tried_again(hook: Hook) -> None:
    hook.answers = [status(500), status(503), status(200)]
    pauses: list[float] = []
    assert post(f"http://localhost:{hook.port}/", pauses).attempts == 3
    assert pauses == [1, 2]
    assert hook.bodies[0] == hook.bodies[2]


def test_a_server_that_stays_broken_is_given_up_and_said(
    hook: Hook, caplog: pytest.LogCaptureFixture
) -> None:
    hook.answers = [status(502)]
    pauses: list[float] = []
    with caplog.at_level(logging.WARNING):
        found = post(f"http://127.0.0.1:{hook.port}/services/T0/s3cret?token=s3cret", pauses)
    assert (found.delivered, found.attempts, found.error) == (False, 4, "HTTP 502 Bad Gateway")
    assert (len(hook.bodies), pauses) == (4, [1, 2, 4])
    assert "NOT delivered" in caplog.text
    assert f"http://127.0.0.1:{hook.port}" in caplog.text
    assert "s3cret" not in caplog.text + str(found)


def test_a_busy_server_is_given_the_time_it_asks_for_up_to_a_bound(hook: Hook) -> None:
    hook.answers = [
        status(429, Retry_After="7"),
        status(429, Retry_After="86400"),
        status(429, Retry_After="soon"),
        status(200),
    ]
    pauses: list[float] = []
    assert post(f"http://127.0.0.1:{hook.port}/", pauses).delivered
    assert pauses == [7, 30, 4]


def test_a_refusal_is_final(hook: Hook) -> None:
    hook.answers = [status(404)]
    assert post(f"http://127.0.0.1:{hook.port}/").error == "HTTP 404 Not Found"
    assert len(hook.bodies) == 1


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(hook: Hook, code: int) -> None:
    other = Hook()
    try:
        hook.answers = [status(code, Location=f"http://127.0.0.1:{other.port}/elsewhere")]
        found = post(f"http://127.0.0.1:{hook.port}/")
    finally:
        other.close()
    assert other.methods == []
    assert (found.delivered, found.attempts) == (False, 1)
    assert "redirects are not followed" in str(found.error)


def test_a_hanging_server_is_left_after_the_timeout(hook: Hook) -> None:
    def hang(_: BaseHTTPRequestHandler) -> None:
        hook.released.wait(30)

    hook.answers = [hang, status(200)]
    assert post(f"http://127.0.0.1:{hook.port}/", timeout_s=0.2) == Delivery(
        "webhook", f"http://127.0.0.1:{hook.port}", True, 2
    )


def test_a_server_that_hangs_up_or_talks_nonsense_is_tried_again(hook: Hook) -> None:
    def hang_up(request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True

    def nonsense(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"s3cret nonsense\r\n\r\n")
        request.close_connection = True

    hook.answers = [hang_up, nonsense, status(200)]
    assert post(f"http://127.0.0.1:{hook.port}/").attempts == 3


def test_a_refused_connection_is_tried_again_and_said(hook: Hook) -> None:
    port = hook.port
    hook.close()
    found = post(f"http://127.0.0.1:{port}/s3cret")
    assert (found.delivered, found.attempts, found.error) == (False, 4, "Connection refused")


def test_localhost_is_reached_without_the_proxy(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert post(f"http://127.0.0.1:{hook.port}/").delivered


@pytest.fixture
def https(hook: Hook, tmp_path: Path) -> tuple[Hook, Path]:
    """The hook behind TLS, with a certificate that nobody has signed."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
            ),
            *("-keyout", str(key), "-out", str(certificate), "-days", "1"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    hook.server.socket = context.wrap_socket(hook.server.socket, server_side=True)
    return hook, certificate


def test_https_delivers_where_the_certificate_is_trusted(
    https: tuple[Hook, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    hook, certificate = https
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert post(f"https://localhost:{hook.port}/in").delivered
    assert len(hook.bodies) == 1


def test_https_refuses_a_certificate_that_is_not_trusted(
    https: tuple[Hook, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    hook, _ = https
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setattr(hook.server, "handle_error", lambda *_: None)
    found = post(f"https://localhost:{hook.port}/in")
    assert (found.delivered, found.attempts, hook.bodies) == (False, 1, [])
    assert "certificate" in str(found.error).lower()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://hooks.example.com/s3cret", "expected an https:// URL, found http://hooks.example.com"),
        ("ftp://localhost/s3cret", "expected an https:// URL, found ftp://localhost"),
        ("https://user:s3cret@hooks.example.com/", "hooks.example.com holds a user or password"),
        ("https://hooks.example.com:s3cret/", "not a URL"),
        ("https:///s3cret", "not a URL with a host"),
        ("https://hooks.example.com/s3cret\r\nHost: x", "not a URL with a host"),
        ("https://hooks.example.com/s3crét", "not a URL with a host"),
        ("s3cret", "not a URL with a host"),
    ],
)
def test_a_webhook_that_will_not_do_is_refused_without_its_secrets(url: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        check_webhook(url)
    assert said in str(caught.value)
    assert "s3cr" not in str(caught.value) + str(caught.value.fields)
    assert post(url) == Delivery("webhook", "", False, 0, caught.value.message)


# The command.


def run(*command: str, timeout_s: float = 30) -> Delivery:
    (delivery,) = send(alert(), None, command, command_timeout_s=timeout_s)
    return delivery


def test_the_command_reads_the_alert_on_stdin_and_its_arguments_meet_no_shell(tmp_path: Path) -> None:
    target = tmp_path / "$(touch x); alert.json"
    program = "import sys; open(sys.argv[1], 'wb').write(sys.stdin.buffer.read())"
    assert run(sys.executable, "-c", program, str(target)) == Delivery("command", sys.executable, True, 1)
    assert json.loads(target.read_bytes()) == json.loads(alert().to_json())


def test_a_command_that_ignores_stdin_is_done_when_it_is_done() -> None:
    assert run("true").delivered


def test_a_command_that_fails_is_said_with_what_it_said(capfd: pytest.CaptureFixture[str]) -> None:
    program = "import sys; print('out'); sys.exit('pager is down')"
    found = run(sys.executable, "-c", program)
    assert (found.delivered, found.attempts) == (False, 1)
    assert found.error is not None
    assert found.error.startswith("exit 1: ")
    assert "pager is down" in found.error
    # stdout belongs to the run's own report.
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("command", ["no-such-program-anywhere", "/"])
def test_a_command_that_cannot_be_started_is_said(command: str) -> None:
    found = run(command)
    assert not found.delivered
    assert str(found.error).startswith("cannot be started: ")


def test_a_hanging_command_is_killed_with_all_it_started(tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    grandchild = f"import time\nwhile True: open({str(beat)!r}, 'a').write('x'); time.sleep(0.02)"
    program = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {grandchild!r}]); time.sleep(600)"
    before = time.monotonic()
    found = run(sys.executable, "-c", program, timeout_s=3)
    assert (found.delivered, found.error) == (False, "not done after 3 s, killed")
    assert time.monotonic() - before < 60
    assert beat.exists(), "the grandchild was never alive, so nothing was proved"
    size = beat.stat().st_size
    time.sleep(0.2)
    assert beat.stat().st_size == size


def test_both_receivers_are_told_and_neither_waits_for_the_other_to_succeed(hook: Hook) -> None:
    hook.answers = [status(403)]
    webhook, command = send(alert(), f"http://127.0.0.1:{hook.port}/", ["true"])
    assert (webhook.delivered, command.delivered) == (False, True)
