# SPDX-License-Identifier: Apache-2.0
"""The command line of OpenSSH for a host, and what its failures mean. Pure.

Why processes of ssh and no library: docs/decisions/0029.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from .inventory import Host

#: Seconds for TCP and the peer's first line; past this a host counts as unreachable.
CONNECT_TIMEOUT_S = 8
#: ssh's own exit status when it, not the remote command, failed.
FAILED = 255

# ssh takes the first value that it finds for an option: these win over the operator's files and inventory.
_ALWAYS = (
    "BatchMode=yes",  # never a prompt
    "StrictHostKeyChecking=yes",
    f"ConnectTimeout={CONNECT_TIMEOUT_S}",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=2",
    # A connection of its own: one that is kept open may hang, and what confirms must be new.
    "ControlMaster=no",
    "ControlPath=none",
    "PreferredAuthentications=publickey",
    "GSSAPIAuthentication=no",
    "ClearAllForwardings=yes",
    "PermitLocalCommand=no",
    "UpdateHostKeys=no",
    "LogLevel=ERROR",
    "RequestTTY=no",
    # To the head of the list, nothing is taken out of it: the hybrid that leads it costs twice the CPU of a handshake.
    "KexAlgorithms=^curve25519-sha256,curve25519-sha256@libssh.org",
)
_OPTIONS = tuple(part for option in _ALWAYS for part in ("-o", option))

#: What ssh says of a peer, and what to do about it.
_CURES = (
    ("host key is known for", "its host key is not in known_hosts; add it there"),
    (
        "host key verification failed",
        "its host key is not the one in known_hosts; if the host was installed anew, replace it there",
    ),
    (
        "remote host identification has changed",
        "its host key is not the one in known_hosts; if the host was installed anew, replace it there",
    ),
    ("permission denied", "its sshd accepts no key of yours; look at ansible_user and the key"),
    ("could not resolve hostname", "its name has no address; look at ansible_host"),
    ("connection timed out during banner exchange", f"no answer within {CONNECT_TIMEOUT_S} s"),
    ("connection timed out", f"no answer within {CONNECT_TIMEOUT_S} s"),
)


def argv(host: Host, remote: Sequence[str]) -> list[str]:
    """``ssh`` to ``host`` as Ansible would, to run ``remote`` there (its words are quoted here)."""
    line = ["ssh", "-T", "-x", "-a", *_OPTIONS]
    for name in ("ansible_ssh_args", "ansible_ssh_common_args", "ansible_ssh_extra_args"):
        line += shlex.split(str(host.vars.get(name) or ""))
    if host.identity:
        # One key: an agent full of others would exhaust sshd's MaxAuthTries.
        line += ["-o", "IdentitiesOnly=yes", "-i", str(host.identity)]
    if host.port is not None:
        line += ["-p", str(host.port)]
    if host.user:
        line += ["-l", host.user]
    # Behind --, so that no host can be an option.
    return [*line, "--", host.address, shlex.join(remote)]


def is_turned_away(stderr: str) -> bool:
    """An sshd, or a jump host, had too many at once (MaxStartups): worth another try."""
    text = stderr.lower()
    return any(sign in text for sign in ("kex_exchange_identification", "connection reset by", "connection closed by"))


def why(stderr: str, status: int | None) -> str:
    """One line: why ssh ended without what was asked for."""
    lines = [line.strip() for line in stderr.replace("\r", "\n").splitlines() if line.strip(" @\t")]
    text = " ".join(lines)
    for sign, cure in _CURES:
        if sign in text.lower():
            return cure
    if lines:
        return lines[-1].removeprefix("ssh: ")
    return f"ssh ended with status {status}" if status is not None else "ssh ended"
