"""Metrics and health over HTTP: /metrics for Prometheus, /healthz (is it alive?) and /readyz (does it read?)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from batchinfer.errors import UsageError, needs
from batchinfer.streaming._meter import EDGES_MS, Meter

_Values = dict[tuple[str, ...], float]
"""A metric's values by its labels."""


@dataclass(frozen=True, slots=True)
class Health:
    """What is asked at each request. `drift` gives by column the PSI of the last window."""

    alive: Callable[[], bool]
    ready: Callable[[], bool]
    model: Callable[[], str]
    drift: Callable[[], Mapping[str, float]]


class MetricsServer:
    """Serves until it is closed. `port` is the one it listens on."""

    def __init__(self, host: str, port: int, pipeline: str, meter: Meter, health: Health) -> None:
        collect = _collector(pipeline, meter, health)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path == "/metrics":
                    content, kind = collect()
                    self._answer(200, content, kind)
                elif path in {"/healthz", "/readyz"}:
                    good = health.alive() if path == "/healthz" else health.ready()
                    self._answer(
                        200 if good else 503, b"ok\n" if good else b"no\n", "text/plain; charset=utf-8"
                    )
                else:
                    self._answer(
                        404, b"there are /metrics, /healthz and /readyz\n", "text/plain; charset=utf-8"
                    )

            def _answer(self, status: int, content: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
                pass

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as e:
            raise UsageError(
                f"cannot serve metrics on {host}:{port}: {e.strerror}",
                next_step="set stream.metrics_port to a free port, or to 0 for any",
            ) from e
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _collector(pipeline: str, meter: Meter, health: Health) -> Callable[[], tuple[bytes, str]]:
    with needs("kafka", "stream.metrics_port"):
        from prometheus_client import CollectorRegistry, exposition
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    def counter(name: str, told: str, values: _Values, labels: tuple[str, ...] = ()) -> Any:
        family = CounterMetricFamily(f"batchinfer_stream_{name}", told, labels=("pipeline", *labels))
        for key, value in values.items():
            family.add_metric((pipeline, *key), value)
        return family

    def gauge(name: str, told: str, values: _Values, labels: tuple[str, ...] = ()) -> Any:
        family = GaugeMetricFamily(f"batchinfer_stream_{name}", told, labels=("pipeline", *labels))
        for key, value in values.items():
            family.add_metric((pipeline, *key), value)
        return family

    class Collector:
        def collect(self) -> Iterator[Any]:
            now = meter.read()
            yield counter("messages", "Messages committed.", {(): now.messages})
            yield counter("rows", "Result rows committed.", {(): now.rows})
            yield counter("batches", "Micro-batches committed.", {(): now.batches})
            yield counter("commits", "Commits, as Kafka transactions.", {(): now.commits})
            yield counter("aborted", "Commits that had to be done again.", {(): now.aborted})
            yield counter("rebalances", "Assignments, revocations and losses.", {(): now.rebalances})
            letters: _Values = {(reason,): count for reason, count in now.dead_letters.items()}
            yield counter("dead_letters", "Dead letters, by reason.", letters, ("reason",))
            failed: _Values = {(name,): count for name, count in now.expectations.items()}
            yield counter("failed_expectations", "Dead letters, by expectation.", failed, ("expectation",))
            models: _Values = {(model,): count for model, count in now.models.items()}
            yield counter("model_messages", "Messages, by the model that scored.", models, ("model",))
            yield gauge("model_info", "The model that scores now.", {(health.model(),): 1}, ("model",))
            lag: _Values = {(p.topic, str(p.partition)): n for p, n in now.lag.items()}
            yield gauge("lag_messages", "Messages not committed yet.", lag, ("topic", "partition"))
            drift: _Values = {(column,): psi for column, psi in health.drift().items()}
            yield gauge("drift_psi", "PSI of the last window, by column.", drift, ("column",))
            yield gauge("ready", "Whether partitions are assigned.", {(): float(health.ready())})
            family = HistogramMetricFamily(
                "batchinfer_stream_latency_seconds",
                "From a message's timestamp to the commit of its prediction.",
                labels=("pipeline",),
            )
            ends = np.cumsum(now.latency_counts).tolist()
            bounds = [*(f"{edge / 1e3:g}" for edge in EDGES_MS), "+Inf"]
            buckets = list(zip(bounds, ends, strict=True))
            family.add_metric((pipeline,), buckets, now.latency_sum_ms / 1e3)
            yield family

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector())
    kind = "text/plain; version=0.0.4; charset=utf-8"
    return lambda: (exposition.generate_latest(registry), kind)
