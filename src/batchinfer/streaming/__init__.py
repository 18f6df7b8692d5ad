"""The stream: Kafka clients, formats and sinks behind ports, and the service that moves messages through them."""

from batchinfer.streaming._ports import (
    Client,
    Consumer,
    Decoded,
    Decoder,
    Encoder,
    Listener,
    MicroBatch,
    Producer,
    Refused,
    Sink,
)
from batchinfer.streaming._records import (
    HEADERS,
    RECORDS,
    Offsets,
    Outgoing,
    Records,
    TopicPartition,
    header_array,
)

__all__ = [
    "HEADERS",
    "RECORDS",
    "Client",
    "Consumer",
    "Decoded",
    "Decoder",
    "Encoder",
    "Listener",
    "MicroBatch",
    "Offsets",
    "Outgoing",
    "Producer",
    "Records",
    "Refused",
    "Sink",
    "TopicPartition",
    "header_array",
]
