"""The stream: Kafka clients, formats and sinks behind ports, and the service that moves messages through them."""

from batchinfer.streaming._adapters import open_client, open_decoder, open_encoder
from batchinfer.streaming._budget import ErrorBudget
from batchinfer.streaming._dead_letters import PREFIX, REPLAYED, own_headers
from batchinfer.streaming._embedded import EmbeddedBroker
from batchinfer.streaming._flight import Score
from batchinfer.streaming._meter import Meter, Reading
from batchinfer.streaming._metrics import Health, MetricsServer
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
from batchinfer.streaming._process import tuned_process
from batchinfer.streaming._records import (
    HEADERS,
    RECORDS,
    Offsets,
    Outgoing,
    Records,
    TopicPartition,
    header_array,
)
from batchinfer.streaming._score import MessageScorer
from batchinfer.streaming._service import Flow, StreamService, Watcher
from batchinfer.streaming._table_sink import TablePlan, TableSink, table_columns, with_partition
from batchinfer.streaming._topic_sink import TopicPlan, TopicSink

__all__ = [
    "HEADERS",
    "PREFIX",
    "RECORDS",
    "REPLAYED",
    "Client",
    "Consumer",
    "Decoded",
    "Decoder",
    "EmbeddedBroker",
    "Encoder",
    "ErrorBudget",
    "Flow",
    "Health",
    "Listener",
    "MessageScorer",
    "Meter",
    "MetricsServer",
    "MicroBatch",
    "Offsets",
    "Outgoing",
    "Producer",
    "Reading",
    "Records",
    "Refused",
    "Score",
    "Sink",
    "StreamService",
    "TablePlan",
    "TableSink",
    "TopicPartition",
    "TopicPlan",
    "TopicSink",
    "Watcher",
    "header_array",
    "open_client",
    "open_decoder",
    "open_encoder",
    "own_headers",
    "table_columns",
    "tuned_process",
    "with_partition",
]
