"""Apache Kafka for the tests: one KRaft node from its Maven artefacts, or the embedded broker without Java."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from batchinfer.errors import BrokerUnavailable
from batchinfer.streaming._embedded import EmbeddedBroker, await_port
from tests import java
from tests.ports import free_ports

VERSION = "4.3.1"
_PATIENCE_SECONDS = 90
_SETTINGS = {
    "controller.listener.names": "CONTROLLER",
    "auto.create.topics.enable": "false",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "2",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "2",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "200",
    "group.initial.rebalance.delay.ms": "0",
    "broker.session.timeout.ms": "1500",
    "broker.heartbeat.interval.ms": "300",
    "group.min.session.timeout.ms": "500",
    "log.cleaner.enable": "false",
}
_JAVA = ("-Xms96m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")


@dataclass
class Broker:
    """A running broker. `real` is whether it is Apache Kafka: the embedded one stands in for it where it can."""

    bootstrap_servers: str
    real: bool
    folder: Path
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    controller: subprocess.Popen[bytes] | None = None
    jars: Path | None = None
    topics: list[str] = field(default_factory=list)

    def topic(self, name: str, partitions: int = 1, **config: str) -> str:
        """A new topic whose name begins so; settings as `max_message_bytes="…"`."""
        from confluent_kafka.admin import AdminClient, NewTopic

        full = f"{name}-{uuid.uuid4().hex[:8]}"
        settings = {key.replace("_", "."): value for key, value in config.items()} if self.real else {}
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers})
        made = admin.create_topics([NewTopic(full, partitions, 1, config=settings)])
        made[full].result(30)
        until = time.monotonic() + 30
        while len(admin.list_topics(full, 10).topics[full].partitions) < partitions:
            assert time.monotonic() < until, f"{full} did not appear"
            time.sleep(0.02)
        return full

    def kill(self) -> None:
        """kill -9, where the broker is real and its controller goes on."""
        assert self.process is not None
        assert self.controller is not None
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """Start it again on what it had written."""
        assert self.jars is not None
        self.process = _start(self.jars, self.folder / "broker")
        await_port(self.port, self.process, _PATIENCE_SECONDS)


@contextmanager
def broker(
    listeners: Mapping[str, int] | None = None,
    settings: Mapping[str, str] | None = None,
    *,
    controller_apart: bool = False,
) -> Iterator[Broker]:
    """A broker of this block's own; `listeners` are further ones, by name their port, `settings` its own.

    With its controller in a process apart it may be killed, as in a cluster. One that is both, with its controller
    dead too, comes back as the leader of its partitions before it counts as alive: it takes their topics for deleted,
    and ends transactions that were under way without a mark in them, so that what was aborted may be seen as
    committed later (Apache Kafka 4.3.1).
    """
    folder = Path(tempfile.mkdtemp(prefix="batchinfer-kafka-"))
    jars = libraries()
    try:
        if jars is None:
            with EmbeddedBroker(log=folder / "log") as embedded:
                yield Broker(embedded.bootstrap_servers, False, folder)
            return
        port, controller = free_ports(2)
        more = "".join(f",{name}://127.0.0.1:{place}" for name, place in (listeners or {}).items())
        clients, quorum = f"PLAINTEXT://127.0.0.1:{port}{more}", f"CONTROLLER://127.0.0.1:{controller}"
        running = Broker(f"127.0.0.1:{port}", True, folder, port, jars=jars)
        nodes: dict[str, dict[str, str]] = {
            "broker": {
                "process.roles": "broker" if controller_apart else "broker,controller",
                "node.id": "1",
                "listeners": clients if controller_apart else f"{clients},{quorum}",
                "advertised.listeners": clients,
            }
        }
        if controller_apart:
            nodes["controller"] = {"process.roles": "controller", "node.id": "2", "listeners": quorum}
        for name, own in nodes.items():
            home = folder / name
            shutil.copytree(_formatted(jars, own["node.id"]), home / "data")
            own |= {
                "log.dirs": str(home / "data"),
                "controller.quorum.voters": f"{2 if controller_apart else 1}@127.0.0.1:{controller}",
            }
            _write_settings(home / "server.properties", {**_SETTINGS, **(settings or {}), **own})
        try:
            if controller_apart:
                running.controller = _start(jars, folder / "controller")
            running.process = _start(jars, folder / "broker")
            await_port(port, running.process, _PATIENCE_SECONDS)
            yield running
        except BrokerUnavailable as e:
            raise RuntimeError((folder / "broker" / "log").read_text()[-4000:]) from e
        finally:
            java.stop([running.process, running.controller])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def libraries() -> Path | None:
    """The folder of Apache Kafka's jars; None, with a warning, where Java or the network is missing."""
    try:
        return java.jars(f"kafka-{VERSION}", f"org.apache.kafka:kafka_2.13:{VERSION}")
    except java.Unavailable as e:
        warnings.warn(f"{e}: the embedded broker stands in for Apache Kafka", stacklevel=2)
        return None


def _formatted(jars: Path, node: str) -> Path:
    """A formatted, empty data folder: made once, and copied for each node with this id."""
    folder = java.CACHE / f"kafka-{VERSION}-formatted-{node}"
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=java.CACHE) as work:
            settings = {
                **_SETTINGS,
                "process.roles": "broker,controller",
                "node.id": node,
                "listeners": "PLAINTEXT://127.0.0.1:1,CONTROLLER://127.0.0.1:2",
                "controller.quorum.voters": f"{node}@127.0.0.1:2",
                "log.dirs": f"{work}/data",
            }
            _write_settings(Path(work) / "server.properties", settings)
            command = ["java", *_JAVA, "-cp", f"{jars}/*", "kafka.tools.StorageTool", "format"]
            command += ["-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c", f"{work}/server.properties"]
            subprocess.run(command, check=True, capture_output=True)
            with suppress(OSError):
                (Path(work) / "data").rename(folder)
    return folder


def _start(jars: Path, folder: Path) -> subprocess.Popen[bytes]:
    return java.start(folder, *_JAVA, "-cp", f"{jars}/*", "kafka.Kafka", str(folder / "server.properties"))


def _write_settings(file: Path, settings: Mapping[str, str]) -> None:
    file.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
