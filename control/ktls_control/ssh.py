# SPDX-License-Identifier: Apache-2.0
"""SSH connections with the host key always checked against known_hosts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import paramiko
from fabric import Config, Connection

from .inventory import Host

#: sshd on a loaded host answers late; past this it counts as unreachable (seconds).
CONNECT_TIMEOUT_S = 8


def connect(host: Host) -> Any:
    """A fabric ``Connection`` to a host, not yet open.

    Fabric itself accepts unknown host keys; this does not: a key that is not in known_hosts ends the connection.
    """
    path = str(host.ssh_config) if host.ssh_config else None
    config = Config(runtime_ssh_path=path)
    known = config.base_ssh_config.lookup(host.name).get("userknownhostsfile", "~/.ssh/known_hosts").split()
    arguments: dict[str, Any] = {
        "banner_timeout": CONNECT_TIMEOUT_S,
        "auth_timeout": CONNECT_TIMEOUT_S,
        "channel_timeout": CONNECT_TIMEOUT_S,
    }
    if host.identity:
        arguments["key_filename"] = str(host.identity)
    if host.ssh_config:
        # Such a file names the one key to use; an agent full of others would exhaust sshd's MaxAuthTries.
        arguments.update(allow_agent=False, look_for_keys=False)
    connection = Connection(
        host.name if host.ssh_config else host.address,
        user=host.user,
        port=host.port,
        config=config,
        connect_timeout=CONNECT_TIMEOUT_S,
        connect_kwargs=arguments,
    )
    connection.client.set_missing_host_key_policy(paramiko.RejectPolicy())
    connection.client.load_system_host_keys()
    for name in known:
        file = Path(name).expanduser()
        if file.is_file():
            connection.client.load_host_keys(str(file))
    return connection


def privileged(host: Host, command: str) -> str:
    """``command`` as root: by itself for a root login, else through sudo without a prompt."""
    return f"sudo -n {command}" if host.sudo else command
