# SPDX-License-Identifier: Apache-2.0
"""A client for large files that is much cheaper than the server: it does not decrypt what it has seen once.

A client that decrypts costs about as much as a server that encrypts, and then measures itself. This one reads the
first answer of each connection with TLS and checks its hash. From then on it only walks over the record headers (RFC
8446 section 5.2), adds up their lengths, and sends the next request when an answer is complete. It takes for granted
that the server does not pad records and that the heads of its answers are equally long, and stops when that is not so.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import select
import socket
import ssl
import sys
import time
from collections.abc import Callable, Sequence

_HEADER = 5
_OVERHEAD = 17
"""Of a TLS 1.3 record with AES-GCM: the tag, 16 bytes, and the true content type."""
_APPLICATION_DATA = 23
_BUFFER = 512 * 1024
_PATIENCE_S = 120.0


class SkimError(Exception):
    """The server's answers are not what this client can follow."""


class RecordWalk:
    """Counts the plaintext in a stream of TLS 1.3 records, of which it gets any piece at a time."""

    def __init__(self) -> None:
        """Start at the beginning of a record."""
        self._head = b""
        self._left = 0
        self.plaintext = 0
        """Bytes of plaintext in records whose header has been seen."""

    @property
    def at_boundary(self) -> bool:
        """True between two records."""
        return not self._left and not self._head

    def feed(self, data: memoryview) -> None:
        """Walk over the next bytes. Raises SkimError: a record that carries no application data."""
        position, end, left = 0, len(data), self._left
        while position < end:
            if left:
                step = min(left, end - position)
                position += step
                left -= step
                continue
            if self._head or end - position < _HEADER:
                step = min(_HEADER - len(self._head), end - position)
                self._head += bytes(data[position : position + step])
                position += step
                if len(self._head) < _HEADER:
                    break
                head, self._head = self._head, b""
                kind, left = head[0], head[3] << 8 | head[4]
            else:
                kind, left = data[position], data[position + 3] << 8 | data[position + 4]
                position += _HEADER
            if kind != _APPLICATION_DATA or left < _OVERHEAD:
                raise SkimError(f"a record of type {kind} and {left} bytes: the server ended the connection")
            self.plaintext += left - _OVERHEAD
        self._left = left


class Connection:
    """One connection that asks for one file after the other."""

    def __init__(self, port: int, context: ssl.SSLContext, path: str, digest: str) -> None:
        """Connect, and read the first answer as TLS. Raises SkimError, OSError."""
        self.sock = socket.create_connection(("127.0.0.1", port), _PATIENCE_S)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")
        self._request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        self._handshake()
        self.ask()
        self._expected = self._first_answer(digest)
        self._walk = RecordWalk()
        self.sock.setblocking(False)

    def _handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._flush()
                self._receive()
        self._flush()

    def _first_answer(self, digest: str) -> int:
        """Read one answer with TLS, check it, and return its length with its head."""
        data = bytearray()
        end = None
        while end is None or len(data) < end:
            try:
                data += self._tls.read(1 << 20)
            except ssl.SSLWantReadError:
                self._receive()
            if end is None and b"\r\n\r\n" in data:
                head = bytes(data[: data.index(b"\r\n\r\n") + 4])
                end = len(head) + content_length(head)
        body = bytes(data[len(head) :])
        if len(data) != end or hashlib.sha256(body).hexdigest() != digest:
            raise SkimError("the first answer is not the file that was asked for")
        return end

    def _receive(self) -> None:
        data = self.sock.recv(_BUFFER)
        if not data:
            raise SkimError("the server closed the connection")
        self._incoming.write(data)

    def _flush(self) -> None:
        if self._outgoing.pending:
            self.sock.sendall(self._outgoing.read())

    def ask(self) -> None:
        """Send the next request."""
        self._tls.write(self._request)
        self._flush()

    def skim(self, buffer: memoryview) -> int:
        """Read what there is; return the plaintext bytes of the answer that this completed, else 0.

        Raises SkimError when the answer has another length than the first.
        """
        try:
            count = self.sock.recv_into(buffer)
        except BlockingIOError:
            return 0
        if not count:
            raise SkimError("the server closed the connection")
        walk = self._walk
        walk.feed(buffer[:count])
        if walk.plaintext > self._expected:
            raise SkimError(f"an answer of {walk.plaintext} bytes instead of {self._expected}")
        if walk.plaintext < self._expected or not walk.at_boundary:
            return 0
        walk.plaintext = 0
        return self._expected


def content_length(head: bytes) -> int:
    """Return the Content-Length of an answer with status 200. Raises SkimError."""
    status, *lines = head.split(b"\r\n")
    for line in lines:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length" and status.split(b" ")[1:2] == [b"200"]:
            return int(value)
    raise SkimError(f"not a whole file: {status.decode('latin-1')}")


def run(
    port: int,
    ca: str,
    files: Sequence[tuple[str, str]],
    connections: int,
    seconds: float,
    ready: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Load the server for ``seconds``, from when ``ready`` returns, which is called after the first answers.

    ``files`` are pairs of path and SHA-256. It asks for nothing more after ``seconds``, and ends with the last answer:
    what a server had put into socket buffers would else be work without bytes. Raises SkimError, OSError.
    """
    context = ssl.create_default_context(cafile=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    made = [Connection(port, context, *files[index % len(files)]) for index in range(connections)]
    poll = select.epoll()
    by_fd = {}
    for connection in made:
        by_fd[connection.sock.fileno()] = connection
        poll.register(connection.sock.fileno(), select.EPOLLIN)
    buffer = memoryview(bytearray(_BUFFER))
    ready()
    answers = total = 0
    waiting = len(made)
    started, cpu = time.monotonic(), time.process_time()
    for connection in made:
        connection.ask()
    while waiting:
        for fd, _ in poll.poll(0.2):
            count = by_fd[fd].skim(buffer)
            if not count:
                continue
            total += count
            answers += 1
            if time.monotonic() - started < seconds:
                by_fd[fd].ask()
            else:
                waiting -= 1
        if time.monotonic() - started > seconds + _PATIENCE_S:
            raise SkimError(f"{waiting} answers do not end")
    return {
        "requests": answers,
        "bytes": total,
        "seconds": time.monotonic() - started,
        "cpu_s": time.process_time() - cpu,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print ``ready``, wait for a line, load, print the outcome as JSON. ``--file PATH=SHA256`` once a file."""
    parser = argparse.ArgumentParser(prog="bench.skim")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--file", action="append", required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    given = parser.parse_args(argv)
    files = [tuple(item.split("=", 1)) for item in given.file]
    try:
        outcome = run(
            given.port,
            given.ca,
            [(path, sha) for path, sha in files],
            given.connections,
            given.seconds,
            _wait_for_a_line,
        )
    except (SkimError, OSError) as error:
        print(f"skim: {error}", file=sys.stderr)
        return 1
    print(json.dumps(outcome))
    return 0


def _wait_for_a_line() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    sys.exit(main())
