"""The values of predictions: their columns are the model's, so a model that moves may bring a schema of its own."""

from __future__ import annotations

import pyarrow as pa

from batchinfer.runs._stream_plan import StreamPlan
from batchinfer.spec import StreamSpec
from batchinfer.streaming import Encoder, open_encoder


class PredictionEncoders:
    """An encoder for each schema of results that came up. Without an output topic, none."""

    def __init__(self, stream: StreamSpec) -> None:
        self._stream = stream
        self._known: dict[pa.Schema, Encoder] = {}

    def provide(self, plan: StreamPlan) -> None:
        """Open the encoder of a plan that is to score, before it does.

        Raises:
            BatchinferError: see `open_encoder`.
        """
        schema = plan.score.path.result_schema
        if self._stream.output_topic is not None and schema not in self._known:
            self._known[schema] = open_encoder(schema, self._stream.output_format, self._stream.output_topic)

    def of(self, plan: StreamPlan) -> Encoder | None:
        """The encoder of a plan that was provided for."""
        return None if self._stream.output_topic is None else self._known[plan.score.path.result_schema]
