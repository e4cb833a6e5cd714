# SPDX-License-Identifier: Apache-2.0
"""``fab off`` and ``fab status``: the same fan-out as ``ktls``, over the same Ansible inventory."""

from __future__ import annotations

import sys
from typing import Any

from invoke import task

from ktls_control.cli import main

_HELP = {
    "inventory": "Ansible inventory",
    "limit": "Ansible host pattern that narrows the group",
    "group": "group of the inventory",
}
_OFF_HELP = {
    "reason": "kept on the hosts with the flag",
    "wave": "only hosts of this wave of the newest rollout",
    "host": "only this host; may be repeated",
}


def _fleet(inventory: str, group: str, limit: str) -> list[str]:
    return ["-i", inventory, "--group", group, *(["--limit", limit] if limit else [])]


@task(help={**_HELP, **_OFF_HELP}, iterable=["host"])
def off(
    _context: Any,
    inventory: str = "inventory/lab",
    group: str = "ktls_hosts",
    limit: str = "",
    reason: str = "fab off",
    wave: str = "",
    host: list[str] | None = None,
) -> None:
    """Everything back to userspace TLS, now."""
    part = [*(["--wave", wave] if wave else []), *(word for name in host or [] for word in ("--host", name))]
    sys.exit(main(["off", *_fleet(inventory, group, limit), *part, "--reason", reason]))


@task(help={**_HELP, "json": "one JSON object"})
def status(
    _context: Any,
    inventory: str = "inventory/lab",
    group: str = "ktls_hosts",
    limit: str = "",
    json: bool = False,
) -> None:
    """What is in force, read from every host."""
    sys.exit(main(["status", *_fleet(inventory, group, limit), *(["--json"] if json else [])]))
