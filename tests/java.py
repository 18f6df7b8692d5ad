"""Servers in Java for the tests: their jars from Maven, each a process that ends with this one."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "batchinfer"
_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>batchinfer</groupId><artifactId>tests</artifactId><version>1</version><packaging>pom</packaging>
<dependencies>{dependencies}</dependencies></project>"""
_DEPENDENCY = "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>"


class Unavailable(Exception):
    """No Java, no Maven, or no network; says which."""


def jars(name: str, *artefacts: str) -> Path:
    """The folder with the jars of `artefacts` (`group:artefact:version`) and all they need, fetched once.

    Raises:
        Unavailable: they cannot be had here, or not be run.
    """
    folder = CACHE / name
    if shutil.which("java") is None:
        raise Unavailable("no Java here")
    if folder.exists():
        return folder
    if shutil.which("mvn") is None:
        raise Unavailable("no Maven here")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as work:
        dependencies = "".join(_DEPENDENCY.format(*each.split(":")) for each in artefacts)
        (Path(work) / "pom.xml").write_text(_POM.format(dependencies=dependencies))
        goal = ["dependency:copy-dependencies", "-DoutputDirectory=jars", "-DincludeScope=runtime"]
        done = subprocess.run(
            ["mvn", "-q", "-B", *goal], cwd=work, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise Unavailable(f"{name} could not be fetched: {done.stdout[:500]}")
        with suppress(OSError):  # another process was first
            (Path(work) / "jars").rename(folder)
    return folder


def start(folder: Path, *arguments: str, log: str = "log") -> subprocess.Popen[bytes]:
    """Java with these arguments, in `folder`, which its output is kept in."""
    command = ["java", *arguments]
    if shutil.which("setpriv"):  # it ends with this process, however that ends
        command = ["setpriv", "--pdeathsig", "KILL", *command]
    with (folder / log).open("ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=folder)


def stop(processes: Sequence[subprocess.Popen[bytes] | None]) -> None:
    """kill -9 those that were started."""
    for process in processes:
        if process is not None:
            process.kill()
            process.wait()
