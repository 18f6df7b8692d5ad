"""The commands: they read arguments, call what `batchinfer.runs` offers, and print it."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from batchinfer.errors import BatchinferError, Interrupted, UsageError

if TYPE_CHECKING:
    from batchinfer.spec import PipelineSpec

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


def _say(ctx: click.Context, error: BatchinferError) -> None:
    report = error.fields.get("report")
    if _logs_json(ctx):
        run_id = report.run_id if report is not None else error.fields.get("run_id")
        _log.error("%s: %s", type(error).__name__, error, extra={"run_id": run_id})
    else:
        click.echo(f"batchinfer: {type(error).__name__}: {error}", err=True)
    if report is not None and ctx.find_root().meta.get("json"):
        click.echo(report.to_json())


def _logs_json(ctx: click.Context) -> bool:
    """Whether stderr holds JSON lines, so that nothing else may be written to it."""
    return ctx.find_root().params.get("log_format") == "json"


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="batchinfer", prog_name="batchinfer")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Log to stderr, in this format.")
@click.pass_context
def main(ctx: click.Context, log_format: str | None) -> None:
    """Score data with a trained model: Parquet in, ONNX Runtime, one atomic commit out.

    Exit codes: 0 done, 1 failed, 2 wrong use, spec or input, 3 quality gate, 4 drift gate, 75 transient (try again).
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
        if not _logs_json(ctx):
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
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("batchinfer")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    ctx.call_on_close(lambda: logger.removeHandler(handler))


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if run_id := getattr(record, "run_id", None):
            line["run_id"] = run_id
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


_pipeline = click.argument("pipeline", type=click.Path())
_parameters = click.option(
    "-p", "--parameter", "parameters", multiple=True, metavar="NAME=VALUE", help="A run parameter."
)
_overrides = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the spec."
)


def _json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    def remember(ctx: click.Context, _param: click.Parameter, value: bool) -> bool:
        ctx.find_root().meta["json"] = value
        return value

    return click.option("--json", "as_json", is_flag=True, callback=remember, help="Print JSON on stdout.")(
        command
    )


def _pairs(values: tuple[str, ...], option: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for value in values:
        name, equals, content = value.partition("=")
        if not equals or not name:
            raise UsageError(f"{option} {value}: expected NAME=VALUE")
        if name in pairs:
            raise UsageError(f"{option}: '{name}' is given twice")
        pairs[name] = content
    return pairs


def _spec(pipeline: str, overrides: tuple[str, ...], engine: str | None = None) -> PipelineSpec:
    from batchinfer.spec import load_spec

    values = {key: _value(key, text) for key, text in _pairs(overrides, "--set").items()}
    if engine is not None:
        values["engine.kind"] = engine
    return load_spec(pipeline, **values)


def _value(key: str, text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as e:
        problem = getattr(e, "problem", None) or "cannot be read"
        raise UsageError(
            f"--set {key}={text}: not a YAML value: {problem}",
            next_step="put quotes around it: --set 'KEY=\"VALUE\"'",
            key=key,
        ) from e


@main.command()
@click.option("--pipeline", default="pipelines/flight_delay", show_default=True, type=click.Path())
def demo(pipeline: str) -> None:
    """Score the sample flights of two weeks, and show what came out."""
    from batchinfer.cli._demo import run_demo

    run_demo(_spec(pipeline, ()))


@main.command()
@_pipeline
@_parameters
@_overrides
def check(pipeline: str, parameters: tuple[str, ...], overrides: tuple[str, ...]) -> None:
    """Check a pipeline: spec, model and transform; with -p, its input too. Writes nothing."""
    from batchinfer.cli import _render
    from batchinfer.runs import load_model, load_transform, make_plan
    from batchinfer.spec import parameters_of

    spec = _spec(pipeline, overrides)
    given = _pairs(parameters, "-p")
    if given or not parameters_of(spec.input.path):
        _render.plan(make_plan(spec, given))
    else:
        load_transform(spec)
        _render.model(load_model(spec).bundle)
        names = " ".join(f"-p {name}=VALUE" for name in parameters_of(spec.input.path))
        click.echo(f"ok; pass {names} to check an input too")


@main.command()
@_pipeline
@_parameters
@_overrides
@_json_option
def plan(pipeline: str, parameters: tuple[str, ...], overrides: tuple[str, ...], as_json: bool) -> None:
    """Show what a run would do: its id, model, files and units. Writes nothing."""
    from batchinfer.cli import _render
    from batchinfer.runs import make_plan

    planned = make_plan(_spec(pipeline, overrides), _pairs(parameters, "-p"))
    _render.plan_json(planned) if as_json else _render.plan(planned)


@main.command()
@_pipeline
@_parameters
@_overrides
@click.option("--engine", help="Override engine.kind.")
@_json_option
def run(
    pipeline: str,
    parameters: tuple[str, ...],
    overrides: tuple[str, ...],
    engine: str | None,
    as_json: bool,
) -> None:
    """Score a pipeline's input and replace the result partition in one atomic commit."""
    from batchinfer.cli import _render
    from batchinfer.cli._progress import open_progress
    from batchinfer.runs import run as run_pipeline

    quiet = _logs_json(click.get_current_context())
    progress = None if quiet else open_progress()
    name, given = pipeline, dict[str, str]()
    try:
        given = _pairs(parameters, "-p")
        spec = _spec(pipeline, overrides, engine)
        name = spec.name
        report = run_pipeline(spec, given, progress=progress)
    except (BatchinferError, KeyboardInterrupt) as e:
        if as_json and not (isinstance(e, BatchinferError) and "report" in e.fields):
            _render.unplanned(name, given, e)
        raise
    if not (as_json and quiet):
        _render.report(report, err=as_json)
    if as_json:
        click.echo(report.to_json())


@main.group()
def runs() -> None:
    """The records of runs, under BATCHINFER_RUNS or ./runs."""


@runs.command("list")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1))
@_json_option
def runs_list(limit: int, as_json: bool) -> None:
    """The latest runs, newest first."""
    from batchinfer.cli import _render
    from batchinfer.runs import RunRecords

    reports = RunRecords().all()[:limit]
    _render.as_json([r.to_dict() for r in reports]) if as_json else _render.runs(reports)


@runs.command("show")
@click.argument("run_id")
@_json_option
def runs_show(run_id: str, as_json: bool) -> None:
    """One run, by its id or the beginning of it."""
    from batchinfer.cli import _render
    from batchinfer.runs import RunRecords

    report = RunRecords().find(run_id)
    click.echo(report.to_json()) if as_json else _render.report(report)


@main.command()
@_pipeline
@click.option("--key", "keys", multiple=True, required=True, metavar="COLUMN=VALUE", help="The row's key.")
@_parameters
@_overrides
@_json_option
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

    spec = _spec(pipeline, overrides)
    if len(keys) == 1 and "=" not in keys[0] and len(spec.input.key) == 1:
        keys = (f"{spec.input.key[0]}={keys[0]}",)
    found = explain_row(spec, _pairs(keys, "--key"), _pairs(parameters, "-p"))
    if as_json:
        _render.as_json([asdict(explanation) for explanation in found])
    else:
        for explanation in found:
            _render.explanation(explanation)
    if not all(explanation.bit_exact for explanation in found):
        raise SystemExit(1)


@main.group()
def model() -> None:
    """The model registry: --registry, else BATCHINFER_REGISTRY, else ./models."""


_registry = click.option("--registry", type=click.Path(), help="The registry's folder or URL.")


@model.command("add")
@click.argument("name")
@click.option("--onnx", required=True, type=click.Path(), help="The model, as ONNX.")
@click.option("--sample", required=True, type=click.Path(), help="Parquet rows as the model will see them.")
@click.option("--config", type=click.Path(), help="YAML: what feeds the inputs, and what outputs become.")
@click.option("--reference", type=click.Path(), help="Parquet: the training data, to measure drift against.")
@click.option("--reference-by", metavar="COLUMN", help="Groups the reference as runs will, as the day.")
@click.option("--alias", help="Point this alias at the new version, as champion.")
@_registry
@_json_option
def model_add(as_json: bool, **arguments: Any) -> None:
    """Check and measure an ONNX model, and add it to the registry as its next version."""
    from batchinfer.cli import _render
    from batchinfer.runs import add_model

    bundle = add_model(arguments.pop("name"), **arguments)
    _render.model_json(bundle) if as_json else _render.model(bundle)


@model.command("list")
@_registry
@_json_option
def model_list(registry: str | None, as_json: bool) -> None:
    """The models, their versions and aliases."""
    from dataclasses import asdict

    from batchinfer.cli import _render
    from batchinfer.model import Registry

    found = Registry(registry).models()
    _render.as_json([asdict(m) for m in found]) if as_json else _render.models(found)


@model.command("alias")
@click.argument("name")
@click.argument("alias")
@click.argument("version")
@_registry
def model_alias(name: str, alias: str, version: str, registry: str | None) -> None:
    """Point ALIAS of the model NAME at VERSION."""
    from batchinfer.model import Registry

    Registry(registry).set_alias(name, alias, version)
    click.echo(f"{name}@{alias} is now {name}@{version}")


@model.command("verify")
@click.argument("reference")
@_registry
def model_verify(reference: str, registry: str | None) -> None:
    """Verify the digest of a bundle (NAME@ALIAS, NAME@VERSION or a path) and open its graph."""
    from batchinfer.cli import _render
    from batchinfer.model import Registry, Scorer

    bundle = Registry(registry).resolve(reference)
    Scorer.of(bundle)
    _render.model(bundle)


@main.group()
def results() -> None:
    """The results table of a pipeline."""


@results.command("history")
@_pipeline
@_parameters
@_overrides
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1))
@_json_option
def results_history(
    pipeline: str, parameters: tuple[str, ...], overrides: tuple[str, ...], limit: int, as_json: bool
) -> None:
    """The table's commits, newest first."""
    from batchinfer.cli import _render
    from batchinfer.runs import open_results

    entries = open_results(*_results(pipeline, parameters, overrides)).history(limit)
    _render.as_json(entries) if as_json else _render.history(entries)


@results.command("sweep")
@_pipeline
@_parameters
@_overrides
@click.option("--older-than-hours", default=168.0, show_default=True, type=click.FloatRange(0))
@click.option("--dry-run", is_flag=True, help="Only list what would be deleted.")
def results_sweep(
    pipeline: str,
    parameters: tuple[str, ...],
    overrides: tuple[str, ...],
    older_than_hours: float,
    dry_run: bool,
) -> None:
    """Delete staged files of that age which no commit refers to: what killed runs left behind."""
    from batchinfer.runs import open_quarantine, open_results

    where = _results(pipeline, parameters, overrides)
    tables = open_results(*where), open_quarantine(*where)
    paths = [path for table in tables for path in table.sweep(older_than_hours * 3600, dry_run=dry_run)]
    for path in paths:
        click.echo(path)
    click.echo(f"{len(paths)} orphans {'found' if dry_run else 'deleted'}", err=True)


def _results(
    pipeline: str, parameters: tuple[str, ...], overrides: tuple[str, ...]
) -> tuple[PipelineSpec, str]:
    """The spec, and where its results table is."""
    from batchinfer.spec import fill_parameters

    spec = _spec(pipeline, overrides)
    return spec, fill_parameters(spec.output.path, _pairs(parameters, "-p"), key="output.path")
