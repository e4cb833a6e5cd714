# SPDX-License-Identifier: Apache-2.0
"""A client that holds many idle connections: each has made one request and then says nothing more.

It says ``ready`` when all are there, and answers each line it is given with the number that are still open. Only a
few keep their TLS state on this side, so that 5,000 fit into a small machine beside the server; those few ask once
more at the end.
"""

from __future__ import annotations

import argparse
import resource
import socket
import ssl
import sys
from collections.abc import Sequence

_KEPT = 20
_PATIENCE_S = 120.0


class IdleError(Exception):
    """A connection did not work."""


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one, for this process and its children; return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def ask(connection: ssl.SSLSocket, path: str) -> None:
    """Make one request and read its answer. Raises IdleError, OSError."""
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        if not part:
            raise IdleError("the server closed a connection before its answer")
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    if head.split(b" ")[1] != b"200" or b"content-length" not in fields:
        raise IdleError(f"not a file: {head[:60]!r}")
    left = int(fields[b"content-length"]) - len(body)
    while left:
        part = connection.recv(min(left, 65536))
        if not part:
            raise IdleError("the server closed a connection inside its answer")
        left -= len(part)


def is_open(sock: socket.socket) -> bool:
    """True unless the server ended the connection."""
    try:
        return sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def hold(port: int, ca: str, count: int, path: str) -> tuple[list[ssl.SSLSocket], list[socket.socket]]:
    """Return the connections: those with TLS state, and the others."""
    context = ssl.create_default_context(cafile=ca)
    kept: list[ssl.SSLSocket] = []
    bare: list[socket.socket] = []
    for index in range(count):
        sock = socket.create_connection(("127.0.0.1", port), _PATIENCE_S)
        connection = context.wrap_socket(sock, server_hostname="localhost")
        ask(connection, path)
        if index < _KEPT:
            kept.append(connection)
        else:
            bare.append(socket.socket(fileno=connection.detach()))
    return kept, bare


def main(argv: Sequence[str] | None = None) -> int:
    """Run until standard input ends."""
    parser = argparse.ArgumentParser(prog="bench.idle")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--path", required=True)
    given = parser.parse_args(argv)
    raise_file_limit()
    try:
        kept, bare = hold(given.port, given.ca, given.count, given.path)
        print("ready", flush=True)
        for _ in sys.stdin:
            for connection in kept:
                ask(connection, given.path)
            print(len(kept) + sum(is_open(sock) for sock in bare), flush=True)
    except (OSError, IdleError) as error:
        print(f"idle: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
