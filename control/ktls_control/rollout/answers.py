# SPDX-License-Identifier: Apache-2.0
"""What hosts answer during a wave, as files of its run: Ansible's processes write them, the engine reads them.

So no host variable grows with what hosts say, and nothing depends on what Ansible remembers.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..errors import ControlError
from .journal import unwritable
from .store import Run


@dataclass(frozen=True)
class Target:
    """One host of a wave, as its tasks need it.

    :param facts: what must not have changed since the plan.
    :param url: base URL to download from, from the control node; None: no such download is part of the gate.
    :param agent: how the agent's command line is called on the host; None: as it is installed.
    :param experiments: its datapath can deal new connections to kTLS and userspace.
    """

    facts: Mapping[str, str]
    socket: str | None = None
    url: str | None = None
    server_name: str | None = None
    ca_file: str | None = None
    agent: str | None = None
    experiments: bool = True


@dataclass(frozen=True)
class WaveFile:
    """All that the tasks of one attempt at a wave need to know. One file, read by each of them.

    :param dropped: hosts that have failed within the failure budget: they go back alone.
    :param why: why the wave goes back, once it does.
    """

    directory: str
    wave: int
    attempt: int
    id: str
    epoch: int
    phase: str
    lease_s: float
    plan_sha256: str
    hosts: Mapping[str, Target]
    experiment: Mapping[str, Any] | None = None
    dropped: tuple[str, ...] = ()
    why: str = ""

    @property
    def path(self) -> Path:
        """Of this file."""
        return wave_path(Path(self.directory), self.wave, self.attempt)

    def experiment_of(self, host: str) -> dict[str, Any] | None:
        """The experiment as ``host`` runs it: with an order of blocks of its own, or all hosts would be one draw.

        None where its datapath has none: such an order would be refused.
        """
        target = self.hosts.get(host)
        if self.experiment is None or (target is not None and not target.experiments):
            return None
        drawn = hashlib.sha256(f"{self.experiment['seed']} {host}".encode()).digest()
        return {**self.experiment, "seed": int.from_bytes(drawn[:4], "big") >> 1}

    def answer_path(self, host: str, step: str) -> Path:
        """Of the answer of ``host`` to ``step``: order, evidence, confirm or back; ``settled``: see the engine."""
        return self.path.with_suffix(f".{quote(host, safe='')}.{step}.json")

    def save(self) -> None:
        """:raises ControlError: ``no_space``."""
        _put(self.path, asdict(self))

    def record(self, host: str, step: str, answer: Mapping[str, Any]) -> None:
        """Keep an answer.

        :raises ControlError: ``no_space``.
        """
        _put(self.answer_path(host, step), answer)

    def answer(self, host: str, step: str) -> dict[str, Any] | None:
        """An answer; None when there is none."""
        try:
            found = json.loads(self.answer_path(host, step).read_text())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None


def wave_path(directory: Path, wave: int, attempt: int) -> Path:
    """Of the file of an attempt at a wave."""
    return directory / f"wave-{wave}-{attempt}.json"


def point(run: Run, file: Path | None, *, touched: bool) -> None:
    """Say which wave is open: tasks cannot know attempts.

    :param touched: its hosts have to go back if it does not pass.
    :raises ControlError: ``no_space``.
    """
    _put(run.opened, {"open": str(file) if file else "", "touched": touched and file is not None})


def opened(path: Path) -> tuple[WaveFile | None, bool]:
    """The open wave and whether its hosts have to go back; ``path`` may be a wave's own file too.

    :raises ControlError: ``no_wave_file``.
    """
    try:
        fields = json.loads(path.read_text())
        if "open" not in fields:
            return load(path), True
        return (load(Path(fields["open"])) if fields["open"] else None), bool(fields["touched"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(path, error) from error


def load(path: Path) -> WaveFile:
    """:raises ControlError: ``no_wave_file``."""
    try:
        fields = json.loads(path.read_text())
        hosts = {name: Target(**target) for name, target in fields["hosts"].items()}
        return WaveFile(**{**fields, "hosts": hosts, "dropped": tuple(fields["dropped"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ControlError:
    return ControlError("no_wave_file", f"{path}: cannot be read ({error}): `ktls resume` makes it anew")


def _put(path: Path, data: Mapping[str, Any]) -> None:
    # Not fsynced: after a crash the wave is ordered and read anew.
    temporary = path.with_name(f".{path.name}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(data, file, separators=(",", ":"))
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise unwritable(path, error) from error


#: Variables of a host that are kept with a run: how it is reached outside of Ansible. No secrets.
REACH = (
    "ansible_host", "ansible_port", "ansible_user", "ansible_ssh_private_key_file", "ansible_ssh_common_args",
    "ansible_ssh_extra_args", "ansible_connection", "ktls_reach", "ktls_agent_socket", "ktls_agent_command",
    "ktls_sentinel_socket", "ktls_probe_url", "ktls_sidecar_server_name", "ktls_sidecar_ca_dir",
)  # fmt: skip


@dataclass(frozen=True)
class Known:
    """The hosts of a run, by name: their variables of :data:`REACH`; and of the machines that watch the wire."""

    hosts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sentinels: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def target(self, name: str, facts: Mapping[str, str], *, experiments: bool = True) -> Target:
        """What the tasks need to know of a host."""
        found = self.hosts.get(name, {})
        ca_dir, url = found.get("ktls_sidecar_ca_dir"), found.get("ktls_probe_url")
        return Target(
            facts,
            found.get("ktls_agent_socket"),
            url,
            found.get("ktls_sidecar_server_name"),
            f"{ca_dir}/ca.pem" if ca_dir else None,
            found.get("ktls_agent_command"),
            experiments,
        )


def save_known(run: Run, known: Known) -> None:
    """Write ``hosts.json``.

    :raises ControlError: ``no_space``.
    """
    _put(run.hosts, {"hosts": known.hosts, "sentinels": known.sentinels})


def load_known(run: Run) -> Known:
    """:raises ControlError: ``no_hosts_file``."""
    try:
        found = json.loads(run.hosts.read_text())
        return Known(found["hosts"], found.get("sentinels") or {})
    except (OSError, ValueError, KeyError) as error:
        raise ControlError(
            "no_hosts_file", f"{run.hosts}: cannot be read ({error}): `ktls resume` makes it anew"
        ) from error
