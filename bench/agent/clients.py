# SPDX-License-Identifier: Apache-2.0
"""Holds TLS connections to the sidecar: ``PORT NUMBER REQUESTS CERTIFICATE``. Each second it asks on some of them.

A connection in ten of those that asked is closed and opened again, so that ends are noticed, too. Runs until the end of
standard input; says ``ready`` when all are open.
"""

from __future__ import annotations

import resource
import select
import socket
import ssl
import sys
import time

PATH = "/small/001.bin"
_CLOSE_EVERY = 10


def main(port: int, number: int, requests: int, certificate: str) -> None:
    """Hold, ask, and replace."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    context = ssl.create_default_context(cafile=certificate)
    open_ = [_connect(context, port) for _ in range(number)]
    print("ready", flush=True)
    turn = 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        began = time.monotonic()
        for _ in range(requests):
            index = turn % number
            _ask(open_[index])
            if turn % _CLOSE_EVERY == 0:
                open_[index].close()
                open_[index] = _connect(context, port)
            turn += 1
        time.sleep(max(0.0, began + 1 - time.monotonic()))


def _connect(context: ssl.SSLContext, port: int) -> ssl.SSLSocket:
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port), 60), server_hostname="localhost")


def _ask(sock: ssl.SSLSocket) -> None:
    sock.sendall(f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    data = b""
    while b"\r\n\r\n" not in data:
        data += sock.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length"))
    left = length - len(body)
    while left > 0:
        left -= len(sock.recv(65536))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
