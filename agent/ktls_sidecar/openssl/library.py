# SPDX-License-Identifier: Apache-2.0
"""Load libssl.so.3 and libcrypto.so.3 and declare the functions that we call, each with its C types."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from ctypes import POINTER, c_char_p, c_int, c_long, c_size_t, c_uint, c_uint8, c_uint64, c_ulong, c_void_p
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .connection import TlsConnection

_Function = Callable[..., Any]

READ_SIZE = 16384
"""One record holds at most 2**14 bytes of plaintext (RFC 8446 section 5.1)."""

# SSL_CTX_alpn_select_cb_func: SSL_CTX_set_alpn_select_cb(3)
ALPN_SELECT_CALLBACK = ctypes.CFUNCTYPE(
    c_int, c_void_p, POINTER(c_void_p), POINTER(c_uint8), c_void_p, c_uint, c_void_p
)
# SSL_CTX_set_tlsext_servername_callback(3)
SERVERNAME_CALLBACK = ctypes.CFUNCTYPE(c_int, c_void_p, POINTER(c_int), c_void_p)


class UnsupportedOpenSSLError(Exception):
    """The system's OpenSSL is missing or is not of the 3.0 to 3.6 series; the message names the cure."""


class Library:
    """The functions of one loaded OpenSSL. Attributes carry the C names; manual pages are section 3.

    What may wait for a disk, a peer or a long computation runs without the interpreter's lock (``CDLL``). The rest
    takes less time than to give the lock away and take it back, and keeps it (``PyDLL``).
    """

    def __init__(self, libssl: str = "libssl.so.3", libcrypto: str = "libcrypto.so.3") -> None:
        """Load the libraries. Raises :class:`UnsupportedOpenSSLError`."""
        try:
            quick_crypto = ctypes.PyDLL(libcrypto)
            # use_errno: SSL_ERROR_SYSCALL leaves the reason in errno, and Python code in between changes it.
            slow = ctypes.CDLL(libssl, use_errno=True)
            quick = ctypes.PyDLL(libssl)
        except OSError as error:
            raise UnsupportedOpenSSLError(
                f"cannot load the system's OpenSSL 3 ({error}); install package libssl3 (Debian: libssl3 or libssl3t64)"
            ) from error
        self.version_number, self.version_text = _version(quick_crypto)
        self._declare_crypto(quick_crypto)
        self._declare_context(quick, slow)
        self._declare_connection(quick)
        self._declare_io(slow)
        self._local = threading.local()
        self.handshaking: dict[int, TlsConnection] = {}
        """Connections inside SSL_do_handshake by the address of their ``SSL``, for callbacks."""

    @property
    def version(self) -> tuple[int, int, int]:
        """Major, minor, patch. OpenSSL_version_num(3): 0xMNN00PP0."""
        number = self.version_number
        return number >> 28, (number >> 20) & 0xFF, (number >> 4) & 0xFF

    def read_buffer(self) -> ctypes.Array[ctypes.c_char]:
        """Return this thread's buffer of :data:`READ_SIZE` bytes, which SSL_read fills.

        A read's result is copied out before anything else reads, so the connections of a thread can share it.
        """
        buffer: ctypes.Array[ctypes.c_char] | None = getattr(self._local, "buffer", None)
        if buffer is None:
            buffer = self._local.buffer = ctypes.create_string_buffer(READ_SIZE)
        return buffer

    def _declare_crypto(self, lib: ctypes.CDLL) -> None:
        self.ERR_clear_error = _bind(lib, "ERR_clear_error", None)
        self.ERR_get_error = _bind(lib, "ERR_get_error", c_ulong)
        self.ERR_peek_error = _bind(lib, "ERR_peek_error", c_ulong)
        self.ERR_reason_error_string = _bind(lib, "ERR_reason_error_string", c_char_p, c_ulong)
        self.BIO_new = _bind(lib, "BIO_new", c_void_p, c_void_p)
        self.BIO_s_mem = _bind(lib, "BIO_s_mem", c_void_p)
        self.BIO_s_socket = _bind(lib, "BIO_s_socket", c_void_p)
        self.BIO_free = _bind(lib, "BIO_free", c_int, c_void_p)
        self.BIO_up_ref = _bind(lib, "BIO_up_ref", c_int, c_void_p)
        self.BIO_write = _bind(lib, "BIO_write", c_int, c_void_p, c_void_p, c_int)
        self.BIO_ctrl = _bind(lib, "BIO_ctrl", c_long, c_void_p, c_int, c_long, c_void_p)
        self.BIO_ctrl_pending = _bind(lib, "BIO_ctrl_pending", c_size_t, c_void_p)
        self.BIO_int_ctrl = _bind(lib, "BIO_int_ctrl", c_long, c_void_p, c_int, c_long, c_int)

    def _declare_context(self, lib: ctypes.CDLL, slow: ctypes.CDLL) -> None:
        self.TLS_server_method = _bind(lib, "TLS_server_method", c_void_p)
        self.SSL_CTX_new = _bind(lib, "SSL_CTX_new", c_void_p, c_void_p)
        self.SSL_CTX_free = _bind(lib, "SSL_CTX_free", None, c_void_p)
        self.SSL_CTX_ctrl = _bind(lib, "SSL_CTX_ctrl", c_long, c_void_p, c_int, c_long, c_void_p)
        self.SSL_CTX_set_options = _bind(lib, "SSL_CTX_set_options", c_uint64, c_void_p, c_uint64)
        self.SSL_CTX_clear_options = _bind(lib, "SSL_CTX_clear_options", c_uint64, c_void_p, c_uint64)
        self.SSL_CTX_set_cipher_list = _bind(lib, "SSL_CTX_set_cipher_list", c_int, c_void_p, c_char_p)
        self.SSL_CTX_set_ciphersuites = _bind(lib, "SSL_CTX_set_ciphersuites", c_int, c_void_p, c_char_p)
        self.SSL_CTX_use_certificate_chain_file = _bind(
            slow, "SSL_CTX_use_certificate_chain_file", c_int, c_void_p, c_char_p
        )
        self.SSL_CTX_use_PrivateKey_file = _bind(slow, "SSL_CTX_use_PrivateKey_file", c_int, c_void_p, c_char_p, c_int)
        self.SSL_CTX_check_private_key = _bind(lib, "SSL_CTX_check_private_key", c_int, c_void_p)
        self.SSL_CTX_set_default_passwd_cb_userdata = _bind(
            lib, "SSL_CTX_set_default_passwd_cb_userdata", None, c_void_p, c_char_p
        )
        self.SSL_CTX_set_alpn_select_cb = _bind(
            lib, "SSL_CTX_set_alpn_select_cb", None, c_void_p, ALPN_SELECT_CALLBACK, c_void_p
        )
        # Takes any function pointer; we only give it SSL_CTRL_SET_TLSEXT_SERVERNAME_CB.
        self.SSL_CTX_callback_ctrl = _bind(lib, "SSL_CTX_callback_ctrl", c_long, c_void_p, c_int, SERVERNAME_CALLBACK)

    def _declare_connection(self, lib: ctypes.CDLL) -> None:
        self.SSL_new = _bind(lib, "SSL_new", c_void_p, c_void_p)
        self.SSL_free = _bind(lib, "SSL_free", None, c_void_p)
        self.SSL_set0_rbio = _bind(lib, "SSL_set0_rbio", None, c_void_p, c_void_p)
        self.SSL_set0_wbio = _bind(lib, "SSL_set0_wbio", None, c_void_p, c_void_p)
        self.SSL_get_wbio = _bind(lib, "SSL_get_wbio", c_void_p, c_void_p)
        self.SSL_get_rbio = _bind(lib, "SSL_get_rbio", c_void_p, c_void_p)
        self.SSL_set_accept_state = _bind(lib, "SSL_set_accept_state", None, c_void_p)
        self.SSL_get_options = _bind(lib, "SSL_get_options", c_uint64, c_void_p)
        self.SSL_set_options = _bind(lib, "SSL_set_options", c_uint64, c_void_p, c_uint64)
        self.SSL_clear_options = _bind(lib, "SSL_clear_options", c_uint64, c_void_p, c_uint64)
        self.SSL_set_SSL_CTX = _bind(lib, "SSL_set_SSL_CTX", c_void_p, c_void_p, c_void_p)
        self.SSL_get_error = _bind(lib, "SSL_get_error", c_int, c_void_p, c_int)
        self.SSL_has_pending = _bind(lib, "SSL_has_pending", c_int, c_void_p)
        self.SSL_get_version = _bind(lib, "SSL_get_version", c_char_p, c_void_p)
        self.SSL_get_current_cipher = _bind(lib, "SSL_get_current_cipher", c_void_p, c_void_p)
        self.SSL_CIPHER_get_name = _bind(lib, "SSL_CIPHER_get_name", c_char_p, c_void_p)
        self.SSL_key_update = _bind(lib, "SSL_key_update", c_int, c_void_p, c_int)
        self.SSL_get_key_update_type = _bind(lib, "SSL_get_key_update_type", c_int, c_void_p)
        self.SSL_get_servername = _bind(lib, "SSL_get_servername", c_char_p, c_void_p, c_int)
        self.SSL_get0_alpn_selected = _bind(
            lib, "SSL_get0_alpn_selected", None, c_void_p, POINTER(c_void_p), POINTER(c_uint)
        )
        self.SSL_session_reused = _bind(lib, "SSL_session_reused", c_int, c_void_p)
        self.SSL_get_session = _bind(lib, "SSL_get_session", c_void_p, c_void_p)
        self.SSL_SESSION_get_max_fragment_length = _bind(lib, "SSL_SESSION_get_max_fragment_length", c_uint8, c_void_p)

    def _declare_io(self, lib: ctypes.CDLL) -> None:
        self.SSL_do_handshake = _bind(lib, "SSL_do_handshake", c_int, c_void_p)
        self.SSL_read = _bind(lib, "SSL_read", c_int, c_void_p, c_void_p, c_int)
        self.SSL_write = _bind(lib, "SSL_write", c_int, c_void_p, c_void_p, c_int)
        # ossl_ssize_t SSL_sendfile(SSL *s, int fd, off_t offset, size_t size, int flags): off_t is long on LP64,
        # and libssl is built with 64-bit off_t elsewhere.
        self.SSL_sendfile = _bind(
            lib, "SSL_sendfile", ctypes.c_ssize_t, c_void_p, c_int, ctypes.c_int64, c_size_t, c_int
        )
        self.SSL_shutdown = _bind(lib, "SSL_shutdown", c_int, c_void_p)


def load() -> Library:
    """Load the system's OpenSSL. Raises :class:`UnsupportedOpenSSLError`."""
    return Library()


def _version(crypto: ctypes.CDLL) -> tuple[int, str]:
    number = int(_bind(crypto, "OpenSSL_version_num", c_ulong)())
    text = str(_bind(crypto, "OpenSSL_version", c_char_p, c_int)(0).decode("ascii", "replace"))
    check_version(number, text)
    return number, text


def check_version(number: int, text: str) -> None:
    """Refuse all but 3.0 to 3.6. ``number`` is OpenSSL_version_num(3): 0xMNN00PP0."""
    if number >> 28 != 3 or (number >> 20) & 0xFF > 6:
        raise UnsupportedOpenSSLError(
            f"this host's OpenSSL is {text!r}; the sidecar supports 3.0 to 3.6: install one of these"
        )


def _bind(lib: ctypes.CDLL, name: str, restype: Any, *argtypes: Any) -> _Function:
    try:
        function = getattr(lib, name)
    except AttributeError as error:
        raise UnsupportedOpenSSLError(
            f"the system's OpenSSL has no function {name}; install an unmodified OpenSSL 3.0 to 3.6"
        ) from error
    function.restype = restype
    function.argtypes = argtypes
    return function  # type: ignore[no-any-return]
