# SPDX-License-Identifier: Apache-2.0
"""What is known about a lab, in ``state.json``: written before anything starts, so that a crash leaves no orphan.

Standard library only: ``inventory/lab`` reads it.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ktls_lab import cache
from ktls_lab.errors import LabError
from ktls_lab.paths import lab_dir, labs_dir

SCHEMA = 1
FILE = "state.json"


@dataclass(frozen=True)
class HostState:
    """One host. ``pid`` and ``start_ticks`` name its process (None before the first start); ``link``: cable plugged."""

    name: str
    index: int
    fqdn: str
    address: str
    mac: str
    machine_id: str
    uuid: str
    image: str
    kernel: str
    initrd: str
    memory_mib: int
    ssh_port: int
    https_port: int
    pid: int | None = None
    start_ticks: int | None = None
    link: bool = True


@dataclass(frozen=True)
class LabState:
    """A lab. ``run_dir`` holds the sockets; ``created_at`` is seconds since the epoch."""

    name: str
    created_at: float
    run_dir: str
    mcast: str
    accelerator: str
    ready: bool
    hosts: tuple[HostState, ...]

    def host(self, name: str) -> HostState:
        """Return the host ``name``; LabError naming the ones there are."""
        for host in self.hosts:
            if host.name == name:
                return host
        message = f"lab '{self.name}' has no host {name!r}: it has {', '.join(host.name for host in self.hosts)}"
        raise LabError(message)

    def with_host(self, host: HostState) -> LabState:
        """Return a copy with ``host`` in the place of the one with its name."""
        return replace(self, hosts=tuple(host if old.name == host.name else old for old in self.hosts))


def dumps(state: LabState) -> str:
    """Text of a state file."""
    return json.dumps({"schema": SCHEMA, **asdict(state)}, indent=1) + "\n"


def loads(text: str, where: str) -> LabState:
    """Read the text of a state file; LabError if it is damaged or of another version."""
    try:
        raw: dict[str, Any] = json.loads(text)
        if raw.pop("schema") != SCHEMA:
            message = f"{where} is of another version of the lab: remove it with 'ktls lab down' of that version"
            raise LabError(message)
        hosts = tuple(HostState(**host) for host in raw.pop("hosts"))
        return LabState(hosts=hosts, **raw)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"{where} is damaged ({error}): 'ktls lab down' removes the lab"
        raise LabError(message) from error


def exists(name: str) -> bool:
    """Whether a lab of this name is there (running or left behind)."""
    return lab_dir(name).is_dir()


def load(name: str) -> LabState:
    """Return the state of lab ``name``; LabError when there is none."""
    path = lab_dir(name) / FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        message = f"no lab '{name}' is running: start it with 'ktls lab up --name {name}'"
        raise LabError(message) from error
    return loads(text, str(path))


def save(state: LabState) -> None:
    """Replace the state of a lab atomically."""
    cache.write_atomically(lab_dir(state.name) / FILE, dumps(state))


def claim(state: LabState) -> Path:
    """Make the lab's directory with its state in it, in one step.

    Raises:
        LabError: the name is taken.
    """
    place = lab_dir(state.name)
    temporary = labs_dir() / f".{state.name}.{Path(state.run_dir).name}"
    temporary.mkdir(parents=True)
    try:
        (temporary / FILE).write_text(dumps(state), encoding="utf-8")
        temporary.rename(place)  # fails if the place is there: it is never empty
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if place.is_dir():
            raise busy(state.name) from error
        raise
    return place


def busy(name: str) -> LabError:
    """Return the error for a name that is taken."""
    return LabError(f"lab '{name}' is already there: 'ktls lab down --name {name}' ends it, or choose another --name")


def labs() -> list[str]:
    """Names of all labs that are there, sorted."""
    if not labs_dir().is_dir():
        return []
    return sorted(path.name for path in labs_dir().iterdir() if path.is_dir() and not path.name.startswith("."))
