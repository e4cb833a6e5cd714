# SPDX-License-Identifier: Apache-2.0
"""The verb ``undeploy``: drives ``playbooks/undeploy.yml``, and says of each host what stays and where its trail is."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ControlError
from ..inventory import load
from ..playbook import PlaybookRun

if TYPE_CHECKING:
    from rich.console import Console


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser], fleet: argparse.ArgumentParser) -> None:
    """Add the verb; ``fleet`` has the options that name hosts."""
    undeploy = verbs.add_parser(
        "undeploy", parents=[fleet], help="everything of ours away, every host as it was before the first deploy"
    )
    undeploy.add_argument("--yes", action="store_true", help="it is meant: the servers of these hosts end")
    undeploy.add_argument("--check", action="store_true", help="change nothing, show what would go")
    undeploy.add_argument(
        "--drain",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="for kTLS connections to end by themselves (default: %(default)s)",
    )
    undeploy.add_argument("--cut", action="store_true", help="go on when that time is over; what is left ends")
    undeploy.add_argument(
        "--edited",
        choices=("refuse", "keep"),
        default="refuse",
        help="files that somebody else has edited or put among ours (default: %(default)s)",
    )
    undeploy.add_argument(
        "--audit",
        choices=("verified", "copied", "none"),
        default="verified",
        help="the audit trail before it goes: copied here with its chain checked, only copied, or lost "
        "(default: %(default)s)",
    )
    undeploy.add_argument("--audit-dir", type=Path, metavar="DIR", help="for the copies (default: the fleet's state)")
    undeploy.set_defaults(func=_main)


def _main(arguments: argparse.Namespace) -> int:
    from ..cli import _console, _log

    variables: dict[str, Any] = {
        "ktls_undeploy_ok": arguments.yes,
        "ktls_undeploy_edited": arguments.edited,
        "ktls_undeploy_drain_s": arguments.drain,
        "ktls_undeploy_cut": arguments.cut,
        "ktls_undeploy_audit": arguments.audit,
    }
    if arguments.audit_dir is not None:
        variables["ktls_undeploy_audit_dir"] = str(arguments.audit_dir.resolve())
    return run(
        arguments.inventory,
        arguments.group,
        arguments.limit,
        _console(),
        _log("undeploy"),
        variables=variables,
        check=arguments.check,
    )


def run(
    inventory: str,
    group: str,
    limit: str | None,
    console: Console,
    log: Path,
    *,
    variables: Mapping[str, Any],
    check: bool = False,
) -> int:
    """Take hosts out; see ``playbooks/undeploy.yml``.

    :returns: 0 when nothing of ours is left on any host, or nothing but what was named; else 1.
    :raises ControlError: ``no_consent``, and those of reading the inventory.
    """
    from ..verbs import end

    hosts = load(inventory, group, limit)
    if not (check or variables.get("ktls_undeploy_ok")):
        raise ControlError(
            "no_consent",
            f"undeploy ends the servers of {len(hosts)} hosts and removes everything of ours: say that it is meant "
            "with --yes; --check shows what would go",
        )
    playbook = PlaybookRun(
        "undeploy", str(Path(inventory).resolve()), {**variables, "ktls_group": group}, log, limit, check
    )
    console.print(f"undeploying {len(hosts)} hosts", markup=False)
    for event in playbook.events():
        for line in lines(event, check=check):
            console.print(line, markup=False, soft_wrap=True)
    return end(playbook, console, "nothing was changed" if check else "nothing of ours is left but what is named above")


def lines(event: Mapping[str, Any], *, check: bool = False) -> list[str]:
    """What there is to say of an event. Pure."""
    undeploy = event.get("ktls_undeploy")
    if event.get("event") != "ok" or not isinstance(undeploy, Mapping):
        return []
    host, steps = event.get("host"), undeploy.get("steps") or []
    if check:
        said = [f"{host}: {step}" for step in steps] or [f"{host}: nothing of ours is here"]
    elif steps:
        trail = undeploy.get("audit") or {}
        kept = f"; audit trail in {trail['path']}" if trail.get("path") else ""
        said = [f"{host}: {len(steps)} steps{kept}"]
    else:
        said = [f"{host}: nothing of ours was here"]
    return [*said, *(f"{host}: stays: {entry}" for entry in undeploy.get("left") or [])]
