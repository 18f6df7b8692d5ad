"""How a stream gets on: a live line on a terminal, a plain one now and then elsewhere, and its report."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.live import Live

    from batchinfer.runs import StreamProgress, StreamReport
    from batchinfer.streaming import Reading

_SECONDS_BETWEEN_LINES = 10.0


def open_progress() -> StreamProgress:
    """What fits stderr."""
    return LiveLine() if sys.stderr.isatty() else PlainLines()


class LiveLine:
    """One line that is drawn anew."""

    def __init__(self) -> None:
        self._live: Live | None = None

    def started(self, pipeline: str, model: str, topic: str) -> None:
        """Draw it."""
        from rich.console import Console
        from rich.live import Live

        click.echo(f"{pipeline}: {model} scores {topic}; Ctrl-C finishes and stops", err=True)
        self._live = Live(
            "waiting for partitions", console=Console(stderr=True), transient=True, auto_refresh=False
        )
        self._live.start()

    def show(self, reading: Reading) -> None:
        """Draw it anew."""
        if self._live is not None:
            self._live.update(line(reading), refresh=True)

    def finished(self) -> None:
        """Take it away: the report follows."""
        if self._live is not None:
            self._live.stop()


class PlainLines:
    """A line every ten seconds, for logs."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def started(self, pipeline: str, model: str, topic: str) -> None:
        """Say what is done."""
        click.echo(f"{pipeline}: {model} scores {topic}", err=True)

    def show(self, reading: Reading) -> None:
        """Print a line when one is due."""
        if time.monotonic() - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            click.echo(line(reading), err=True)

    def finished(self) -> None:
        """Nothing: the report follows."""


def line(reading: Reading) -> str:
    """The counts in one line."""
    messages, _, seconds = reading.recent
    latency = " / ".join(_ms(reading.quantile_ms(share, recent=True)) for share in (0.5, 0.99))
    letters = sum(reading.dead_letters.values())
    lag = f"{sum(reading.lag.values()):,}" if reading.lag else "–"
    told = [
        f"{reading.messages:,} messages",
        f"{messages / seconds:,.0f}/s",
        f"p50 / p99 {latency}",
        f"lag {lag}",
        f"dead letters {letters:,}",
    ]
    if reading.models:
        told.append(list(reading.models)[-1])
    return " · ".join(told)


def render(report: StreamReport, *, err: bool) -> None:
    """A stream's report."""
    counts = report.messages
    read = f"{counts['read']:,} read · {counts['predicted']:,} predicted · {counts['dead_letters']:,} dead letters"
    latency = " / ".join(_ms(ms) for ms in report.latency_ms.values())
    click.echo(f"{report.pipeline}: {report.status} after {report.seconds:.2f} s", err=err)
    pairs = [
        ("messages", read),
        ("rate", f"{report.records_per_second:,} messages/s in {report.commits:,} commits"),
        ("p50 / p99", f"{latency} from the message's timestamp to the commit"),
        *(("model", f"{model}: {count:,} messages") for model, count in report.models.items()),
        *(("dead letters", f"{count:,} × {reason}") for reason, count in _most(report)),
    ]
    if report.aborted:
        pairs.append(("done again", f"{report.aborted:,} commits"))
    if not report.drained:
        pairs.append(("drain", "its time was over: what was not committed is read again at the next start"))
    for name, text in [*pairs, ("run", report.run_id)]:
        click.echo(f"  {name:<12} {text}", err=err)


def _most(report: StreamReport) -> list[tuple[str, int]]:
    return sorted(report.dead_letters.items(), key=lambda item: -item[1])[:20]


def _ms(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f} ms" if value < 10_000 else f"{value / 1e3:,.0f} s"
