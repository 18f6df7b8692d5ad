"""A PostgreSQL server of the tests' own: made in a temporary folder, gone at their end."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest

from batchinfer.store import ResultsStore
from batchinfer.store._postgres import PostgresStore
from batchinfer.store._postgres_session import session
from tests.ports import free_ports

_PATIENCE_SECONDS = 60
_NOBODY = 65534
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",
    "shared_buffers": "32MB",
    "max_connections": "50",
}
OWNER = "batch"


def binaries() -> Path:
    """The folder of PostgreSQL's programs; skips the test where there is none."""
    on_path = shutil.which("postgres")
    debians = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in [Path(on_path).resolve().parent, *debians] if on_path else debians:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    pytest.skip("no PostgreSQL server here: `make postgresql` installs one, as root on Debian")


@contextmanager
def server() -> Iterator[str]:
    """The URL of a fresh database on a server that ends with the block, or with this process."""
    programs = binaries()
    folder = Path(tempfile.mkdtemp(prefix="batchinfer-postgres-"))
    as_nobody = (
        ["--reuid", str(_NOBODY), "--regid", str(_NOBODY), "--clear-groups"] if os.geteuid() == 0 else []
    )
    run_as = ["setpriv", *as_nobody]
    if as_nobody:  # PostgreSQL refuses to run as root
        os.chown(folder, _NOBODY, _NOBODY)
    data = folder / "data"
    made = [*run_as, str(programs / "initdb"), "-D", str(data), "-U", OWNER, "-A", "trust", "-E", "UTF8"]
    subprocess.run([*made, "--locale=C", "--no-sync"], check=True, capture_output=True, cwd="/")
    [port] = free_ports(1)
    options = [option for name, value in _SETTINGS.items() for option in ("-c", f"{name}={value}")]
    started = [str(programs / "postgres"), "-D", str(data), "-p", str(port), "-k", str(folder), *options]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*run_as, "--pdeathsig", "INT", *started], stdout=log, stderr=subprocess.STDOUT, cwd="/"
        )
    try:
        url = f"postgresql://{OWNER}@127.0.0.1:{port}/postgres"
        _await(url, process, folder / "log")
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(_PATIENCE_SECONDS)
        shutil.rmtree(folder)


def _await(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            execute(url, "SELECT 1")
        except Exception as e:
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"PostgreSQL did not start: {log.read_text()}") from e
            time.sleep(0.05)
        else:
            return


def execute(url: str, *statements: str) -> None:
    """Run statements in one transaction."""
    with session(url, "tests") as opened:
        for statement in statements:
            opened.execute(statement)
        opened.commit()


def table(url: str, query: str) -> pa.Table:
    """The rows of a query."""
    with session(url, "tests") as opened:
        return pa.Table.from_batches(list(opened.stream(query)))


def table_path(url: str, folder: str | Path) -> str:
    """The `output.path` of a table that no other folder has."""
    return f"{url}#public.t{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"


def open_in(url: str, path: str, partition_by: Sequence[str], pipeline: str) -> ResultsStore:
    """A store whose staging area is the local folder `path`, for the conformance suite."""
    return PostgresStore(table_path(url, path), partition_by, pipeline, staging=path)


@contextmanager
def locked(url: str, role: str, password: str) -> Iterator[None]:
    """Within the block the server has a role that needs a password, with a schema of its own and of its name."""
    folder = table(url, "SELECT current_setting('data_directory') AS folder")["folder"][0].as_py()
    rules = Path(folder) / "pg_hba.conf"
    before = rules.read_text()
    execute(
        url, f"CREATE ROLE {role} LOGIN PASSWORD '{password}'", f"CREATE SCHEMA {role} AUTHORIZATION {role}"
    )
    rules.write_text(f"host all {role} 127.0.0.1/32 scram-sha-256\n{before}")
    execute(url, "SELECT pg_reload_conf()")
    try:
        yield
    finally:
        rules.write_text(before)
        execute(url, "SELECT pg_reload_conf()", f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def drop_tables(path: str) -> None:
    """Remove a results table with all that stands beside it, quarantine and drift too."""
    url, _, name = path.partition("#public.")
    found = table(
        url, f"SELECT relname::text AS name FROM pg_class WHERE relkind = 'r' AND relname LIKE '{name}%'"
    )
    execute(url, *(f'DROP TABLE "{name}"' for name in found["name"].to_pylist()))
