# SPDX-License-Identifier: Apache-2.0
"""Certificates and keys from the configuration's files, and which of them a client gets."""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Sequence
from ctypes import c_char_p, c_int, c_size_t, c_uint, c_void_p
from typing import Any

from ktls_host.errors import KtlsError

from .config import Config, Pair
from .openssl import Library, OpenSSLError, ServerContext

TICKET_KEYS_SIZE = 80
"""Bytes: name, HMAC key and AES key of OpenSSL 3 (ssl/ssl_local.h: TLSEXT_KEYNAME_LENGTH, TLSEXT_TICK_KEY_LENGTH)."""

# X509_check_host(3); include/openssl/x509v3.h
_NO_WILDCARDS, _NO_PARTIAL_WILDCARDS, _NEVER_CHECK_SUBJECT = 0x2, 0x4, 0x20


def _declare(lib: ctypes.CDLL, name: str, restype: Any, *argtypes: Any) -> Any:
    function = getattr(lib, name)
    function.restype, function.argtypes = restype, argtypes
    return function


class Names:
    """Which context's certificate fits a name.

    Names are those in subjectAltName; the common name counts for nothing (RFC 9525 section 2). An exact name goes
    before a wildcard, which is a whole leftmost label; else the order decides.
    """

    def __init__(self, contexts: Sequence[ServerContext]) -> None:
        """Ask the libraries that ``contexts`` were made with, which are loaded."""
        ssl, crypto = ctypes.CDLL("libssl.so.3"), ctypes.CDLL("libcrypto.so.3")
        self._contexts = tuple(contexts)
        self._certificate = _declare(ssl, "SSL_CTX_get0_certificate", c_void_p, c_void_p)
        self._fits = _declare(crypto, "X509_check_host", c_int, c_void_p, c_char_p, c_size_t, c_uint, c_void_p)

    def choose(self, server_name: str | None) -> ServerContext | None:
        """Return the context for ``server_name``, or None. X509_check_host(3), SSL_CTX_get0_certificate(3)."""
        try:
            name = (server_name or "").encode("ascii")
        except UnicodeEncodeError:
            return None
        # A leading dot means "any name below" to X509_check_host; no host is called so, nor by a star.
        if name[:1] in (b"", b".", b"*") or b"\0" in name:
            return None
        for wildcards in (_NO_WILDCARDS, _NO_PARTIAL_WILDCARDS):
            for context in self._contexts:
                certificate = self._certificate(context.pointer)
                if self._fits(certificate, name, len(name), wildcards | _NEVER_CHECK_SUBJECT, None) == 1:
                    return context
        return None


def by_name(lib: Library, pairs: Sequence[Pair]) -> ServerContext:
    """Return the context of the first of ``pairs``, which hands a connection to another one if that one fits the name.

    A name that nobody has gets the first. Raises :class:`OpenSSLError`, and for the others KtlsError
    ``bad_certificate``; ``bad_config`` where the host forbids what several certificates need.
    """
    first = ServerContext(lib, pairs[0].certificate, pairs[0].key)
    others = [_context(lib, pair) for pair in pairs[1:]]
    if others and not first.choose_by_name(Names([first, *others]).choose):
        raise KtlsError(
            "bad_config",
            "this host's libffi cannot make callbacks under MemoryDenyWriteExecute=, which several 'certificates'"
            " need; turn that off for ktls-sidecar.service in a drop-in, or use one certificate for all names",
        )
    return first


def load(lib: Library, config: Config, ticket_keys: bytes) -> ServerContext:
    """Read all certificates and keys: all of them or none. Raises KtlsError ``bad_certificate`` or ``bad_config``.

    With the same ``ticket_keys`` (:func:`new_ticket_keys`) a session that one process began resumes in another.
    """
    pairs = config.pairs()
    for pair in pairs:
        _check_readable("certificate", pair.certificate)
        _check_readable("key", pair.key)
    try:
        context = by_name(lib, pairs)
        # Contexts that a server name chose need none: tickets are those of the context that the connection began with.
        context.set_ticket_keys(ticket_keys)
    except OpenSSLError as error:
        raise _bad_certificate(pairs[0], error) from error
    return context


def new_ticket_keys() -> bytes:
    """Return fresh keys. They last until the next reload or start, so forward secrecy is as old as that."""
    return os.urandom(TICKET_KEYS_SIZE)


def digest(config: Config) -> str:
    """Return one SHA-256 over all certificate and key files. Raises KtlsError ``bad_certificate``, ``bad_config``."""
    total = hashlib.sha256()
    for pair in config.pairs():
        for what, path in (("certificate", pair.certificate), ("key", pair.key)):
            total.update(hashlib.sha256(_read(what, path)).digest())
    return total.hexdigest()


def _context(lib: Library, pair: Pair) -> ServerContext:
    try:
        return ServerContext(lib, pair.certificate, pair.key)
    except OpenSSLError as error:
        raise _bad_certificate(pair, error) from error


def _bad_certificate(pair: Pair, error: OpenSSLError) -> KtlsError:
    certificate, key = pair.certificate, pair.key
    what = {
        "SSL_CTX_use_certificate_chain_file": f"the TLS certificate {certificate} is not usable",
        "SSL_CTX_use_PrivateKey_file": f"the TLS key {key} is not usable with the certificate {certificate}",
        "SSL_CTX_check_private_key": f"the TLS key {key} does not belong to the certificate {certificate}",
    }.get(error.operation, "OpenSSL refuses the TLS settings")
    cure = "issue both again with the deploy playbook (PEM, leaf certificate first, key without passphrase)"
    return KtlsError("bad_certificate", f"{what} ({error}); {cure}")


def _check_readable(what: str, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise _unreadable(what, path, error) from error


def _read(what: str, path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise _unreadable(what, path, error) from error


def _unreadable(what: str, path: str, error: OSError) -> KtlsError:
    return KtlsError(
        "bad_certificate",
        f"cannot read the TLS {what} {path} ({error.strerror}); run the deploy playbook again, or correct"
        f" {what!r} in the configuration",
    )
