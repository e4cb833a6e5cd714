# SPDX-License-Identifier: Apache-2.0
"""A small binding of the system's libssl and libcrypto, for what Python's ``ssl`` module lacks.

Per-connection kTLS in one or both directions, the question whether the kernel encrypts, ``SSL_sendfile``, a receive
side that the caller feeds, certificates by server name, shared session tickets, key updates. OpenSSL 3.0 to 3.6,
server side only. Not thread-safe: one event loop owns the objects.

Answer one client in capital letters, encrypted by the kernel where it can::

    import select
    from ktls_sidecar.openssl import WANT_READ, WANT_WRITE, ServerContext, TlsConnection, load
    from ktls_sidecar.ulp import attach

    def serve_one(listener, certificate, key):
        sock, _ = listener.accept()
        sock.setblocking(False)
        context = ServerContext(load(), certificate, key)
        tls = TlsConnection(context, sock.fileno(), want_ktls_tx=attach(sock) is None)

        def finish(step):
            while True:
                result = step()
                if result == WANT_WRITE:
                    select.select([], [sock], [])
                elif result != WANT_READ:
                    return result
                elif not tls.input_pending():
                    select.select([sock], [], [])
                    data = sock.recv(65536)
                    if not data:
                        raise EOFError("the client left")
                    tls.feed(data, len(data))

        try:
            finish(tls.handshake)
            answer = finish(tls.read).upper()
            finish(lambda: tls.write_bytes(answer))
            tls.shutdown()
        finally:
            tls.free()
            sock.close()
"""

from __future__ import annotations

from .connection import WANT_READ, WANT_WRITE, TlsConnection
from .context import DEFAULT_TLS12_CIPHERS, DEFAULT_TLS13_CIPHERS, ServerContext
from .errors import OpenSSLError, TlsError, left_by_peer
from .library import Library, UnsupportedOpenSSLError, load

__all__ = [
    "DEFAULT_TLS12_CIPHERS",
    "DEFAULT_TLS13_CIPHERS",
    "WANT_READ",
    "WANT_WRITE",
    "Library",
    "OpenSSLError",
    "ServerContext",
    "TlsConnection",
    "TlsError",
    "UnsupportedOpenSSLError",
    "left_by_peer",
    "load",
]
