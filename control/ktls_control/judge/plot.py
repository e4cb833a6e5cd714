# SPDX-License-Identifier: Apache-2.0
"""A judged wave as a picture: effects with their intervals, the E-value's path, and each host with and without kTLS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ControlError
from . import blocks, columns, metrics

if TYPE_CHECKING:
    from .model import MetricVerdict, WaveVerdict
    from .record import Wave

#: Okabe-Ito, as in the rest of the pictures.
COLOURS = {"pass": "#009E73", "fail": "#D55E00", "inconclusive": "#E69F00"}
_ON, _OFF = "#0072B2", "#999999"


def save(path: Path, wave: Wave, verdict: WaveVerdict) -> None:
    """Draw to ``path``; its ending says how (.png, .svg)."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    if path.suffix not in (".png", ".svg"):
        raise ControlError("bad_output", f"{path}: name a file that ends with .png or .svg")
    settings = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "ktls-fleet"}
    with pyplot.rc_context(settings):
        figure, axes = pyplot.subplots(1, 3, figsize=(13, 3.8), layout="constrained", width_ratios=(4, 3, 4))
        figure.suptitle(f"{verdict.outcome.upper()}   {wave.title}", color=COLOURS[verdict.outcome], fontweight="bold")
        _effects(axes[0], [one for one in verdict.metrics if one.high is not None or one.low is not None])
        _path(axes[1], verdict)
        _slopes(axes[2], wave)
        try:
            figure.savefig(path, dpi=130)
        except OSError as error:
            raise ControlError("bad_output", f"{path}: {error.strerror}; name another file") from error
        finally:
            pyplot.close(figure)


def _effects(axes: Any, answers: Sequence[MetricVerdict]) -> None:
    axes.set_title("effect of kTLS, worse to the right")
    axes.axvline(0, color="#444444", linewidth=0.8)
    seen = [
        100 * value for one in answers for value in (one.low, one.high, one.effect, one.margin) if value is not None
    ]
    reach = min(max([abs(value) for value in seen] or [10.0]), 100.0) * 1.15
    for row, one in enumerate(reversed(answers)):
        low = 100 * one.low if one.low is not None else -reach
        high = 100 * one.high if one.high is not None else reach
        colour = COLOURS[one.outcome]
        axes.plot([low, high], [row, row], color=colour, linewidth=3, solid_capstyle="butt")
        axes.plot([100 * (one.effect or 0.0)], [row], "o", color=colour)
        axes.plot([100 * one.margin] * 2, [row - 0.3, row + 0.3], color="#444444", linestyle=":", linewidth=1.5)
    axes.set_xlim(-reach, reach)
    axes.set_yticks(range(len(answers)), [one.name for one in reversed(answers)])
    axes.set_ylim(-0.6, max(len(answers), 1) - 0.4)
    axes.set_xlabel("% (dotted: margin)")


def _path(axes: Any, verdict: WaveVerdict) -> None:
    axes.set_title("failures: E-value")
    limit = verdict.e_limit or 40.0
    path = [1.0, *(max(value, 1e-6) for value in verdict.e_path)]
    axes.step(range(len(path)), path, where="post", color=_ON)
    axes.axhline(limit, color=COLOURS["fail"], linestyle="--", linewidth=1)
    axes.annotate(f"stops at {limit:g}", (0, limit), xytext=(2, 3), textcoords="offset points", color=COLOURS["fail"])
    axes.set_yscale("log")
    axes.set_ylim(min(0.1, min(path) / 2), max(10 * limit, max(path) * 2))
    axes.set_xlabel("things seen (failing blocks, minutes)")


def _slopes(axes: Any, wave: Wave) -> None:
    """CPU time per byte of each host without kTLS and with, the host's own mean without it being 100."""
    axes.set_title("CPU time per byte, each host (without kTLS: 100)")
    good = [one for one in wave.series if one.ordered_at_s is not None and one.samples]
    axes.set_xticks([0, 1], ["without", "with kTLS"])
    axes.set_xlim(-0.2, 1.2)
    if not good:
        return
    table = columns.of(good, [one.ordered_at_s or 0.0 for one in good])
    if wave.gates.method == "switchback":
        pairs = blocks.find(table, wave.gates.block_s, wave.gates.washout_s)
        change = [
            float((metrics.log_ratio(pairs.cpu, pairs.sent)[pairs.host == index] @ [-1, 1]).mean())
            if (pairs.host == index).any()
            else math.nan
            for index in range(len(good))
        ]
    else:
        change = metrics.change("cpu", table, math.inf).tolist()
    for one, value in zip(good, change, strict=True):
        if math.isfinite(value):
            axes.plot([0, 1], [100, 100 * math.exp(value)], "-o", color=_ON, alpha=0.6, markersize=3)
            axes.annotate(one.host, (1, 100 * math.exp(value)), xytext=(5, -3), textcoords="offset points", fontsize=7)
    axes.plot([0, 1], [100, 100 * (1 + wave.gates.cpu_margin)], ":", color=_OFF)
