# SPDX-License-Identifier: Apache-2.0
"""A text stream that several processes write to without mixing their lines."""

from __future__ import annotations

import io
import os

_ATOMIC = 4096  # PIPE_BUF of pipe(7); a stream socket of the journal takes as much in one piece


class LineWriter(io.TextIOBase):
    """Writes whole lines to a descriptor, several in one system call as far as that is atomic.

    A line longer than 4096 bytes may be torn apart by others.
    """

    def __init__(self, fd: int) -> None:
        """Write to ``fd``, which is blocking."""
        self._fd = fd

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Write ``text``, which ends with a line feed. Raises OSError."""
        data = text.encode()
        start = 0
        while start < len(data):
            end = len(data)
            if end - start > _ATOMIC:
                end = data.rfind(b"\n", start, start + _ATOMIC) + 1 or data.find(b"\n", start) + 1 or len(data)
            _write_all(self._fd, data[start:end])
            start = end
        return len(text)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
