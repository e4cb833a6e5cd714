# SPDX-License-Identifier: Apache-2.0
"""One side of many connections: ``serve PORT`` or ``connect PORT NUMBER``. Takes commands on standard input.

The server maps libssl, as a TLS server does, but speaks no TLS: what is measured is the looking, not the crypto.
"""

from __future__ import annotations

import contextlib
import resource
import selectors
import socket
import ssl
import sys

SERVER, CLIENT = "10.200.0.1", "10.200.0.2"


def serve(port: int) -> None:
    """Accept; on ``grow`` send some bytes on every connection; on end of input close all."""
    assert ssl.OPENSSL_VERSION
    selector = selectors.DefaultSelector()
    with socket.create_server((SERVER, port), backlog=4096) as listener, contextlib.ExitStack() as held:
        listener.setblocking(False)
        accepted: list[socket.socket] = []
        selector.register(listener, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        print("ready", flush=True)
        while True:
            for key, _ in selector.select():
                if key.fileobj is listener:
                    with contextlib.suppress(BlockingIOError):
                        while True:
                            accepted.append(held.enter_context(listener.accept()[0]))
                    continue
                command = sys.stdin.readline().strip()
                if not command:
                    return
                if command == "grow":
                    for connection in accepted:
                        connection.send(bytes(100))
                print(len(accepted), flush=True)


def connect(port: int, number: int) -> None:
    """Open ``number`` connections, and hold them until the end of input."""
    with contextlib.ExitStack() as held:
        for _ in range(number):
            held.enter_context(socket.create_connection((SERVER, port), 30))
        print("ready", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        connect(int(sys.argv[2]), int(sys.argv[3]))
