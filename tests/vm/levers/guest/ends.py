# SPDX-License-Identifier: Apache-2.0
"""The two ends of a measured connection: a server on the system's libssl, and ``openssl s_client``.

Facts from: linux/tls.h; SSL_set_fd(3), SSL_set_bio(3), BIO_s_mem(3), SSL_key_update(3); openssl-s_client(1) for the
commands ``k`` and ``K``, ``-msg`` and the verification of certificate and name.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import select
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

NAME = "matrix.ktls.test"

SOL_TLS, TLS_TX, TLS_RX = 282, 1, 2
SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE, SSL_ERROR_SYSCALL, SSL_ERROR_ZERO_RETURN = 2, 3, 5, 6
SSL_KEY_UPDATE_NOT_REQUESTED = 0
BIO_NOCLOSE = 0


class BrokenError(Exception):
    """A connection does not do what it should; the message is a phrase for the table."""


# Library, name, result and arguments; each has a page in section 3 of the manual.
FUNCTIONS = """
crypto OpenSSL_version text int
crypto ERR_clear_error none
crypto ERR_get_error ulong
crypto ERR_reason_error_string text ulong
crypto BIO_new pointer pointer
crypto BIO_s_mem pointer
crypto BIO_new_socket pointer int int
crypto BIO_write int pointer text int
ssl TLS_server_method pointer
ssl SSL_CTX_new pointer pointer
ssl SSL_CTX_free none pointer
ssl SSL_CTX_ctrl long pointer int long pointer
ssl SSL_CTX_set_options uint64 pointer uint64
ssl SSL_CTX_clear_options uint64 pointer uint64
ssl SSL_CTX_set_cipher_list int pointer text
ssl SSL_CTX_set_ciphersuites int pointer text
ssl SSL_CTX_use_certificate_chain_file int pointer text
ssl SSL_CTX_use_PrivateKey_file int pointer text int
ssl SSL_new pointer pointer
ssl SSL_free none pointer
ssl SSL_set_fd int pointer int
ssl SSL_set_bio none pointer pointer pointer
ssl SSL_accept int pointer
ssl SSL_read int pointer pointer int
ssl SSL_write int pointer pointer int
ssl SSL_key_update int pointer int
ssl SSL_get_error int pointer int
ssl SSL_get_version text pointer
ssl SSL_get_current_cipher pointer pointer
ssl SSL_CIPHER_get_name text pointer
"""
TYPES: dict[str, Any] = {
    "none": None,
    "pointer": ctypes.c_void_p,
    "text": ctypes.c_char_p,
    "int": ctypes.c_int,
    "long": ctypes.c_long,
    "ulong": ctypes.c_ulong,
    "uint64": ctypes.c_uint64,
}


class Library:
    """The functions of libssl.so.3 that are needed, by their C names."""

    def __init__(self) -> None:
        """Load and declare them."""
        libraries = {name: ctypes.CDLL(f"lib{name}.so.3", use_errno=True) for name in ("crypto", "ssl")}
        for line in FUNCTIONS.strip().splitlines():
            library, name, result, *arguments = line.split()
            function: Any = getattr(libraries[library], name)
            function.restype, function.argtypes = TYPES[result], [TYPES[kind] for kind in arguments]
            setattr(self, name, function)

    def __getattr__(self, name: str) -> Any:
        """For type checkers: the attributes come from the table."""
        raise AttributeError(name)

    def reason(self) -> str:
        """The oldest entry of the error queue, which is the cause, else nothing."""
        code = self.ERR_get_error()
        return (self.ERR_reason_error_string(code) or b"").decode() if code else ""


def certificates(directory: Path) -> None:
    """Make ca.pem, and server.pem with server.key signed by it."""
    new = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    leaf = f"-subj /CN={NAME} -addext subjectAltName=DNS:{NAME} -addext basicConstraints=critical,CA:FALSE"
    for command in (
        f"{new} -subj /CN=matrix-CA -keyout ca.key -out ca.pem",
        f"{new} -CA ca.pem -CAkey ca.key {leaf} -keyout server.key -out server.pem",
    ):
        subprocess.run(command.split(), cwd=directory, check=True, capture_output=True, timeout=60)


class Peer:
    """``openssl s_client``; its standard input is what it sends, except for lines that are commands."""

    def __init__(self, directory: Path, port: int, version: str, cipher: str, deadline: float) -> None:
        """Start it. Commands are read at the start of what one read(2) returns, and swallow the rest of it."""
        self.deadline = deadline
        self.messages = directory / "messages"
        suite = "-tls1_3 -ciphersuites" if version == "TLSv1.3" else "-tls1_2 -cipher"
        command = (
            f"openssl s_client -connect 127.0.0.1:{port} -servername {NAME} {suite} {cipher} -brief"
            f" -msg -msgfile messages -CAfile ca.pem -verify_return_error -verify_hostname {NAME}"
        )
        self.process = subprocess.Popen(
            command.split(),
            cwd=directory,
            env={**os.environ, "OPENSSL_CONF": os.devnull},  # kTLS of the peer would be counted as ours
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        self.said = {"out": bytearray(), "err": bytearray()}
        self.ended: set[str] = set()
        self.changed = threading.Condition()
        self.threads = [
            threading.Thread(target=self._collect, args=(name, stream), daemon=True)
            for name, stream in (("out", self.process.stdout), ("err", self.process.stderr))
        ]
        for thread in self.threads:
            thread.start()

    def _collect(self, name: str, stream: Any) -> None:
        while True:
            part = os.read(stream.fileno(), 65536)
            with self.changed:
                self.said[name] += part
                if not part:
                    self.ended.add(name)
                self.changed.notify_all()
            if not part:
                return

    def wait(self, name: str, wanted: bytes, what: str) -> None:
        """Wait until it has said ``wanted``. Raises :class:`BrokenError` when it ends first, or is late."""
        with self.changed:
            arrived = self.changed.wait_for(
                lambda: wanted in self.said[name] or name in self.ended, max(0.0, self.deadline - time.monotonic())
            )
            if wanted in self.said[name]:
                return
        if arrived:
            raise BrokenError(f"peer: {self.error() or 'ended'}")
        raise BrokenError(f"hangs ({what})")

    def error(self) -> str:
        """The first error that it printed: ``error:NUMBER:library::reason:file:line:data``, else nothing."""
        with self.changed:
            self.changed.wait_for(lambda: len(self.ended) == 2, 1.0)
            text = self.said["err"].decode(errors="replace")
        found = re.search(r"error:[0-9A-F]+:[^:\n]*:[^:\n]*:([^:\n]+)", text)
        return found.group(1) if found else ""

    def send(self, data: bytes) -> None:
        """Give it something to send; less than a pipe holds, so this does not block."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(data)
        except BrokenPipeError:
            raise BrokenError(f"peer: {self.error() or 'ended'}") from None

    def key_updates(self) -> tuple[int, int]:
        """KeyUpdate messages that it sent and received, by its own trace."""
        text = self.messages.read_text(encoding="ascii", errors="replace")
        lines = [line for line in text.splitlines() if "KeyUpdate" in line]
        return sum(line.startswith(">>>") for line in lines), sum(line.startswith("<<<") for line in lines)

    def end(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        for thread in self.threads:
            thread.join()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


class Server:
    """The server's end of one connection."""

    def __init__(self, library: Library, context: int, sock: socket.socket, mode: str, deadline: float) -> None:
        """Prepare for a handshake."""
        self.library, self.sock, self.deadline = library, sock, deadline
        sock.setblocking(False)
        self.ssl = library.SSL_new(context)
        self.memory = 0
        if mode == "tx":
            self.memory = library.BIO_new(library.BIO_s_mem())
            library.SSL_set_bio(self.ssl, self.memory, library.BIO_new_socket(sock.fileno(), BIO_NOCLOSE))
        else:
            library.SSL_set_fd(self.ssl, sock.fileno())

    def _call(self, what: str, function: Any, *arguments: Any) -> int:
        while True:
            self.library.ERR_clear_error()
            ctypes.set_errno(0)
            result = int(function(self.ssl, *arguments))
            number = ctypes.get_errno()
            if result > 0:
                return result
            error = self.library.SSL_get_error(self.ssl, result)
            if error == SSL_ERROR_WANT_READ:
                self._wait(what, select.POLLIN)
                if self.memory:
                    self._feed(what)
            elif error == SSL_ERROR_WANT_WRITE:
                self._wait(what, select.POLLOUT)
            else:
                system = os.strerror(number) if error == SSL_ERROR_SYSCALL and number else "the peer closed"
                raise BrokenError(f"{what}: {self.library.reason() or system}")

    def _wait(self, what: str, events: int) -> None:
        poll = select.poll()
        poll.register(self.sock, events)
        if not poll.poll(max(0.0, self.deadline - time.monotonic()) * 1000):
            raise BrokenError(f"hangs ({what})")

    def _feed(self, what: str) -> None:
        try:
            data = self.sock.recv(65536)
        except OSError as error:
            raise BrokenError(f"{what}: {error.strerror}") from None
        if not data:
            raise BrokenError(f"{what}: the peer closed")
        self.library.BIO_write(self.memory, data, len(data))

    def handshake(self) -> tuple[str, str]:
        """Return version and cipher by their names."""
        self._call("handshake", self.library.SSL_accept)
        cipher = self.library.SSL_get_current_cipher(self.ssl)
        return self.library.SSL_get_version(self.ssl).decode(), self.library.SSL_CIPHER_get_name(cipher).decode()

    def write(self, data: bytes) -> None:
        """Send all of it; the same buffer each time, which SSL_write(3) asks for."""
        buffer = ctypes.create_string_buffer(data, len(data))
        self._call("write", self.library.SSL_write, buffer, len(data))

    def read(self, length: int) -> bytes:
        """Return exactly ``length`` bytes."""
        buffer, found = ctypes.create_string_buffer(16384), bytearray()
        while len(found) < length:
            count = self._call("read", self.library.SSL_read, buffer, min(16384, length - len(found)))
            found += buffer.raw[:count]
        return bytes(found)

    def key_update(self) -> None:
        """Change our sending key with the next write; the peer is not asked to change its own."""
        self._call("key update", self.library.SSL_key_update, SSL_KEY_UPDATE_NOT_REQUESTED)

    def kernel(self) -> dict[str, tuple[int, int]]:
        """(version, cipher) of each direction that the kernel does; four bytes, so that it returns no key."""
        directions = {"tx": self._keys(TLS_TX), "rx": self._keys(TLS_RX)}
        return {name: keys for name, keys in directions.items() if keys}

    def _keys(self, direction: int) -> tuple[int, int] | None:
        try:
            version, cipher = struct.unpack("=HH", self.sock.getsockopt(SOL_TLS, direction, 4))
        except OSError as error:  # no ULP on this socket; ULP but no keys
            if error.errno not in (errno.EOPNOTSUPP, errno.EBUSY):
                raise
            return None
        return version, cipher

    def end(self) -> None:
        """Free it and close the socket."""
        self.library.SSL_free(self.ssl)
        self.sock.close()
