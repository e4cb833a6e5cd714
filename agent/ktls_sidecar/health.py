# SPDX-License-Identifier: Apache-2.0
"""Health and metrics over HTTP/1.1 on a Unix socket, for tools that speak HTTP and not our control protocol.

    curl --unix-socket /run/ktls-sidecar/http.sock http://localhost/healthz

One request a connection. ``/healthz``: 200 ``ok``, or 503 with the reason. ``/metrics``: Prometheus text.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Any

import h11

# The rules of our sockets (owner and mode before anybody can connect, a stale file replaced) exist once.
from ktls_host.unixsock import listening_place

from .control import Service
from .metrics import render
from .report import OK

_TIMEOUT_S = 10.0
_MAX_CONNECTIONS = 32
_HEADER_LIMIT = 8192


class HttpServer:
    """A listening socket and its open connections. Made by :func:`serve_http`."""

    def __init__(self, service: Service, path: str) -> None:
        """Prepare; nothing listens yet."""
        self._service = service
        self._path = path
        self._server: asyncio.AbstractServer | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._identity = (0, 0)

    async def start(self, sock: socket.socket) -> None:
        """Listen on the bound ``sock``."""
        found = os.lstat(self._path)
        self._identity = (found.st_dev, found.st_ino)
        self._server = await asyncio.start_unix_server(self._connected, sock=sock)

    async def close(self) -> None:
        """Stop listening, end open connections, and remove the socket file if it is still ours."""
        if self._server is not None:
            self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        with contextlib.suppress(FileNotFoundError):
            found = os.lstat(self._path)
            if (found.st_dev, found.st_ino) == self._identity:
                os.unlink(self._path)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # asyncio runs this callback as a task
        try:
            if len(self._connections) < _MAX_CONNECTIONS:
                self._connections.add(task)
                await asyncio.wait_for(self._converse(reader, writer), _TIMEOUT_S)
        except (OSError, asyncio.TimeoutError, h11.LocalProtocolError):
            pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEADER_LIMIT)
        request: Any = None
        try:
            while True:
                event = http.next_event()
                if event is h11.NEED_DATA:
                    http.receive_data(await reader.read(_HEADER_LIMIT))
                elif isinstance(event, h11.Request):
                    request = event
                elif isinstance(event, h11.EndOfMessage):
                    break
                elif not isinstance(event, h11.Data):  # the client has left
                    return
            status, text = await self._answer(request)
        except h11.RemoteProtocolError as error:
            status, text = int(error.error_status_hint), "this is not valid HTTP/1.1\n"
        body = text.encode()
        headers = [
            ("Content-Type", "text/plain; version=0.0.4; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("Connection", "close"),
        ]
        head = http.send(h11.Response(status_code=status, headers=headers))
        head_only = request is not None and request.method == b"HEAD"
        writer.write(head + (b"" if head_only else http.send(h11.Data(data=body))))
        await writer.drain()

    async def _answer(self, request: Any) -> tuple[int, str]:
        if request.method not in (b"GET", b"HEAD"):
            return 405, "only GET and HEAD are answered\n"
        path = request.target.split(b"?")[0]
        if path == b"/healthz":
            health = (await self._service.report())["health"]
            return (200 if health == OK else 503), f"{health}\n"
        if path == b"/metrics":
            return 200, render(await self._service.report())
        return 404, "there is /healthz and /metrics\n"


async def serve_http(service: Service, path: str, group: str | None) -> HttpServer:
    """Serve at ``path``, mode 0660. Raises KtlsError: ``socket_in_use``, ``path_in_the_way``, ``bind_failed``."""
    sock = listening_place(path, 0o660, group)
    server = HttpServer(service, path)
    await server.start(sock)
    return server
