# SPDX-License-Identifier: Apache-2.0
"""The control node's end of the serial port to the resident in a VM (``guest/guest.py``)."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ktls_lab.errors import LabError


class Channel:
    """JSON lines to and from one VM; a context manager."""

    def __init__(self, path: Path) -> None:
        """Connect to QEMU's chardev socket ``path``; OSError if QEMU does not listen there."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        self._buffer = b""

    def __enter__(self) -> Self:
        """Return the open channel."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self._socket.close()

    def read(self, timeout_s: float) -> dict[str, Any]:
        """Return the next object.

        Raises:
            TimeoutError: none came in ``timeout_s``.
            ConnectionResetError: the VM ended.
        """
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            self._socket.settimeout(max(0.01, deadline - time.monotonic()))
            chunk = self._socket.recv(65536)
            if not chunk:
                raise ConnectionResetError
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def request(self, message: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send ``message`` and return the answer to it; late answers to earlier ones are dropped.

        Raises:
            LabError: the guest says that it failed.
            TimeoutError, ConnectionResetError: as for :meth:`read`.
        """
        number = time.monotonic_ns()
        self._socket.settimeout(timeout_s)
        self._socket.sendall(json.dumps({**message, "id": number}).encode() + b"\n")
        deadline = time.monotonic() + timeout_s
        while True:
            reply = self.read(deadline - time.monotonic())
            if not reply.get("ok", False):
                error = f"the guest could not do {message['verb']}: {reply.get('error')}"
                raise LabError(error)
            if reply.get("id") == number:
                return reply
