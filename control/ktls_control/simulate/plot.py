# SPDX-License-Identifier: Apache-2.0
"""A study as one picture (PNG, SVG or PDF by the name of the file)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from ..errors import ControlError
from .run import RunResult
from .study import Study, summary

#: Blue and orange of the Okabe-Ito palette: told apart by colour-blind readers and in print.
WITHOUT, WITH, GREY = "#0072B2", "#D55E00", "#555555"


def save(done: Study, path: Path) -> None:
    """:raises ControlError: ``bad_output`` when no picture can be written there."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    settings = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "ktls-fleet"}
    with pyplot.rc_context(settings):
        figure, axes = pyplot.subplots(2, 2, figsize=(11, 7), layout="constrained")
        _progress(axes[0][0], done)
        _ends(axes[0][1], done)
        _touched(axes[1][0], done)
        _load(axes[1][1], done)
        what = "; ".join(one.text for one in done.regressions) or "no regression"
        plan = done.setting.plan
        figure.suptitle(
            f"{plan.phase} on {done.setting.fleet.hosts:,} simulated hosts, {done.setting.fleet.waves} waves: {what}\n"
            f"noise {done.setting.noise.name}, {len(done.without)} runs each, seed {done.seed}",
            fontsize=11,
        )
        try:
            figure.savefig(path, dpi=110)
        except (OSError, ValueError) as error:
            raise ControlError("bad_output", f"{path}: {error}; name a .png, .svg or .pdf file") from error
        finally:
            pyplot.close(figure)


def _sides(done: Study) -> list[tuple[str, str, Sequence[RunResult]]]:
    sides: list[tuple[str, str, Sequence[RunResult]]] = [("without regression", WITHOUT, done.without)]
    return [*sides, ("with it", WITH, done.with_them)] if done.with_them else sides


def _progress(axes: Axes, done: Study) -> None:
    for name, colour, runs in _sides(done):
        for number, run in enumerate(runs):
            at, hosts = [0.0], [0]
            for wave in run.waves:
                at += [wave.started_s, wave.started_s]
                hosts += [hosts[-1], hosts[-1] + wave.hosts]
            at, hosts = [*at, run.seconds], [*hosts, hosts[-1]]
            if run.outcome != "completed":
                at, hosts = [*at, run.seconds], [*hosts, hosts[-1] - run.waves[-1].hosts]
            axes.plot(
                np.asarray(at) / 3600, hosts, color=colour, alpha=max(0.08, 3 / len(runs) if len(runs) > 3 else 0.9),
                linewidth=1.2, label=name if number == 0 else None,
            )  # fmt: skip
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("hours since the start, people not waited for")
    axes.set_ylabel("hosts that have the phase")
    axes.set_title("Each run, wave by wave")
    legend = axes.legend(frameon=False, loc="lower right")
    for line in legend.get_lines():
        line.set_alpha(1)


def _ends(axes: Axes, done: Study) -> None:
    waves = done.setting.plan.waves
    width = 0.4
    for shift, (name, colour, runs) in zip((-width / 2, width / 2), _sides(done), strict=False):
        found = summary(runs)
        values = [found.ended_in.get(number, 0) / len(runs) for number in range(len(waves))]
        values.append(found.outcomes["completed"] / len(runs))
        axes.bar(np.arange(len(values)) + shift, values, width, color=colour, label=name)
    axes.set_xticks(range(len(waves) + 1), [*(str(wave.number) for wave in waves), "goes\nthrough"])
    axes.set_xlabel("wave that it ends in")
    axes.set_ylabel("share of runs")
    axes.set_ylim(0, 1)
    axes.set_title("Where runs end")
    axes.legend(frameon=False)


def _touched(axes: Axes, done: Study) -> None:
    for name, colour, runs in _sides(done):
        ended = sorted(run.touched for run in runs if run.outcome != "completed")
        if ended:
            share = np.arange(1, len(ended) + 1) / len(runs)
            axes.step(
                [ended[0], *ended, done.setting.fleet.hosts],
                [0, *share, share[-1]],
                where="post",
                color=colour,
                label=name,
            )
        else:
            axes.plot([0.8, done.setting.fleet.hosts], [0, 0], color=colour, label=f"{name}: no run ended early")
    axes.set_xscale("log")
    axes.set_xlim(0.8, done.setting.fleet.hosts * 1.25)
    axes.set_ylim(0, 1.03)
    axes.set_xlabel("hosts touched")
    axes.set_ylabel("share of runs that had ended by then")
    axes.set_title("Hosts touched before the rollout stops itself")
    axes.legend(frameon=False)


def _load(axes: Axes, done: Study) -> None:
    one = done.load
    seconds = np.arange(one.steady.size)
    axes.plot(seconds, one.steady, color=WITHOUT, label="all agents started in the same second")
    axes.plot(seconds, one.returned, color=WITH, label="the endpoint is back after a minute")
    axes.axhline(one.hosts / one.interval_s, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_ylim(0, max(one.peak * 1.25, 1))
    axes.margins(x=0)
    axes.set_xlabel("seconds")
    axes.set_ylabel("requests per second, each endpoint")
    axes.set_title(f"Load on a flag endpoint, busiest second {one.peak:,}")
    axes.legend(frameon=False, loc="lower right")
