# SPDX-License-Identifier: Apache-2.0
"""The fleet as Ansible sees it, read with ``ansible-inventory`` so that every inventory plugin works."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import ControlError
from .hostlist import save
from .patterns import members
from .tree import ansible

DEFAULT_GROUP = "ktls_hosts"
_TIMEOUT_S = 120


@dataclass(frozen=True)
class Host:
    """One host, with what is needed to reach it over SSH.

    :param ssh_config: file given with ``-F`` in the inventory's SSH arguments, None for the user's own.
    :param sudo: the login user is not root, so commands go through ``sudo -n``.
    """

    name: str
    address: str
    port: int | None
    user: str | None
    ssh_config: Path | None
    identity: Path | None
    sudo: bool
    vars: Mapping[str, Any] = field(default_factory=dict)


def load(inventory: str, group: str = DEFAULT_GROUP, limit: str | None = None) -> list[Host]:
    """Hosts of ``group``, in inventory order.

    :param limit: an Ansible host pattern that narrows the group.
    :raises ControlError: ``no_inventory``, ``bad_inventory``, ``slow_inventory``, ``no_group`` or ``no_hosts``.
    """
    if "," not in inventory and not Path(inventory).exists():
        raise ControlError("no_inventory", f"{inventory}: no such inventory; name one with -i PATH")
    data = _read(inventory, limit)
    if limit is None and members(data, group):
        save(data, inventory, group)
    return hosts_of(data, inventory, group, limit)


def hosts_of(data: Mapping[str, Any], inventory: str, group: str, limit: str | None) -> list[Host]:
    """Hosts of ``group`` in what ``ansible-inventory --list`` printed.

    :raises ControlError: ``no_group`` or ``no_hosts``.
    """
    if group not in data:
        # ansible-inventory drops groups that a limit leaves without hosts.
        hint = f"no host of group {group!r} matches --limit {limit!r}" if limit else f"no group {group!r}"
        raise ControlError("no_group", f"{inventory}: {hint}; add it to the inventory or choose with --group")
    names = members(data, group)
    if not names:
        raise ControlError("no_hosts", f"{inventory}: group {group!r} has no hosts; add some")
    hostvars = data.get("_meta", {}).get("hostvars", {})
    return [host_from_vars(name, hostvars.get(name, {})) for name in names]


def host_from_vars(name: str, variables: Mapping[str, Any]) -> Host:
    """A host from its Ansible connection variables."""
    arguments = shlex.split(
        f"{variables.get('ansible_ssh_common_args', '')} {variables.get('ansible_ssh_extra_args', '')}"
    )
    config = Path(arguments[arguments.index("-F") + 1]) if "-F" in arguments[:-1] else None
    user = variables.get("ansible_user")
    port = variables.get("ansible_port")
    identity = variables.get("ansible_ssh_private_key_file")
    return Host(
        name=name,
        address=str(variables.get("ansible_host", name)),
        port=int(port) if port is not None else None,
        user=str(user) if user else None,
        ssh_config=config,
        identity=Path(str(identity)).expanduser() if identity else None,
        sudo=(user or "root") != "root",
        vars=dict(variables),
    )


def _read(inventory: str, limit: str | None) -> dict[str, Any]:
    command = [*ansible("inventory"), "-i", inventory, "--list"]
    if limit:
        command += ["--limit", limit]
    environment = {**os.environ, "ANSIBLE_INVENTORY_UNPARSED_FAILED": "true", "ANSIBLE_LOCALHOST_WARNING": "false"}
    if _is_script(Path(inventory)):
        # Or else Ansible takes the text of a script that failed for a list of hosts.
        environment["ANSIBLE_INVENTORY_ENABLED"] = "script"
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S, env=environment)
    except subprocess.TimeoutExpired as error:
        message = f"{inventory}: no answer within {_TIMEOUT_S} s; look at its plugin or script"
        raise ControlError("slow_inventory", message) from error
    if done.returncode != 0:
        raise ControlError("bad_inventory", f"{inventory}: {_complaint(done.stderr).removeprefix(f'{inventory}: ')}")
    data: dict[str, Any] = json.loads(done.stdout)
    return data


def _is_script(path: Path) -> bool:
    if not path.is_file() or not os.access(path, os.X_OK):
        return False
    with open(path, "rb") as file:
        return file.read(2) == b"#!"


def _complaint(stderr: str) -> str:
    """What a script that failed said, else Ansible's last line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    for line, following in zip(lines, lines[1:], strict=False):
        if line.lower().startswith("standard error from inventory script"):
            return following
    return lines[-1] if lines else "cannot be read"
