"""Replay the sample flights into a Kafka topic: at a rate, or at a multiple of the speed of their departures.

python streaming/produce_flights.py                       # 1,000 flights a second
python streaming/produce_flights.py --rate 0              # as fast as it goes
python streaming/produce_flights.py --speed 3600          # an hour of departures each second
python streaming/produce_flights.py --format avro         # JSON by default; see docs/stream-formats.md
python streaming/produce_flights.py --follow              # and show the predictions as they arrive
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.dataset as ds
from flight_messages import FORMATS, Message, messages
from kafka import KafkaConsumer, KafkaProducer
from kafka import TopicPartition as Partition
from kafka.errors import KafkaError, UnknownTopicOrPartitionError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from batchinfer.errors import BatchinferError

_SAMPLE = Path(__file__).parent.parent / "data" / "samples" / "flights"
_SHOWN = 5


def main() -> None:
    """Send, and perhaps follow."""
    arguments = _arguments()
    try:
        _run(arguments)
    except KafkaError as e:
        sys.exit(
            f"produce_flights: {arguments.bootstrap_servers}, topic {arguments.topic}: {e}\n"
            "  → `batchinfer kafka dev pipelines/flight_delay` starts a broker with the topics"
        )
    except (BatchinferError, OSError) as e:
        sys.exit(f"produce_flights: {type(e).__name__}: {e}")


def _run(arguments: argparse.Namespace) -> None:
    flights = _flights(arguments)
    held = sum(count for *_, count in flights)
    total = min(held * arguments.repeat, arguments.limit or held * arguments.repeat)
    rows = itertools.chain.from_iterable(itertools.repeat(flights, arguments.repeat))
    console = Console()
    follower = _Follower(arguments, console) if arguments.follow else None
    sent = _send(arguments, rows, total, console)
    console.print(f"{sent:,} flights sent to {arguments.topic}")
    if follower is not None:
        follower.finish(sent)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Replay the sample flights into a Kafka topic.")
    parser.add_argument("--bootstrap-servers", default="localhost:9092")
    parser.add_argument("--topic", default="flights")
    parser.add_argument("--data", type=Path, default=_SAMPLE, help="a Parquet file or folder with flights")
    parser.add_argument("--rate", type=float, default=1000, help="flights a second; 0 for as fast as it goes")
    parser.add_argument("--speed", type=float, help="instead: so many seconds of departures each second")
    parser.add_argument("--repeat", type=_count, default=1, help="send all of them so often")
    parser.add_argument("--limit", type=_count, help="stop after so many")
    parser.add_argument("--format", choices=FORMATS, default="json", help="how a message holds flights")
    parser.add_argument("--registry", help="the URL of a schema registry, for Avro and Protobuf")
    parser.add_argument(
        "--rows-per-message", type=_count, default=100, help="flights in a message of Arrow IPC"
    )
    parser.add_argument("--follow", action="store_true", help="show predictions as they arrive")
    parser.add_argument(
        "--predictions", default="flight-delay-predictions", help="the topic that --follow reads"
    )
    return parser.parse_args()


def _count(text: str) -> int:
    if (count := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return count


def _flights(arguments: argparse.Namespace) -> list[Message]:
    """The messages, in the order of departures."""
    table = ds.dataset(arguments.data).to_table().sort_by("sched_dep")
    return list(
        messages(
            table,
            arguments.format,
            registry=arguments.registry,
            topic=arguments.topic,
            rows=arguments.rows_per_message,
        )
    )


def _send(arguments: argparse.Namespace, rows: Iterator[Message], total: int, console: Console) -> int:
    producer = KafkaProducer(bootstrap_servers=arguments.bootstrap_servers, linger_ms=5, acks="all")
    columns = (
        TextColumn(arguments.topic),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True),
    )
    sent, first = 0, None
    try:
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("", total=total, rate="")
            started = time.monotonic()
            for departure, key, value, count in rows:
                if sent >= total:
                    break
                first = first or departure
                if arguments.speed:
                    due = started + (departure - first).total_seconds() / arguments.speed
                else:
                    due = started + sent / arguments.rate if arguments.rate else 0
                if (wait := due - time.monotonic()) > 0:
                    time.sleep(wait)
                producer.send(arguments.topic, key=key, value=value)
                sent += count
                if sent % 100 < count or wait > 0.1:
                    rate = sent / (time.monotonic() - started)
                    progress.update(task, completed=sent, rate=f"{rate:,.0f}/s")
            producer.flush()
            progress.update(task, completed=sent)
    except KeyboardInterrupt:
        producer.flush()
    finally:
        producer.close()
    return sent


class _Follower:
    """Reads committed predictions from where their topic ends now, and shows a few of each second."""

    def __init__(self, arguments: argparse.Namespace, console: Console) -> None:
        self._console = console
        self._consumer = KafkaConsumer(
            bootstrap_servers=arguments.bootstrap_servers, isolation_level="read_committed"
        )
        found = self._consumer.partitions_for_topic(arguments.predictions)
        if not found:
            raise UnknownTopicOrPartitionError(f"there is no topic {arguments.predictions} to follow")
        partitions = [Partition(arguments.predictions, number) for number in found]
        self._consumer.assign(partitions)
        self._consumer.seek_to_end()
        for partition in partitions:
            self._consumer.position(partition)
        self._seen, self._done = 0, threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        shown_at = 0.0
        while not self._done.is_set():
            for records in self._consumer.poll(timeout_ms=200).values():
                self._seen += len(records)
                if time.monotonic() - shown_at > 1:
                    shown_at = time.monotonic()
                    for record in records[:_SHOWN]:
                        flight = json.loads(record.value)
                        age = time.time() * 1e3 - record.timestamp
                        self._console.print(
                            f"  {flight['carrier']} {flight['origin']}→{flight['dest']}  "
                            f"late with p = {flight['p_late']:.2f}  {flight['_model']}, {age:,.0f} ms after"
                        )

    def finish(self, sent: int) -> None:
        """Wait until no prediction has come for a while."""
        try:
            quiet, seen = 0, -1
            while self._seen < sent and quiet < 10:
                quiet = quiet + 1 if seen == self._seen else 0
                seen = self._seen
                time.sleep(0.5)
        except KeyboardInterrupt:
            pass
        self._done.set()
        self._thread.join()
        self._console.print(f"{self._seen:,} predictions arrived")


if __name__ == "__main__":
    main()
