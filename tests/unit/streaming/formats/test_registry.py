"""The schema registry's client: patient with what passes, plain about what does not, silent about secrets."""

from __future__ import annotations

import base64
import socket
import ssl
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from tests.schema_registry import TestRegistry, schema_registry

from batchinfer.errors import InputError, RegistryRefused, RegistryUnavailable, SpecError, Transient
from batchinfer.streaming.formats import SchemaRegistry


@pytest.fixture
def registry() -> Iterator[TestRegistry]:
    with schema_registry() as registry:
        registry.add("flights-value", '"long"')
        yield registry


def test_what_passes_is_asked_again_with_growing_pauses(registry: TestRegistry) -> None:
    pauses: list[float] = []
    client = SchemaRegistry(registry.url, pause=pauses.append)
    registry.failures += [503, 429]
    assert client.schema(1).text == '"long"'
    assert pauses == [0.2, 0.4]
    registry.failures += [500] * 4
    with pytest.raises(RegistryUnavailable, match="answers 500: on purpose"):
        client.named(2)
    assert len(pauses) == 5


def test_a_registry_that_is_not_there_is_transient_and_no_fault_of_a_message() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        client = SchemaRegistry(f"http://127.0.0.1:{closed.getsockname()[1]}", pause=lambda _: None)
        with pytest.raises(RegistryUnavailable, match="does not answer") as raised:
            client.schema(1)
    assert isinstance(raised.value, Transient)


def test_an_id_that_was_unknown_is_asked_for_again_after_a_while(registry: TestRegistry) -> None:
    now = 100.0
    client = SchemaRegistry(registry.url, clock=lambda: now)
    for _ in range(2):
        with pytest.raises(InputError, match="schema 2 is not in the registry"):
            client.schema(2)
    assert len(registry.requests) == 1
    registry.add("flights-value", '"int"')
    now += 31
    assert client.schema(2).text == '"int"'


def test_credentials_come_from_the_environment_and_stand_in_no_error(
    registry: TestRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCHEMA_REGISTRY_USER", "reader")
    monkeypatch.setenv("SCHEMA_REGISTRY_PASSWORD", "s3cret")
    SchemaRegistry(registry.url).schema(1)
    basic = base64.b64encode(b"reader:s3cret").decode()
    assert registry.requests[-1][2] == f"Basic {basic}"
    registry.failures.append(401)
    with pytest.raises(RegistryRefused, match="SCHEMA_REGISTRY_TOKEN") as raised:
        SchemaRegistry(registry.url).schema(1)
    assert "s3cret" not in str(raised.value) + repr(raised.value.fields)
    monkeypatch.setenv("SCHEMA_REGISTRY_TOKEN", "t0ken")
    SchemaRegistry(registry.url).schema(1)
    assert registry.requests[-1][2] == "Bearer t0ken"


def test_a_server_that_is_no_registry_is_no_fault_of_a_message(registry: TestRegistry) -> None:
    with pytest.raises(RegistryRefused, match="answers 404"):
        SchemaRegistry(registry.url + "/elsewhere").schema(1)


def test_settings_that_cannot_work_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="states a password") as raised:
        SchemaRegistry("https://reader:s3cret@registry:8081")
    assert "s3cret" not in str(raised.value)
    with pytest.raises(SpecError, match=r"there is no 'timeout'; allowed: .*timeout_seconds"):
        SchemaRegistry("http://registry", {"timeout": 3})
    with pytest.raises(SpecError, match="ca_file: there is no file"):
        SchemaRegistry("https://registry", {"ca_file": str(tmp_path / "ca.pem")})
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(SpecError, match="ca_file"):
        SchemaRegistry("https://registry", {"ca_file": str(tmp_path / "ca.pem")})


def test_a_certificate_of_an_unknown_authority_is_not_waited_for(tmp_path: Path) -> None:
    command = "openssl req -x509 -nodes -newkey rsa:2048 -keyout key -out cert -subj /CN=other"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    with (
        HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server,
        tls.wrap_socket(server.socket, server_side=True) as server.socket,
    ):
        thread = Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(RegistryRefused, match=r"certificate is not trusted: self.signed") as raised:
            SchemaRegistry(f"https://127.0.0.1:{server.server_port}").schema(1)
        thread.join()
    assert "ca_file" in (raised.value.next_step or "")


def test_a_schema_is_registered_once_and_an_incompatible_one_is_refused(registry: TestRegistry) -> None:
    client = SchemaRegistry(registry.url)
    number = client.register("predictions-value", "AVRO", '"int"')
    assert client.register("predictions-value", "AVRO", '"int"') == number
    assert [method for method, _, _ in registry.requests] == ["POST"]
    assert client.named(number) == f"schema {number} (predictions-value, version 1)"
    registry.incompatible = True
    with pytest.raises(InputError, match="incompatible with an earlier one"):
        client.register("predictions-value", "AVRO", '"string"')
