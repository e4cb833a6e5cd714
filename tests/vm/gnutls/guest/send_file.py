# SPDX-License-Identifier: Apache-2.0
"""Serve one file over HTTPS, once, with gnutls_record_send_file(3). Runs on a lab host.

Arguments: port, certificate, key, file. Half way through the file it looks at its own connection with ss. Prints one
JSON object: what ss said, and what gnutls_transport_is_ktls_enabled(3) says (1 receive, 2 send, 3 both).
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import socket
import sys

from . import witness

# <gnutls/gnutls.h>
_SERVER, _CREDENTIALS, _PEM, _SHUT_WR = 1, 1, 1, 1
_AGAIN, _INTERRUPTED = -28, -52

gnutls = ctypes.CDLL("libgnutls.so.30")
gnutls.gnutls_strerror.restype = ctypes.c_char_p
for name in ("gnutls_record_send", "gnutls_record_recv", "gnutls_record_send_file"):
    getattr(gnutls, name).restype = ctypes.c_ssize_t


def wait_for(connection: socket.socket, event: int) -> None:
    """Wait for an event of poll(2) on the connection, 60 s at most."""
    poll = select.poll()
    poll.register(connection, event)
    if not poll.poll(60_000):
        raise SystemExit("nothing happened on the connection for 60 s")


class Session:
    """A server's end of a TLS connection on a connected socket."""

    def __init__(self, connection: socket.socket, certificate: str, key: str) -> None:
        self._connection = connection
        self._credentials, self._session = ctypes.c_void_p(), ctypes.c_void_p()
        self._check("gnutls_certificate_allocate_credentials", ctypes.byref(self._credentials))
        files = (certificate.encode(), key.encode())
        self._check("gnutls_certificate_set_x509_key_file", self._credentials, *files, _PEM)
        self._check("gnutls_init", ctypes.byref(self._session), _SERVER)
        self._check("gnutls_set_default_priority", self._session)
        self._check("gnutls_credentials_set", self._session, _CREDENTIALS, self._credentials)
        # Not a function of ours that reads and writes: GnuTLS leaves such a connection to user space.
        descriptor = connection.fileno()
        gnutls.gnutls_transport_set_int2(self._session, descriptor, descriptor)
        self._check("gnutls_handshake", self._session)

    def ktls(self) -> int:
        return int(gnutls.gnutls_transport_is_ktls_enabled(self._session))

    def receive(self) -> bytes:
        buffer = ctypes.create_string_buffer(16384)
        size = self._check("gnutls_record_recv", self._session, buffer, ctypes.c_size_t(len(buffer)))
        return buffer.raw[:size]

    def send(self, data: bytes) -> None:
        while data:
            data = data[self._check("gnutls_record_send", self._session, data, ctypes.c_size_t(len(data))) :]

    def send_file(self, descriptor: int, count: int) -> None:
        """Send the next ``count`` bytes of the file."""
        while count:
            sent = self._check("gnutls_record_send_file", self._session, descriptor, None, ctypes.c_size_t(count))
            assert sent > 0, "the file is shorter than it was"
            count -= sent

    def bye(self) -> None:
        self._check("gnutls_bye", self._session, _SHUT_WR)

    def _check(self, function: str, *arguments: object) -> int:
        """Call ``function`` again while it asks for it: with kTLS, GnuTLS never waits for the peer."""
        while True:
            result = int(getattr(gnutls, function)(*arguments))
            if result >= 0:
                return result
            if result not in {_AGAIN, _INTERRUPTED}:
                message = f"{function}: {gnutls.gnutls_strerror(result).decode()}"
                raise SystemExit(message)
            event = select.POLLIN if function == "gnutls_record_recv" else select.POLLOUT
            wait_for(self._connection, event)


def main() -> None:
    port, certificate, key, path = int(sys.argv[1]), *sys.argv[2:5]
    with socket.create_server(("127.0.0.1", port)) as listener:
        listener.settimeout(60)
        connection, _ = listener.accept()
    connection.settimeout(None)
    session = Session(connection, certificate, key)
    request = b""
    while b"\r\n\r\n" not in request:
        more = session.receive()
        assert more, "the client left"
        request += more
    descriptor = os.open(path, os.O_RDONLY)
    size = os.fstat(descriptor).st_size
    session.send(f"HTTP/1.0 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
    session.send_file(descriptor, size // 2)
    seen = witness.sockets(port)
    session.send_file(descriptor, size - size // 2)
    session.bye()
    wait_for(connection, select.POLLRDHUP)  # closing before the client has all of it could take away the end
    print(json.dumps({"sockets": seen, "ktls": session.ktls()}))


if __name__ == "__main__":
    main()
