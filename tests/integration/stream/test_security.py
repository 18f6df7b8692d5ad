"""What docs/kafka-security.md shows works against Apache Kafka, and no secret comes out."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import admin
from tests import kafka
from tests.conftest import Pipeline
from tests.ports import free_ports
from tests.streams import Topics, committed, message, produce, section

from batchinfer.errors import BrokerRefused, SpecError
from batchinfer.runs import stream
from batchinfer.spec import load_spec

pytestmark = pytest.mark.xdist_group("kafka")

SECRET = "correct horse battery staple"
JAAS = "org.apache.kafka.common.security"


@dataclass(frozen=True)
class Secured:
    """A broker that wants to know who asks, and the files of a client that it knows."""

    broker: kafka.Broker
    sasl: str
    tls: str
    folder: Path


def certificates(folder: Path) -> None:
    """A certificate authority, and certificates of it for the broker and a client, each in one PEM with its key."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=tests", "-days", "2")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    for name in ("broker", "client"):
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.crt", *signed)
        both = (folder / f"{name}.key").read_text() + (folder / f"{name}.crt").read_text()
        (folder / f"{name}.pem").write_text(both)


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Secured]:
    if kafka.libraries() is None or shutil.which("openssl") is None:
        pytest.skip("Apache Kafka and openssl are needed")
    certificates(tmp_path)
    sasl, tls = free_ports(2)
    settings = {
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(tmp_path / "broker.pem"),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(tmp_path / "ca.pem"),
        "listener.name.ssl.ssl.client.auth": "required",
        "sasl.enabled.mechanisms": "SCRAM-SHA-512,OAUTHBEARER",
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": f"{JAAS}.scram.ScramLoginModule required;",
        "listener.name.sasl_ssl.oauthbearer.sasl.jaas.config": (
            f"{JAAS}.oauthbearer.OAuthBearerLoginModule required;"
        ),
    }
    settings |= {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS;User:CN=client",
    }
    with kafka.broker({"SASL_SSL": sasl, "SSL": tls}, settings) as broker:
        client = admin.AdminClient({"bootstrap.servers": broker.bootstrap_servers})
        scram = admin.ScramCredentialInfo(admin.ScramMechanism.SCRAM_SHA_512, 4096)
        user = admin.UserScramCredentialUpsertion("scorer", scram, SECRET.encode())
        client.alter_user_scram_credentials([user])["scorer"].result(20)
        yield Secured(broker, f"127.0.0.1:{sasl}", f"127.0.0.1:{tls}", tmp_path)


def allow(broker: kafka.Broker, kind: Any, name: str, *operations: str) -> None:
    """Let the user `scorer` do so with everything whose name begins so."""
    client = admin.AdminClient({"bootstrap.servers": broker.bootstrap_servers})
    for operation in operations:
        right = admin.AclBinding(
            kind,
            name,
            admin.ResourcePatternType.PREFIXED,
            "User:scorer",
            "*",
            admin.AclOperation[operation],
            admin.AclPermissionType.ALLOW,
        )
        for made in client.create_acls([right]).values():
            made.result(20)


def test_streams_authenticate_as_documented_and_show_no_secret(
    secured: Secured, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", SECRET)
    authority = {"ssl.ca.location": str(secured.folder / "ca.pem")}
    scram = {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "scorer",
        "sasl.password": "${KAFKA_PASSWORD}",
        **authority,
    }
    oauth = {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "OAUTHBEARER",
        "enable.sasl.oauthbearer.unsecure.jwt": True,  # in production: sasl.oauthbearer.method: oidc
        "sasl.oauthbearer.config": "principal=scorer",
        **authority,
    }
    mutual = {
        "security.protocol": "SSL",
        "ssl.certificate.location": str(secured.folder / "client.crt"),
        "ssl.key.location": str(secured.folder / "client.key"),
        **authority,
    }
    topics = Topics.of(secured.broker, 1)

    def run(servers: str, settings: dict[str, Any]) -> int:
        stated = section(secured.broker, topics, settings=settings) | {"bootstrap_servers": servers}
        return stream(load_spec(pipeline.write_spec(stream=stated)), until_end=True).messages["predicted"]

    # The rights of docs/kafka-security.md, and none more.
    kinds = admin.ResourceType
    allow(secured.broker, kinds.TOPIC, topics.input, "READ", "DESCRIBE")
    for topic in (topics.output, topics.letters):
        allow(secured.broker, kinds.TOPIC, topic, "WRITE", "DESCRIBE")
    group = f"g-{topics.input}"
    allow(secured.broker, kinds.GROUP, group, "READ")
    produce(secured.broker, topics.input, (message(n) for n in range(20)))
    with pytest.raises(BrokerRefused, match="lists the rights") as denied:
        run(secured.sasl, scram)
    assert "Transactional Id" in denied.value.message
    allow(secured.broker, kinds.TRANSACTIONAL_ID, f"{group}-", "WRITE", "DESCRIBE")
    assert run(secured.sasl, scram) == 20

    for servers, settings in ((secured.sasl, oauth), (secured.tls, mutual)):
        produce(secured.broker, topics.input, (message(n) for n in range(20)))
        assert run(servers, settings) == 20, settings["security.protocol"]
    assert len(committed(secured.broker, topics.output)) == 60

    monkeypatch.setenv("KAFKA_PASSWORD", wrong := "incorrect donkey battery")
    with pytest.raises(BrokerRefused, match="uthentication") as refused:
        run(secured.sasl, scram)
    with pytest.raises(
        SpecError, match=r"stream.settings.sasl.password: a secret .* \$\{KAFKA_PASSWORD\}"
    ) as literal:
        run(secured.sasl, scram | {"sasl.password": SECRET})
    with pytest.raises(BrokerRefused, match="certificate"):
        run(secured.tls, mutual | {"ssl.ca.location": mutual["ssl.certificate.location"]})
    said = f"{refused.value}{refused.value.fields}{literal.value}{caplog.text}"
    assert SECRET not in said
    assert wrong not in said
