# SPDX-License-Identifier: Apache-2.0
"""``ktls simulate``: the command line."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ControlError

if TYPE_CHECKING:
    from ..judge.model import HostSeries
    from .noise import Noise
    from .pace import Pace


def add_parser(verbs: Any) -> None:
    """Add ``simulate``."""
    simulate = verbs.add_parser(
        "simulate", help="what a plan would do: its waves and gates against a simulated fleet (see docs/simulate.md)"
    )
    simulate.add_argument("plan", type=Path, metavar="PLAN", help="file made by `ktls plan`")
    simulate.add_argument(
        "--regression",
        action="append",
        default=[],
        metavar="WHAT",
        help="what is wrong with the phase, for example 'cpu +8%% on nic_model=X'; may be given several times",
    )
    simulate.add_argument("--hosts", type=int, help="size of the fleet (default: that of the plan)")
    simulate.add_argument("--runs", type=int, default=40, help="runs with and runs without (default: %(default)s)")
    simulate.add_argument("--seed", type=int, default=1, help="the same seed gives the same figures (default: 1)")
    simulate.add_argument("--noise", default="usual", help="quiet, usual or noisy (default: %(default)s)")
    simulate.add_argument(
        "--baseline",
        type=Path,
        metavar="PATH",
        help="series recorded from hosts, a file or a directory of a run's evidence: noise comes from them",
    )
    simulate.add_argument(
        "--judged", type=int, default=32, help="hosts of a wave whose series are drawn (default: %(default)s)"
    )
    simulate.add_argument(
        "--lost-per-year",
        type=float,
        default=0.2,
        help="how often in a year a host goes away, whatever it runs (default: %(default)s)",
    )
    simulate.add_argument(
        "--promote-held", action="store_true", help="a person promotes every wave whose gate cannot tell"
    )
    simulate.add_argument(
        "--probe-every",
        type=float,
        metavar="S",
        help="seconds between an agent's self-probes (default: as agents make them: 10 in an experiment, else 30)",
    )
    simulate.add_argument("--slices", type=int, default=1, help="control nodes that share the work (default: 1)")
    simulate.add_argument("--poll", type=float, default=2.0, help="seconds between polls of a flag (default: 2)")
    simulate.add_argument("--json", action="store_true", help="one JSON object")
    simulate.add_argument("--plot", type=Path, metavar="FILE", help="a picture: .png, .svg or .pdf")
    simulate.add_argument(
        "--pace-from", type=Path, metavar="JOURNAL", help="take what hosts need for each step from a run's journal"
    )
    simulate.add_argument(
        "--against",
        type=Path,
        metavar="JOURNAL",
        help="simulate nothing: compare the prediction with a run of the plan",
    )
    simulate.set_defaults(func=_simulate)


def _simulate(arguments: argparse.Namespace) -> int:
    from ..plan import datapaths
    from ..plan.file import load

    plan = load(arguments.plan)
    if datapaths.mixed(plan):
        # Nobody has recorded the noise of another server yet.
        print("ktls: simulate: every host is taken for one with the sidecar; this plan has others", file=sys.stderr)
    pace = _pace(arguments)
    if arguments.against:
        from .compare import compare

        found = compare(plan, journal(arguments.against), pace)
        if arguments.json:
            print(json.dumps(found.as_dict()))
        else:
            from .screen import compared

            compared(_console(), found)
        return 0
    _check(arguments)
    from .fleet import build
    from .regression import parse
    from .run import Setting
    from .study import as_dict, study

    setting = Setting(
        plan=plan,
        fleet=build(plan, arguments.hosts),
        noise=_noise(arguments, plan.gates.method),
        pace=pace,
        regressions=tuple(parse(text) for text in arguments.regression),
        judged=arguments.judged,
        lost_per_hour=arguments.lost_per_year / 8766,
        promote_held=arguments.promote_held,
    )
    done = study(setting, arguments.runs, arguments.seed, arguments.poll, _progress)
    if arguments.plot:
        from .plot import save

        save(done, arguments.plot)
    if arguments.json:
        print(json.dumps(as_dict(done), allow_nan=False))
    else:
        from .screen import draw

        draw(_console(), done)
    return 0


def journal(path: Path) -> list[dict[str, Any]]:
    """Events of a journal, so far as it goes: the last line of a run that was killed may be half a line.

    :raises ControlError: ``no_journal`` or ``bad_journal``.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not text"
        raise ControlError("no_journal", f"{path}: {why}; name a run's journal.jsonl") from error
    events: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            event = json.loads(line)
            float(event["at"]), str(event["event"])
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines) and events:
                break
            raise ControlError("bad_journal", f"{path}: line {number} is not an event of a journal") from error
        events.append(event)
    return events


def _pace(arguments: argparse.Namespace) -> Pace:
    from .pace import Pace, fit

    pace = Pace(slices=max(1, arguments.slices))
    if not arguments.pace_from:
        return pace
    from .phases import read

    seen = read(journal(arguments.pace_from))
    if not seen:
        raise ControlError("no_waves", f"{arguments.pace_from}: no wave came to its soak: no pace to take from it")
    return fit(pace, seen)


def _noise(arguments: argparse.Namespace, method: str) -> Noise:
    from .noise import LEVELS, PROBE_EVERY_S, TRIAL_PROBE_EVERY_S, Formula, Recorded, recorded

    def probing(noise: Formula | Recorded) -> Formula | Recorded:
        usual = TRIAL_PROBE_EVERY_S if method in ("switchback", "connections") else PROBE_EVERY_S
        return replace(noise, probe_every_s=arguments.probe_every or usual)

    if arguments.baseline:
        return probing(recorded(series_of(arguments.baseline), arguments.baseline.name))
    if arguments.noise not in LEVELS:
        raise ControlError("bad_noise", f"noise {arguments.noise!r}: one of {', '.join(LEVELS)}, or --baseline PATH")
    return probing(LEVELS[arguments.noise])


def series_of(path: Path) -> list[HostSeries]:
    """Recorded series: a file that `ktls judge --replay` reads, or a run's directory (or its ``evidence``).

    :raises ControlError: ``no_series`` or ``bad_series``.
    """
    from ..judge.record import load

    evidence = path / "evidence" if (path / "evidence").is_dir() else path
    files = sorted(evidence.glob("*.json")) if evidence.is_dir() else [evidence]
    if not files:
        raise ControlError("no_series", f"{evidence}: no recorded series in it (wave-N-HOST.json)")
    found: list[HostSeries] = []
    for file in files:
        wave = load(file)
        found += [*wave.series, *wave.others]
    return found


def _check(arguments: argparse.Namespace) -> None:
    for name, low in (("runs", 1), ("judged", 2), ("slices", 1)):
        if getattr(arguments, name) < low:
            raise ControlError("bad_option", f"--{name} {getattr(arguments, name)}: at least {low}")
    if arguments.poll < 0.5 or arguments.lost_per_year < 0 or (arguments.probe_every or 1.0) < 1.0:
        raise ControlError("bad_option", "--poll is 0.5 at least, --probe-every 1, and --lost-per-year not below 0")
    if arguments.plot and (arguments.plot.is_dir() or not os.access(arguments.plot.parent, os.W_OK)):
        raise ControlError("bad_output", f"{arguments.plot}: no file can be written there: name another")


def _progress(done: int, of: int) -> None:
    if sys.stderr.isatty():
        print(f"\rrun {done} of {of}" + ("\n" if done == of else ""), end="", file=sys.stderr, flush=True)


def _console() -> Any:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    return console
