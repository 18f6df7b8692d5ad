"""Data Docs: the pages that Great Expectations renders of stored validation results, in a folder, offline."""

from __future__ import annotations

import html
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from batchinfer.errors import InputError, needs

_SITE = "batchinfer"


def render_docs(results: Sequence[Mapping[str, Any]], folder: str | Path) -> Path:
    """Write the site of one or more runs and return its `index.html`.

    Args:
        results: what `validation_result` gave, one for each run.
        folder: is made where it is missing; pages of runs that are rendered again are replaced.

    Raises:
        MissingExtra: Great Expectations is not installed.
        InputError: a result is none that Great Expectations reads; names its run.
    """
    with needs("quality", "rendering Data Docs"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import great_expectations as gx
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # rendering calls nobody
    folder = Path(folder).absolute()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False}
        for name in list(context.get_site_names()):
            context.delete_data_docs_site(name)
        context.add_data_docs_site(_SITE, _site(folder))
        for result in results:
            _store(context, result)
        context.build_data_docs(site_names=[_SITE])
    index = folder / "index.html"
    _list_offline(index)
    return index


def _list_offline(index: Path) -> None:
    """Lists the runs' pages where the browser reaches no network.

    The pages load their style and scripts from public servers; without them the index would show nothing.
    """
    pages = sorted((index.parent / "validations").rglob("*.html"))
    names = [page.relative_to(index.parent).as_posix() for page in pages]
    items = "".join(
        f'<li><a href="{html.escape(quote(name))}">{html.escape(name)}</a></li>' for name in names
    )
    text = json.dumps(f"<ul>{items}</ul>").replace("</", "<\\/")
    script = f'<script>window.jQuery || document.body.insertAdjacentHTML("afterbegin", {text})</script>'
    index.write_text(
        index.read_text(encoding="utf-8").replace("</body>", f"{script}</body>"), encoding="utf-8"
    )


def _site(folder: Path) -> dict[str, Any]:
    return {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder)},
    }


def _store(context: Any, result: Mapping[str, Any]) -> None:
    from great_expectations.core import ExpectationSuite
    from great_expectations.core.expectation_validation_result import ExpectationSuiteValidationResultSchema
    from great_expectations.core.run_identifier import RunIdentifier
    from great_expectations.data_context.types.resource_identifiers import (
        ExpectationSuiteIdentifier,
        ValidationResultIdentifier,
    )
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    run = (result.get("meta") or {}).get("run_id") or {}
    try:
        read = ExpectationSuiteValidationResultSchema().load(dict(result))
        stated = [
            ExpectationConfiguration(
                type=one["expectation_config"]["type"],
                kwargs={k: v for k, v in one["expectation_config"]["kwargs"].items() if k != "batch_id"},
                severity=one["expectation_config"]["severity"],
            )
            for one in result["results"]
        ]
        identifier = ValidationResultIdentifier(
            ExpectationSuiteIdentifier(result["suite_name"]),
            RunIdentifier(run["run_name"], datetime.fromisoformat(run["run_time"])),
            result["meta"]["active_batch_definition"]["data_asset_name"].strip("/").replace("/", "-"),
        )
        suite = ExpectationSuite(name=result["suite_name"], expectations=stated)
    except Exception as e:  # its own errors, marshmallow's, and those of two versions of pydantic
        name = run.get("run_name", "?")
        raise InputError(f"the validation result of run {name} cannot be read: {e}", run=name) from e
    context.suites.add_or_update(suite)
    context.validation_results_store.set(identifier, read)
