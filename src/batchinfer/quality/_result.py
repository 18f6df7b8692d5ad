"""The verdicts on a run in Great Expectations' own JSON, so that its tools read them. Imports none of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import metadata
from typing import Any
from uuid import UUID

from batchinfer.quality._expectation import Expectation, Judgement
from batchinfer.quality._suite import Suite

Facts = Mapping[str, Any]


def validation_result(
    suite: Suite,
    judgements: Sequence[tuple[Expectation, Judgement]],
    *,
    run_id: str,
    started: datetime,
    asset: str,
    facts: Facts,
) -> dict[str, Any]:
    """What `ExpectationSuiteValidationResult.to_json_dict` gives for the same verdicts.

    Args:
        suite: the suite that was run.
        judgements: each of its expectations and the verdict, in any order.
        run_id: the run's; Great Expectations' run name.
        started: when the run started, with its time zone.
        asset: what was checked, as the pipeline's input path.
        facts: more of the run (model, parameters, rows …); kept under `meta.batchinfer`.
    """
    batch_id = f"batchinfer-{run_id}"
    ordered = sorted(judgements, key=lambda pair: pair[0].index)
    passed = sum(verdict.success for _, verdict in ordered)
    return {
        "success": passed == len(ordered),
        "results": [_result(one, verdict, batch_id) for one, verdict in ordered],
        "suite_name": suite.name,
        "suite_parameters": {},
        "statistics": {
            "evaluated_expectations": len(ordered),
            "successful_expectations": passed,
            "unsuccessful_expectations": len(ordered) - passed,
            "success_percent": passed / len(ordered) * 100 if ordered else None,
        },
        "meta": {
            "great_expectations_version": _version(),
            "run_id": {"run_name": run_id, "run_time": started.isoformat()},
            "validation_time": started.isoformat(),
            "active_batch_definition": {
                "datasource_name": "batchinfer",
                "data_connector_name": "batchinfer",
                "data_asset_name": asset,
                "batch_identifiers": {"run_id": run_id},
            },
            "batch_spec": {"data_asset_name": asset},
            "batch_markers": {},
            "batchinfer": plain(dict(facts)),
        },
        "id": None,
    }


def _result(one: Expectation, verdict: Judgement, batch_id: str) -> dict[str, Any]:
    config: dict[str, Any] = {
        "type": one.type,
        "kwargs": plain({**one.kwargs, "batch_id": batch_id}),
        "meta": plain(dict(one.meta)),
        "severity": one.severity,
    }
    if _is_uuid(one.id):  # Great Expectations would read no result with another
        config["id"] = one.id
    found = dict(verdict.result)
    message = found.pop("exception_message", None)
    return {
        "success": verdict.success,
        "expectation_config": config,
        "result": plain(found),
        "meta": {},
        "exception_info": {
            "raised_exception": message is not None,
            "exception_traceback": None,
            "exception_message": message,
        },
    }


def _is_uuid(text: Any) -> bool:
    try:
        UUID(text)
    except (ValueError, AttributeError, TypeError):
        return False
    return True


def _version() -> str | None:
    try:
        return metadata.version("great_expectations")
    except metadata.PackageNotFoundError:
        return None  # a suite of compiled expectations needs none


def plain(value: Any) -> Any:
    """The value as every JSON reader takes it: NaN is null, and an infinity the text `inf` or `-inf`."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
