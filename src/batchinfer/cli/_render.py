"""What commands print: plain lines for one thing, a table for many. JSON is written from the same values."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from batchinfer.model import Bundle, RegisteredModel
    from batchinfer.runs import Explanation, Plan, RunReport


def as_json(value: Any) -> None:
    """One line of JSON. It knows no NaN and no infinity: these become the texts NaN, Infinity and -Infinity."""
    click.echo(json.dumps(_finite(value), default=str, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _lines(title: str, pairs: Sequence[tuple[str, str]], *, err: bool = False) -> None:
    click.echo(title, err=err)
    for name, text in pairs:
        click.echo(f"  {name:<11} {text}", err=err)


def _parameters(parameters: dict[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in parameters.items())


def report(found: RunReport, *, err: bool = False) -> None:
    """A run's report."""
    rows = found.rows
    counts = [f"{rows.read:,} read", f"{rows.scored:,} scored"]
    if rows.quarantined:
        counts.append(f"{rows.quarantined:,} quarantined ({rows.quarantined / rows.read:.2%})")
    if rows.skipped:
        counts.append(f"{rows.skipped:,} skipped")
    pairs = [
        ("rows", " · ".join(counts)),
        ("rate", _rate(found)),
        ("units", f"{found.units['total']} ({found.units['reused']} reused)"),
        ("model", f"{found.model['name']}@{found.model['version']}  {found.model['digest'][:19]}…"),
    ]
    if found.table_version is not None:
        pairs.append(("table", f"version {found.table_version}"))
    if suite := found.quality.get("suite"):
        pairs.append(("quality", _suite(suite, found.quality)))
    for reason, count in found.quality.get("quarantined", {}).items():
        pairs.append(("quarantined", f"{count:,} × {reason}"))
    if found.drift:
        pairs.append(("drift", _drift(found.drift)))
    for alert in found.alerts:
        sent = "sent to" if alert["delivered"] else f"NOT sent ({alert['error']}) to"
        pairs.append(("alert", f"{sent} {alert['channel']} {alert['receiver']}"))
    pairs += [
        ("warning", f"{told['channel']} {told['receiver']} was NOT told: {told['error']}")
        for told in found.telemetry
        if not told["delivered"]
    ]
    for column, count in found.quality.get("nonfinite_scores", {}).items():
        pairs.append(("warning", f"{count:,} NaN or infinite values in '{column}'"))
    if found.error:
        pairs.append(("error", found.error.splitlines()[0]))
    pairs.append(("run", found.run_id))
    title = f"{found.pipeline} {_parameters(found.parameters)}".rstrip()
    _lines(f"{title}: {found.status} in {found.seconds:.2f} s", pairs, err=err)


def unplanned(pipeline: str, parameters: dict[str, str], error: BaseException) -> None:
    """The report, as JSON, of a run that ended before it had a plan, and so an id and a record."""
    from batchinfer.runs import RunReport

    stopped = isinstance(error, KeyboardInterrupt)
    told = RunReport(
        run_id="",
        status="interrupted" if stopped else "failed",
        pipeline=pipeline,
        parameters=parameters,
        model={},
        error="interrupted" if stopped else str(error),
    )
    as_json({**told.to_dict(), "run_id": None, "model": dict.fromkeys(("name", "version", "digest"))})


def _rate(found: RunReport) -> str:
    if found.status == "done" and found.units["reused"] == found.units["total"] and not found.rows_per_second:
        if "commit" in found.timings.get("stages", {}):
            if not found.units["total"]:
                return "nothing to score: the input has no rows"
            return "nothing to score: all units were staged before, and are committed now"
        return "nothing to do: these rows were committed before"
    return f"{found.rows_per_second:,} rows/s"


def _suite(name: str, quality: dict[str, Any]) -> str:
    failed = ", ".join(f"{each['expectation']} ({each['severity']})" for each in quality["failed"][:3])
    more = f" and {len(quality['failed']) - 3} more" if len(quality["failed"]) > 3 else ""
    said = f"{len(quality['failed'])} failed: {failed}{more}" if failed else "all passed"
    return f"{quality['expectations']} expectations of {name}, {said}"


def _drift(drift: dict[str, Any]) -> str:
    columns = drift["columns"]
    drifted = sorted((n for n, c in columns.items() if c["drifted"]), key=lambda n: -columns[n]["psi"])
    named = ", ".join(f"{name} PSI {columns[name]['psi']:.2f}" for name in drifted[:3])
    more = f" and {len(drifted) - 3} more" if len(drifted) > 3 else ""
    said = (
        f"{drift['drifted_columns']:.0%} of the features have drifted: {named}{more}" if drifted else "none"
    )
    return f"ALARM, {said}" if drift["alarm"] else said


def _plan_values(found: Plan) -> dict[str, Any]:
    return {
        "run_id": found.run_id,
        "pipeline": found.spec.name,
        "parameters": found.parameters,
        "model": found.scorer.identity,
        "input": found.input_path,
        "output": found.output_path,
        "files": len(found.inputs),
        "rows": found.rows,
        "partitions": [dict(partition) for partition in found.partitions],
        "units": [
            {
                "unit": unit.index,
                "partition": dict(unit.partition),
                "rows": unit.rows,
                "slices": [
                    {
                        "path": piece.file.path,
                        "row_groups": [piece.first_row_group, piece.first_row_group + piece.row_groups],
                        "rows": piece.rows,
                    }
                    for piece in unit.slices
                ],
            }
            for unit in found.units
        ],
    }


def plan_json(found: Plan) -> None:
    """A plan with each unit."""
    as_json(_plan_values(found))


def plan(found: Plan) -> None:
    """A plan in short."""
    values = _plan_values(found)
    title = f"{found.spec.name} {_parameters(found.parameters)}".rstrip()
    read = "all" if found.columns is None else str(len(found.columns))
    _lines(
        f"{title}: {values['rows']:,} rows in {values['files']:,} files, {len(found.units):,} units",
        [
            ("input", f"{found.input_path}, {read} columns"),
            ("model", values["model"]),
            ("output", f"{found.spec.output.store} {found.output_path}"),
            ("partitions", ", ".join(_parameters(p) for p in values["partitions"][:5]) or "the whole table"),
            ("run", found.run_id),
        ],
    )
    for unit in values["units"][:20]:
        first = unit["slices"][0]
        groups = f"row groups {first['row_groups'][0]} to {first['row_groups'][1] - 1}"
        more = f" and {len(unit['slices']) - 1} more" if len(unit["slices"]) > 1 else ""
        click.echo(f"  unit {unit['unit']:<6} {unit['rows']:>12,} rows  {first['path']} {groups}{more}")
    if len(values["units"]) > 20:
        click.echo(f"  … and {len(values['units']) - 20:,} more units")


def model(bundle: Bundle) -> None:
    """A bundle: what it takes, what it gives, and its certificate."""
    manifest, certificate = bundle.manifest, bundle.manifest.certificate
    padding = {
        "none": "none",
        "multiple": f"to a multiple of {certificate.padding.rows}",
        "fixed": f"always {certificate.padding.rows} rows",
    }[certificate.padding.rule]
    exact = "yes" if certificate.bit_exact else f"no, up to {certificate.max_ulp} ULP apart"
    _lines(
        f"{bundle.identity} in {bundle.location}",
        [
            ("takes", ", ".join(manifest.columns)),
            ("missing ok", ", ".join(certificate.takes_nan) or "none"),
            ("gives", ", ".join(name for output in manifest.outputs.values() for name in output.names)),
            ("batch size", f"{certificate.batch_size:,}"),
            ("padding", padding),
            ("bit-exact", exact),
            ("digest", manifest.digest),
        ],
    )


def model_json(bundle: Bundle) -> None:
    """A bundle's manifest and where it lies."""
    as_json({"location": bundle.location, **bundle.manifest.model_dump(mode="json", exclude_none=True)})


def models(found: Sequence[RegisteredModel]) -> None:
    """A registry's models."""
    rows = [
        (m.name, m.versions[-1] if m.versions else "", ", ".join(f"{a}→{v}" for a, v in m.aliases.items()))
        for m in found
    ]
    table(("model", "latest version", "aliases"), rows)


def runs(reports: Sequence[RunReport]) -> None:
    """Runs, a line each."""
    table(
        ("run", "pipeline", "parameters", "status", "rows", "scored", "quarantined", "seconds", "started"),
        [
            (
                r.run_id,
                r.pipeline,
                _parameters(r.parameters),
                _outcome(r),
                f"{r.rows.read:,}",
                f"{r.rows.scored:,}",
                f"{r.rows.quarantined:,}",
                f"{r.seconds:.2f}",
                r.started_at,
            )
            for r in reports
        ],
    )


def _outcome(found: RunReport) -> str:
    """The status, and what a gate or the drift adds to it."""
    if found.drift.get("alarm"):
        return f"{found.status}, drift"
    if found.quality.get("success") is False:
        return f"{found.status}, quality"
    return found.status


def history(entries: Sequence[dict[str, Any]]) -> None:
    """A table's commits."""
    from datetime import UTC, datetime

    def started(entry: dict[str, Any]) -> str:
        when = entry.get("timestamp_ms")
        return datetime.fromtimestamp(when / 1000, UTC).isoformat(timespec="seconds") if when else ""

    table(
        ("version", "time", "operation", "run", "parameters", "scored"),
        [
            (
                str(entry["version"]),
                started(entry),
                str(entry.get("operation") or ""),
                str(entry.get("run_id") or ""),
                _parameters((entry.get("report") or {}).get("parameters", {})),
                _scored(entry.get("report") or {}),
            )
            for entry in entries
        ],
    )


def _scored(report: dict[str, Any]) -> str:
    rows = report.get("rows", "")  # a stream's commit says just how many
    return str(rows.get("scored", "")) if isinstance(rows, dict) else str(rows)


def explanation(found: Explanation) -> None:
    """A row, its source and its scores of then and now."""
    key = ", ".join(f"{name}={value}" for name, value in found.key.items())
    _lines(
        f"{key}: {'the bits agree' if found.bit_exact else 'the bits DIFFER'}",
        [
            ("model", found.model),
            ("run", found.run_id),
            ("source", f"{found.source}, row {found.position}"),
        ],
    )
    table(("input", "value"), [(name, str(value)) for name, value in found.inputs.items()])
    table(
        ("output", "stored", "scored again"),
        [(name, str(value), str(found.rescored[name])) for name, value in found.stored.items()],
    )


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, err: bool = False) -> None:
    """Columns wide enough for their content, numbers to the right; no row is cut, so that it can be piped."""
    if not rows:
        click.echo("none", err=err)
        return
    widths = [max(len(row[i]) for row in [headers, *rows]) for i in range(len(headers))]
    numeric = [all(_is_number(row[i]) for row in rows) for i in range(len(headers))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(cells, widths, numeric, strict=True)
        ]
        return "  ".join(padded).rstrip()

    click.echo(click.style(line(headers), bold=True), err=err)
    for row in rows:
        click.echo(line(row), err=err)


def _is_number(text: str) -> bool:
    return text.replace(",", "").replace(".", "", 1).removesuffix("%").isdecimal() or not text
