# SPDX-License-Identifier: Apache-2.0
"""ssh_config(5) and known_hosts of a lab, as text. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ktls_lab.state import LabState

SSH_CONFIG, KNOWN_HOSTS, LAB_KEY = "ssh_config", "known_hosts", "id_ed25519"


def _quoted(path: Path) -> str:
    return f'"{str(path).replace("%", "%%")}"'


def ssh_config(state: LabState, directory: Path) -> str:
    """Return the client configuration: a host is reached by its name, or as 127.0.0.1 and its port.

    ControlMaster and ControlPath are left to whoever uses it.
    """
    lines = [f"# Lab {state.name}: ssh -F {directory / SSH_CONFIG} HOST"]
    for host in state.hosts:
        lines += [
            f"Host {host.name}",
            "    HostName 127.0.0.1",
            f"    Port {host.ssh_port}",
            f"    HostKeyAlias {host.name}",
            "",
        ]
    lines += [
        f"Host 127.0.0.1 {' '.join(host.name for host in state.hosts)}",
        "    User root",
        f"    IdentityFile {_quoted(directory / LAB_KEY)}",
        "    IdentitiesOnly yes",
        f"    UserKnownHostsFile {_quoted(directory / KNOWN_HOSTS)}",
        "    GlobalKnownHostsFile none",
        "    StrictHostKeyChecking yes",
        "    HostKeyAlgorithms ssh-ed25519",
        "    KexAlgorithms curve25519-sha256",
        "    PasswordAuthentication no",
        "    KbdInteractiveAuthentication no",
        "    ConnectTimeout 8",
        "    ServerAliveInterval 3",
        "    ServerAliveCountMax 3",
    ]
    return "\n".join(lines) + "\n"


def known_hosts(state: LabState, public_keys: Mapping[str, str]) -> str:
    """Return the known_hosts text; ``public_keys`` maps host names to the content of their .pub files."""
    lines = []
    for host in state.hosts:
        kind, key = public_keys[host.name].split()[:2]
        lines.append(f"{host.name},[127.0.0.1]:{host.ssh_port} {kind} {key}")
    return "\n".join(lines) + "\n"
