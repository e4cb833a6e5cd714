# SPDX-License-Identifier: Apache-2.0
"""JSON lines between supervisor and worker over one end of a socketpair, without waiting.

Sending works before an event loop is there: what is sent then is the first thing that the other end reads.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Any

Message = dict[str, Any]
_CHUNK = 65536


class Channel:
    """One end. Messages are trusted: the other end is the same program."""

    def __init__(self, sock: socket.socket) -> None:
        """Take ``sock`` over."""
        sock.setblocking(False)
        self._sock = sock
        self._in = b""
        self._out = bytearray()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._received: Callable[[Message], None] = lambda _message: None
        self._closed: Callable[[], None] = lambda: None
        self._writing = False
        self._eof = False

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._sock.fileno()

    def attach(
        self, loop: asyncio.AbstractEventLoop, received: Callable[[Message], None], closed: Callable[[], None]
    ) -> None:
        """Deliver messages in ``loop``, which need not run yet: to ``received``, and then the end to ``closed``."""
        self._received, self._closed = received, closed
        self._loop = loop
        self._loop.add_reader(self._sock.fileno(), self._readable)
        self._flush()

    def send(self, message: Message) -> None:
        """Queue ``message``. An end that is gone is noticed by reading, so nothing is raised here."""
        if self._sock.fileno() < 0:
            return
        self._out += json.dumps(message, separators=(",", ":")).encode() + b"\n"
        self._flush()

    def finish(self, timeout_s: float) -> None:
        """Send what is queued, waiting at most ``timeout_s`` seconds, and close."""
        rest = bytes(self._out)
        self._out.clear()
        self._flush()
        self._stop_reading()
        try:
            self._sock.settimeout(timeout_s)
            self._sock.sendall(rest)
        except OSError:
            pass
        self.close()

    def close(self) -> None:
        """Close without a word."""
        self._out.clear()
        self._flush()
        self._stop_reading()
        self._sock.close()

    def read_rest(self) -> None:
        """Deliver what the other end sent before it ended. For an end whose process is known to be gone."""
        while not self._eof and self._sock.fileno() >= 0 and self._readable():
            pass

    def _stop_reading(self) -> None:
        if self._loop is not None and self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())

    def _readable(self) -> bool:
        try:
            data = self._sock.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        if not data:
            self._eof = True
            self._stop_reading()
            self._closed()
            return False
        *lines, self._in = (self._in + data).split(b"\n")
        for line in lines:
            self._received(json.loads(line))
        return True

    def _flush(self) -> None:
        try:
            while self._out:
                del self._out[: self._sock.send(self._out)]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._out.clear()
        if self._loop is None or self._sock.fileno() < 0:
            return
        if self._out and not self._writing:
            self._writing = True
            self._loop.add_writer(self._sock.fileno(), self._flush)
        elif not self._out and self._writing:
            self._writing = False
            self._loop.remove_writer(self._sock.fileno())
