"""What is not compiled is judged by Great Expectations itself, on a pandas frame of the whole run.

That costs the memory of the frame and one more read of its columns; the log says how much.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import pyarrow as pa

from batchinfer.errors import MissingExtra, SpecError
from batchinfer.quality._expectation import Check, Expectation, Judgement
from batchinfer.quality._marks import Known, Marks
from batchinfer.quality._survey import Read

_log = logging.getLogger("batchinfer.quality")

_PER_ROW = ("unexpected_list", "unexpected_index_list", "unexpected_index_query")
"""What grows with the rows, and stays out of the result."""

_LONGEST = 500
"""Characters of what an expectation raised: pandas may quote a whole column."""

Place = tuple[str, int, int]
"""Where rows come from: file, position of the first one, number."""


def run_foreign(
    expectations: Sequence[Expectation],
    schema: pa.Schema,
    read: Read,
    *,
    quotes: Callable[[Expectation], bool] = lambda _: True,
) -> list[Check]:
    """A check for each expectation, that knows Great Expectations' verdict and which rows it found unexpected.

    Reads their columns of the whole run into memory, once; all columns where an expectation has a row condition or
    names none. Does nothing where there is no expectation. The log says why one could not be judged, unless that may
    hold a value that nobody is to see (`quotes`).

    Raises:
        MissingExtra: Great Expectations is not installed.
        SpecError: Great Expectations does not take an expectation's arguments; names it.
    """
    if not expectations:
        return []
    if find_spec("great_expectations") is None:  # asked for before anything is read
        raise MissingExtra(
            f"{expectations[0].name} is run by Great Expectations itself, which is not installed",
            next_step="pip install 'batchinfer[quality]', or take the expectation out of the suite",
        )
    columns = _columns(expectations, schema)
    names = ", ".join(one.name for one in expectations)
    _log.warning(
        "Great Expectations itself runs %s: reading %d columns of the whole run", names, len(columns)
    )
    started = time.perf_counter()
    frame, places = _frame(columns, schema, read)
    results = _validate(expectations, frame)
    _log.warning(
        "Great Expectations itself ran %d expectations: %d rows, %d columns, %d bytes in memory, %.1f s",
        len(expectations),
        len(frame),
        len(columns),
        int(frame.memory_usage(deep=True).sum()),
        time.perf_counter() - started,
    )
    return [
        _check(one, result, places, quotes(one)) for one, result in zip(expectations, results, strict=True)
    ]


def _columns(expectations: Sequence[Expectation], schema: pa.Schema) -> tuple[str, ...]:
    if any(one.kwargs.get("row_condition") or not one.columns for one in expectations):
        return tuple(schema.names)
    return tuple(dict.fromkeys(name for one in expectations for name in one.columns))


def _frame(columns: tuple[str, ...], schema: pa.Schema, read: Read) -> tuple[Any, list[Place]]:
    batches, places = [], []
    for batch, source, first in read(columns):
        batches.append(batch)
        places.append((source, first, batch.num_rows))
    table = pa.Table.from_batches(batches, pa.schema([schema.field(name) for name in columns]))
    del batches
    # Its memory goes as its columns become pandas', so that the run is not held twice.
    return table.to_pandas(ignore_metadata=True, self_destruct=True, split_blocks=True), places


def _validate(expectations: Sequence[Expectation], frame: Any) -> list[dict[str, Any]]:
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # a run calls nobody
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import great_expectations as gx

        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False}
        asset = context.data_sources.add_pandas("batchinfer").add_dataframe_asset("run")
        batch = asset.add_batch_definition_whole_dataframe("whole").get_batch({"dataframe": frame})
        results = []
        for one in expectations:
            stated, detail = _stated(one), "COMPLETE" if _stops_rows(one) else "SUMMARY"
            try:
                results.append(batch.validate(stated, result_format=detail).to_json_dict())
            except Exception as e:  # arguments that it looks at no earlier, and raises for itself
                raised = {"raised_exception": True, "exception_message": f"{type(e).__name__}: {e}"}
                results.append({"success": False, "result": {}, "exception_info": raised})
        return results


def _stated(one: Expectation) -> Any:
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    try:
        kwargs, severity = dict(one.kwargs), one.severity
        return ExpectationConfiguration(type=one.type, kwargs=kwargs, severity=severity).to_domain_obj()
    except Exception as e:  # its own errors and those of two versions of pydantic
        raise SpecError(
            f"expectation {one.index} ({one.name}): Great Expectations does not take it: {e}",
            expectation=one.index,
            type=one.type,
        ) from e


def _stops_rows(one: Expectation) -> bool:
    mostly = one.kwargs.get("mostly")
    return one.severity == "critical" and (mostly is None or mostly == 1)


def _check(one: Expectation, found: dict[str, Any], places: list[Place], quotes: bool) -> Check:
    result = {key: value for key, value in (found["result"] or {}).items() if key not in _PER_ROW}
    raised = [
        info["exception_message"]
        for info in (found["exception_info"], *found["exception_info"].values())
        if isinstance(info, dict) and info.get("raised_exception")
    ]
    if raised:
        message = raised[0] if len(raised[0]) <= _LONGEST else f"{raised[0][:_LONGEST]}…"
        said = message if quotes else "(left out: the input has sensitive columns)"
        _log.warning("Great Expectations could not judge %s: %s", one.name, said)
        result["exception_message"] = message
    rows = found["result"].get("unexpected_index_list") if _stops_rows(one) else None
    marks = _marks(np.array(rows, np.int64), places) if rows else None
    return Known(one, Judgement(bool(found["success"]), result), marks)


def _marks(rows: Any, places: list[Place]) -> Marks:
    marks, start = Marks(), 0
    rows.sort()
    for source, first, count in places:
        low, high = np.searchsorted(rows, [start, start + count])
        mask = np.zeros(count, np.bool_)
        mask[rows[low:high] - start] = True
        marks.add(source, first, mask)
        start += count
    return marks
