# SPDX-License-Identifier: Apache-2.0
"""Two kinds of charts as SVG, readable on light and dark ground, the same bytes each time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _LEFT, _RIGHT, _ROW = 1000, 490, 60, 30
_STYLE = """<style>
  svg { font: 14px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
  .ground { fill: #ffffff; stroke: #c9d1d9; }
  text { fill: #1f2328; } .s { font-size: 12px; fill: #57606a; } .h { font-weight: 700; font-size: 16px; }
  .e { text-anchor: end; } .c { text-anchor: middle; }
  .grid { stroke: #d8dee4; } .one { stroke: #57606a; }
  .bar { fill: #0b62b8; } .dot { fill: #0b62b8; } .line { stroke: #0b62b8; stroke-width: 3; }
  .missed .dot { fill: #b3202c; } .missed .line { stroke: #b3202c; }
  .unclear .dot { fill: #8c959f; } .unclear .line { stroke: #8c959f; } .aim { stroke: #1a7f37; stroke-width: 2.5; }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #14181f; stroke: #3d444d; }
    text { fill: #e6edf3; } .s { fill: #b6c0cb; }
    .grid { stroke: #2d333b; } .one { stroke: #9aa4ae; }
    .bar, .dot { fill: #6cb2ff; } .line { stroke: #6cb2ff; }
    .missed .dot { fill: #ff7b83; } .missed .line { stroke: #ff7b83; } .aim { stroke: #4cc46a; }
  }
</style>"""


@dataclass(frozen=True)
class Range:
    """A median with the range of its rounds. ``verdict``: whether ``target`` was met, missed, or nobody can tell."""

    label: str
    place: str
    median: float
    lowest: float
    highest: float
    target: float
    verdict: str


def ranges(title: str, rows: Sequence[Range], low: float, high: float) -> str:
    """A row for each range, between ``low`` and ``high``; what lies beyond ends at the edge."""

    def x(value: float) -> str:
        inside = min(max(value, low), high)
        return f"{_LEFT + (inside - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT):.1f}"

    body, y, place = [], 64, ""
    for row in rows:
        if row.place != place:
            place = row.place
            body.append(f'<text class="s" x="24" y="{y + 5}">{escape(place)}</text>')
            y += _ROW - 6
        body.append(
            f'<g class="{row.verdict}"><text class="e" x="{_LEFT - 16}" y="{y + 5}">{escape(row.label)}</text>'
            f'<line class="line" x1="{x(row.lowest)}" y1="{y}" x2="{x(row.highest)}" y2="{y}"/>'
            f'<circle class="dot" cx="{x(row.median)}" cy="{y}" r="6"/>'
            f'<line class="aim" x1="{x(row.target)}" y1="{y - 10}" x2="{x(row.target)}" y2="{y + 10}"/>'
            f'<text class="s" x="{_WIDTH - _RIGHT + 14}" y="{y + 4}">{row.median:.2f}</text></g>'
        )
        y += _ROW
    ticks, value = [], low
    while value <= high + 1e-9:
        kind = "one" if abs(value - 1) < 1e-9 else "grid"
        ticks.append(f'<line class="{kind}" x1="{x(value)}" y1="48" x2="{x(value)}" y2="{y - 6}"/>')
        ticks.append(f'<text class="s c" x="{x(value)}" y="{y + 12}">{value:.1f}</text>')
        value += 0.2
    told = "blue: the median meets its target (green mark); red: it does not; grey: unclear"
    legend = f'<text class="s" x="24" y="{y + 36}">{told}</text>'
    return _svg(title, [*ticks, *body, legend], y + 52)


def bars(title: str, rows: Sequence[tuple[str, float]]) -> str:
    """A bar for each value, from zero."""
    top = max(value for _label, value in rows)
    body, y = [], 56
    for label, value in rows:
        width = value / top * (_WIDTH - _LEFT - _RIGHT - 40)
        body.append(
            f'<text class="e" x="{_LEFT - 16}" y="{y + 14}">{escape(label)}</text>'
            f'<rect class="bar" x="{_LEFT}" y="{y}" width="{width:.1f}" height="20" rx="3"/>'
            f'<text x="{_LEFT + width + 8:.1f}" y="{y + 15}">{value:,.0f}</text>'
        )
        y += _ROW
    return _svg(title, body, y + 14)


def _svg(title: str, body: Sequence[str], height: int) -> str:
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" aria-labelledby="t">',
        "<!-- SPDX-License-Identifier: Apache-2.0; made by tools/chart.py -->",
        f'<title id="t">{escape(title)}</title>',
        _STYLE,
        f'<rect class="ground" x="1" y="1" width="{_WIDTH - 2}" height="{height - 2}" rx="12"/>',
        f'<text class="h" x="24" y="32">{escape(title)}</text>',
        *body,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"
