# SPDX-License-Identifier: Apache-2.0
"""Fetch a few bytes from a web server that may be hostile: every wait and every size has an end.

One connection is kept open, because a handshake costs more than all else of a poll. ``http.client`` reads the answer,
through a file that knows the deadline of the whole poll and how many bytes are left to it; it follows no redirect and
knows no proxy. TLS: Python's own defaults of a client (ssl.create_default_context), version 1.2 or later.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import select
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ktls_host.flag_document import MAX_BYTES

from .config import Endpoint

RESPONSE_MAX = 16 * 1024  # with headers
CONNECTION_MAX_S = 300.0  # then a new one, so that DNS, certificates and authorities are looked at again
_SEND_MAX = 2048


class FetchError(Exception):
    """No answer that could be used. ``result`` is a word for metrics, the text is for people."""

    def __init__(self, result: str, detail: str) -> None:
        """Keep both; ``detail`` is folded into one printable line, for it may quote the server."""
        self.result = result
        self.detail = " ".join("".join(char if char.isprintable() else " " for char in detail).split())[:300]
        super().__init__(self.detail)


@dataclass(frozen=True)
class Answer:
    """A response that was read whole. ``headers`` has lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Fetcher:
    """Fetches one endpoint, again and again. For one thread."""

    def __init__(self, endpoint: Endpoint, ca: str | None, timeout_s: float) -> None:
        """Nothing is opened before :meth:`get`."""
        self._endpoint = endpoint
        self._ca = ca
        self._timeout_s = timeout_s
        self._connection: http.client.HTTPConnection | None = None
        self._channel: _Channel | None = None
        self._opened = 0.0
        self._addresses: list[Any] = []
        self.connections = 0

    def get(self, headers: Mapping[str, str]) -> Answer:
        """Fetch the endpoint. Raises :class:`FetchError`; then the connection is closed."""
        deadline = time.monotonic() + self._timeout_s
        kept = self._reusable()
        try:
            try:
                return self._exchange(headers, deadline)
            except (ConnectionError, ssl.SSLError):
                # The usual end of a kept connection: the server closed it while the request was under way.
                if not kept or self._channel is None or self._channel.received:
                    raise
                self.close()
                return self._exchange(headers, deadline)
        except BaseException as error:
            self.close()
            if isinstance(error, Exception):
                raise _named(error, self._timeout_s) from error
            raise

    def close(self) -> None:
        """Drop the connection."""
        if self._channel is not None:
            with contextlib.suppress(OSError):
                self._channel.end()
        self._connection = self._channel = None

    def _reusable(self) -> bool:
        """Whether the open connection can take a request. A server that has already said something has not."""
        if self._channel is None:
            return False
        fresh = time.monotonic() - self._opened < CONNECTION_MAX_S
        if fresh and not self._channel.readable():
            return True
        self.close()
        return False

    def _exchange(self, headers: Mapping[str, str], deadline: float) -> Answer:
        connection, channel = self._connection, self._channel
        if connection is None or channel is None:
            connection, channel = self._open(deadline)
        channel.start(deadline)
        connection.request("GET", self._endpoint.target, headers=dict(headers))
        response = connection.getresponse()
        if 300 <= response.status < 400 and response.status != 304:
            raise FetchError("redirect", f"a redirect (status {response.status}), which is not followed")
        found = {name.lower(): value for name, value in response.getheaders()}
        length = response.length
        if found.get("content-encoding", "identity").lower() != "identity":
            raise FetchError("protocol", f"an encoding that was not asked for ({found['content-encoding']})")
        if length is not None and length > MAX_BYTES:
            raise FetchError("oversize", f"{length} bytes; a flag has at most {MAX_BYTES}")
        body = response.read(MAX_BYTES + 1)
        if len(body) > MAX_BYTES:
            raise FetchError("oversize", f"more than {MAX_BYTES} bytes")
        if length is not None and len(body) < length:
            raise FetchError("protocol", f"{len(body)} of {length} bytes")
        if response.will_close or not response.isclosed():
            self.close()
        return Answer(response.status, found, body)

    def _open(self, deadline: float) -> tuple[http.client.HTTPConnection, _Channel]:
        endpoint = self._endpoint
        plain = self._connect(deadline)
        try:
            sock: socket.socket = plain
            if endpoint.tls:
                context = ssl.create_default_context(cafile=self._ca)
                context.minimum_version = max(context.minimum_version, ssl.TLSVersion.TLSv1_2)
                plain.settimeout(_left(deadline))
                sock = context.wrap_socket(plain, server_hostname=endpoint.host)
        except BaseException:
            plain.close()
            raise
        connection = http.client.HTTPConnection(endpoint.host, endpoint.port)
        channel = _Channel(sock)
        # For http.client this is its socket: it sends all of a request and makes a file for each response.
        connection.sock = channel
        self._connection, self._channel = connection, channel
        self._opened = time.monotonic()
        self.connections += 1
        return connection, channel

    def _connect(self, deadline: float) -> socket.socket:
        try:
            found = socket.getaddrinfo(self._endpoint.host, self._endpoint.port, type=socket.SOCK_STREAM)
            self._addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
        except (socket.gaierror, UnicodeError):
            # Names may fail when all else does; where the server was is where it most likely still is.
            if not self._addresses:
                raise
        failure: OSError = OSError("no address")
        for index, (family, address) in enumerate(self._addresses):
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            try:
                sock.settimeout(_left(deadline) / (len(self._addresses) - index))
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return sock
            except OSError as error:
                sock.close()
                failure = error
            except BaseException:
                sock.close()
                raise
        raise failure


class _Channel:
    """A socket with a deadline and a budget for each exchange."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._deadline = 0.0
        self._budget = 0
        self.received = False

    def start(self, deadline: float) -> None:
        """Begin an exchange."""
        self._deadline, self._budget, self.received = deadline, RESPONSE_MAX, False

    def readable(self) -> bool:
        """Whether there is something to read, the end included, although nothing was asked for."""
        if isinstance(self._sock, ssl.SSLSocket) and self._sock.pending():
            return True
        poller = select.poll()
        poller.register(self._sock, select.POLLIN | select.POLLHUP | select.POLLERR)
        return bool(poller.poll(0))

    def sendall(self, data: bytes) -> None:
        """As of a socket."""
        self._sock.settimeout(_left(self._deadline))
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        """As of a socket, for reading."""
        return io.BufferedReader(_Reader(self), 4096)

    def receive(self, buffer: memoryview) -> int:
        """Read into ``buffer``; 0 at the end."""
        self._sock.settimeout(_left(self._deadline))
        count = self._sock.recv_into(buffer)
        self.received = self.received or count > 0
        self._budget -= count
        if self._budget < 0:
            raise FetchError("oversize", f"more than {RESPONSE_MAX} bytes with the headers")
        return count

    def close(self) -> None:
        """As of a socket that a file was made of: it stays open for that. http.client does this before the body."""

    def end(self) -> None:
        """Close it."""
        self._sock.close()


class _Reader(io.RawIOBase):
    """The file that a response is read from."""

    def __init__(self, channel: _Channel) -> None:
        super().__init__()
        self._channel = channel

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._channel.receive(memoryview(buffer))


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise socket.timeout("timed out")
    return left


def _named(error: Exception, timeout_s: float) -> FetchError:
    """Return what went wrong in our words."""
    if isinstance(error, FetchError):
        return error
    if isinstance(error, ssl.SSLCertVerificationError):
        return FetchError("tls", f"its certificate is not accepted: {error.verify_message}")
    if isinstance(error, socket.timeout):
        return FetchError("timeout", f"no whole answer within {timeout_s:g} s")
    if isinstance(error, ssl.SSLError):
        return FetchError("tls", f"TLS failed: {error.reason or error}")
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return FetchError("dns", f"its name is not resolved: {getattr(error, 'strerror', None) or error}")
    if isinstance(error, (http.client.HTTPException, ValueError)) and not isinstance(error, OSError):
        return FetchError("protocol", f"an answer that is not HTTP ({type(error).__name__}: {error})")
    if isinstance(error, OSError):
        return FetchError("unreachable", f"the connection failed: {error.strerror or error or type(error).__name__}")
    return FetchError("internal", f"{type(error).__name__}: {error}")
