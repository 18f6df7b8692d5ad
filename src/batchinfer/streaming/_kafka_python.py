"""The Kafka client on kafka-python: pure Python, for where librdkafka cannot be; slower by an order of magnitude.

Its consumers and producers are in `_kafka_python_consumer` and `_kafka_python_producer`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, TypeVar

import kafka
from kafka import errors as ke
from kafka.admin import ConfigResource
from kafka.net.compat import KafkaNetClient

from batchinfer.errors import SpecError
from batchinfer.spec import StreamSpec
from batchinfer.streaming._kafka_python_consumer import Assignor, KafkaPythonConsumer
from batchinfer.streaming._kafka_python_errors import translated
from batchinfer.streaming._kafka_python_producer import KafkaPythonProducer
from batchinfer.streaming._ports import Consumer, Producer

_Made = TypeVar("_Made")

_BOOTSTRAP_MS = 10_000
_DEFAULT_LIMIT_BYTES = 1_000_000
_OVERHEAD_BYTES = 512
"""What a batch of one message adds to its value, key and headers, with room to spare."""
_MOST_BATCH_BYTES = 131_072
_OURS = {
    "group_id": "stream.group",
    "group_instance_id": "stream.instance_id",
    "transactional_id": "stream.instance_id",
    "bootstrap_servers": "stream.bootstrap_servers",
    "enable_auto_commit": None,
    "isolation_level": None,
    "enable_idempotence": None,
    "partition_assignment_strategy": None,
    "key_serializer": None,
    "value_serializer": None,
    "key_deserializer": None,
    "value_deserializer": None,
    "consumer_timeout_ms": None,
    "kafka_client": None,
}
"""Settings on which the promises rest, and the key of the spec that states them instead."""
_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_CONSUMER = frozenset(kafka.KafkaConsumer.DEFAULT_CONFIG)
_PRODUCER = frozenset(kafka.KafkaProducer.DEFAULT_CONFIG)
_ADMIN = frozenset(kafka.KafkaAdminClient.DEFAULT_CONFIG)


class KafkaPythonClient:
    """See `batchinfer.streaming.Client`.

    Settings have the names of kafka-python. `sasl_oauth_token_provider` is the name of a class, `module:Class`,
    that is made without arguments: such an object cannot stand in a spec.
    """

    def __init__(self, spec: StreamSpec) -> None:
        self._spec = spec
        _check("settings", spec.settings, _CONSUMER | _PRODUCER)
        _check("consumer_settings", spec.consumer_settings, _CONSUMER)
        _check("producer_settings", spec.producer_settings, _PRODUCER)
        for section in (spec.settings, spec.consumer_settings, spec.producer_settings):
            if (
                section.get("security_protocol", "SSL") not in _PROTOCOLS
            ):  # kafka-python takes the rest for PLAINTEXT
                raise SpecError(
                    f"stream: security_protocol is one of {', '.join(_PROTOCOLS)}, "
                    f"not '{section['security_protocol']}'",
                    key="security_protocol",
                )
        servers = [server.strip() for server in spec.bootstrap_servers.split(",")]
        defaults = {"bootstrap_timeout_ms": _BOOTSTRAP_MS, "reconnect_backoff_max_ms": 1_000}
        self._base: dict[str, Any] = {**defaults, **spec.settings, "bootstrap_servers": servers}

    def consumer(self, group: str) -> Consumer:
        """See `Client.consumer`."""
        own = self._spec.consumer_settings
        session_ms = int(own.get("session_timeout_ms", self._base.get("session_timeout_ms", 10_000)))
        fetch_bytes = max(1 << 20, int(self._spec.max_queue_mb * (1 << 20)))
        defaults: dict[str, Any] = {
            "session_timeout_ms": session_ms,
            "heartbeat_interval_ms": min(3_000, session_ms // 3),
            "auto_offset_reset": "earliest",
            "fetch_max_bytes": fetch_bytes,
            "allow_auto_create_topics": False,
            "metrics_enabled": False,
        }
        fixed = {
            "group_id": group,
            "group_instance_id": self._spec.instance_id,
            "enable_auto_commit": False,
            "isolation_level": "read_committed",
            "partition_assignment_strategy": [assignor := Assignor()],
        }
        settings = {**defaults, **_of(_CONSUMER, self._base), **own, **fixed}
        consumer = self._made(kafka.KafkaConsumer, settings)
        return KafkaPythonConsumer(consumer, assignor, self._spec.bootstrap_servers)

    def producer(self, transactional_id: str | None) -> Producer:
        """See `Client.producer`."""
        limits = [self._limit(topic) for topic in self._outputs()]
        defaults: dict[str, Any] = {
            "linger_ms": 2,
            "batch_size": min(_MOST_BATCH_BYTES, *limits),
            "max_request_size": max(_DEFAULT_LIMIT_BYTES, *limits),
            "max_block_ms": 30_000,
            "allow_auto_create_topics": False,
            "metrics_enabled": False,
        }
        settings = {**defaults, **_of(_PRODUCER, self._base), **self._spec.producer_settings}
        settings["enable_idempotence"] = True
        if transactional_id is not None:
            settings = {"transaction_timeout_ms": 15_000, **settings, "transactional_id": transactional_id}
        return KafkaPythonProducer(
            lambda serializer: self._made(kafka.KafkaProducer, {**settings, "value_serializer": serializer}),
            address=self._spec.bootstrap_servers,
            transactional=transactional_id is not None,
            max_queue_bytes=int(self._spec.max_queue_mb * 1e6),
            max_message_bytes=int(settings["max_request_size"]),
        )

    def partitions(self, topic: str) -> int | None:
        """See `Client.partitions`."""
        with self._admin(f"the topic {topic}") as admin:
            found = admin.describe_topics([topic])[0]
            error = ke.for_code(found["error_code"])
            if error in {ke.UnknownTopicOrPartitionError, ke.InvalidTopicError}:
                return None
            if error is not ke.NoError:
                raise error()
            return len(found["partitions"])

    def create_topic(self, topic: str, partitions: int) -> None:
        """See `Client.create_topic`."""
        with self._admin(f"the topic {topic} cannot be created") as admin:
            try:
                admin.create_topics({topic: {"num_partitions": partitions}}, wait_for_metadata=True)
            except ke.TopicAlreadyExistsError:
                admin.wait_for_topics([topic])

    def message_limit_bytes(self, topic: str) -> int:
        """See `Client.message_limit_bytes`."""
        stated = self._spec.producer_settings.get("max_request_size")
        limit = self._limit(topic)
        return (min(limit, int(stated)) if stated is not None else limit) - _OVERHEAD_BYTES

    def _limit(self, topic: str) -> int:
        resource = ConfigResource("TOPIC", topic, configs=["max.message.bytes"])
        try:
            with self._admin(f"the topic {topic}") as admin:
                found = admin.describe_configs([resource], config_filter="all")
                return int(found["topic"][topic]["max.message.bytes"]["value"])
        except Exception:  # not allowed to ask, or a broker that does not tell
            return _DEFAULT_LIMIT_BYTES

    def _outputs(self) -> list[str]:
        return [t for t in (self._spec.output_topic, self._spec.dead_letters) if t is not None]

    @contextmanager
    def _admin(self, what: str) -> Iterator[kafka.KafkaAdminClient]:
        admin = self._made(kafka.KafkaAdminClient, _of(_ADMIN, self._base))
        try:
            yield admin
        except ke.KafkaError as e:
            raise translated(e, what, self._spec.bootstrap_servers) from e
        finally:
            admin.close()

    def _made(self, kind: Callable[..., _Made], settings: Mapping[str, Any]) -> _Made:
        """A client with these settings, connected."""
        told, opened = dict(settings), []

        def connect(**options: Any) -> Any:
            opened.append(KafkaNetClient(**options))
            return opened[-1]

        told["kafka_client"] = connect
        if isinstance(provider := told.get("sasl_oauth_token_provider"), str):
            told["sasl_oauth_token_provider"] = _token_provider(provider)
        try:
            return kind(**told)
        except Exception as e:
            for client in opened:  # what could not be made does not close what it had opened
                client.close()
            if isinstance(e, ke.KafkaError) and not isinstance(e, ke.KafkaConfigurationError):
                raise translated(e, "connecting", self._spec.bootstrap_servers) from e
            stated = {**self._spec.settings, **self._spec.consumer_settings, **self._spec.producer_settings}
            named = ", ".join(name for name in stated if name in str(e)) or ", ".join(stated)
            raise SpecError(
                f"stream: the Kafka client refuses a setting ({named}): {str(e) or type(e).__name__}",
                next_step="stream.settings are passed to kafka-python under its own names",
                key=named,
            ) from e


def _check(section: str, settings: Mapping[str, Any], known: frozenset[str]) -> None:
    for name in settings:
        if name in _OURS:
            told = f"state {_OURS[name]} instead" if _OURS[name] else "what it says is fixed"
            raise SpecError(f"stream.{section}: '{name}' cannot be set: {told}", key=name)
        if name not in known:
            near = difflib.get_close_matches(name.replace(".", "_"), known, n=1)
            raise SpecError(
                f"stream.{section}: kafka-python has no setting '{name}'"
                + (f"; did you mean '{near[0]}'?" if near else ""),
                next_step="its names have underscores: sasl_mechanism, ssl_cafile, session_timeout_ms …",
                key=name,
            )


def _of(known: frozenset[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name in known}


def _token_provider(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_module(module), attribute)()
    except (ImportError, AttributeError, ValueError) as e:
        raise SpecError(
            f"stream.settings: sasl_oauth_token_provider: there is no '{name}': {e}",
            next_step="name a class that is made without arguments: my_package.tokens:Provider",
            key="sasl_oauth_token_provider",
        ) from e
