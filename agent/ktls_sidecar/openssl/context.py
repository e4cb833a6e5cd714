# SPDX-License-Identifier: Apache-2.0
"""What the connections of one certificate share: keys, versions, ciphers, ALPN."""

from __future__ import annotations

import ctypes
from typing import Any

from . import constants as c
from .errors import OpenSSLError, drain
from .library import ALPN_SELECT_CALLBACK, Library

DEFAULT_TLS13_CIPHERS = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
DEFAULT_TLS12_CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)
_ALPN = (b"http/1.1", b"http/1.0")


class ServerContext:
    """An ``SSL_CTX`` for servers: TLS 1.2 and 1.3, no renegotiation, no compression, server's cipher order.

    Memory: freed with the object; connections keep their own reference (SSL_new(3)), and the Python object
    too, because the ALPN callback must outlive them.
    """

    def __init__(
        self,
        lib: Library,
        certificate: str,
        key: str,
        tls12_ciphers: str = DEFAULT_TLS12_CIPHERS,
        tls13_ciphers: str = DEFAULT_TLS13_CIPHERS,
    ) -> None:
        """Read ``certificate`` (PEM, leaf first) and ``key`` (PEM, no passphrase).

        Raises :class:`OpenSSLError`; its ``operation`` is the name of the C function that refused.
        Pages: SSL_CTX_new, SSL_CTX_set_options, SSL_CTX_set_min_proto_version, SSL_CTX_set_cipher_list,
        SSL_CTX_use_certificate, SSL_CTX_set_session_cache_mode.
        """
        self.lib = lib
        self.pointer = 0
        lib.ERR_clear_error()
        pointer = lib.SSL_CTX_new(lib.TLS_server_method())
        if not pointer:
            raise OpenSSLError("SSL_CTX_new", drain(lib))
        self.pointer = pointer
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
        self._require("SSL_CTX_set_ciphersuites", tls13_ciphers.encode())
        self._require("SSL_CTX_set_cipher_list", tls12_ciphers.encode())
        self._require("SSL_CTX_use_certificate_chain_file", _path(certificate))
        self._require("SSL_CTX_use_PrivateKey_file", _path(key), c.SSL_FILETYPE_PEM)
        self._require("SSL_CTX_check_private_key")
        self._alpn = self._set_alpn()

    def __del__(self) -> None:
        """Free the C object."""
        if self.pointer:
            self.lib.SSL_CTX_free(self.pointer)
            self.pointer = 0

    def _require(self, function: str, *arguments: Any) -> None:
        self.lib.ERR_clear_error()
        if getattr(self.lib, function)(self.pointer, *arguments) != 1:
            raise OpenSSLError(function, drain(self.lib))

    def _set_alpn(self) -> Any:
        try:
            callback = ALPN_SELECT_CALLBACK(_select_alpn)
        except MemoryError:
            # A libffi that can only make closures in writable and executable memory, where that is forbidden.
            # HTTP/1.1 is what clients speak without ALPN.
            return None
        self.lib.SSL_CTX_set_alpn_select_cb(self.pointer, callback, None)
        return callback


def _path(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


def choose_alpn(offer: bytes) -> tuple[int, int] | None:
    """Return (offset, length) of the protocol to take inside ``offer``, else None. Format: RFC 7301 section 3.1."""
    found: dict[bytes, int] = {}
    position = 0
    while position < len(offer):
        length = offer[position]
        name = offer[position + 1 : position + 1 + length]
        found.setdefault(name, position + 1)
        position += 1 + length
    for name in _ALPN:
        if name in found:
            return found[name], len(name)
    return None


def _select_alpn(_ssl: Any, out: Any, out_length: Any, offer: Any, offer_length: int, _arg: Any) -> int:
    try:
        choice = choose_alpn(ctypes.string_at(offer, offer_length))
        if choice is None:
            # RFC 7301 section 3.2: no_application_protocol.
            return c.SSL_TLSEXT_ERR_ALERT_FATAL
        out[0] = offer + choice[0]
        out_length[0] = choice[1]
        return c.SSL_TLSEXT_ERR_OK
    except Exception:  # an exception cannot cross C; without ALPN the client still gets HTTP/1.1
        return c.SSL_TLSEXT_ERR_NOACK
