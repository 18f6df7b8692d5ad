"""`batchinfer stream` and `batchinfer kafka`: the Kafka path."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from batchinfer.cli._options import json_option, logs_json, override_options, pipeline_argument, read_spec
from batchinfer.cli._parity import repair
from batchinfer.errors import Transient

_log = logging.getLogger("batchinfer.stream")
_CLOSE_SECONDS = 10.0
"""What a stop may take after its drain: to leave the group, and for a table's last commit."""


class _StreamGroup(click.Group):
    """`stream PIPELINE` runs the stream; what is not one of the group's commands is the pipeline."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in {"-h", "--help"}:
            args.insert(0, "run")
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["PIPELINE [OPTIONS] | COMMAND PIPELINE …"]


@click.group(cls=_StreamGroup)
def stream() -> None:
    """Score a pipeline's Kafka topic until Ctrl-C or SIGTERM; `stream PIPELINE` is short for `stream run PIPELINE`."""


@stream.command("run")
@pipeline_argument
@click.option("--until-end", is_flag=True, help="Stop at the offsets that are the end when it starts.")
@override_options
@json_option
def run_stream(pipeline: str, until_end: bool, overrides: tuple[str, ...], as_json: bool) -> None:
    """Score a pipeline's topic: predictions, dead letters and progress in one transaction.

    On Ctrl-C or SIGTERM what was polled is finished first, within `stream.drain_seconds`; a second one ends it at once.
    """
    from batchinfer.cli import _stream_progress
    from batchinfer.runs import stream as run

    spec = read_spec(pipeline, overrides)
    quiet = logs_json(click.get_current_context())
    within_s = None if spec.stream is None else spec.stream.drain_seconds + _CLOSE_SECONDS
    with _stopped_by_signals(quiet, within_s) as stop:
        report = run(
            spec, until_end=until_end, stop=stop, progress=None if quiet else _stream_progress.open_progress()
        )
    if not (as_json and quiet):
        _stream_progress.render(report, err=as_json)
    if as_json:
        click.echo(report.to_json())


@stream.command("replay-dead-letters")
@pipeline_argument
@click.option("--reason", metavar="TEXT", help="Send those alone whose reason holds this text.")
@override_options
@json_option
def replay(pipeline: str, reason: str | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Send the dead letters that were not sent yet to the input topic again, as they came."""
    from batchinfer.runs import replay_dead_letters

    spec = read_spec(pipeline, overrides)
    with _stopped_by_signals(logs_json(click.get_current_context())) as stop:
        report = replay_dead_letters(spec, reason=reason, stop=stop)
    left = "".join(f"; {count:,} left: {why}" for why, count in report.left.items())
    click.echo(f"{report.sent:,} dead letters of {report.topic} sent again{left}", err=as_json)
    if as_json:
        click.echo(report.to_json())


stream.add_command(repair)


@click.group()
def kafka() -> None:
    """A broker for trying the stream."""


@kafka.command()
@click.argument("pipeline", type=click.Path(), required=False)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=9092,
    show_default=True,
    help="Where it listens on localhost; 0 for a free port.",
)
@click.option(
    "--partitions",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    help="Of each topic of the pipeline.",
)
@override_options
def dev(pipeline: str | None, port: int, partitions: int, overrides: tuple[str, ...]) -> None:
    """Run an embedded broker, in memory, until Ctrl-C; with PIPELINE, with the topics that its stream uses."""
    from batchinfer.runs import create_topics
    from batchinfer.streaming import EmbeddedBroker

    spec = None if pipeline is None else read_spec(pipeline, overrides)
    with _stopped_by_signals(quiet=True) as stop, EmbeddedBroker(port) as broker:
        topics = [] if spec is None else create_topics(spec, broker.bootstrap_servers, partitions)
        told = f", with the topics {', '.join(topics)}" if topics else ""
        click.echo(f"Kafka on {broker.bootstrap_servers}{told}; everything is in memory, Ctrl-C ends it")
        while not stop.wait(0.5):
            broker.check()


@contextmanager
def _stopped_by_signals(quiet: bool, within_s: float | None = None) -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set; a second one ends the process, and so does the end of that time.

    Brokers that do not answer keep clients waiting for minutes. Who is ended so loses nothing: see docs/streaming.md.
    """
    stop, ended = threading.Event(), threading.Event()
    before: dict[int, Any] = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}

    def request(signum: int, frame: object) -> None:
        for number in before:
            signal.signal(number, signal.SIG_DFL)
        stop.set()
        if within_s is not None:
            threading.Thread(target=_end_unless, args=(ended, within_s), daemon=True).start()
        if not quiet:
            click.echo("batchinfer: finishing what was polled; once more stops at once", err=True)

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, request)
    try:
        yield stop
    finally:
        ended.set()
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_unless(ended: threading.Event, within_s: float) -> None:
    if not ended.wait(within_s):
        _log.error("not stopped within %.0f s: ended; what is not committed is read again", within_s)
        os._exit(Transient.exit_code)
