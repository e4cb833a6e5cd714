# SPDX-License-Identifier: Apache-2.0
"""A client that sends any bytes, over TLS that it drives itself (a memory buffer at each side)."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from dataclasses import dataclass

from .clients import Endpoint

LIMIT = 1 << 20


class ClosedError(Exception):
    """The stream ended. ``clean``: with close_notify."""

    def __init__(self, clean: bool) -> None:
        self.clean = clean
        super().__init__("clean" if clean else "cut")


class MalformedError(Exception):
    """What came is not a response."""


@dataclass
class Response:
    """One response; header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Raw:
    """One connection. :meth:`send` and :meth:`response` may be called from two threads."""

    def __init__(
        self,
        endpoint: Endpoint,
        version: ssl.TLSVersion | None = None,
        receive_buffer: int | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        """Connect, verify, and finish the handshake."""
        context = ssl.create_default_context(cafile=str(endpoint.ca))
        if version is not None:
            context.minimum_version = context.maximum_version = version
        self.sock = socket.socket()
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(timeout_s)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.connect(("127.0.0.1", endpoint.port))
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=endpoint.name)
        self._lock = threading.Lock()
        self._buffer = b""
        self._end: bool | None = None
        self._handshake()

    def _handshake(self) -> None:
        while not self._shaken():
            self._flush()
            if not self._feed():
                raise ClosedError(False)
        self._flush()

    def _shaken(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def _flush(self) -> None:
        data = self._out.read()
        if data:
            self.sock.sendall(data)

    def _feed(self) -> bool:
        data = self.sock.recv(262144)
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()
        return bool(data)

    def records(self, data: bytes) -> bytes:
        """Encrypt ``data`` and return the records instead of sending them."""
        with self._lock:
            self._tls.write(data)
            return self._out.read()

    def send(self, data: bytes) -> None:
        """Encrypt and send."""
        for start in range(0, len(data), 16384):
            records = self.records(data[start : start + 16384])
            self.sock.sendall(records)

    def say_goodbye(self) -> None:
        """Send close_notify and go on reading."""
        with self._lock, contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        self._flush()

    def read(self) -> bytes:
        """Return some decrypted bytes. Raises :class:`ClosedError`."""
        while True:
            try:
                with self._lock:
                    data = self._tls.read(262144)
                if data:
                    return data
                raise ClosedError(True)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:
                raise ClosedError(True) from None
            except ssl.SSLError:
                raise ClosedError(False) from None
            # Only the reading thread comes here, so nothing else writes to the incoming buffer.
            try:
                data = self.sock.recv(262144)
            except ConnectionError:
                raise ClosedError(False) from None
            with self._lock:
                if data:
                    self._in.write(data)
                else:
                    self._in.write_eof()

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            if len(self._buffer) > LIMIT:
                raise MalformedError(f"a line of more than {LIMIT} bytes")
            self._buffer += self.read()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def response(self, head: bool = False) -> Response:
        """Read one response. Raises :class:`ClosedError` before it begins, :class:`MalformedError`."""
        status_line = self._line()
        parts = status_line.split(b" ", 2)
        if len(parts) != 3 or parts[0] != b"HTTP/1.1" or not (len(parts[1]) == 3 and parts[1].isdigit()):
            raise MalformedError(repr(status_line[:200]))
        status = int(parts[1])
        headers: dict[str, str] = {}
        while line := self._line():
            name, colon, value = line.decode("latin-1").partition(":")
            if not colon or name.lower() in headers:
                raise MalformedError(repr(line[:200]))
            headers[name.lower()] = value.strip()
        if head or status == 304 or status < 200:
            return Response(status, headers, b"")
        if "transfer-encoding" in headers or not headers.get("content-length", "").isdigit():
            raise MalformedError(f"no length: {headers}")
        length = int(headers["content-length"])
        chunks, have = [self._buffer], len(self._buffer)
        while have < length:
            chunks.append(self.read())
            have += len(chunks[-1])
        data = b"".join(chunks)
        self._buffer = data[length:]
        return Response(status, headers, data[:length])

    def ask(self, data: bytes, head: bool = False) -> Response:
        """Send and read one response."""
        self.send(data)
        return self.response(head)

    def at_end(self) -> bool:
        """True when the server ends the stream with close_notify and nothing before it."""
        if self._buffer:
            return False
        try:
            return not self.read()
        except ClosedError as end:
            return end.clean

    def close(self) -> None:
        """Say goodbye and close."""
        with contextlib.suppress(OSError):
            self.say_goodbye()
        self.sock.close()
