# SPDX-License-Identifier: Apache-2.0
"""The OpenSSL library that a datapath on this host would load, asked directly.

The ``openssl`` program can be another version, and it does not say whether kTLS was compiled in. The library
does: with kTLS, a socket BIO that is told to send a control record raises flag 0x1000 on itself; without, the
request is unknown (crypto/bio/bss_sock.c, ``BIO_CTRL_SET_KTLS_TX_SEND_CTRL_MSG``). No socket is touched.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

_LIBRARIES = ("libcrypto.so.3", "libcrypto.so.1.1")
_SET_KTLS_CTRL_MSG = 74
_FLAG_KTLS_CTRL_MSG = 0x1000
_APPLICATION_DATA = 23  # any record type will do


@dataclass(frozen=True)
class OpensslState:
    """``version`` is the library's own text; ``number`` is 0xMNN00PP0 (OPENSSL_VERSION_NUMBER(3)).

    All are ``None`` when there is no such library; ``ktls_built`` also when the library is older than 3.0.
    """

    library: str | None = None
    version: str | None = None
    number: int | None = None
    ktls_built: bool | None = None

    @property
    def release(self) -> tuple[int, int]:
        """Return (major, minor), or (0, 0) when there is no library."""
        number = self.number or 0
        return number >> 28, number >> 20 & 0xFF


def probe() -> OpensslState:
    """Load the libcrypto that our datapath would load, else an older one to name it, and ask it."""
    for name in _LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.OpenSSL_version.restype = ctypes.c_char_p
        library.OpenSSL_version.argtypes = [ctypes.c_int]
        library.OpenSSL_version_num.restype = ctypes.c_ulong
        number = int(library.OpenSSL_version_num())
        version = (library.OpenSSL_version(0) or b"").decode("ascii", "replace")
        built = _ktls_built(library) if number >> 28 >= 3 else None
        return OpensslState(library=name, version=version, number=number, ktls_built=built)
    return OpensslState()


def _ktls_built(library: ctypes.CDLL) -> bool | None:
    library.BIO_s_socket.restype = ctypes.c_void_p
    library.BIO_new.restype = ctypes.c_void_p
    library.BIO_new.argtypes = [ctypes.c_void_p]
    library.BIO_ctrl.restype = ctypes.c_long
    library.BIO_ctrl.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p]
    library.BIO_test_flags.restype = ctypes.c_int
    library.BIO_test_flags.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.BIO_free.restype = ctypes.c_int
    library.BIO_free.argtypes = [ctypes.c_void_p]
    bio = library.BIO_new(library.BIO_s_socket())
    if not bio:
        return None
    try:
        library.BIO_ctrl(bio, _SET_KTLS_CTRL_MSG, _APPLICATION_DATA, None)
        return bool(library.BIO_test_flags(bio, _FLAG_KTLS_CTRL_MSG))
    finally:
        library.BIO_free(bio)
