# SPDX-License-Identifier: Apache-2.0
"""A small binding of the system's libssl and libcrypto, for what Python's ``ssl`` module lacks.

Per-connection kTLS options, the question whether the kernel encrypts, ``SSL_sendfile``, and a receive side
that the caller feeds. Server side only. Not thread-safe: one event loop owns the objects.
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
