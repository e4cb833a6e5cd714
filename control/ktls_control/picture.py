# SPDX-License-Identifier: Apache-2.0
"""Draws the timeline as SVG, to be put into a page."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot
from matplotlib.axes import Axes

from .timeline import Mark, Timeline

#: Blue and orange of the Okabe-Ito palette: told apart by colour-blind readers and in print.
COLOURS = {"ktls_tx": "#0072B2", "userspace": "#E69F00"}
LABELS = {"ktls_tx": "kTLS transmit", "userspace": "userspace TLS"}
_BANDS = {"wave": "#0072B2", "off": "#D55E00", "deploy": "#777777"}


def draw(timeline: Timeline, marks: Sequence[Mark]) -> str:
    """:returns: an ``<svg>`` element: megabytes per second above, open connections below, marks over both."""
    settings = {
        "font.family": "sans-serif",
        "font.size": 10,
        "svg.fonttype": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        # Same numbers, same picture: no random identifiers.
        "svg.hashsalt": "ktls-fleet",
    }
    with pyplot.rc_context(settings):
        figure, (above, below) = pyplot.subplots(
            2, 1, sharex=True, figsize=(11, 6), height_ratios=(3, 2), layout="constrained"
        )
        _area(above, timeline, {path: [r / 1e6 for r in rates] for path, rates in timeline.rates.items()})
        above.set_ylabel("MB/s served")
        _area(below, timeline, timeline.connections)
        below.set_ylabel("open connections")
        below.set_xlabel("seconds")
        for axes in (above, below):
            axes.grid(axis="y", alpha=0.25)
            axes.set_ylim(bottom=0)
            axes.margins(x=0)
        _marks(above, below, marks)
        above.legend(loc="lower right", ncols=2, frameon=False, bbox_to_anchor=(1, 1.07))
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _area(axes: Axes, timeline: Timeline, values: dict[str, list[float]]) -> None:
    paths = list(COLOURS)
    axes.stackplot(
        timeline.seconds,
        [values[path] for path in paths],
        colors=[COLOURS[path] for path in paths],
        labels=[LABELS[path] for path in paths],
        alpha=0.85,
        linewidth=0,
    )


def _marks(above: Axes, below: Axes, marks: Sequence[Mark]) -> None:
    for mark in marks:
        colour = _BANDS.get(mark.kind, "#777777")
        for axes in (above, below):
            if mark.end is None:
                axes.axvline(mark.start, color=colour, linewidth=1.5)
            else:
                axes.axvspan(mark.start, mark.end, color=colour, alpha=0.10, linewidth=0, zorder=0)
                axes.axvline(mark.start, color=colour, linewidth=1, linestyle=":")
        above.annotate(
            mark.label,
            (mark.start, 1),
            xycoords=("data", "axes fraction"),
            xytext=(4, 2),
            textcoords="offset points",
            color=colour,
            fontweight="bold",
        )
