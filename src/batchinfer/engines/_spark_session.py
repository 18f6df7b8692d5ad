"""The Spark session that a run uses: the one that is there, else one of its own."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from batchinfer.errors import BatchinferError, MissingExtra, SpecError, Transient, UsageError, needs

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from batchinfer.spec import EngineSpec

_PORTS = {"spark": 7077, "sc": 15002}
_CONNECT_SECONDS = 10
_REFUSALS = (
    "Could not parse Master URL",
    "INVALID_CONNECT_URL",
    "CANNOT_CONFIGURE",
    "INVALID_CONF_VALUE",
    "IllegalArgumentException",
    "NumberFormatException",
    "ClassNotFoundException",
)
"""By these words Spark says that what it was given is wrong, and would be so again."""
_lock = threading.Lock()
_users: dict[int, int] = {}
"""How many engines use a session that this process made, by the session's id: the last one stops it."""


def take_session(options: EngineSpec) -> SparkSession:
    """The session that is active, else the one that the spec asks for. Give it back with `give_session`.

    Raises:
        MissingExtra: pyspark or Java is not installed.
        Transient: the cluster cannot be reached.
        SpecError: Spark refuses the configuration.
    """
    with needs("spark", "the Spark engine"):
        from pyspark.sql import SparkSession
    with _lock:
        session = _active(SparkSession)
        if session is None:
            session = _make(SparkSession, options)
            _users[id(session)] = 0
        if id(session) in _users:
            _users[id(session)] += 1
    return session


def give_session(session: SparkSession) -> None:
    """End the use of a session; one that others made goes on."""
    with _lock:
        if id(session) not in _users:
            return
        _users[id(session)] -= 1
        if not _users[id(session)]:
            del _users[id(session)]
            if is_connect(session):  # a server that is gone would be told of the end for ten minutes
                session.client.set_retry_policies([])
            session.stop()
            _leave_connect_mode(session)


def _leave_connect_mode(session: SparkSession) -> None:
    """pyspark marks a process that has spoken to a server, and makes no local session there any more."""
    if is_connect(session):
        os.environ.pop("SPARK_CONNECT_MODE_ENABLED", None)


def _active(kind: type[SparkSession]) -> SparkSession | None:
    from pyspark.errors import PySparkException

    try:
        return kind.active()
    except (PySparkException, AssertionError):  # none, or one whose context was stopped
        return None


def _make(kind: type[SparkSession], options: EngineSpec) -> SparkSession:
    builder: Any = kind.builder.appName("batchinfer")
    own = {} if options.remote is not None else {"spark.ui.showConsoleProgress": "false"}  # ours shows it
    for key, value in {**own, **options.conf}.items():
        builder = builder.config(key, str(value).lower() if isinstance(value, bool) else str(value))
    master = options.master or "local[*]"
    if options.remote is not None:
        builder = builder.remote(options.remote)
    elif "PYSPARK_GATEWAY_PORT" not in os.environ:  # else spark-submit has stated the master
        builder = builder.master(master)
    if (options.remote or master).startswith("local"):
        # Spark would start whatever python3 is on the path, which need not have batchinfer.
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        _check_listening(options.remote or master)
    try:
        session: SparkSession = builder.getOrCreate()
        session.conf.get("spark.master", None)  # a Connect session has not called its server before
    except Exception as e:
        raise _why(e, options.remote or master) from e
    return session


def _check_listening(where: str) -> None:
    """Spark itself would try for a minute, and Connect for ten, before they say that nobody is there.

    Raises:
        SpecError: a port that is no number.
        Transient: no host of a `spark://` or `sc://` address takes connections, or what does is no Connect server.
    """
    scheme, _, rest = where.partition("://")
    if scheme not in _PORTS:
        return None
    reasons = []
    for host in rest.split(","):
        try:
            parts = urlsplit(f"//{host}")
            address = parts.hostname or "", parts.port or _PORTS[scheme]
        except ValueError as e:
            raise _refused(where, str(e)) from e
        try:
            socket.create_connection(address, _CONNECT_SECONDS).close()
        except OSError as e:
            reasons.append(str(e))
        else:
            return _check_answering(where) if scheme == "sc" else None
    raise _unreachable(where, "; ".join(reasons))


def _check_answering(remote: str) -> None:
    """A session with a server of another kind is tried for ten minutes, and for ten more when it is given up."""
    try:
        import grpc
        from pyspark.sql.connect.client import DefaultChannelBuilder
    except ImportError:
        return  # the session's own attempt says what is missing
    try:
        with DefaultChannelBuilder(remote).toChannel() as channel:
            grpc.channel_ready_future(channel).result(_CONNECT_SECONDS)
    except grpc.FutureTimeoutError as e:
        raise _unreachable(remote, f"no Connect server answered within {_CONNECT_SECONDS} s") from e
    except Exception as e:
        raise _why(e, remote) from e


def _refused(where: str, reason: str) -> SpecError:
    return SpecError(
        f"Spark refuses engine '{where}': {reason}",
        next_step="look at engine.master, engine.remote and engine.conf; see docs/spark.md",
        found=where,
    )


def _unreachable(where: str, reason: str) -> Transient:
    return Transient(
        f"Spark at '{where}' cannot be reached or does not start: {reason}",
        next_step="check that it runs and that this machine may connect to it; then run again",
        master=where,
    )


def _why(error: Exception, where: str) -> BatchinferError:
    """What kept a session from being made."""
    text = str(error)
    first = first_line(text) or type(error).__name__
    if "JAVA_GATEWAY_EXITED" in text:
        home = os.environ.get("JAVA_HOME")
        java = shutil.which("java") if home is None else shutil.which("java", path=f"{home}/bin")
        if java is None:
            return MissingExtra(
                "Spark needs Java 17 or newer, and there is none"
                + (f" in JAVA_HOME ({home})" if home else " on the path"),
                next_step="install a JDK, or point JAVA_HOME at one",
            )
        return UsageError(f"Spark did not start: {first}", next_step=f"see its log above; java is {java}")
    if isinstance(error, ImportError) or "PACKAGE_NOT_INSTALLED" in text:
        return MissingExtra(f"Spark lacks a package: {first}", next_step="pip install 'batchinfer[spark]'")
    if any(sign in text for sign in _REFUSALS):
        return _refused(where, first)
    if where.startswith("local"):  # nothing is far away that could come back
        return UsageError(f"Spark did not start: {first}", next_step="see its log above")
    return _unreachable(where, first)


def first_line(text: str) -> str:
    """The line of an error's text that says why, or "". Py4J puts one in front that names but the call."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].startswith("An error occurred while calling"):
        return lines[1].removeprefix(":").strip()
    return lines[0] if lines else ""


def on_this_machine(session: SparkSession) -> bool:
    """Whether driver and workers are all here, as with `local[…]` and `local-cluster[…]`."""
    return master_of(session).startswith("local") and _server(session) in {None, "localhost", "127.0.0.1"}


def master_of(session: SparkSession) -> str:
    """The master, or "" where a server keeps it to itself."""
    return session.conf.get("spark.master", "") or ""


def _server(session: SparkSession) -> str | None:
    """The host of a Connect session's server."""
    client = getattr(session, "client", None) if is_connect(session) else None
    return urlsplit(f"//{client.host}").hostname if client is not None else None


def is_connect(session: SparkSession) -> bool:
    """Whether the session talks to a Spark Connect server."""
    return ".connect." in type(session).__module__
