"""Metrics to who keeps them: a file of node exporter's textfile collector, a push gateway, or both.

A push replaces what the same pipeline said before. What must outlive a failure (when a run last succeeded) is said
in a file and a group of its own, which only a success replaces.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from batchinfer.spec import MetricsSpec
from batchinfer.telemetry._delivery import TIMEOUT_S, Delivery, deliver, origin
from batchinfer.telemetry._metrics import Sample, Trigger, exposition

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_TEXTFILE = "BATCHINFER_METRICS_TEXTFILE"
_PUSH_GATEWAY = "BATCHINFER_METRICS_PUSH_GATEWAY"


@dataclass(frozen=True, slots=True)
class MetricsReceivers:
    """Where metrics go: a folder, a URL, or both."""

    textfile: str | None
    push_gateway: str | None

    @classmethod
    def of(cls, spec: MetricsSpec, environment: Mapping[str, str] = os.environ) -> Self | None:
        """The receivers that a spec names, else the environment; None where both are silent."""
        textfile = spec.textfile or environment.get(_TEXTFILE) or None
        gateway = spec.push_gateway or environment.get(_PUSH_GATEWAY) or None
        return None if textfile is None and gateway is None else cls(textfile, gateway)


def push(
    receivers: MetricsReceivers,
    groups: Mapping[str, Callable[[], Iterable[Sample]]],
    pipeline: str,
    trigger: Trigger,
    run_id: str | None = None,
) -> list[Delivery]:
    """Push groups of samples, each in the place of what it said before; a group without samples stands as it is.

    Args:
        receivers: where to.
        groups: what gives the samples, by the group's name; that of the latest run is "".
        pipeline: the label of all samples.
        trigger: likewise; part of the file's name, so that a backfill says nothing in a nightly run's place.
        run_id: for the log.

    Returns:
        One delivery for each receiver; it names the first failure.
    """

    def stated() -> Iterator[tuple[str, CollectorRegistry]]:
        for name, samples in groups.items():
            if found := list(samples()):
                yield name, exposition(found, pipeline, trigger)

    def write(folder: Path) -> None:
        from prometheus_client import write_to_textfile

        for name, registry in stated():
            file = "_".join(filter(None, ("batchinfer", pipeline, trigger, name)))
            write_to_textfile(str(folder / f"{file}.prom"), registry)

    def send(url: str) -> None:
        from prometheus_client import push_to_gateway

        for name, registry in stated():
            push_to_gateway(
                url,
                job="_".join(filter(None, ("batchinfer", name))),
                registry=registry,
                grouping_key={"pipeline": pipeline, "trigger": trigger},
                timeout=TIMEOUT_S,
            )

    deliveries = []
    if (textfile := receivers.textfile) is not None:
        deliveries.append(deliver("textfile", textfile, lambda: write(Path(textfile)), run_id))
    if (gateway := receivers.push_gateway) is not None:
        deliveries.append(deliver("push_gateway", origin(gateway), lambda: send(gateway), run_id))
    return deliveries
