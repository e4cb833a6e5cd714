# SPDX-License-Identifier: Apache-2.0
"""``ktls judge --replay``: judge what was recorded, and show every number behind the verdict."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ControlError

if TYPE_CHECKING:
    from .model import MetricVerdict, WaveVerdict
    from .record import Wave

PASS, FAIL, USAGE, INCONCLUSIVE = 0, 1, 2, 3
_EXIT = {"pass": PASS, "fail": FAIL, "inconclusive": INCONCLUSIVE}


def add_parser(verbs: Any) -> None:
    """Add verb ``judge``."""
    judge = verbs.add_parser(
        "judge",
        help="judge recorded series: the verdict, and the numbers behind it",
        description="Exit status: 0 pass, 1 fail, 2 cannot be read, 3 inconclusive.",
    )
    judge.add_argument(
        "--replay",
        required=True,
        type=Path,
        metavar="FILE",
        help="a JSON file (see docs/judge.md), or a run's directory",
    )
    judge.add_argument("--wave", type=int, help="of a run (default: the last with evidence)")
    judge.add_argument("--json", action="store_true", help="one JSON object")
    judge.add_argument("--plot", type=Path, metavar="FILE", help="draw it too (.png or .svg)")
    judge.set_defaults(func=main)


def main(arguments: argparse.Namespace) -> int:
    """:returns: 0 pass, 1 fail, 2 the file cannot be read, 3 inconclusive."""
    from . import record
    from .wave import judge_wave

    try:
        wave = record.load(arguments.replay, arguments.wave)
        verdict = judge_wave(wave.phase, wave.gates, wave.series, wave.others, wave.host_checks, wave.soak)
        if arguments.plot:
            from . import plot

            plot.save(arguments.plot, wave, verdict)
    except ControlError as error:
        if arguments.json:
            print(json.dumps({"error": {"code": error.code, "message": error.message}}))
        print(f"ktls: {error.message}", file=sys.stderr)
        return USAGE
    if arguments.json:
        print(json.dumps(asdict(verdict)))
    else:
        show(wave, verdict)
    return _EXIT[verdict.outcome]


def show(wave: Wave, verdict: WaveVerdict) -> None:
    """Print a verdict for people."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    title = f"{wave.title}: phase {wave.phase}, {len(wave.series)} hosts, method {wave.gates.method}"
    console.print(title, markup=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("metric", "verdict", "effect", "interval", "margin", "p", "n", "test"):
        table.add_column(
            name, justify="right" if name in ("effect", "margin", "p", "n") else "left", no_wrap=name != "test"
        )
    for metric in verdict.metrics:
        table.add_row(*_row(metric))
    if verdict.metrics:
        console.print(table)
        for metric in verdict.metrics:
            console.print(f"  {metric.name}: {metric.detail}", markup=False, soft_wrap=True)
    if verdict.e_value is not None:
        path = " ".join(f"{value:.3g}" for value in verdict.e_path[-12:])
        console.print(f"E-value {verdict.e_value:.3g} (stops at {verdict.e_limit:g}); path: {path or 'nothing seen'}")
    colour = {"pass": "green", "fail": "red", "inconclusive": "yellow"}[verdict.outcome]
    console.print(f"verdict: {verdict.outcome.upper()}", style=f"bold {colour}")
    if verdict.outcome != "pass":
        for reason in verdict.reasons:
            console.print(f"  {reason}", markup=False, soft_wrap=True)


def _row(metric: MetricVerdict) -> tuple[str, ...]:
    def share(value: float | None) -> str:
        return "" if value is None else f"{value:+.2%}"

    interval = "" if metric.low is None and metric.high is None else f"[{share(metric.low)}, {share(metric.high)}]"
    return (
        metric.name,
        metric.outcome,
        share(metric.effect),
        interval,
        f"{metric.margin:.0%}" if metric.margin else "",
        "" if metric.p is None else f"{metric.p:.2g}",
        str(metric.n),
        metric.test,
    )
