# SPDX-License-Identifier: Apache-2.0
"""Certificates and keys from the configuration's files, and which of them a client gets."""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Sequence
from ctypes import c_char_p, c_int, c_long, c_size_t, c_uint, c_void_p
from typing import Any

from ktls_host.errors import KtlsError

from .config import Config, Pair
from .openssl import Library, OpenSSLError, ServerContext

TICKET_KEYS_SIZE = 80
"""Bytes: name, HMAC key and AES key of OpenSSL 3 (ssl/ssl_local.h: TLSEXT_KEYNAME_LENGTH, TLSEXT_TICK_KEY_LENGTH)."""

_SSL_CTRL_SET_TLSEXT_SERVERNAME_CB = 53
_SSL_CTRL_SET_TLSEXT_TICKET_KEYS = 59
_TLSEXT_NAMETYPE_HOST_NAME = 0
_SSL_TLSEXT_ERR_OK, _SSL_TLSEXT_ERR_NOACK = 0, 3
# X509_check_host(3); include/openssl/x509v3.h
_NO_WILDCARDS, _NO_PARTIAL_WILDCARDS, _NEVER_CHECK_SUBJECT = 0x2, 0x4, 0x20
_SERVERNAME_CALLBACK = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p)


class Names:
    """The functions of libssl and libcrypto that choose a certificate by name."""

    def __init__(self) -> None:
        """Declare them; :class:`Library` has loaded both libraries."""
        ssl, crypto = ctypes.CDLL("libssl.so.3"), ctypes.CDLL("libcrypto.so.3")
        self.SSL_CTX_callback_ctrl = _declare(
            ssl, "SSL_CTX_callback_ctrl", c_long, c_void_p, c_int, _SERVERNAME_CALLBACK
        )
        self.SSL_get_servername = _declare(ssl, "SSL_get_servername", c_char_p, c_void_p, c_int)
        self.SSL_set_SSL_CTX = _declare(ssl, "SSL_set_SSL_CTX", c_void_p, c_void_p, c_void_p)
        self.SSL_CTX_get0_certificate = _declare(ssl, "SSL_CTX_get0_certificate", c_void_p, c_void_p)
        self.X509_check_host = _declare(
            crypto, "X509_check_host", c_int, c_void_p, c_char_p, c_size_t, c_uint, c_void_p
        )


def _declare(lib: ctypes.CDLL, name: str, restype: Any, *argtypes: Any) -> Any:
    function = getattr(lib, name)
    function.restype, function.argtypes = restype, argtypes
    return function


class NamedContexts(ServerContext):
    """The context of the default certificate, which hands a connection to another one if that one fits the name.

    Names are those in subjectAltName; the common name counts for nothing (RFC 9525 section 2). An exact name goes
    before a wildcard, which is a whole leftmost label; else the configuration's order decides. A name that nobody has
    gets the default certificate.
    """

    def __init__(self, lib: Library, pairs: Sequence[Pair]) -> None:
        """Read all of ``pairs``. Raises :class:`OpenSSLError`, and KtlsError from :func:`_context` for the others."""
        super().__init__(lib, pairs[0].certificate, pairs[0].key)
        self._others = [_context(lib, pair) for pair in pairs[1:]]
        self._names: Names | None = None
        self._callback: Any = None
        if self._others:
            self._names = Names()
            self._callback = self._listen_to_names(self._names)

    def choose(self, name: bytes) -> int:
        """Return the ``SSL_CTX`` for the server name ``name``, 0 for none. X509_check_host(3)."""
        # A leading dot means "any name below" to X509_check_host; no host is called so, nor by a star.
        if self._names is None or name[:1] in (b"", b".", b"*"):
            return 0
        names = self._names
        contexts = [self.pointer, *(other.pointer for other in self._others)]
        for wildcards in (_NO_WILDCARDS, _NO_PARTIAL_WILDCARDS):
            for context in contexts:
                certificate = names.SSL_CTX_get0_certificate(context)
                flags = wildcards | _NEVER_CHECK_SUBJECT
                if names.X509_check_host(certificate, name, len(name), flags, None) == 1:
                    return context
        return 0

    def _listen_to_names(self, names: Names) -> Any:
        """SSL_CTX_set_tlsext_servername_callback(3), a macro over SSL_CTX_callback_ctrl(3)."""

        def chosen(ssl: Any, _alert: Any, _arg: Any) -> int:
            try:
                name = names.SSL_get_servername(ssl, _TLSEXT_NAMETYPE_HOST_NAME)
                context = self.choose(name) if name else 0
                if not context:
                    return _SSL_TLSEXT_ERR_NOACK
                if context != self.pointer:
                    names.SSL_set_SSL_CTX(ssl, context)
                return _SSL_TLSEXT_ERR_OK
            except Exception:  # an exception cannot cross C; the default certificate is an answer
                return _SSL_TLSEXT_ERR_NOACK

        try:
            callback = _SERVERNAME_CALLBACK(chosen)
        except MemoryError as error:
            raise KtlsError(
                "bad_config",
                "this host's libffi cannot make callbacks under MemoryDenyWriteExecute=, which several 'certificates'"
                " need; turn that off for ktls-sidecar.service in a drop-in, or use one certificate for all names",
            ) from error
        self.lib.ERR_clear_error()
        names.SSL_CTX_callback_ctrl(self.pointer, _SSL_CTRL_SET_TLSEXT_SERVERNAME_CB, callback)
        return callback


def load(lib: Library, config: Config, ticket_keys: bytes) -> ServerContext:
    """Read all certificates and keys: all of them or none. Raises KtlsError ``bad_certificate`` or ``bad_config``.

    With the same ``ticket_keys`` (:func:`new_ticket_keys`) a session that one process began resumes in another.
    """
    pairs = config.pairs()
    for pair in pairs:
        _check_readable("certificate", pair.certificate)
        _check_readable("key", pair.key)
    try:
        context = NamedContexts(lib, pairs)
        share_tickets(context, ticket_keys)
    except OpenSSLError as error:
        raise _bad_certificate(pairs[0], error) from error
    return context


def share_tickets(context: ServerContext, keys: bytes) -> None:
    """Encrypt session tickets with ``keys``. SSL_CTX_set_tlsext_ticket_keys(3). Raises :class:`OpenSSLError`.

    Contexts that a server name chose need none: tickets are those of the context that the connection began with.
    """
    context.lib.ERR_clear_error()
    if context.lib.SSL_CTX_ctrl(context.pointer, _SSL_CTRL_SET_TLSEXT_TICKET_KEYS, len(keys), keys) != 1:
        raise OpenSSLError("SSL_CTX_set_tlsext_ticket_keys", (), "these are not the ticket keys of OpenSSL 3")


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
