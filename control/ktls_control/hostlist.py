# SPDX-License-Identifier: Apache-2.0
"""The last good answer of an inventory, kept so that off is not blocked by one that is slow or broken.

``STATE/FLEET/inventory.json``, mode 0600: groups, and of each host only what is needed to reach it. Secrets among its
variables stay where they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .files import write
from .rollout.store import fleet_name, state_dir

FILE_NAME = "inventory.json"
_VERSION = 1
_KEPT = (
    "ansible_host",
    "ansible_port",
    "ansible_user",
    "ansible_connection",
    "ansible_ssh_private_key_file",
    "ansible_ssh_args",
    "ansible_ssh_common_args",
    "ansible_ssh_extra_args",
    "ktls_agent_socket",
    "ktls_reach",
    "ktls_off_command",
    "ktls_pull_fleet",
    "ktls_pull_endpoints",
    "ktls_pull_key",
    "ktls_pull_publish",
    "ktls_pull_publish_command",
)
_VARIABLE_FOLDERS = ("group_vars", "host_vars")
_MAX_FILES = 5000


@dataclass(frozen=True)
class HostList:
    """What an inventory said.

    :param data: as ``ansible-inventory --list`` prints it, with fewer variables.
    :param at: when, in seconds since the epoch.
    :param signature: of the files that it was read from, see :func:`signature`; None: they do not tell.
    """

    data: Mapping[str, Any]
    at: float
    signature: str | None


def place(inventory: str, group: str) -> Path:
    """Where the list of a fleet is kept."""
    return state_dir() / fleet_name(inventory, group) / FILE_NAME


def save(data: Mapping[str, Any], inventory: str, group: str, *, now: float | None = None) -> None:
    """Keep ``data``. A disk that is full or not writable is no reason to fail: there is just no list then."""
    hostvars = (data.get("_meta") or {}).get("hostvars") or {}
    kept: dict[str, Any] = {
        name: {key: group_[key] for key in ("hosts", "children") if key in group_}
        for name, group_ in data.items()
        if name != "_meta" and isinstance(group_, Mapping)
    }
    kept["_meta"] = {
        "hostvars": {
            host: {key: variables[key] for key in _KEPT if key in variables} for host, variables in hostvars.items()
        }
    }
    document = {
        "version": _VERSION,
        "at": time.time() if now is None else now,
        "signature": signature(inventory),
        "inventory": inventory,
        "data": kept,
    }
    with contextlib.suppress(OSError):
        path = place(inventory, group)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        write(path, json.dumps(document), 0o600)


def read(inventory: str, group: str) -> HostList | None:
    """The list of the last good answer; None when there is none, or when it cannot be used."""
    try:
        document = json.loads(place(inventory, group).read_text(encoding="utf-8"))
        if document["version"] != _VERSION or not isinstance(document["data"], dict):
            return None
        return HostList(document["data"], float(document["at"]), document["signature"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def signature(inventory: str) -> str | None:
    """A digest of everything that a static inventory is read from; None where a plugin or a script has a say.

    Names, sizes and times of the files of the inventory and of the variables beside it and in the working directory,
    and Ansible's own settings. While it is the same, so is what Ansible would answer.
    """
    path = Path(inventory)
    try:
        return None if "," in inventory or not path.exists() else _signature(path)
    except OSError:
        return None


def _signature(path: Path) -> str | None:
    sources = _files(path)
    folders = {path if path.is_dir() else path.parent, Path.cwd()}
    variables = [file for folder in sorted(folders) for name in _VARIABLE_FOLDERS for file in _files(folder / name)]
    if len(sources) + len(variables) > _MAX_FILES:
        return None
    seen = hashlib.sha256()
    for file in sources:
        if _is_dynamic(file):
            return None
    for file in (*sources, *variables, *_settings()):
        facts = file.stat()
        seen.update(f"{file.resolve()}\0{facts.st_ino}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    for name in sorted(os.environ):
        if name.startswith("ANSIBLE_"):
            seen.update(f"{name}={os.environ[name]}\n".encode())
    return seen.hexdigest()


def _settings() -> list[Path]:
    named = os.environ.get("ANSIBLE_CONFIG")
    places = (Path("ansible.cfg"), Path.home() / ".ansible.cfg", *([Path(named)] if named else ()))
    return [file for file in places if file.is_file()]


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else []


def _is_dynamic(file: Path) -> bool:
    """A script, or the configuration of an inventory plugin."""
    if os.access(file, os.X_OK):
        return True
    with open(file, "rb") as stream:
        head = stream.read(65536)
    return any(line.startswith((b"plugin:", b'"plugin"', b"'plugin'")) for line in head.splitlines())
