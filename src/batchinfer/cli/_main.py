"""The commands: they read arguments, call what `batchinfer.runs` offers, and print it."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import traceback
from typing import Any

import click

from batchinfer.cli._backfill import backfill
from batchinfer.cli._gates import drift, quality
from batchinfer.cli._models import model
from batchinfer.cli._options import (
    engine_option,
    json_option,
    logs_json,
    override_options,
    pairs,
    parameter_options,
    pipeline_argument,
    read_spec,
    scheduled_option,
)
from batchinfer.cli._parity import parity
from batchinfer.cli._stream import kafka, stream
from batchinfer.cli._tables import results, runs
from batchinfer.errors import BatchinferError, DriftGate, Interrupted, UsageError
from batchinfer.secrets import without_secrets

_log = logging.getLogger("batchinfer.cli")


class _Group(click.Group):
    """Turns our errors into a message on stderr and an exit code, and keeps commands in the written order."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BatchinferError as e:
            _say(ctx, e)
            ctx.exit(e.exit_code)
        except KeyboardInterrupt:
            _say(ctx, Interrupted("stopped", next_step="nothing was changed; the same command starts again"))
            ctx.exit(Interrupted.exit_code)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except BrokenPipeError:  # a reader that has seen enough; click ends the command
            raise
        except Exception as e:  # nothing that we foresaw: a traceback, but not with what it may quote
            _say_unforeseen(ctx, e)
            ctx.exit(BatchinferError.exit_code)


def _say_unforeseen(ctx: click.Context, error: Exception) -> None:
    if logs_json(ctx):
        _log.error("%s: %s", type(error).__name__, error, exc_info=error)
    else:
        said = "".join(traceback.format_exception(error))
        click.echo(f"{without_secrets(said)}batchinfer: this is a defect; please report it", err=True)


def _say(ctx: click.Context, error: BatchinferError) -> None:
    report = error.fields.get("report")
    if logs_json(ctx):
        run_id = report.run_id if report is not None else error.fields.get("run_id")
        _log.error("%s: %s", type(error).__name__, error, extra={"run_id": run_id})
    else:
        click.echo(f"batchinfer: {type(error).__name__}: {error}", err=True)
    if report is not None and ctx.find_root().meta.get("json"):
        click.echo(report.to_json())


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="batchinfer", prog_name="batchinfer")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Log to stderr, in this format.")
@click.pass_context
def main(ctx: click.Context, log_format: str | None) -> None:
    """Score data with a trained model: Parquet in, ONNX Runtime, one atomic commit out.

    Exit codes: 0 done, 1 failed, 2 wrong use, spec or input, 3 quality gate, 4 drift gate, 75 transient (try again),
    130 stopped by the user.
    """
    _catch_signals(ctx)
    if log_format:
        _log_to_stderr(ctx, log_format)


def _catch_signals(ctx: click.Context) -> None:
    """Ctrl-C and SIGTERM stop a command in good order; a second one ends it at once, which does no harm either."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # What was started in the background of a script ignores Ctrl-C, and goes on doing so.
    caught = [number for number, handler in before.items() if handler is not signal.SIG_IGN]

    def interrupt(signum: int, frame: object) -> None:
        for number in caught:
            signal.signal(number, signal.SIG_DFL)
        if not logs_json(ctx):
            os.write(2, b"batchinfer: stopping; once more stops at once\n")
        raise KeyboardInterrupt

    def restore() -> None:
        for number in caught:
            signal.signal(number, before[number])

    for number in caught:
        signal.signal(number, interrupt)
    ctx.call_on_close(restore)


def _log_to_stderr(ctx: click.Context, log_format: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    if log_format == "json":
        handler.setFormatter(_JsonFormatter())
    else:
        handler.setFormatter(_TextFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("batchinfer")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    ctx.call_on_close(lambda: logger.removeHandler(handler))


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "logger": record.name,
            "message": without_secrets(record.getMessage()),
        }
        if run_id := getattr(record, "run_id", None):
            line["run_id"] = run_id
        if record.exc_info:
            line["exception"] = without_secrets(self.formatException(record.exc_info))
        return json.dumps(line)


@main.command()
@click.option("--pipeline", default="pipelines/flight_delay", show_default=True, type=click.Path())
def demo(pipeline: str) -> None:
    """Score the sample flights of two weeks, and show what came out."""
    from batchinfer.cli._demo import run_demo

    if not os.path.exists(pipeline):  # noqa: PTH110 - pathlib is not imported yet
        raise UsageError(
            f"there is no sample pipeline at {pipeline}",
            next_step="the demo needs a checkout of the repository: make demo",
        )
    run_demo(read_spec(pipeline, ()))


@main.command()
@pipeline_argument
@parameter_options
@override_options
def check(pipeline: str, parameters: tuple[str, ...], overrides: tuple[str, ...]) -> None:
    """Check a pipeline: spec, model and transform; with -p, its input too. Writes nothing."""
    from batchinfer.cli import _render
    from batchinfer.runs import load_model, load_transform, make_plan, read_suite
    from batchinfer.spec import parameters_of

    spec = read_spec(pipeline, overrides)
    given = pairs(parameters, "-p")
    if given or not parameters_of(spec.input.path):
        _render.plan(make_plan(spec, given))
    else:
        load_transform(spec)
        read_suite(spec)
        _render.model(load_model(spec).bundle)
        names = " ".join(f"-p {name}=VALUE" for name in parameters_of(spec.input.path))
        click.echo(f"ok; pass {names} to check an input too")


@main.command()
@pipeline_argument
@parameter_options
@override_options
@scheduled_option
@json_option
def plan(
    pipeline: str, parameters: tuple[str, ...], overrides: tuple[str, ...], scheduled: bool, as_json: bool
) -> None:
    """Show what a run would do: its id, model, files and units. Writes nothing."""
    from batchinfer.cli import _render
    from batchinfer.runs import make_plan

    planned = make_plan(read_spec(pipeline, overrides, scheduled=scheduled), pairs(parameters, "-p"))
    _render.plan_json(planned) if as_json else _render.plan(planned)


@main.command()
@pipeline_argument
@parameter_options
@override_options
@engine_option
@scheduled_option
@json_option
def run(  # noqa: PLR0917 - click passes them by name
    pipeline: str,
    parameters: tuple[str, ...],
    overrides: tuple[str, ...],
    engine: str | None,
    scheduled: bool,
    as_json: bool,
) -> None:
    """Score a pipeline's input and replace the result partition in one atomic commit."""
    from batchinfer.cli import _render
    from batchinfer.cli._progress import open_progress
    from batchinfer.runs import run as run_pipeline

    quiet = logs_json(click.get_current_context())
    progress = None if quiet else open_progress()
    name, given = pipeline, dict[str, str]()
    try:
        given = pairs(parameters, "-p")
        spec = read_spec(pipeline, overrides, engine, scheduled=scheduled)
        name = spec.name
        report = run_pipeline(spec, given, progress=progress)
    except DriftGate as e:  # the results are committed
        if not (as_json and quiet):
            _render.report(e.fields["report"], err=as_json)
        raise
    except (BatchinferError, KeyboardInterrupt) as e:
        if as_json and not (isinstance(e, BatchinferError) and "report" in e.fields):
            _render.unplanned(name, given, e)
        raise
    if not (as_json and quiet):
        _render.report(report, err=as_json)
    if as_json:
        click.echo(report.to_json())


main.add_command(backfill)
main.add_command(stream)
main.add_command(kafka)
main.add_command(parity)


@main.command()
@pipeline_argument
@click.option("--key", "keys", multiple=True, required=True, metavar="COLUMN=VALUE", help="The row's key.")
@parameter_options
@override_options
@json_option
def explain(
    pipeline: str,
    keys: tuple[str, ...],
    parameters: tuple[str, ...],
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Score a row of the results again from its source, and compare the bits."""
    from dataclasses import asdict

    from batchinfer.cli import _render
    from batchinfer.runs import explain as explain_row

    spec = read_spec(pipeline, overrides)
    if len(keys) == 1 and "=" not in keys[0] and len(spec.input.key) == 1:
        keys = (f"{spec.input.key[0]}={keys[0]}",)
    found = explain_row(spec, pairs(keys, "--key"), pairs(parameters, "-p"))
    if as_json:
        _render.as_json([asdict(explanation) for explanation in found])
    else:
        for explanation in found:
            _render.explanation(explanation)
    if not all(explanation.bit_exact for explanation in found):
        raise SystemExit(1)


main.add_command(drift)
main.add_command(quality)
main.add_command(runs)
main.add_command(model)
main.add_command(results)
