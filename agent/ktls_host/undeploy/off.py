# SPDX-License-Identifier: Apache-2.0
"""Before anything goes: the host on userspace TLS, read back, and the kTLS connections of before at their end.

As with ``ktls off``, whoever knows most is asked: the agent, else the sidecar, else the kernel's own counters.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .. import textfile, tls_stat
from ..errors import KtlsError
from ..release import System

AGENT_SOCKET = "/run/ktls-agent/agent.sock"
SIDECAR_SOCKET = "/run/ktls-sidecar/control.sock"
FLAGS = ("/run/ktls/off", "/var/lib/ktls/off")
REASON = "undeploy"
_LOOK_AGAIN_S = 1.0


@dataclass(frozen=True)
class Seen:
    """``by`` is who was asked; ``userspace`` whether new connections are in userspace; ``ktls`` those in the kernel."""

    by: str
    userspace: bool
    ktls: int


def to_userspace(command: str | None, root: str, system: System) -> None:
    """Raise the off flag, by ``ktls-off`` where it is, by hand where it is not.

    Raises :class:`KtlsError` ``off_failed``.
    """
    if command is not None:
        done = system.run(textfile.under(root, command), REASON)
        if done.rc != 0:
            raise KtlsError("off_failed", f"{command} failed ({done.reason}); nothing was removed")
        return
    for flag in FLAGS:
        # Where the directory is missing, nothing looks there.
        with contextlib.suppress(FileExistsError, FileNotFoundError, NotADirectoryError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(textfile.under(root, flag), flags, 0o644))


def read_back(root: str, system: System) -> Seen:
    """Return what is in force now, by the word of whoever answers."""
    for by, path in (("agent", AGENT_SOCKET), ("sidecar", SIDECAR_SOCKET)):
        with contextlib.suppress(KtlsError, ValueError, TypeError, AttributeError):
            return _understood(by, system.call(path, {"verb": "status"}))
    counters = tls_stat.read(textfile.under(root, tls_stat.PATH)) or {}
    return Seen("kernel", True, sum(n for name, n in counters.items() if name.startswith("TlsCurrTx")))


def drain(root: str, system: System, wait_s: float, cut: bool) -> Seen:
    """Wait until no kTLS connection is left, at most ``wait_s`` seconds; with ``cut`` those that are left may end.

    Raises :class:`KtlsError`: ``not_userspace``, ``not_drained``. The flag is up, so the host is off all the same.
    """
    started = system.now()
    while True:
        seen = read_back(root, system)
        if seen.userspace and not seen.ktls:
            return seen
        waited = system.now() - started
        if waited >= wait_s:
            break
        system.sleep(min(_LOOK_AGAIN_S, wait_s - waited))
    if not seen.userspace and not cut:
        message = f"the {seen.by} is not on userspace TLS though the off flag is up; nothing was removed: look at it"
        raise KtlsError("not_userspace", f"{message} (ktls-agent doctor), or cut its connections (cut: true)")
    if not cut:
        message = (
            f"{seen.ktls} kTLS connections are still open after {wait_s:g} s by the word of the {seen.by}; the host is "
            f"off and nothing was removed: repeat later, wait longer (drain_s), or cut them (cut: true)"
        )
        raise KtlsError("not_drained", message)
    return seen


def _understood(by: str, status: Mapping[str, Any]) -> Seen:
    """An agent says its phase, a sidecar its mode. An agent that cannot reach what serves knows nothing of it."""
    if by == "agent" and not status.get("sidecar"):
        raise ValueError("it knows nothing")
    mode = status.get("effective_mode") or status.get("phase") or status.get("mode")
    connections = status.get("connections") or {}
    ktls = max(int(connections.get("ktls_tx") or 0), int(connections.get("ktls_rx") or 0))
    return Seen(by, mode in (None, "userspace"), ktls)
