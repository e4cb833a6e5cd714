# SPDX-License-Identifier: Apache-2.0
"""One download of the probe file, or of a range of it, over verified TLS and through one interface.

TLS runs over memory here, not over the socket: so the bytes of the stream are counted exactly, and OpenSSL cannot hand
this end to the kernel, whatever the machine's openssl.cnf says. Verification is Python's own for clients
(ssl.create_default_context): chain and name, with the authorities of the file that is given.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ktls_host.probe_object import PROBE_SIZE

from .config import SentinelConfig, Target
from .watch import Flow

_HEAD_MAX = 16 * 1024
_CHUNK = 64 * 1024
_TEXT_MAX = 160
# What mainline Linux hands to a card (net/tls/tls_device.c): TLS 1.2 with AES-GCM.
CIPHERS = "ECDHE+AESGCM"
_RANGE = re.compile(r"bytes (\d{1,9})-(\d{1,9})/(\d{1,9})\Z")
_SO_BINDTODEVICE = 25

_T = TypeVar("_T")


class DownloadError(Exception):
    """No whole, verified, true copy came. The text is one printable line: it may quote the server."""

    def __init__(self, text: str) -> None:
        """Fold and bound ``text``."""
        super().__init__("".join(char if char.isprintable() else " " for char in " ".join(text.split()))[:_TEXT_MAX])


@dataclass(frozen=True)
class Download:
    """``stream_bytes``: what came over the connection, handshake and records, before decryption."""

    tls: str
    cipher: str
    stream_bytes: int


def fetch(
    target: Target, config: SentinelConfig, content: bytes, offset: int, opened: Callable[[Flow], None]
) -> Download:
    """Download ``config.bytes`` of the probe file ``content`` from ``offset`` on, and compare them.

    ``opened`` is told of the connection as soon as it is there, before the server has sent data. Blocks for
    ``config.timeout_s`` and name resolution. Raises :class:`DownloadError`.
    """
    deadline = time.monotonic() + config.timeout_s
    try:
        context = client_context(config.ca, config.tls)
        with _connect(target, config.interface, deadline) as sock:
            opened(_flow(sock))
            stream = _Stream(sock, context, target.server_name, deadline)
            stream.handshake()
            wanted = content[offset : offset + config.bytes]
            stream.send(_request(target, offset, len(wanted)))
            _receive(stream, content, offset, len(wanted))
            return Download(*stream.agreed(), stream.received)
    except ssl.SSLCertVerificationError as error:
        raise DownloadError(f"the certificate was not accepted: {error.verify_message}") from error
    except socket.timeout as error:
        raise DownloadError(f"no complete answer within {config.timeout_s:g} s") from error
    except ssl.SSLError as error:
        raise DownloadError(_tls_failure(error, config.tls)) from error
    except (OSError, UnicodeError) as error:
        raise DownloadError(str(error.strerror if isinstance(error, OSError) and error.strerror else error)) from error


def client_context(ca: str | None, tls: str) -> ssl.SSLContext:
    """Return what clients use; with ``tls`` of ``1.2`` it offers what a card can take and nothing else."""
    context = ssl.create_default_context(cafile=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls == "1.2":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(CIPHERS)
    return context


def is_local(address: tuple[object, ...], family: int) -> bool:
    """Return whether ``address`` is of this very machine: it would speak to itself from it. Sends nothing."""
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.connect(address)
        except OSError:
            return False
        return bool(sock.getsockname()[0] == address[0])


def _connect(target: Target, interface: str, deadline: float) -> socket.socket:
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise DownloadError(f"{target.host}: {error.strerror}") from error
    addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    failure: OSError = OSError("no address")
    for index, (family, address) in enumerate(addresses):
        if is_local(address, family):
            raise DownloadError(f"{address[0]} is this very machine: nothing goes over a wire; watch from another")
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, interface.encode())
            sock.settimeout(_left(deadline) / (len(addresses) - index))
            sock.connect(address)
            return sock
        except OSError as error:
            sock.close()
            failure = error
    raise failure


def _flow(sock: socket.socket) -> Flow:
    peer, own = sock.getpeername(), sock.getsockname()
    source, destination = (socket.inet_pton(sock.family, end[0].partition("%")[0]) for end in (peer, own))
    return Flow(source, peer[1], destination, own[1])


def _request(target: Target, offset: int, length: int) -> bytes:
    lines = [f"GET {target.path} HTTP/1.1", f"Host: {target.server_name}", "User-Agent: ktls-sentinel"]
    if length < PROBE_SIZE:
        lines.append(f"Range: bytes={offset}-{offset + length - 1}")
    return "\r\n".join([*lines, "Accept-Encoding: identity", "Connection: close", "", ""]).encode("ascii")


class _Stream:
    """TLS over memory, between a socket and us."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server_name: str, deadline: float) -> None:
        self._sock = sock
        self._deadline = deadline
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=server_name)
        self.received = 0

    def handshake(self) -> None:
        self._do(self._tls.do_handshake)

    def send(self, data: bytes) -> None:
        self._do(lambda: self._tls.write(data))

    def receive(self) -> bytes:
        """Return some plaintext; empty at the end, with or without goodbye: lengths are checked by the caller."""
        try:
            return self._do(lambda: self._tls.read(_CHUNK))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    def agreed(self) -> tuple[str, str]:
        cipher = self._tls.cipher()
        return self._tls.version() or "", cipher[0] if cipher else ""

    def _do(self, action: Callable[[], _T]) -> _T:
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                done = action()
                self._flush()
                return done
            self._flush()
            self._sock.settimeout(_left(self._deadline))
            data = self._sock.recv(_CHUNK)
            self.received += len(data)
            if data:
                self._in.write(data)
            else:
                self._in.write_eof()

    def _flush(self) -> None:
        data = self._out.read()
        if data:
            self._sock.settimeout(_left(self._deadline))
            self._sock.sendall(data)


def _receive(stream: _Stream, content: bytes, offset: int, length: int) -> None:
    data = b""
    while b"\r\n\r\n" not in data:
        more = stream.receive()
        if not more:
            raise DownloadError("the server closed before it answered")
        data += more
        if len(data) > _HEAD_MAX + _CHUNK:
            raise DownloadError("the answer's headers do not end")
    head, _, body = data.partition(b"\r\n\r\n")
    offset, length = _agreed_range(head.decode("latin-1").split("\r\n"), offset, length)
    at = 0
    while True:
        if content[offset + at : offset + at + len(body)] != body or at + len(body) > length:
            raise DownloadError(f"other content than the probe file's, from byte {offset + at} on")
        at += len(body)
        if at == length:
            return
        body = stream.receive()
        if not body:
            raise DownloadError(f"the server closed after {at} of {length} bytes")


def _agreed_range(lines: list[str], offset: int, length: int) -> tuple[int, int]:
    """Return offset and length of the body. A server may answer a range with the whole file."""
    words = lines[0].split(" ", 2)
    status = words[1] if len(words) > 1 and words[0].startswith("HTTP/1.") else ""
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    whole = status == "200"
    if not whole and not (status == "206" and length < PROBE_SIZE):
        raise DownloadError(f"the server answered {lines[0][:60]!r}; is the probe file in its root?")
    if whole:
        offset, length = 0, PROBE_SIZE
    else:
        found = _RANGE.match(headers.get("content-range", ""))
        if found is None or tuple(map(int, found.groups())) != (offset, offset + length - 1, PROBE_SIZE):
            raise DownloadError(f"another range than asked for: {headers.get('content-range', 'none')[:60]!r}")
    # A plain server of HTTP/1.0 announces none; the content and its length are checked in any case.
    announced = headers.get("content-length", str(length))
    if announced != str(length):
        raise DownloadError(f"the server announced {announced[:20]} bytes instead of {length}")
    return offset, length


def _tls_failure(error: ssl.SSLError, tls: str) -> str:
    reason = (error.reason or str(error)).replace("_", " ").lower()
    if reason == "wrong version number":
        return "this is no TLS server"
    versions = ("version", "protocol", "handshake failure", "no ciphers")
    if tls == "1.2" and any(word in reason for word in versions):
        return f"TLS 1.2 with AES-GCM was not agreed on ({reason}); only that is watched with tls: 1.2"
    return f"TLS: {reason}"


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise socket.timeout
    return left
