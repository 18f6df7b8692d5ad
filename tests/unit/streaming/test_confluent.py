"""What librdkafka does too seldom to be waited for."""

from __future__ import annotations

from typing import Any

import confluent_kafka as ck
import pytest

from batchinfer.errors import TransactionAborted
from batchinfer.streaming import _confluent
from batchinfer.testing._client_runs import messages


class Dead:
    """A producer after a fatal error."""

    def produce(self, *_: object) -> None:
        raise ck.KafkaException(ck.KafkaError(ck.KafkaError._FATAL, "Unable to produce message", fatal=True))

    def purge(self) -> None:
        pass

    def flush(self, _: float) -> int:
        return 0


def test_a_producer_without_transactions_that_cannot_go_on_is_left_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_confluent, "_made", lambda kind, settings: Dead())
    settings: dict[str, Any] = {"message.max.bytes": 1000}
    producer = _confluent.ConfluentProducer(settings)
    producer.begin()
    with pytest.raises(TransactionAborted):
        producer.produce_batch(messages("somewhere", [b"1"]))
    with pytest.raises(TransactionAborted):  # so that the sink makes another
        producer.abort()
