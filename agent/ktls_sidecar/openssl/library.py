# SPDX-License-Identifier: Apache-2.0
"""Load libssl.so.3 and libcrypto.so.3 and declare the functions that we call, each with its C types."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import c_char_p, c_int, c_long, c_size_t, c_uint, c_uint8, c_uint64, c_ulong, c_void_p
from typing import Any

_Function = Callable[..., Any]

# SSL_CTX_alpn_select_cb_func: SSL_CTX_set_alpn_select_cb(3)
ALPN_SELECT_CALLBACK = ctypes.CFUNCTYPE(
    c_int,
    c_void_p,
    ctypes.POINTER(c_void_p),
    ctypes.POINTER(c_uint8),
    c_void_p,
    c_uint,
    c_void_p,
)


class UnsupportedOpenSSLError(Exception):
    """The system's OpenSSL is missing or is not of the 3.x series; the message names the cure."""


class Library:
    """The functions of one loaded OpenSSL. Attributes carry the C names; manual pages are section 3."""

    def __init__(self, libssl: str = "libssl.so.3", libcrypto: str = "libcrypto.so.3") -> None:
        """Load the libraries. Raises :class:`UnsupportedOpenSSLError`."""
        try:
            # use_errno: SSL_ERROR_SYSCALL leaves the reason in errno, and Python code in between changes it.
            crypto = ctypes.CDLL(libcrypto, use_errno=True)
            ssl = ctypes.CDLL(libssl, use_errno=True)
        except OSError as error:
            raise UnsupportedOpenSSLError(
                f"cannot load the system's OpenSSL 3 ({error}); install package libssl3 (Debian: libssl3 or libssl3t64)"
            ) from error
        self.version_number, self.version_text = _version(crypto)
        self._declare_crypto(crypto)
        self._declare_context(ssl)
        self._declare_connection(ssl)

    @property
    def version(self) -> tuple[int, int, int]:
        """Major, minor, patch. OpenSSL_version_num(3): 0xMNN00PP0."""
        number = self.version_number
        return number >> 28, (number >> 20) & 0xFF, (number >> 4) & 0xFF

    def _declare_crypto(self, lib: ctypes.CDLL) -> None:
        self.ERR_clear_error = _bind(lib, "ERR_clear_error", None)
        self.ERR_get_error = _bind(lib, "ERR_get_error", c_ulong)
        self.ERR_lib_error_string = _bind(lib, "ERR_lib_error_string", c_char_p, c_ulong)
        self.ERR_reason_error_string = _bind(lib, "ERR_reason_error_string", c_char_p, c_ulong)
        self.BIO_new = _bind(lib, "BIO_new", c_void_p, c_void_p)
        self.BIO_s_mem = _bind(lib, "BIO_s_mem", c_void_p)
        self.BIO_s_socket = _bind(lib, "BIO_s_socket", c_void_p)
        self.BIO_free = _bind(lib, "BIO_free", c_int, c_void_p)
        self.BIO_write = _bind(lib, "BIO_write", c_int, c_void_p, c_void_p, c_int)
        self.BIO_ctrl = _bind(lib, "BIO_ctrl", c_long, c_void_p, c_int, c_long, c_void_p)
        self.BIO_int_ctrl = _bind(lib, "BIO_int_ctrl", c_long, c_void_p, c_int, c_long, c_int)

    def _declare_context(self, lib: ctypes.CDLL) -> None:
        self.TLS_server_method = _bind(lib, "TLS_server_method", c_void_p)
        self.SSL_CTX_new = _bind(lib, "SSL_CTX_new", c_void_p, c_void_p)
        self.SSL_CTX_free = _bind(lib, "SSL_CTX_free", None, c_void_p)
        self.SSL_CTX_ctrl = _bind(lib, "SSL_CTX_ctrl", c_long, c_void_p, c_int, c_long, c_void_p)
        self.SSL_CTX_set_options = _bind(lib, "SSL_CTX_set_options", c_uint64, c_void_p, c_uint64)
        self.SSL_CTX_clear_options = _bind(lib, "SSL_CTX_clear_options", c_uint64, c_void_p, c_uint64)
        self.SSL_CTX_set_cipher_list = _bind(lib, "SSL_CTX_set_cipher_list", c_int, c_void_p, c_char_p)
        self.SSL_CTX_set_ciphersuites = _bind(lib, "SSL_CTX_set_ciphersuites", c_int, c_void_p, c_char_p)
        self.SSL_CTX_use_certificate_chain_file = _bind(
            lib, "SSL_CTX_use_certificate_chain_file", c_int, c_void_p, c_char_p
        )
        self.SSL_CTX_use_PrivateKey_file = _bind(lib, "SSL_CTX_use_PrivateKey_file", c_int, c_void_p, c_char_p, c_int)
        self.SSL_CTX_check_private_key = _bind(lib, "SSL_CTX_check_private_key", c_int, c_void_p)
        self.SSL_CTX_set_default_passwd_cb_userdata = _bind(
            lib, "SSL_CTX_set_default_passwd_cb_userdata", None, c_void_p, c_char_p
        )
        self.SSL_CTX_set_alpn_select_cb = _bind(
            lib, "SSL_CTX_set_alpn_select_cb", None, c_void_p, ALPN_SELECT_CALLBACK, c_void_p
        )

    def _declare_connection(self, lib: ctypes.CDLL) -> None:
        self.SSL_new = _bind(lib, "SSL_new", c_void_p, c_void_p)
        self.SSL_free = _bind(lib, "SSL_free", None, c_void_p)
        self.SSL_set0_rbio = _bind(lib, "SSL_set0_rbio", None, c_void_p, c_void_p)
        self.SSL_set0_wbio = _bind(lib, "SSL_set0_wbio", None, c_void_p, c_void_p)
        self.SSL_get_wbio = _bind(lib, "SSL_get_wbio", c_void_p, c_void_p)
        self.SSL_get_rbio = _bind(lib, "SSL_get_rbio", c_void_p, c_void_p)
        self.SSL_set_accept_state = _bind(lib, "SSL_set_accept_state", None, c_void_p)
        self.SSL_set_options = _bind(lib, "SSL_set_options", c_uint64, c_void_p, c_uint64)
        self.SSL_clear_options = _bind(lib, "SSL_clear_options", c_uint64, c_void_p, c_uint64)
        self.SSL_do_handshake = _bind(lib, "SSL_do_handshake", c_int, c_void_p)
        self.SSL_read = _bind(lib, "SSL_read", c_int, c_void_p, c_void_p, c_int)
        self.SSL_write = _bind(lib, "SSL_write", c_int, c_void_p, c_void_p, c_int)
        # ossl_ssize_t SSL_sendfile(SSL *s, int fd, off_t offset, size_t size, int flags): off_t is long on LP64,
        # and libssl is built with 64-bit off_t elsewhere.
        self.SSL_sendfile = _bind(
            lib, "SSL_sendfile", ctypes.c_ssize_t, c_void_p, c_int, ctypes.c_int64, c_size_t, c_int
        )
        self.SSL_shutdown = _bind(lib, "SSL_shutdown", c_int, c_void_p)
        self.SSL_get_error = _bind(lib, "SSL_get_error", c_int, c_void_p, c_int)
        self.SSL_get_version = _bind(lib, "SSL_get_version", c_char_p, c_void_p)
        self.SSL_get_current_cipher = _bind(lib, "SSL_get_current_cipher", c_void_p, c_void_p)
        self.SSL_CIPHER_get_name = _bind(lib, "SSL_CIPHER_get_name", c_char_p, c_void_p)
        self.SSL_get_key_update_type = _bind(lib, "SSL_get_key_update_type", c_int, c_void_p)
        self.SSL_get_session = _bind(lib, "SSL_get_session", c_void_p, c_void_p)
        self.SSL_SESSION_get_max_fragment_length = _bind(lib, "SSL_SESSION_get_max_fragment_length", c_uint8, c_void_p)


def load() -> Library:
    """Load the system's OpenSSL. Raises :class:`UnsupportedOpenSSLError`."""
    return Library()


def _version(crypto: ctypes.CDLL) -> tuple[int, str]:
    number = int(_bind(crypto, "OpenSSL_version_num", c_ulong)())
    text = str(_bind(crypto, "OpenSSL_version", c_char_p, c_int)(0).decode("ascii", "replace"))
    check_version(number, text)
    return number, text


def check_version(number: int, text: str) -> None:
    """Refuse all but 3.x. ``number`` is OpenSSL_version_num(3)."""
    if number >> 28 != 3:
        raise UnsupportedOpenSSLError(
            f"this host's OpenSSL is {text!r}; the sidecar supports 3.0 and later 3.x: install one of these"
        )


def _bind(lib: ctypes.CDLL, name: str, restype: Any, *argtypes: Any) -> _Function:
    try:
        function = getattr(lib, name)
    except AttributeError as error:
        raise UnsupportedOpenSSLError(
            f"the system's OpenSSL has no function {name}; install an unmodified OpenSSL 3.x"
        ) from error
    function.restype = restype
    function.argtypes = argtypes
    return function  # type: ignore[no-any-return]
