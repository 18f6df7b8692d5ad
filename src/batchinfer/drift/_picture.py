"""The history in one picture for a page of text: how far the most drifted column of each run is from its limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

from batchinfer.drift._axis import RunAxis, run_axis
from batchinfer.drift._chart import number
from batchinfer.drift._history import DriftHistory, excess

_WIDTH, _HEIGHT = 960, 330
_LEFT, _RIGHT = 54.0, 940.0
_TOP, _BOTTOM = 78.0, 256.0

_STYLE = """
.page{fill:#ffffff}.ink{fill:#1c2330}.soft{fill:#667085}.calm{fill:#2f6fde}.alarm{fill:#d92d20}
.grid{stroke:#e3e6eb}.limit{stroke:#1c2330;stroke-width:1.25;stroke-dasharray:5 4}
.break{stroke:#98a2b3;stroke-dasharray:1 4}
text{font-family:system-ui,"Segoe UI","Helvetica Neue","DejaVu Sans",sans-serif;font-size:12px}
.title{font-size:17px;font-weight:600}.said{font-size:13px;font-weight:600}
@media (prefers-color-scheme:dark){
.page{fill:#0d1117}.ink{fill:#e6eaf1}.soft{fill:#94a0b4}.calm{fill:#6ea8ff}.alarm{fill:#ff6b5e}
.grid{stroke:#273041}.limit{stroke:#e6eaf1}.break{stroke:#64708a}}
"""


@dataclass(frozen=True, slots=True)
class _Worst:
    """A run's most drifted column, and how many times its limit its PSI is."""

    column: str
    excess: float


def chart_svg(history: DriftHistory) -> str:
    """A static SVG, the same bytes for the same history; light or dark as the reader's setting is.

    Each run is a bar: the PSI of its most drifted column in multiples of that column's limit, red where the run
    raised the alarm.
    """
    if not history.runs:
        return _svg(['<text class="soft" x="20" y="32">no run has measured drift yet</text>'])
    axis = run_axis(history.runs, _LEFT, _RIGHT)
    worst = [_worst(history, place) for place in range(len(history.runs))]
    top = max([1.5, *(found.excess for found in worst)]) * 1.12

    def y(value: float) -> float:
        return _BOTTOM - value / top * (_BOTTOM - _TOP)

    parts = [
        f'<text class="ink title" x="20" y="32">{escape(history.pipeline)}: how far the input has drifted</text>',
        '<text class="soft" x="20" y="52">PSI of the most drifted column of each run, '
        "in multiples of its limit; red where the run raised the alarm</text>",
        *(_tick(value, y(value)) for value in _ticks(top)),
        _tick(1, y(1)),
        *(
            f'<path class="break" d="M{axis.middles[place] - axis.slot:.1f} {_TOP:.0f}V{_BOTTOM:.0f}"/>'
            for place in sorted(axis.breaks)
        ),
    ]
    width = min(axis.slot * 0.62, 34)
    for x, found, run in zip(axis.middles, worst, history.runs, strict=True):
        state, height = ("alarm" if run.alarm else "calm"), max(_BOTTOM - y(found.excess), 2)
        parts.append(
            f'<rect class="{state}" x="{x - width / 2:.1f}" y="{_BOTTOM - height:.1f}" width="{width:.1f}" '
            f'height="{height:.1f}" rx="2"/>'
        )
    parts.append(f'<path class="limit" d="M{_LEFT:.0f} {y(1):.1f}H{_RIGHT:.0f}"/>')
    for stretch in axis.stretches():
        parts += _names(stretch, axis, worst, y)
        parts.append(_said(stretch, axis, history))
    longest = max((len(label) for label in axis.labels), default=0)
    parts += [
        f'<text class="soft" x="{axis.middles[place]:.1f}" y="{_BOTTOM + 19:.0f}" text-anchor="middle">'
        f"{escape(axis.labels[place])}</text>"
        for place in axis.shown(longest * 7 + 8)
    ]
    return _svg(parts)


def _svg(parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
        f'height="{_HEIGHT}" role="img"><style>{_STYLE}</style>'
    )
    page = f'<rect class="page" width="{_WIDTH}" height="{_HEIGHT}" rx="10"/>'
    return "\n".join([head, page, *parts, "</svg>\n"])


def _worst(history: DriftHistory, place: int) -> _Worst:
    points = ((column.column, column.points[place]) for column in history.columns)
    found = [_Worst(name, excess(point.psi, point.limit)) for name, point in points if point is not None]
    return max(found, key=lambda one: (one.excess, one.column), default=_Worst("", 0.0))


def _ticks(top: float) -> list[float]:
    step = next((s for s in (0.5, 1, 2, 5, 10, 20, 50) if top / s <= 5), top / 4)
    # The limit itself has its own word on the axis, and room for it.
    return [n * step for n in range(int(top / step) + 1) if abs(n * step - 1) > top / 15]


def _tick(value: float, y: float) -> str:
    text = "limit" if value == 1 else f"{number(value)}×"
    return (
        f'<path class="grid" d="M{_LEFT:.0f} {y:.1f}H{_RIGHT:.0f}"/>'
        f'<text class="soft" x="{_LEFT - 8:.0f}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
    )


def _names(
    stretch: Sequence[int], axis: RunAxis, worst: Sequence[_Worst], y: Callable[[float], float]
) -> list[str]:
    """The column's name above its bars, once where neighbours share it; only for columns above their limit."""
    parts = []
    for name, group in groupby(
        stretch, key=lambda place: worst[place].column if worst[place].excess > 1 else ""
    ):
        places = list(group)
        room = int(len(places) * axis.slot / 7)
        if name and room > 1:
            x = (axis.middles[places[0]] + axis.middles[places[-1]]) / 2
            height = y(max(worst[place].excess for place in places)) - 7
            text = name if len(name) <= room else name[: room - 1] + "…"
            parts.append(
                f'<text class="ink" x="{x:.1f}" y="{height:.1f}" text-anchor="middle">{escape(text)}</text>'
            )
    return parts


def _said(stretch: Sequence[int], axis: RunAxis, history: DriftHistory) -> str:
    if not stretch:
        return ""
    alarms = sum(history.runs[place].alarm for place in stretch)
    counted = f"all {alarms}" if alarms == len(stretch) else f"{alarms} of {len(stretch)}"
    text = f"alarm in {counted} runs" if alarms else f"no alarm in {len(stretch)} runs"
    x = (axis.middles[stretch[0]] + axis.middles[stretch[-1]]) / 2
    return (
        f'<text class="{"alarm" if alarms else "calm"} said" x="{x:.1f}" y="{_BOTTOM + 48:.0f}" '
        f'text-anchor="middle">{text}</text>'
    )
