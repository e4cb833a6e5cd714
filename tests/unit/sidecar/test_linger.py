# SPDX-License-Identifier: Apache-2.0
"""A goodbye to a client that has gone away meanwhile."""

from __future__ import annotations

import asyncio
import ctypes
import select
import socket
import time
from typing import Any, cast

from ktls_sidecar.linger import Linger
from ktls_sidecar.openssl import TlsError


class Goodbye:
    """TLS whose close_notify leaves just when the client has closed: its kernel answers with a reset."""

    def __init__(self, sock: socket.socket, client: socket.socket) -> None:
        self._sock, self._client = sock, client

    def shutdown(self) -> bool:
        self._client.close()
        assert select.select([self._sock], [], [], 5)[0], "the client's FIN is here"
        self._sock.send(b"n" * 24)
        return True


def test_a_client_that_closed_before_the_goodbye_came_is_not_waited_for() -> None:
    loop = asyncio.new_event_loop()
    done: list[TlsError | None] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        sock, _address = listener.accept()
    with sock:
        sock.setblocking(False)
        tls = cast(Any, Goodbye(sock, client))
        linger = Linger(loop, sock, tls, True, 1.0, 60.0, ctypes.create_string_buffer(4096), done.append)
        linger.start()
        end = time.monotonic() + 5
        while not done and time.monotonic() < end:
            linger.poke()
            time.sleep(0.01)
        linger.cancel()
        assert not linger.delivered, "the goodbye was never acknowledged"
    loop.close()
    assert done == [None], "a minute would be waited for nobody, with kTLS still counted"
