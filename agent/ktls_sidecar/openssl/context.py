# SPDX-License-Identifier: Apache-2.0
"""What the connections of one certificate share: keys, versions, ciphers, ALPN, tickets, and other certificates."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Optional

from . import constants as c
from .alpn import select_alpn
from .errors import OpenSSLError, drain
from .library import ALPN_SELECT_CALLBACK, SERVERNAME_CALLBACK, Library

DEFAULT_TLS13_CIPHERS = (
    "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_CCM_SHA256"
)
DEFAULT_TLS12_CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES128-CCM"
)

Select = Callable[[Optional[str]], Optional["ServerContext"]]


class ServerContext:
    """An ``SSL_CTX`` for servers: TLS 1.2 and 1.3, no renegotiation, no compression, server's cipher order.

    Memory: freed with the object; connections keep their own reference (SSL_new(3)), and the Python object
    too, because the callbacks must outlive them. It stays in its thread, and its connections too.
    """

    __slots__ = ("__weakref__", "_alpn", "_names", "_names_callback", "_passphrase", "_pointer", "lib")

    _pointer: int

    def __new__(cls, *_: Any, **__: Any) -> ServerContext:
        """Make an object that is safe to free before ``__init__`` has run."""
        self = super().__new__(cls)
        self._pointer = 0
        return self

    def __init__(
        self,
        lib: Library,
        certificate: str,
        key: str,
        tls12_ciphers: str = DEFAULT_TLS12_CIPHERS,
        tls13_ciphers: str = DEFAULT_TLS13_CIPHERS,
        more: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Read ``certificate`` (PEM, leaf first) and ``key`` (PEM, no passphrase).

        ``more``: further (certificate, key) files for the same names with another type of key, ECDSA beside RSA;
        OpenSSL takes the first that the client can verify, in its own order of types.
        Raises :class:`OpenSSLError`; its ``operation`` is the name of the C function that refused. Two certificates
        with one type of key: the second would replace the first, and is refused.
        Pages: SSL_CTX_new, SSL_CTX_set_options, SSL_CTX_set_min_proto_version, SSL_CTX_set_cipher_list,
        SSL_CTX_use_certificate, SSL_CTX_set_session_cache_mode. The same from 3.0 to 3.6.
        """
        if not isinstance(lib, Library):
            raise TypeError("lib must be a Library")
        if self._pointer:
            raise ValueError("this context is in use")
        pairs = [(_c_path(certificate), _c_path(key)), *((_c_path(one), _c_path(other)) for one, other in more)]
        tls12, tls13 = _c_string(tls12_ciphers), _c_string(tls13_ciphers)
        self.lib = lib
        self._names: _NameChooser | None = None
        self._names_callback: Any = None
        lib.ERR_clear_error()
        pointer = lib.SSL_CTX_new(lib.TLS_server_method())
        if not pointer:
            raise OpenSSLError("SSL_CTX_new", drain(lib))
        self._pointer = pointer
        # openssl.cnf may have set it for every program (system_default); here only the connection decides.
        lib.SSL_CTX_clear_options(pointer, c.SSL_OP_ENABLE_KTLS)
        lib.SSL_CTX_set_options(
            pointer,
            c.SSL_OP_NO_COMPRESSION | c.SSL_OP_CIPHER_SERVER_PREFERENCE | c.SSL_OP_NO_RENEGOTIATION,
        )
        lib.SSL_CTX_ctrl(pointer, c.SSL_CTRL_SET_MIN_PROTO_VERSION, c.TLS1_2_VERSION, None)
        # Resumption by tickets only: a server-side cache is memory for nothing.
        lib.SSL_CTX_ctrl(pointer, c.SSL_CTRL_SET_SESS_CACHE_MODE, c.SSL_SESS_CACHE_OFF, None)
        lib.SSL_CTX_ctrl(pointer, c.SSL_CTRL_MODE, c.SSL_MODE_RELEASE_BUFFERS, None)
        # Without it SSL_read returns after each non-data record, so that a KeyUpdate is seen before it is
        # answered (TlsConnection.key_update_pending).
        lib.SSL_CTX_ctrl(pointer, c.SSL_CTRL_CLEAR_MODE, c.SSL_MODE_AUTO_RETRY, None)
        self._passphrase = b""
        # A key with a passphrase must fail, not ask on a terminal.
        lib.SSL_CTX_set_default_passwd_cb_userdata(pointer, self._passphrase)
        self._require("SSL_CTX_set_ciphersuites", tls13)
        self._require("SSL_CTX_set_cipher_list", tls12)
        for one, other in pairs:
            self._require("SSL_CTX_use_certificate_chain_file", one)
            self._require("SSL_CTX_use_PrivateKey_file", other, c.SSL_FILETYPE_PEM)
            self._require("SSL_CTX_check_private_key")
        if len(pairs) > 1 and self._certificates() != len(pairs):
            raise OpenSSLError("SSL_CTX_use_certificate_chain_file", (), "two certificates have the same type of key")
        self._alpn = self._set_alpn()

    def __del__(self) -> None:
        """Free the C object. SSL_CTX_free(3)."""
        pointer, self._pointer = self._pointer, 0
        if pointer:
            self.lib.SSL_CTX_free(pointer)

    def __reduce_ex__(self, _protocol: Any) -> str:
        """Refuse copies: two objects would free one C object."""
        raise TypeError("a ServerContext cannot be copied or pickled")

    @property
    def pointer(self) -> int:
        """The address of the ``SSL_CTX``."""
        if not self._pointer:
            raise ValueError("this context was never made")
        return self._pointer

    def choose_by_name(self, select: Select) -> bool:
        """Ask ``select`` in each handshake which context's certificate answers the client's server name.

        ``select`` gets the name of the server_name extension (RFC 6066 section 3) in lower case, or None when the
        client sends none, and returns a context of the same :class:`Library`, or None to keep this one. It may be
        asked twice in one handshake (HelloRetryRequest), and must not use the connection. What it raises ends that
        handshake with the alert internal_error and comes out of :meth:`TlsConnection.handshake`.

        Of the other context the certificates, keys and ALPN count; options such as kTLS, ciphers, versions and the
        ticket keys stay those of the context that the connection was made with.
        A second call replaces ``select``. Returns False where the host forbids callbacks from C (memory that is
        writable and executable is denied, and this libffi needs it): then the first certificate serves all names.
        Pages: SSL_CTX_set_tlsext_servername_callback, SSL_set_SSL_CTX. The same from 3.0 to 3.6.
        """
        if not callable(select):
            raise TypeError("select must be callable")
        if self._names is not None:
            # The callback itself stays: it may be running now.
            self._names.select = select
            return True
        pointer = self.pointer
        names = _NameChooser(self.lib, select)
        try:
            callback = SERVERNAME_CALLBACK(names.choose)
        except MemoryError:
            return False
        self._names, self._names_callback = names, callback
        self.lib.SSL_CTX_callback_ctrl(pointer, c.SSL_CTRL_SET_TLSEXT_SERVERNAME_CB, callback)
        return True

    @property
    def ticket_keys_length(self) -> int:
        """How many bytes :meth:`set_ticket_keys` wants: 80 with 3.0 to 3.6. SSL_CTX_set_tlsext_ticket_keys(3)."""
        return int(self.lib.SSL_CTX_ctrl(self.pointer, c.SSL_CTRL_SET_TLSEXT_TICKET_KEYS, 0, None))

    def set_ticket_keys(self, keys: bytes) -> None:
        """Encrypt session tickets with ``keys``: contexts with the same keys resume each other's sessions.

        Without it each context makes random keys, so that a client that comes back to another process needs a full
        handshake. ``keys`` are :attr:`ticket_keys_length` secret random bytes: who has them reads old sessions of
        TLS 1.2, so change them within days. Tickets under earlier keys are then ignored, which costs a handshake.
        The ciphers of both contexts should agree. Raises ValueError for a wrong length, :class:`OpenSSLError`.
        SSL_CTX_set_tlsext_ticket_keys is a macro without a page; SSL_CTX_ctrl(3). The same from 3.0 to 3.6.
        """
        if type(keys) is not bytes:
            raise TypeError("keys must be bytes")
        length = self.ticket_keys_length
        if len(keys) != length:
            raise ValueError(f"ticket keys must have {length} bytes, not {len(keys)}")
        lib = self.lib
        lib.ERR_clear_error()
        if lib.SSL_CTX_ctrl(self.pointer, c.SSL_CTRL_SET_TLSEXT_TICKET_KEYS, length, keys) != 1:
            raise OpenSSLError("SSL_CTX_set_tlsext_ticket_keys", drain(lib))

    def _require(self, function: str, *arguments: Any) -> None:
        self.lib.ERR_clear_error()
        if getattr(self.lib, function)(self._pointer, *arguments) != 1:
            raise OpenSSLError(function, drain(self.lib))

    def _certificates(self) -> int:
        """Count those with a key. SSL_CTX_set_current_cert(3)."""
        count, step = 0, c.SSL_CERT_SET_FIRST
        while self.lib.SSL_CTX_ctrl(self._pointer, c.SSL_CTRL_SET_CURRENT_CERT, step, None) == 1:
            count, step = count + 1, c.SSL_CERT_SET_NEXT
        return count

    def _set_alpn(self) -> Any:
        try:
            callback = ALPN_SELECT_CALLBACK(select_alpn)
        except MemoryError:
            # A libffi that can only make closures in writable and executable memory, where that is forbidden.
            # HTTP/1.1 is what clients speak without ALPN.
            return None
        self.lib.SSL_CTX_set_alpn_select_cb(self._pointer, callback, None)
        return callback


class _NameChooser:
    """The callback behind :meth:`ServerContext.choose_by_name`. It does not refer to its context: no cycle."""

    def __init__(self, lib: Library, select: Select) -> None:
        self.lib = lib
        self.select = select

    def choose(self, ssl: int, alert: Any, _arg: Any) -> int:
        connection = None
        try:
            connection = self.lib.handshaking.get(ssl)
            if connection is None:
                return c.SSL_TLSEXT_ERR_NOACK
            context = self.select(server_name(self.lib, ssl))
            if context is None:
                return c.SSL_TLSEXT_ERR_NOACK
            if not isinstance(context, ServerContext) or context.lib is not self.lib:
                raise TypeError("select must return None or a ServerContext of the same Library")
            # First the reference: from here on C calls what belongs to the Python object.
            connection.switched_to(context)
            if not self.lib.SSL_set_SSL_CTX(ssl, context.pointer):
                raise OpenSSLError("SSL_set_SSL_CTX", drain(self.lib))
            return c.SSL_TLSEXT_ERR_OK
        except BaseException as error:  # also KeyboardInterrupt: nothing may cross C
            if connection is not None:
                connection.select_failed(error)
            alert[0] = c.SSL_AD_INTERNAL_ERROR
            return c.SSL_TLSEXT_ERR_ALERT_FATAL


def server_name(lib: Library, ssl: int) -> str | None:
    """Return the client's server name in lower case; OpenSSL has refused NUL and more than 255 bytes."""
    name = lib.SSL_get_servername(ssl, c.TLSEXT_NAMETYPE_HOST_NAME)
    return None if name is None else name.decode("ascii", "backslashreplace").lower()


def _c_path(path: str) -> bytes:
    return _no_nul(os.fsencode(_string(path)))


def _c_string(text: str) -> bytes:
    return _no_nul(_string(text).encode())


def _string(text: object) -> str:
    if not isinstance(text, str):
        raise TypeError(f"a str is wanted, not {type(text).__name__}")
    return text


def _no_nul(text: bytes) -> bytes:
    if b"\0" in text:
        # C would read only the part before it.
        raise ValueError("a NUL character is not allowed")
    return text
