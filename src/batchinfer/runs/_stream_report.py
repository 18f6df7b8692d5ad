"""The report of a stream: what it did between start and stop."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class StreamReport:
    """What `batchinfer stream --json` prints.

    Attributes:
        run_id: derived from pipeline, spec and the model that scored last; it stands in the rows of that one.
        status: done or failed.
        pipeline: the spec's name.
        model: name, version and digest of the bundle that scored last.
        messages: read = predicted + dead_letters, all committed.
        rows: result rows committed.
        dead_letters: by reason; beyond a hundred different ones together, as `other reasons`.
        expectations: dead letters by the expectation that refused them.
        models: messages by the model that scored them.
        batches: micro-batches; `commits` of them, `aborted` ones that were done again; `rebalances`.
        latency_ms: p50 and p99 from a message's timestamp to the commit; None without messages.
        seconds: from start to stop.
        records_per_second: messages by the time from the first poll that gave one to the last commit.
        drained: whether all that was polled was committed within `drain_seconds`.
        started_at: UTC, ISO 8601.
        error: what stopped it, where the status is failed.
    """

    run_id: str
    status: Literal["done", "failed"]
    pipeline: str
    model: dict[str, str]
    messages: dict[str, int] = field(default_factory=lambda: {"read": 0, "predicted": 0, "dead_letters": 0})
    rows: int = 0
    dead_letters: Mapping[str, int] = field(default_factory=dict)
    expectations: Mapping[str, int] = field(default_factory=dict)
    models: Mapping[str, int] = field(default_factory=dict)
    batches: int = 0
    commits: int = 0
    aborted: int = 0
    rebalances: int = 0
    latency_ms: dict[str, float | None] = field(default_factory=dict)
    seconds: float = 0.0
    records_per_second: int = 0
    drained: bool = True
    started_at: str = ""
    error: str | None = None

    def with_(self, **changes: Any) -> StreamReport:
        """A copy with other values."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, in the order of the fields."""
        return asdict(self)

    def to_json(self) -> str:
        """One line."""
        return json.dumps(self.to_dict())
