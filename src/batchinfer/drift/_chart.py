"""The history as one page that needs nothing else: each column's PSI, mean and nulls over the runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from string import Template

from batchinfer.drift._axis import RunAxis, run_axis, run_names
from batchinfer.drift._history import ColumnHistory, DriftHistory, Point, RunDrift

_SHOWN_RUNS = 120
_WIDTH, _LEFT, _RIGHT = 520.0, 44.0, 512.0
_STRIP_WIDTH, _STRIP_RIGHT = 1100.0, 1092.0


@dataclass(frozen=True, slots=True)
class _Panel:
    """What a card shows below the PSI."""

    name: str
    value: Callable[[Point], float | None]
    reference: Callable[[Point], float | None]
    is_share: bool = True


_MEAN = _Panel("mean", lambda p: p.mean, lambda p: p.reference_mean, is_share=False)
_NULLS = _Panel("nulls", lambda p: p.null_rate, lambda p: p.reference_null_rate)
_UNSEEN = _Panel("unseen", lambda p: p.unseen, lambda _: None)


def chart_page(history: DriftHistory) -> str:
    """One HTML page: the runs' alarms along the top, a card for each column, predictions first, then the most drifted.

    It loads nothing, follows the reader's light or dark setting, and shows the newest 120 runs.
    """
    shown = history.last(_SHOWN_RUNS)
    title = f"Drift of {history.pipeline}" if history.runs else "Drift"
    page = Template(resources.files("batchinfer.drift").joinpath("chart.html").read_text(encoding="utf-8"))
    return page.substitute(title=escape(title), body=_body(shown, title, len(history.runs)))


def _body(history: DriftHistory, title: str, recorded: int) -> str:
    if not history.runs:
        return f"<h1>{escape(title)}</h1><p class='soft'>No run has measured drift yet.</p>"
    predictions = [c for c in history.columns if c.kind == "prediction"]
    features = [c for c in history.columns if c.kind != "prediction"]
    drifted = [c for c in features if c.drifted_runs]
    calm = [c for c in features if not c.drifted_runs]
    latest = history.runs[-1]
    counted = f"{len(history.runs)} runs" if len(history.runs) > 1 else "1 run"
    if recorded > len(history.runs):
        counted = f"the newest {len(history.runs)} of {recorded:,} runs"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p class='soft'>{counted}, the latest {escape(run_names(history.runs)[-1])} by {escape(latest.model)}, "
        f"committed {latest.committed_at:%Y-%m-%d %H:%M} UTC</p>",
        _verdict(latest, [c.points[-1] for c in features]),
        _strip(history),
        _LEGEND,
    ]
    for heading, columns in (("Predictions", predictions), ("Features that drifted", drifted)):
        if columns:
            parts += [f"<h2>{heading}</h2>", _cards(columns, history.runs)]
    if calm:
        is_open = "" if drifted else " open"
        parts += [
            f"<details{is_open}><summary>Features that never drifted ({len(calm)})</summary>",
            _cards(calm, history.runs),
            "</details>",
        ]
    return "\n".join(parts)


_LEGEND = """<div class="legend">
<span><svg viewBox="0 0 26 12"><path class="line" d="M1 6H25"/><circle class="dot" cx="13" cy="6" r="3"/></svg>
a run</span>
<span><svg viewBox="0 0 26 12"><path class="dot drifted" d="M13 0l6 6-6 6-6-6z"/></svg>
drifted: PSI above its limit</span>
<span><svg viewBox="0 0 26 12"><path class="limit" d="M1 6H25"/></svg>
limit of the PSI; the reference's mean and nulls</span>
</div>"""


def _verdict(run: RunDrift, features: Sequence[Point | None]) -> str:
    measured = [point for point in features if point is not None]
    drifted = sum(point.drifted for point in measured)
    names = ", ".join(escape(name) for name in run.drifted[:5])
    more = f" and {len(run.drifted) - 5} more" if len(run.drifted) > 5 else ""
    above = f"; above the limit: {names}{more}" if run.drifted else ""
    said = f"{drifted} of {len(measured)} features drifted in the latest run{above}"
    state = "alarm" if run.alarm else "calm"
    return f"<p class='verdict {state}'><b>{'Alarm' if run.alarm else 'No alarm'}</b>{said}</p>"


def _strip(history: DriftHistory) -> str:
    """The share of drifted features in each run, red where the run raised the alarm."""
    axis, names = run_axis(history.runs, _LEFT, _STRIP_RIGHT), run_names(history.runs)
    top, bottom = 22.0, 92.0
    largest = max(run.drifted_columns for run in history.runs)
    high = next(step for step in (0.2, 0.5, 1.0) if largest <= step)
    scale = _scale([high, 0.0], top, bottom, margin=0)
    ticks = [(value, f"{value:.0%}") for value in (0.0, high / 2, high)]
    parts = [_ticks(ticks, scale, _STRIP_RIGHT), _breaks(axis, top, bottom)]
    parts.append(f'<text class="name" x="0" y="9">{_STRIP_TITLE}</text>')
    width = min(axis.slot * 0.7, 26)
    for place, (run, x) in enumerate(zip(history.runs, axis.middles, strict=True)):
        y = min(scale(run.drifted_columns), bottom - 2)
        state = " alarm" if run.alarm else ""
        parts.append(
            f'<rect class="bar{state}" x="{x - width / 2:.1f}" y="{y:.1f}" width="{width:.1f}" '
            f'height="{bottom - y:.1f}" rx="2"/>'
        )
        drifted = ", ".join(run.drifted[:6]) + (" …" if len(run.drifted) > 6 else "")
        told = [
            f"{names[place]}: {'alarm' if run.alarm else 'no alarm'}",
            f"{run.rows:,} rows, {run.model}, run {run.run_id}",
            f"{run.drifted_columns:.0%} of the features drifted",
            *([f"above the limit: {drifted}"] if drifted else []),
        ]
        parts.append(_hit(place, axis, top, bottom, told))
    parts.append(_labels(axis, bottom + 15, [place for place, run in enumerate(history.runs) if run.alarm]))
    return (
        f'<div class="card strip">{_svg(_STRIP_WIDTH, bottom + 20, "Drifted features by run", parts)}</div>'
    )


_STRIP_TITLE = "share of drifted features, red where the run raised the alarm"


def _cards(columns: Sequence[ColumnHistory], runs: Sequence[RunDrift]) -> str:
    axis, names = run_axis(runs, _LEFT, _RIGHT), run_names(runs)
    return f'<div class="cards">{"".join(_card(column, runs, axis, names) for column in columns)}</div>'


def _card(column: ColumnHistory, runs: Sequence[RunDrift], axis: RunAxis, names: Sequence[str]) -> str:
    latest = column.latest
    told = ""
    if latest is not None and latest.psi is not None:
        state = " drifted" if latest.drifted else ""
        told = f"<span class='latest{state}'>PSI {number(latest.psi)}, limit {number(latest.limit)}</span>"
    is_text = all(point is None or point.mean is None for point in column.points)
    bottom = 232.0
    parts = [
        _breaks(axis, 18, bottom),
        _psi_panel(column, axis, 18, 106),
        _line_panel(column, axis, _UNSEEN if is_text else _MEAN, 136, 176),
        _line_panel(column, axis, _NULLS, 206, bottom),
        _labels(axis, bottom + 15, []),
    ]
    for place, (point, run) in enumerate(zip(column.points, runs, strict=True)):
        if point is not None:
            parts.append(_hit(place, axis, 4, bottom, _told(column, point, run, names[place])))
    picture = _svg(_WIDTH, bottom + 20, f"{column.column} over the runs", parts)
    return f"<section class='card'><header><h3>{escape(column.column)}</h3>{told}</header>{picture}</section>"


def _told(column: ColumnHistory, point: Point, run: RunDrift, name: str) -> list[str]:
    drifted = ", drifted" if point.drifted else ""
    lines = [f"{name}: {column.column}", f"PSI {number(point.psi)}, limit {number(point.limit)}{drifted}"]
    lines.append(f"JS distance {number(point.js)}")
    if point.mean is not None:
        lines.append(f"mean {number(point.mean)}, reference {number(point.reference_mean)}")
        lines.append(f"from {number(point.min)} to {number(point.max)}")
    lines.append(f"nulls {share(point.null_rate)}, reference {share(point.reference_null_rate)}")
    if point.unseen:
        lines.append(f"{share(point.unseen)} unlike anything in the reference")
    return [*lines, f"{run.rows:,} rows"]


def _psi_panel(column: ColumnHistory, axis: RunAxis, top: float, bottom: float) -> str:
    psis = [point.psi if point else None for point in column.points]
    limits = [point.limit if point else None for point in column.points]
    scale = _scale([0.0, *_known(psis), *_known(limits)], top, bottom, margin=0.08)
    highest = max(_known(psis), default=0.0)
    limit = next(reversed(_known(limits)), 0.0)
    parts = [_ticks([(tick, number(tick)) for tick in sorted({0.0, limit, highest})], scale, _RIGHT)]
    parts.append(f'<text class="name" x="0" y="{top - 9:.0f}">PSI</text>')
    parts += [_area(axis, psis, scale, bottom), _line(axis, psis, scale, "line")]
    parts.append(_steps(axis, limits, scale))
    radius = min(3.0, max(axis.slot * 0.3, 1.2))
    for x, point in zip(axis.middles, column.points, strict=True):
        if point is None or point.psi is None:
            continue
        y, r = scale(point.psi), radius * 1.8
        if point.drifted:
            parts.append(
                f'<path class="dot drifted" d="M{x:.1f} {y - r:.1f}l{r:.1f} {r:.1f}-{r:.1f} {r:.1f}-{r:.1f}-{r:.1f}z"/>'
            )
        else:
            parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"/>')
    return "".join(parts)


def _line_panel(column: ColumnHistory, axis: RunAxis, panel: _Panel, top: float, bottom: float) -> str:
    values = [panel.value(point) if point else None for point in column.points]
    references = [panel.reference(point) if point else None for point in column.points]
    known = _known(values) + _known(references)
    title = f'<text class="name" x="0" y="{top - 9:.0f}">{panel.name}</text>'
    if not known:
        return f'{title}<text x="{_LEFT}" y="{bottom - 4:.0f}">none</text>'
    # A share starts at zero, and a rate below 1% must not look like a mountain.
    scale = _scale([0.0, 0.01, *known] if panel.is_share else known, top, bottom, margin=0.12)
    write = share if panel.is_share else number
    ticks = [(end, write(end)) for end in sorted({min(known), max(known)})]
    return "".join(
        [
            title,
            _ticks(ticks, scale, _RIGHT),
            _line(axis, values, scale, "line"),
            _steps(axis, references, scale),
        ]
    )


def _scale(values: Sequence[float], top: float, bottom: float, *, margin: float) -> Callable[[float], float]:
    """From a value to its height, the largest at the top; a margin is a share of the range at the top."""
    low, high = min(values), max(values)
    extent = (high - low) * (1 + margin) or 1.0
    return lambda value: bottom - (value - low) / extent * (bottom - top)


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _pieces(axis: RunAxis, values: Sequence[float | None]) -> list[list[tuple[float, float]]]:
    """Runs of neighbouring points: a line ends where a value is missing or days are."""
    pieces: list[list[tuple[float, float]]] = []
    for stretch in axis.stretches():
        pieces.append([])
        for place in stretch:
            value = values[place]
            if value is None:
                pieces.append([])
            else:
                pieces[-1].append((axis.middles[place], value))
    return [piece for piece in pieces if piece]


def _line(axis: RunAxis, values: Sequence[float | None], scale: Callable[[float], float], style: str) -> str:
    paths = ["M" + "L".join(f"{x:.1f} {scale(v):.1f}" for x, v in piece) for piece in _pieces(axis, values)]
    # A piece of one point is drawn by its round cap.
    paths = [path if "L" in path else f"{path}h0" for path in paths]
    return f'<path class="{style}" d="{"".join(paths)}"/>' if paths else ""


def _area(
    axis: RunAxis, values: Sequence[float | None], scale: Callable[[float], float], bottom: float
) -> str:
    paths = []
    for piece in _pieces(axis, values):
        line = "L".join(f"{x:.1f} {scale(v):.1f}" for x, v in piece)
        paths.append(f"M{piece[0][0]:.1f} {bottom:.1f}L{line}L{piece[-1][0]:.1f} {bottom:.1f}z")
    return f'<path class="area" d="{"".join(paths)}"/>' if paths else ""


def _steps(axis: RunAxis, values: Sequence[float | None], scale: Callable[[float], float]) -> str:
    """A level for each run as wide as its slot: a limit belongs to a run, and may differ from the next one's."""
    half, paths = axis.slot / 2, []
    for piece in _pieces(axis, values):
        path = [f"M{piece[0][0] - half:.1f} {scale(piece[0][1]):.1f}"]
        for x, value in piece:
            path.append(f"V{scale(value):.1f}H{x + half:.1f}")
        paths.append("".join(path))
    return f'<path class="limit" d="{"".join(paths)}"/>' if paths else ""


def _ticks(ticks: Sequence[tuple[float, str]], scale: Callable[[float], float], right: float) -> str:
    parts, last = [], float("inf")
    for value, text in ticks:
        y = scale(value)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>')
        if last - y >= 11:
            parts.append(f'<text x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{escape(text)}</text>')
            last = y
    return "".join(parts)


def _labels(axis: RunAxis, y: float, marked: Sequence[int]) -> str:
    longest = max((len(label) for label in axis.labels), default=0)
    parts = []
    for place in axis.shown(longest * 6.2 + 8):
        state = ' class="alarm"' if place in marked else ""
        text = escape(axis.labels[place])
        parts.append(
            f'<text{state} x="{axis.middles[place]:.1f}" y="{y:.0f}" text-anchor="middle">{text}</text>'
        )
    return "".join(parts)


def _breaks(axis: RunAxis, top: float, bottom: float) -> str:
    return "".join(
        f'<path class="break" d="M{axis.middles[place] - axis.slot:.1f} {top:.0f}V{bottom:.0f}"/>'
        for place in sorted(axis.breaks)
    )


def _hit(place: int, axis: RunAxis, top: float, bottom: float, told: Sequence[str]) -> str:
    return (
        f'<rect class="hit" data-run="{place}" x="{axis.middles[place] - axis.slot / 2:.1f}" y="{top:.0f}" '
        f'width="{axis.slot:.1f}" height="{bottom - top:.0f}"><title>{escape(chr(10).join(told))}</title></rect>'
    )


def _svg(width: float, height: float, label: str, parts: Sequence[str]) -> str:
    head = f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(label)}">'
    return f"{head}{''.join(parts)}</svg>"


def number(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return "none"
    if abs(value) >= 1000:
        return f"{value:,.0f}" if abs(value) < 1e9 else f"{value:.2e}"
    text = f"{value:.3g}" if abs(value) >= 0.001 or value == 0 else f"{value:.0e}"
    return "0" if text == "-0" else text


def share(value: float | None) -> str:
    """A share of the rows, as per cent."""
    if value is None:
        return "none"
    return f"{value:.0%}" if value in (0, 1) else f"{value:.1%}" if value >= 0.0005 else "<0.1%"
