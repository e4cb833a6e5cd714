# SPDX-License-Identifier: Apache-2.0
"""The few functions of libssl.so.3 and libcrypto.so.3 that the proof calls, and their numbers.

Numbers: include/openssl/{ssl,bio,asn1,evp}.h of OpenSSL 3. Manual pages are section 3.
"""

from __future__ import annotations

import ctypes
from ctypes import c_char_p, c_int, c_long, c_uint64, c_ulong, c_void_p
from typing import Any

SSL_OP_ENABLE_KTLS = 1 << 3
SSL_CTRL_SET_MIN_PROTO_VERSION, SSL_CTRL_SET_MAX_PROTO_VERSION = 123, 124
SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE = 2, 3
SSL_VERIFY_PEER = 1
SSL_KEY_UPDATE_NOT_REQUESTED, SSL_KEY_UPDATE_REQUESTED = 0, 1
BIO_C_SET_FD, BIO_NOCLOSE, BIO_CTRL_PENDING = 104, 0, 10
_MBSTRING_ASC = 0x1001
_HOUR_S = 3600

_CRYPTO: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "OpenSSL_version": (c_char_p, (c_int,)),
    "ERR_clear_error": (None, ()),
    "ERR_get_error": (c_ulong, ()),
    "ERR_reason_error_string": (c_char_p, (c_ulong,)),
    "BIO_new": (c_void_p, (c_void_p,)),
    "BIO_s_mem": (c_void_p, ()),
    "BIO_s_socket": (c_void_p, ()),
    "BIO_up_ref": (c_int, (c_void_p,)),
    "BIO_write": (c_int, (c_void_p, c_char_p, c_int)),
    "BIO_ctrl": (c_long, (c_void_p, c_int, c_long, c_void_p)),
    "BIO_int_ctrl": (c_long, (c_void_p, c_int, c_long, c_int)),
    "EVP_sha256": (c_void_p, ()),
    "EVP_PKEY_free": (None, (c_void_p,)),
    "X509_new": (c_void_p, ()),
    "X509_free": (None, (c_void_p,)),
    "X509_set_version": (c_int, (c_void_p, c_long)),
    "X509_get_serialNumber": (c_void_p, (c_void_p,)),
    "ASN1_INTEGER_set": (c_int, (c_void_p, c_long)),
    "X509_getm_notBefore": (c_void_p, (c_void_p,)),
    "X509_getm_notAfter": (c_void_p, (c_void_p,)),
    "X509_gmtime_adj": (c_void_p, (c_void_p, c_long)),
    "X509_set_pubkey": (c_int, (c_void_p, c_void_p)),
    "X509_get_subject_name": (c_void_p, (c_void_p,)),
    "X509_NAME_add_entry_by_txt": (c_int, (c_void_p, c_char_p, c_int, c_char_p, c_int, c_int, c_int)),
    "X509_set_issuer_name": (c_int, (c_void_p, c_void_p)),
    "X509_sign": (c_int, (c_void_p, c_void_p, c_void_p)),
    "X509_STORE_add_cert": (c_int, (c_void_p, c_void_p)),
}
_SSL: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "TLS_server_method": (c_void_p, ()),
    "TLS_client_method": (c_void_p, ()),
    "SSL_CTX_new": (c_void_p, (c_void_p,)),
    "SSL_CTX_free": (None, (c_void_p,)),
    "SSL_CTX_ctrl": (c_long, (c_void_p, c_int, c_long, c_void_p)),
    "SSL_CTX_clear_options": (c_uint64, (c_void_p, c_uint64)),
    "SSL_CTX_set_cipher_list": (c_int, (c_void_p, c_char_p)),
    "SSL_CTX_set_ciphersuites": (c_int, (c_void_p, c_char_p)),
    "SSL_CTX_use_certificate": (c_int, (c_void_p, c_void_p)),
    "SSL_CTX_use_PrivateKey": (c_int, (c_void_p, c_void_p)),
    "SSL_CTX_get_cert_store": (c_void_p, (c_void_p,)),
    "SSL_CTX_set_verify": (None, (c_void_p, c_int, c_void_p)),
    "SSL_new": (c_void_p, (c_void_p,)),
    "SSL_free": (None, (c_void_p,)),
    "SSL_set0_rbio": (None, (c_void_p, c_void_p)),
    "SSL_set0_wbio": (None, (c_void_p, c_void_p)),
    "SSL_set_accept_state": (None, (c_void_p,)),
    "SSL_set_connect_state": (None, (c_void_p,)),
    "SSL_set_options": (c_uint64, (c_void_p, c_uint64)),
    "SSL_do_handshake": (c_int, (c_void_p,)),
    "SSL_read": (c_int, (c_void_p, c_void_p, c_int)),
    "SSL_write": (c_int, (c_void_p, c_void_p, c_int)),
    "SSL_key_update": (c_int, (c_void_p, c_int)),
    "SSL_get_error": (c_int, (c_void_p, c_int)),
}


class LibraryError(Exception):
    """The library is missing, is not OpenSSL 3, or refused a call: the text says which and why."""


class Library:
    """The loaded library; attributes carry the C names."""

    def __init__(self) -> None:
        """Load the libraries by the names a program linked to OpenSSL 3 asks for. Raises :class:`LibraryError`."""
        try:
            self._crypto = ctypes.CDLL("libcrypto.so.3", use_errno=True)
            self._ssl = ctypes.CDLL("libssl.so.3", use_errno=True)
        except OSError as error:
            raise LibraryError(str(error)) from error
        for library, functions in ((self._crypto, _CRYPTO), (self._ssl, _SSL)):
            for name, (result, arguments) in functions.items():
                try:
                    function = getattr(library, name)
                except AttributeError as error:
                    raise LibraryError(f"no function {name}") from error
                function.restype, function.argtypes = result, arguments
                setattr(self, name, function)
        self._keygen = self._crypto.EVP_PKEY_Q_keygen  # variadic: no argtypes
        self._keygen.restype = c_void_p

    def __getattr__(self, name: str) -> Any:
        """Tell the type checker that functions are attributes."""
        raise AttributeError(name)

    @property
    def version(self) -> str:
        """Return the library's own text. OpenSSL_version(3)."""
        return str(self.OpenSSL_version(0).decode("ascii", "replace"))

    def require(self, function: str, *arguments: Any) -> Any:
        """Call ``function``; raise :class:`LibraryError` with the library's reason when it returns 0 or NULL."""
        self.ERR_clear_error()
        result = getattr(self, function)(*arguments)
        if not result or result < 0:
            raise LibraryError(f"{function}: {self.reason()}")
        return result

    def reason(self) -> str:
        """Return the last reason in the error queue, which is emptied. ERR_get_error(3)."""
        text = "no reason given"
        while True:
            code = self.ERR_get_error()
            if not code:
                return text
            found = self.ERR_reason_error_string(code)
            text = found.decode("ascii", "replace") if found else text

    def certificate(self) -> tuple[int, int]:
        """Return a new P-256 key and a certificate that it signed itself, valid for two hours: (EVP_PKEY, X509).

        EVP_PKEY_Q_keygen(3), X509_sign(3). Both stay for the life of the process. Raises :class:`LibraryError`.
        """
        key = self._keygen(None, None, c_char_p(b"EC"), c_char_p(b"P-256"))
        if not key:
            raise LibraryError(f"EVP_PKEY_Q_keygen: {self.reason()}")
        x509 = self.require("X509_new")
        self.require("X509_set_version", x509, 2)
        self.require("ASN1_INTEGER_set", self.X509_get_serialNumber(x509), 1)
        self.require("X509_gmtime_adj", self.X509_getm_notBefore(x509), -_HOUR_S)
        self.require("X509_gmtime_adj", self.X509_getm_notAfter(x509), _HOUR_S)
        self.require("X509_set_pubkey", x509, key)
        name = self.X509_get_subject_name(x509)
        self.require("X509_NAME_add_entry_by_txt", name, b"CN", _MBSTRING_ASC, b"ktls preflight", -1, -1, 0)
        self.require("X509_set_issuer_name", x509, name)
        self.require("X509_sign", x509, key, self.EVP_sha256())
        return key, x509
