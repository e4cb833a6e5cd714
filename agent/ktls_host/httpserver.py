# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 for local tools that scrape: one GET a connection, on a Unix socket or loopback, and no way to hold us up.

h11 reads the requests. It is part of the release and not of Ansible's modules, which share this package: so it is
imported when a server is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Callable

from .errors import KtlsError
from .exchange import reason
from .unixsock import listening_place

TIMEOUT_S = 10.0
MAX_CONNECTIONS = 8
_HEADER_LIMIT = 8192
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """What is sent back: a status code, a body and its type."""

    body: str
    content_type: str = "text/plain; charset=utf-8"
    status: int = 200


Answerer = Callable[[str], Awaitable[Answer]]
"""Takes the path of a request, without its query."""


class HttpServer:
    """Listening sockets and their open connections. Several sockets may listen; :meth:`close` ends all of them."""

    def __init__(self, answer: Answerer, timeout_s: float = TIMEOUT_S, max_connections: int = MAX_CONNECTIONS) -> None:
        """``timeout_s`` bounds a connection from its first byte to the last of the answer."""
        import h11

        self._h11: Any = h11
        self._answer = answer
        self._timeout_s = timeout_s
        self._max = max_connections
        self._servers: list[asyncio.AbstractServer] = []
        self._files: list[tuple[str, tuple[int, int]]] = []
        self._connections: set[asyncio.Task[None]] = set()

    async def listen_unix(self, path: str, mode: int, group: str | None) -> None:
        """Listen at ``path``. Raises :class:`KtlsError`: socket_in_use, path_in_the_way, no_such_group, bind_failed."""
        sock = listening_place(path, mode, group)
        found = os.lstat(path)
        self._files.append((path, (found.st_dev, found.st_ino)))
        self._servers.append(await asyncio.start_unix_server(self._connected, sock=sock, limit=_HEADER_LIMIT))

    async def listen_tcp(self, host: str, port: int) -> int:
        """Listen on an address of this host; port 0 takes a free one. Return the port. Raises bind_failed."""
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            server = await asyncio.start_server(self._connected, host, port, family=family, limit=_HEADER_LIMIT)
        except OSError as error:
            message = f"cannot listen on {host} port {port} ({reason(error)}); choose another port, or stop who has it"
            raise KtlsError("bind_failed", message) from error
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening, end open connections, and remove socket files that are still ours."""
        for server in self._servers:
            server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        for path, identity in self._files:
            with contextlib.suppress(FileNotFoundError):
                found = os.lstat(path)
                if (found.st_dev, found.st_ino) == identity:
                    os.unlink(path)
        self._servers, self._files = [], []

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("asyncio runs this callback as a task")
        try:
            if len(self._connections) >= self._max:
                return
            self._connections.add(task)
            # Then drain() waits for the last byte, and nothing is left to a reader who never reads.
            writer.transport.set_write_buffer_limits(0)
            await asyncio.wait_for(self._converse(reader, writer), self._timeout_s)
        except (OSError, asyncio.TimeoutError, asyncio.CancelledError, self._h11.LocalProtocolError):
            writer.transport.abort()  # the client left, or was slow, or we end: nobody to tell
        finally:
            self._connections.discard(task)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        h11 = self._h11
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEADER_LIMIT)
        request: Any = None
        try:
            while True:
                event = http.next_event()
                if event is h11.NEED_DATA:
                    http.receive_data(await reader.read(_HEADER_LIMIT))
                elif isinstance(event, h11.Request):
                    request = event
                    # A body is not waited for: no request that we answer has one.
                    break
                else:  # the client has left
                    return
            answer = await self._respond(request)
        except h11.RemoteProtocolError as error:
            answer = Answer("this is not valid HTTP/1.1\n", status=int(error.error_status_hint))
        body = answer.body.encode("utf-8", "replace")
        headers = [
            ("Content-Type", answer.content_type),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("Connection", "close"),
        ]
        head = http.send(h11.Response(status_code=answer.status, headers=headers))
        head_only = request is not None and request.method == b"HEAD"
        writer.write(head if head_only else head + body)
        await writer.drain()

    async def _respond(self, request: Any) -> Answer:
        if request.method not in (b"GET", b"HEAD"):
            return Answer("only GET and HEAD are answered\n", status=405)
        try:
            return await self._answer(request.target.split(b"?")[0].decode("ascii", "replace"))
        except Exception:  # a bug of ours is a 500 and a line in the log, never a connection that just ends
            _LOG.exception("request for %r failed", request.target)
            return Answer("the request failed in the service; its log says why\n", status=500)
