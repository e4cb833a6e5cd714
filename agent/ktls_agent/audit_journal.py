# SPDX-License-Identifier: Apache-2.0
"""The same events in the journal, where another user keeps them: systemd's native protocol.

Source: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/. Fields are lines ``NAME=value`` in one datagram. Best effort: on a
host without a journal, or with a full one, nothing of the trail itself is lost.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping

PATH = "/run/systemd/journal/socket"
MESSAGE_ID = "6f1d3c0b9a5e4c7f8d2b41e07a93c5f6"
"""``journalctl MESSAGE_ID=…`` shows the audit trail (systemd.journal-fields(7))."""
_LIMIT = 32 * 1024
_WARNING, _NOTICE = "4", "5"
_GRAVE = ("guard_trip", "off", "stuck", "audit_gap", "audit_torn")


def fields(event: str, seq: int, digest: str, message: str) -> dict[str, str]:
    """Return the fields of one event."""
    return {
        "MESSAGE": message,
        "MESSAGE_ID": MESSAGE_ID,
        "PRIORITY": _WARNING if event in _GRAVE else _NOTICE,
        "SYSLOG_IDENTIFIER": "ktls-audit",
        "KTLS_AUDIT_EVENT": event,
        "KTLS_AUDIT_SEQ": str(seq),
        "KTLS_AUDIT_SHA256": digest,
    }


def encode(found: Mapping[str, str]) -> bytes:
    """Return the datagram. A line feed in a value would begin a field of its own: it becomes a space."""
    lines = (f"{name}={' '.join(value.split())}" for name, value in found.items())
    return "\n".join(lines).encode("utf-8", "replace")[:_LIMIT] + b"\n"


class Journal:
    """Sends without ever waiting."""

    def __init__(self, path: str = PATH) -> None:
        """``path``: the journal's socket."""
        self._path = path

    def send(self, found: Mapping[str, str]) -> None:
        """Send one event; whatever fails is forgotten."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto(encode(found), self._path)
