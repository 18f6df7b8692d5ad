"""`batchinfer model`: the registry of models."""

from __future__ import annotations

from typing import Any

import click

from batchinfer.cli._options import handlings, json_option


@click.group()
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
@click.option(
    "--sensitive",
    multiple=True,
    metavar="COLUMN=hash|drop",
    help="What the bundle keeps of a reference's column.",
)
@click.option("--alias", help="Point this alias at the new version, as champion.")
@_registry
@json_option
def model_add(as_json: bool, **arguments: Any) -> None:
    """Check and measure an ONNX model, and add it to the registry as its next version."""
    from batchinfer.cli import _render
    from batchinfer.runs import add_model

    sensitive = handlings(arguments.pop("sensitive"))
    bundle = add_model(arguments.pop("name"), **arguments, sensitive=sensitive)
    _render.model_json(bundle) if as_json else _render.model(bundle)


@model.command("list")
@_registry
@json_option
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
