# SPDX-License-Identifier: Apache-2.0
"""The server side of :mod:`ktls_host.jsonsock`, on asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import json
import logging
import os
import socket
import struct

from . import unixsock
from .errors import KtlsError
from .jsonsock import MAX_LINE, Handler, Peer, RequestError, encode

MAX_CONNECTIONS = 128

_LOG = logging.getLogger(__name__)
_PEERCRED = struct.Struct("iII")


class JsonServer:
    """A listening socket and its open connections. Made by :func:`listen`."""

    def __init__(self, path: str, handler: Handler, idle_timeout_s: float) -> None:
        """Prepare; nothing listens yet."""
        self.path = path
        self._handler = handler
        self._idle_timeout_s = idle_timeout_s
        self._server: asyncio.AbstractServer | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._identity: tuple[int, int] | None = None
        self._closing = False
        self._serial = itertools.count(1)

    async def start(self, sock: socket.socket) -> None:
        """Listen on the bound ``sock``. asyncio calls listen(2), so nobody could connect before."""
        found = os.lstat(self.path)
        self._identity = (found.st_dev, found.st_ino)
        # The stream limit does not count the line feed.
        self._server = await asyncio.start_unix_server(self._connected, sock=sock, limit=MAX_LINE - 1)

    async def close(self) -> None:
        """Stop listening, end open connections, and remove the socket file if it is still ours."""
        self._closing = True
        if self._server is not None:
            self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None
        with contextlib.suppress(FileNotFoundError):
            found = os.lstat(self.path)
            if (found.st_dev, found.st_ino) == self._identity:
                os.unlink(self.path)

    async def __aenter__(self) -> JsonServer:
        """Return self."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("asyncio runs this callback as a task")
        try:
            if len(self._connections) >= MAX_CONNECTIONS:
                message = f"{self.path} has {MAX_CONNECTIONS} connections already; try again"
                await self._send(writer, _refusal(RequestError("busy", message)))
                return
            self._connections.add(task)
            await self._converse(reader, writer)
        except (ConnectionError, asyncio.TimeoutError):
            pass  # the peer left or stopped reading: nobody to tell
        except asyncio.CancelledError:
            pass  # close(): the task ends here, and asyncio must not log it
        finally:
            self._connections.discard(task)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = _peer(writer.get_extra_info("socket"), next(self._serial))
        # Before Python 3.12 wait_for() swallows a cancellation that meets a finished wait.
        while not self._closing:
            try:
                line = await asyncio.wait_for(reader.readuntil(b"\n"), self._idle_timeout_s)
            except asyncio.TimeoutError:
                return
            except asyncio.IncompleteReadError as error:
                if error.partial:
                    refusal = RequestError("bad_request", "the last line had no line feed")
                    await self._send(writer, _refusal(refusal))
                return
            except asyncio.LimitOverrunError:
                refusal = RequestError("protocol", f"a request line is longer than {MAX_LINE} bytes")
                await self._send(writer, _refusal(refusal))
                return
            await self._send(writer, await self._answer(line, peer))

    async def _answer(self, line: bytes, peer: Peer) -> bytes:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            return _refusal(RequestError("bad_request", "the request is not JSON"))
        if not isinstance(request, dict):
            return _refusal(RequestError("bad_request", "the request is not a JSON object"))
        try:
            result = self._handler(request, peer)
            answer = await result if inspect.isawaitable(result) else result
            return encode({"ok": True, **answer})
        except KtlsError as error:
            return _refusal(error)
        except Exception:
            _LOG.exception("request %r from pid %d uid %d failed", request.get("verb"), peer.pid, peer.uid)
            return _refusal(RequestError("internal", "the request failed in the service; its log says why"))

    async def _send(self, writer: asyncio.StreamWriter, line: bytes) -> None:
        writer.write(line)
        await asyncio.wait_for(writer.drain(), self._idle_timeout_s)


async def listen(
    path: str,
    handler: Handler,
    mode: int,
    group: str | None,
    idle_timeout_s: float,
) -> JsonServer:
    """Serve ``handler`` at ``path`` until the returned server is closed.

    The socket has its final ``mode`` and ``group`` before it listens. A socket file that nobody listens on is
    replaced. Raises :class:`KtlsError`: ``socket_in_use``, ``path_in_the_way``, ``no_such_group``,
    ``bind_failed``.
    """
    sock = unixsock.listening_place(path, mode, group)
    server = JsonServer(path, handler, idle_timeout_s)
    try:
        await server.start(sock)
    except BaseException:
        sock.close()
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
    return server


def _peer(sock: socket.socket, connection: int) -> Peer:
    pid, uid, gid = _PEERCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
    return Peer(pid=pid, uid=uid, gid=gid, connection=connection)


def _refusal(error: KtlsError) -> bytes:
    try:
        return encode({"ok": False, "error": error.as_dict()})
    except ValueError:
        short = {"code": error.code[:64], "message": "the reason is too long to send"}
        return encode({"ok": False, "error": short})
