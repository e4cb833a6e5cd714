# SPDX-License-Identifier: Apache-2.0
"""Pictures of the judge's error rates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import trial

_COLOURS = ("#0072B2", "#E69F00", "#009E73")
Counts = Mapping[tuple[str, str], trial.Count]


@contextmanager
def _figure(path: Path, columns: int, height: float) -> Iterator[Any]:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    settings = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    with pyplot.rc_context(settings):
        figure, axes = pyplot.subplots(1, columns, figsize=(11, height), layout="constrained", squeeze=False)
        yield axes[0]
        figure.savefig(path, dpi=110, metadata={"Software": None})
        pyplot.close(figure)


def alarms(path: Path, counts: Mapping[str, Counts]) -> None:
    """False-alarm rates with their upper bounds, by noise and form of the wave."""
    with _figure(path, len(counts), 3.6) as axes:
        for panel, (title, group) in zip(axes, counts.items(), strict=True):
            names = list(dict.fromkeys(name for name, _ in group))
            shapes = list(dict.fromkeys(shape for _, shape in group))
            for index, shape in enumerate(shapes):
                for row, name in enumerate(names):
                    count = group[name, shape]
                    place = row + (index - 1) * 0.22
                    rate, bound = count.failed / count.total, trial.upper(count.failed, count.total)
                    panel.plot([100 * rate, 100 * bound], [place, place], color=_COLOURS[index], linewidth=2)
                    label = shape if row == 0 else None
                    panel.plot([100 * rate], [place], "o", color=_COLOURS[index], markersize=4, label=label)
            panel.axvline(5, color="#D55E00", linestyle="--", linewidth=1)
            panel.set_xlim(0, 7)
            panel.set_yticks(range(len(names)), names)
            panel.invert_yaxis()
            panel.set_title(f"nothing wrong, {title}")
            panel.set_xlabel("% of waves stopped (line: to the upper 95 % bound)")
        axes[0].legend(loc="upper right", frameon=False, fontsize=8)


def uniform(path: Path, counts: Counts) -> None:
    """How p-values are spread when nothing is wrong: along the diagonal."""
    shapes = list(dict.fromkeys(shape for _, shape in counts))
    with _figure(path, len(shapes), 3.4) as axes:
        for panel, shape in zip(axes, shapes, strict=True):
            for (_name, of), count in counts.items():
                for index, values in enumerate(count.p.values() if of == shape else ()):
                    ordered = sorted(values)
                    panel.plot(
                        ordered,
                        [(at + 1) / len(ordered) for at in range(len(ordered))],
                        color=_COLOURS[index % 3],
                        linewidth=0.7,
                        alpha=0.7,
                    )
            panel.plot([0, 1], [0, 1], color="#444444", linestyle=":", linewidth=1)
            panel.set_title(shape, fontsize=9)
            panel.set_xlabel("p-value")
        axes[0].set_ylabel("share of waves below it")
        for index, name in enumerate(("cpu", "latency", "throughput")):
            axes[0].plot([], [], color=_COLOURS[index], label=name)
        axes[0].legend(loc="upper left", frameon=False)


def power(path: Path, harms: Sequence[float], curves: Mapping[str, Sequence[trial.Count]]) -> None:
    """How often a wave is stopped, and how often it passes, by the harm to CPU time per byte."""
    with _figure(path, 2, 3.4) as axes:
        for index, (shape, counts) in enumerate(curves.items()):
            at = [100 * (harm - 1) for harm in harms]
            for panel, shares in zip(
                axes,
                ([one.failed / one.total for one in counts], [one.passed / one.total for one in counts]),
                strict=True,
            ):
                panel.plot(
                    at, [100 * share for share in shares], "-o", color=_COLOURS[index], markersize=3, label=shape
                )
        for panel, title in zip(axes, ("stopped", "passed"), strict=True):
            panel.axvline(3, color="#444444", linestyle=":", linewidth=1)
            panel.set_title(f"% of waves {title} (dotted: margin)")
            panel.set_xlabel("CPU time per byte: harm in %")
            panel.set_ylim(-3, 103)
        axes[0].legend(loc="lower right", frameon=False)
