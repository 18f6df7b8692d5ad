"""How messages' values hold rows: Avro and Protobuf, framed by a schema registry or plain, and Arrow IPC."""

from batchinfer.streaming.formats._arrow_ipc import arrow_decoder
from batchinfer.streaming.formats._avro import avro_decoder
from batchinfer.streaming.formats._predictions import avro_encoder, protobuf_encoder
from batchinfer.streaming.formats._protobuf import protobuf_decoder
from batchinfer.streaming.formats._registry import SchemaRegistry

__all__ = [
    "SchemaRegistry",
    "arrow_decoder",
    "avro_decoder",
    "avro_encoder",
    "protobuf_decoder",
    "protobuf_encoder",
]
