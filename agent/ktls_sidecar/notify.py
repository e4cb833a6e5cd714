# SPDX-License-Identifier: Apache-2.0
"""Tell systemd the state of the service: sd_notify(3), the datagram protocol without the library."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(*assignments: str) -> None:
    """Send lines such as ``READY=1``. Without $NOTIFY_SOCKET, or if nobody listens, nothing happens."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.connect(address)
        sock.sendall("\n".join(assignments).encode())
