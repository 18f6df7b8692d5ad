"""Hadoop YARN for the tests: a resource manager and a node manager from their Maven artefacts."""

from __future__ import annotations

import json
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from xml.sax.saxutils import escape

from tests import java
from tests.ports import free_ports

VERSION = "3.5.0"
_PATIENCE_SECONDS = 120
_SERVER = "org.apache.hadoop.yarn.server"
_ARTEFACTS = ("resourcemanager", "nodemanager", "timelineservice")
_JAVA = ("-Xmx400m", "-XX:+UseSerialGC", "--add-opens", "java.base/java.lang=ALL-UNNAMED")
_LOG = """log4j.rootLogger=WARN,console
log4j.appender.console=org.apache.log4j.ConsoleAppender
log4j.appender.console.layout=org.apache.log4j.PatternLayout
log4j.appender.console.layout.ConversionPattern=%d %p %c{1} %m%n
"""


@contextmanager
def cluster() -> Iterator[Path]:
    """A cluster of one node with 4 GiB and four cores; gives its HADOOP_CONF_DIR.

    Raises:
        java.Unavailable: there is none to be had here.
    """
    jars = java.jars(
        f"yarn-{VERSION}", *(f"org.apache.hadoop:hadoop-yarn-server-{a}:{VERSION}" for a in _ARTEFACTS)
    )
    with tempfile.TemporaryDirectory(prefix="batchinfer-yarn-") as home:
        folder = Path(home)
        conf, managers = folder / "conf", folder / "managers"
        conf.mkdir()
        managers.mkdir()
        manager, scheduler, tracker, admin, web, localizer, node_web = (
            f"127.0.0.1:{port}" for port in free_ports(7)
        )
        _write(conf / "core-site.xml", {"fs.defaultFS": "file:///", "hadoop.tmp.dir": f"{folder}/tmp"})
        _write(
            conf / "yarn-site.xml",
            {
                "yarn.resourcemanager.address": manager,
                "yarn.resourcemanager.scheduler.address": scheduler,
                "yarn.resourcemanager.resource-tracker.address": tracker,
                "yarn.resourcemanager.admin.address": admin,
                "yarn.resourcemanager.webapp.address": web,
                "yarn.nodemanager.address": "127.0.0.1:0",
                "yarn.nodemanager.localizer.address": localizer,
                "yarn.nodemanager.webapp.address": node_web,
                "yarn.nodemanager.resource.memory-mb": "4096",
                "yarn.nodemanager.resource.cpu-vcores": "4",
                "yarn.nodemanager.vmem-check-enabled": "false",
                "yarn.nodemanager.pmem-check-enabled": "false",
                "yarn.nodemanager.local-dirs": f"{folder}/local",
                "yarn.nodemanager.log-dirs": f"{folder}/logs",
                "yarn.nodemanager.disk-health-checker.enable": "false",
                "yarn.scheduler.minimum-allocation-mb": "256",
            },
        )
        _write(
            conf / "capacity-scheduler.xml",
            {
                "yarn.scheduler.capacity.root.queues": "default",
                "yarn.scheduler.capacity.root.default.capacity": "100",
                "yarn.scheduler.capacity.maximum-am-resource-percent": "1.0",
            },
        )
        (conf / "log4j.properties").write_text(_LOG)
        classes = ("-cp", f"{conf}:{jars}/*")
        processes = [
            java.start(managers, *_JAVA, *classes, f"{_SERVER}.{place}", log=place)
            for place in ("resourcemanager.ResourceManager", "nodemanager.NodeManager")
        ]
        try:
            until = time.monotonic() + _PATIENCE_SECONDS
            while not _running(web):
                if any(p.poll() is not None for p in processes) or time.monotonic() > until:
                    said = (log.read_text()[-3000:] for log in sorted(managers.iterdir()))
                    raise RuntimeError("YARN does not come up:\n" + "\n".join(said))
                time.sleep(0.2)
            yield conf
        finally:
            java.stop(processes)


def _running(web: str) -> bool:
    """Whether the node has reported to the resource manager."""
    with suppress(OSError), urllib.request.urlopen(f"http://{web}/ws/v1/cluster/nodes", timeout=10) as answer:
        nodes = (json.load(answer)["nodes"] or {}).get("node", [])
        return any(node["state"] == "RUNNING" for node in nodes)
    return False


def _write(file: Path, settings: Mapping[str, str]) -> None:
    properties = (
        f"<property><name>{name}</name><value>{escape(value)}</value></property>\n"
        for name, value in settings.items()
    )
    file.write_text(f"<configuration>\n{''.join(properties)}</configuration>\n")
