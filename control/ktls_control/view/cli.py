# SPDX-License-Identifier: Apache-2.0
"""Command line of ``ktls status --watch`` and ``ktls report``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

_RUN = "name or directory of a rollout (default: the newest of the fleet)"
_CODES = """exit codes of --watch and --run: 0 completed, 1 failed, aborted or switched off, 3 under way, 4 waits for a
person, 5 its controller is not running"""


def add_watch_options(status: argparse.ArgumentParser) -> None:
    """What turns ``ktls status`` into the view of a rollout."""
    status.add_argument("-w", "--watch", action="store_true", help="live tree of the rollout, with keys")
    status.add_argument("--run", metavar="RUN", help=f"show a rollout, not the hosts: {_RUN}; `latest` is the newest")
    status.add_argument(
        "--timeout", type=_seconds, metavar="SECONDS", help="stop watching after this long (exit code 3, 4 or 5)"
    )
    status.epilog = _CODES


def add_parser(verbs: Any, fleet: argparse.ArgumentParser) -> None:
    """``ktls report``."""
    report = verbs.add_parser("report", parents=[fleet], help="a rollout as one HTML page")
    report.add_argument("--run", metavar="RUN", help=_RUN)
    report.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: report.html in the run's directory")
    report.add_argument("--off", type=Path, metavar="FILE", help="what `ktls off --json` said, for the drain curve")
    report.set_defaults(func=_report)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e9:
        raise ValueError
    return value


def watch(arguments: argparse.Namespace, console: Any) -> int:
    """Show one rollout, once or until it has ended."""
    from ..rollout import control
    from .off_process import Off
    from .pilot import Pilot
    from .runs import find
    from .watch import Watch, fly, follow, once

    run = find(arguments.run, arguments.inventory, arguments.group)
    watching = Watch(run, arguments.timeout)
    if not arguments.watch:
        return once(watching, console)
    if not (console.is_terminal and sys.stdin.isatty()):
        return follow(watching, console)
    from .keys import Keys

    def start_off(reason: str) -> Off:
        plan = watching.plan
        inventory, group = (plan.inventory, plan.group) if plan else (arguments.inventory, arguments.group)
        if "," not in inventory and not Path(inventory).exists():
            inventory = arguments.inventory
        return Off(inventory, group, reason, run.directory)

    pilot = Pilot(
        run,
        control.operator(),
        lambda: watching.changes.state,
        lambda: watching.alive().gone is not None,
        start_off,
    )
    return fly(watching, console, pilot, Keys())


def _report(arguments: argparse.Namespace) -> int:
    from ..report_run import write_report
    from .runs import find

    run = find(arguments.run, arguments.inventory, arguments.group)
    written = write_report(run.directory, arguments.output, off=arguments.off)
    print(written)
    return 0
