# SPDX-License-Identifier: Apache-2.0
"""One request and one answer over a Unix stream socket (unix(7)), within a deadline and a size."""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from collections.abc import Callable

from .errors import KtlsError


def exchange(
    path: str, request: bytes, limit: int, timeout_s: float, complete: Callable[[bytearray], bool] = lambda _: False
) -> bytes:
    """Send ``request`` to the server at ``path`` and return what it answers.

    Reads until ``complete`` says so of what has come, or the server closes, or more than ``limit`` bytes are there: the
    caller looks at the length. ``timeout_s`` bounds the whole in seconds. Raises :class:`KtlsError`: ``unreachable``,
    ``timeout``, ``protocol``.
    """
    deadline = time.monotonic() + timeout_s
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.settimeout(timeout_s)
            _connect(sock, path)
            # A server that refuses early may close before it has read everything: its answer still counts.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock.sendall(request)
            return _read(sock, deadline, limit, complete)
        except socket.timeout as error:
            message = f"{path} did not answer within {timeout_s:g} s; look at the log of its service"
            raise KtlsError("timeout", message) from error
        except OSError as error:
            message = f"lost the connection to {path} ({reason(error)}); look at the log of its service"
            raise KtlsError("protocol", message) from error


def _connect(sock: socket.socket, path: str) -> None:
    try:
        sock.connect(path)
    except socket.timeout:
        raise
    except OSError as error:
        cure = (
            "run this as root or as a member of the socket's group"
            if error.errno == errno.EACCES
            else "start the service that owns it"
        )
        raise KtlsError("unreachable", f"cannot connect to {path} ({reason(error)}): {cure}") from error


def _read(sock: socket.socket, deadline: float, limit: int, complete: Callable[[bytearray], bool]) -> bytes:
    data = bytearray()
    while len(data) <= limit and not complete(data):
        left = deadline - time.monotonic()
        if left <= 0:
            raise socket.timeout
        sock.settimeout(left)
        chunk = sock.recv(65536)
        if not chunk:
            break
        data += chunk
    return bytes(data)


def reason(error: OSError) -> str:
    """Return what an operating system error says, without its number."""
    return error.strerror or str(error) or type(error).__name__
