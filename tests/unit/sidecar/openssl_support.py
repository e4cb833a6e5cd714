# SPDX-License-Identifier: Apache-2.0
"""Certificates for any name and key, and a server connection of the binding against a client in memory."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import Sequence

from cryptography import x509
from cryptography.x509.oid import NameOID

from ktls_sidecar.openssl import Library, ServerContext, TlsConnection
from tests import authority

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


class Authority(authority.Authority):
    """A CA that clients trust."""

    def pair(self, *names: str, kind: str = "ec") -> tuple[str, str]:
        """Return the paths of a certificate for ``names`` and of its key, of type ``ec`` or ``rsa``."""
        found = self.issue(f"{names[0]}-{kind}-{os.urandom(4).hex()}", names, use_rsa=kind == "rsa")
        return str(found.certificate), str(found.key)

    def context(self, lib: Library, *names: str, kind: str = "ec") -> ServerContext:
        """Return a context with a fresh certificate for ``names``."""
        return ServerContext(lib, *self.pair(*names, kind=kind))

    def client(self) -> ssl.SSLContext:
        """Return settings of a client that trusts this CA."""
        return ssl.create_default_context(cafile=str(self.path))


class Pair:
    """A server connection over a socket pair, and a client of Python's ``ssl`` in memory."""

    def __init__(
        self,
        context: ServerContext,
        client: ssl.SSLContext,
        version: ssl.TLSVersion | None = None,
        name: str | None = "localhost",
        session: ssl.SSLSession | None = None,
        alpn: Sequence[str] = (),
        rx: bool = False,
    ) -> None:
        """``rx``: the server reads from its socket. The client's settings are changed."""
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.theirs.setblocking(False)
        self.tls = TlsConnection(context, self.ours.fileno(), want_ktls_tx=rx, want_ktls_rx=rx)
        if version is not None:
            client.minimum_version = client.maximum_version = version
        client.check_hostname = name is not None
        if alpn:
            client.set_alpn_protocols(alpn)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = client.wrap_bio(self.incoming, self.outgoing, server_hostname=name, session=session)

    def move(self, piece: int = 1 << 20) -> None:
        """Carry bytes both ways; towards the server in pieces of ``piece`` bytes."""
        with contextlib.suppress(BlockingIOError):
            self.incoming.write(self.theirs.recv(1 << 20))
        data = self.outgoing.read(piece)
        if not data:
            return
        if self.tls.feeds:
            self.tls.feed(data, len(data))
        else:
            self.theirs.sendall(data)

    def handshake(self, piece: int = 1 << 20) -> None:
        """Bring both sides to the end of the handshake; what either raises comes out."""
        ours = theirs = False
        for _ in range(5000):
            if not theirs:
                with contextlib.suppress(ssl.SSLWantReadError):
                    self.client.do_handshake()
                    theirs = True
            self.move(piece)
            ours = ours or self.tls.handshake() == 1
            if ours and theirs:
                self.settle()
                return
        raise AssertionError("no handshake")

    def settle(self) -> None:
        """Let the client take session tickets and key updates."""
        self.move()
        with contextlib.suppress(ssl.SSLWantReadError):
            unexpected = self.client.read(1)
            raise AssertionError(f"unexpected data {unexpected!r}")

    def to_server(self, data: bytes, piece: int = 1 << 20) -> bytes:
        """Send ``data`` from the client and return what the server reads of it."""
        self.client.write(data)
        got = b""
        for _ in range(100000):
            self.move(piece)
            result = self.tls.read()
            if isinstance(result, bytes):
                got += result
                if len(got) >= len(data):
                    return got
            elif result == 0:
                return got
        raise AssertionError("the data did not arrive")

    def at_client(self, length: int) -> bytes:
        """Return the next ``length`` bytes that the client reads."""
        got = b""
        for _ in range(100000):
            try:
                got += self.client.read(length - len(got))
            except ssl.SSLWantReadError:
                self.move()
            if len(got) >= length:
                return got
        raise AssertionError("the data did not arrive")

    def served_name(self) -> str:
        """The common name in the certificate that the client got."""
        certificate = self.client.getpeercert(binary_form=True)
        assert certificate
        common = x509.load_der_x509_certificate(certificate).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return str(common[0].value)

    def close(self) -> None:
        """Free everything."""
        self.tls.free()
        self.ours.close()
        self.theirs.close()
