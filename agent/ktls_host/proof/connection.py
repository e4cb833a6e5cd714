# SPDX-License-Identifier: Apache-2.0
"""Two ends of one TLS connection in one thread: a server that asks for kernel TLS, a client that never does."""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import time
from dataclasses import dataclass

from .. import ulp_probe
from . import library as c
from .library import Library, LibraryError

STEP_TIMEOUT_S = 3.0
_RECORD = 16384  # RFC 8446 section 5.1
_PIECES = (1, _RECORD, _RECORD + 1, 3 * _RECORD)
_WAIT_S = 0.05


class BrokenError(Exception):
    """The connection does not work; the text says how."""


@dataclass
class End:
    """One side. ``feed`` is the memory BIO that takes what comes from the socket, where the read side has one."""

    lib: Library
    ssl: int
    sock: socket.socket
    name: str
    feed: int = 0

    def pump(self) -> None:
        """Move what the socket has into the memory BIO. Raises :class:`BrokenError` when no more will come."""
        if self.feed:
            try:
                data = self.sock.recv(65536)
            except BlockingIOError:
                return
            except OSError as error:
                raise BrokenError(f"{self.name}: {error.strerror}") from error
            if not data:
                raise BrokenError(f"{self.name}: connection closed")
            self.lib.BIO_write(self.feed, data, len(data))

    def failed(self, result: int) -> None:
        """Raise :class:`BrokenError` unless the call only has to be repeated. SSL_get_error(3)."""
        number = ctypes.get_errno()
        error = self.lib.SSL_get_error(self.ssl, result)
        if error in (c.SSL_ERROR_WANT_READ, c.SSL_ERROR_WANT_WRITE):
            return
        reason = self.lib.reason()
        if reason == "no reason given":
            reason = os.strerror(number) if number else "connection closed"
        raise BrokenError(f"{self.name}: {reason}")

    def in_kernel(self, direction: int) -> bool:
        """Ask the kernel, not the library. Four bytes: a longer answer would hold the key (net/tls/tls_main.c)."""
        try:
            answer = self.sock.getsockopt(ulp_probe.SOL_TLS, direction, 4)
        except OSError:
            return False
        return bool(struct.unpack("=HH", answer)[1])


class Pair:
    """A connected pair; ``receive`` also puts the read side of the server into the kernel. Close it after use."""

    def __init__(self, lib: Library, server_context: int, client_context: int, *, receive: bool) -> None:
        """Connect and shake hands. Raises :class:`BrokenError` and :class:`LibraryError`."""
        self.lib = lib
        near, far = ulp_probe.connection()
        self._sockets = (near, far)
        self._ssl: list[int] = []
        try:
            self.client = self._end(near, client_context, "client")
            self.server = self._server(far, server_context, receive)
            self._handshake()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Free both ends."""
        for ssl in self._ssl:
            self.lib.SSL_free(ssl)
        self._ssl = []
        for sock in self._sockets:
            sock.close()

    def check(self) -> None:
        """Send records of several sizes in both directions and compare. Raises :class:`BrokenError`."""
        for size in _PIECES:
            self._transfer(self.server, self.client, os.urandom(size))
            self._transfer(self.client, self.server, os.urandom(size))

    def key_update(self, sender: End, kind: int) -> None:
        """Send new keys, then check that data still flows both ways. SSL_key_update(3). Raises :class:`BrokenError`."""
        self.lib.ERR_clear_error()
        if self.lib.SSL_key_update(sender.ssl, kind) != 1:
            raise BrokenError(f"{sender.name}: {self.lib.reason()}")
        receiver = self.client if sender is self.server else self.server
        self._transfer(sender, receiver, b"first under new keys")
        self.check()

    def _end(self, sock: socket.socket, context: int, name: str) -> End:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ssl = self.lib.require("SSL_new", context)
        self._ssl.append(ssl)
        # Not SSL_set_fd(3), nor BIO_new_socket(3): releases before 3.0.19 and 3.5.5 attach the ULP there by themselves.
        bio = self.lib.require("BIO_new", self.lib.BIO_s_socket())
        self.lib.BIO_int_ctrl(bio, c.BIO_C_SET_FD, c.BIO_NOCLOSE, sock.fileno())
        self.lib.SSL_set0_wbio(ssl, bio)
        if name == "client":
            self.lib.BIO_up_ref(bio)
            self.lib.SSL_set0_rbio(ssl, bio)
            self.lib.SSL_set_connect_state(ssl)
        return End(self.lib, ssl, sock, name)

    def _server(self, sock: socket.socket, context: int, receive: bool) -> End:
        end = self._end(sock, context, "server")
        if receive:
            bio = self.lib.require("BIO_new", self.lib.BIO_s_socket())
            self.lib.BIO_int_ctrl(bio, c.BIO_C_SET_FD, c.BIO_NOCLOSE, sock.fileno())
        else:
            # A memory BIO cannot pass keys to the kernel, so the read side stays where it is.
            bio = end.feed = self.lib.require("BIO_new", self.lib.BIO_s_mem())
        self.lib.SSL_set0_rbio(end.ssl, bio)
        self.lib.SSL_set_accept_state(end.ssl)
        self.lib.SSL_set_options(end.ssl, c.SSL_OP_ENABLE_KTLS)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, ulp_probe.TCP_ULP, b"tls")
        except OSError as error:
            raise BrokenError(f"server: no TLS ULP ({error.strerror})") from error
        return end

    def _handshake(self) -> None:
        deadline = time.monotonic() + STEP_TIMEOUT_S
        waiting = [self.client, self.server]
        while waiting:
            for end in tuple(waiting):
                end.pump()
                self.lib.ERR_clear_error()
                ctypes.set_errno(0)
                result = self.lib.SSL_do_handshake(end.ssl)
                if result == 1:
                    waiting.remove(end)
                else:
                    end.failed(result)
            self._wait(waiting, deadline, "handshake")

    def _transfer(self, source: End, sink: End, data: bytes) -> None:
        deadline = time.monotonic() + STEP_TIMEOUT_S
        buffer = ctypes.create_string_buffer(data, len(data))
        room = ctypes.create_string_buffer(_RECORD)
        sent, got = False, b""
        while len(got) < len(data):
            if not sent:
                self.lib.ERR_clear_error()
                ctypes.set_errno(0)
                result = self.lib.SSL_write(source.ssl, buffer, len(data))
                sent = result > 0
                if not sent:
                    source.failed(result)
            moved = self._drain(sink, room)
            got += moved
            if not moved:
                self._wait([sink], deadline, f"data from the {source.name}")
        if got != data:
            raise BrokenError(f"{sink.name}: other data arrived than was sent")

    def _drain(self, sink: End, room: ctypes.Array[ctypes.c_char]) -> bytes:
        sink.pump()
        pieces = []
        while True:
            self.lib.ERR_clear_error()
            ctypes.set_errno(0)
            result = self.lib.SSL_read(sink.ssl, room, _RECORD)
            if result > 0:
                pieces.append(room.raw[:result])
                continue
            sink.failed(result)
            return b"".join(pieces)

    def _wait(self, ends: list[End], deadline: float, what: str) -> None:
        if not ends:
            return
        if time.monotonic() > deadline:
            raise BrokenError(f"no {what} within {STEP_TIMEOUT_S:g} s")
        select.select([end.sock for end in ends], [], [], _WAIT_S)


__all__ = ["STEP_TIMEOUT_S", "BrokenError", "End", "LibraryError", "Pair"]
