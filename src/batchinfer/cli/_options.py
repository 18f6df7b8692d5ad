"""Arguments that many commands share, and what they are read into."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from batchinfer.errors import UsageError

if TYPE_CHECKING:
    from batchinfer.spec import PipelineSpec

pipeline_argument = click.argument("pipeline", type=click.Path())
parameter_options = click.option(
    "-p", "--parameter", "parameters", multiple=True, metavar="NAME=VALUE", help="A run parameter."
)
override_options = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the spec."
)

engine_option = click.option("--engine", help="Override engine.kind.")
scheduled_option = click.option("--scheduled", is_flag=True, help="Use schedule.engine, as a scheduler does.")


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--json`, remembered for the error that a command may end with."""

    def remember(ctx: click.Context, _param: click.Parameter, value: bool) -> bool:
        ctx.find_root().meta["json"] = value
        return value

    return click.option("--json", "as_json", is_flag=True, callback=remember, help="Print JSON on stdout.")(
        command
    )


def logs_json(ctx: click.Context) -> bool:
    """Whether stderr holds JSON lines, so that nothing else may be written to it."""
    return ctx.find_root().params.get("log_format") == "json"


def pairs(values: tuple[str, ...], option: str) -> dict[str, str]:
    """NAME=VALUE pairs, each name once."""
    pairs: dict[str, str] = {}
    for value in values:
        name, equals, content = value.partition("=")
        if not equals or not name:
            raise UsageError(f"{option} {value}: expected NAME=VALUE")
        if name in pairs:
            raise UsageError(f"{option}: '{name}' is given twice")
        pairs[name] = content
    return pairs


def handlings(values: tuple[str, ...]) -> dict[str, Any]:
    """`--sensitive COLUMN=hash|drop`."""
    stated = pairs(values, "--sensitive")
    for column, handling in stated.items():
        if handling not in {"hash", "drop"}:
            raise UsageError(f"--sensitive {column}={handling}: expected {column}=hash or {column}=drop")
    return stated


def read_spec(
    pipeline: str, overrides: tuple[str, ...], engine: str | None = None, *, scheduled: bool = False
) -> PipelineSpec:
    """The spec of a pipeline, with `--set`, `--engine` and `--scheduled`."""
    from batchinfer.spec import load_spec

    values = {key: _value(key, text) for key, text in pairs(overrides, "--set").items()}
    if engine is not None:
        if scheduled:
            raise UsageError("--engine and --scheduled both choose the engine")
        values["engine.kind"] = engine
    spec = load_spec(pipeline, **values)
    return spec.scheduled if scheduled else spec


def _value(key: str, text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as e:
        problem = getattr(e, "problem", None) or "cannot be read"
        raise UsageError(
            f"--set {key}=…: not a YAML value: {problem}",
            next_step="put quotes around it: --set 'KEY=\"VALUE\"'",
            key=key,
        ) from e


def output_of(
    pipeline: str, parameters: tuple[str, ...], overrides: tuple[str, ...]
) -> tuple[PipelineSpec, str]:
    """The spec, and where its results table is."""
    from batchinfer.spec import fill_parameters

    spec = read_spec(pipeline, overrides)
    return spec, fill_parameters(spec.output.path, pairs(parameters, "-p"), key="output.path")
