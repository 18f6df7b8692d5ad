"""Before any work: can this installation tell whom the spec asks to tell?"""

from __future__ import annotations

from batchinfer.spec import PipelineSpec
from batchinfer.telemetry._delivery import need
from batchinfer.telemetry._push import MetricsReceivers


def check_telemetry(spec: PipelineSpec) -> None:
    """Refuse what cannot work. OPENLINEAGE_URL may be there for others than us: it is no reason to refuse a run.

    Raises:
        MissingExtra: a package is absent; names the extra.
    """
    if (receivers := MetricsReceivers.of(spec.metrics)) is not None:
        key = "metrics.textfile" if receivers.textfile is not None else "metrics.push_gateway"
        need("prometheus_client", "prometheus-client", "metrics", key)
    if spec.lineage.url is not None:
        need("openlineage.client", "openlineage-python", "lineage", "lineage.url")
