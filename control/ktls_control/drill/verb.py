# SPDX-License-Identifier: Apache-2.0
"""The verb ``drill``: drives ``playbooks/drill.yml``, which does the work and keeps the results."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ControlError
from ..inventory import load
from ..playbook import PlaybookRun
from ..rollout.store import fleet_name, state_dir
from . import record, screen

if TYPE_CHECKING:
    from rich.console import Console

PLAY = "Drill | Every host"


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser], fleet: argparse.ArgumentParser) -> None:
    """Add the verb; ``fleet`` has the options that name hosts."""
    drill = verbs.add_parser("drill", parents=[fleet], help="kTLS on and off again on each host, proved and timed")
    drill.add_argument(
        "--force",
        action="store_true",
        help="also where an order is in force: it is taken away, and the host stays on userspace TLS",
    )
    drill.add_argument(
        "--phase",
        choices=("tx", "hw"),
        default="tx",
        help="hw: the network card has to encrypt, by its own count (docs/hardware-offload.md; default: %(default)s)",
    )
    drill.add_argument(
        "--card",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="phase hw: for the card to encrypt something (default: %(default)s)",
    )
    drill.add_argument("--at-once", type=int, default=10, metavar="N", help="hosts at a time (default: %(default)s)")
    drill.add_argument(
        "--drain",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="for kTLS connections to end (default: %(default)s)",
    )
    drill.add_argument("--json", action="store_true", help="one JSON object")
    drill.set_defaults(func=_main)


def _main(arguments: argparse.Namespace) -> int:
    from ..cli import _console, _log

    if arguments.at_once < 1:
        raise ControlError("bad_at_once", "--at-once: use a number of hosts of at least 1")
    drills = run(
        arguments.inventory,
        arguments.group,
        arguments.limit,
        _console(stderr=arguments.json),
        _log("drill"),
        variables={
            "ktls_drill_force": arguments.force,
            "ktls_drill_throttle": arguments.at_once,
            "ktls_drill_drain_s": arguments.drain,
            **({"ktls_drill_phase": "hw", "ktls_drill_card_s": arguments.card} if arguments.phase == "hw" else {}),
        },
        quiet=arguments.json,
    )
    passed = sum(found["passed"] for found in drills.values())
    if arguments.json:
        print(json.dumps({"passed": passed, "hosts": drills}))
    else:
        console = _console()
        console.print(screen.table(drills))
        console.print(f"drill: {passed} of {len(drills)} hosts passed", markup=False)
    return 0 if passed == len(drills) else 1


def run(
    inventory: str,
    group: str,
    limit: str | None,
    console: Console,
    log: Path,
    *,
    variables: Mapping[str, Any],
    quiet: bool = False,
) -> dict[str, dict[str, Any]]:
    """Drill every host, and return what is kept of each.

    :param quiet: show no line as a host ends.
    :raises ControlError: ``run_failed`` when the playbook did not come to any host.
    """
    hosts = load(inventory, group, limit)
    fleet = fleet_name(inventory, group)
    playbook = PlaybookRun(
        "drill",
        str(Path(inventory).resolve()) if "," not in inventory else inventory,
        {**variables, "ktls_group": group, "ktls_drill_fleet": fleet},
        log,
        limit,
    )
    known = {host.name for host in hosts}
    drills: dict[str, dict[str, Any]] = {}
    if not quiet:
        console.print(f"drilling {len(hosts):,} hosts", markup=False)
    for event in playbook.events():
        name = str(event.get("host"))
        if event.get("play") != PLAY or name not in known or event["event"] not in ("ok", "failed", "ignored"):
            continue
        if "ktls_drill" not in event:
            continue
        drills[name] = event["ktls_drill"]
        if not quiet:
            console.print(screen.line(name, drills[name]), markup=False, soft_wrap=True)
    if not drills:
        why = "; ".join(playbook.explain()) or f"ansible-playbook ended with status {playbook.returncode}"
        raise ControlError("run_failed", f"drill: {why}; Ansible's own output is in {log}")
    for name in sorted(known - set(drills)):
        drills[name] = record.entry(None, "the run ended before the host was drilled", 0.0)
    return drills


def kept(inventory: str, group: str) -> dict[str, dict[str, Any]]:
    """What is kept of the fleet's drills."""
    return record.load(state_dir() / fleet_name(inventory, group))
