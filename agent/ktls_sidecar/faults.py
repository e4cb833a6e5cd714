# SPDX-License-Identifier: Apache-2.0
"""Whose fault it is that a TLS connection died. Pure."""

from __future__ import annotations

import errno
from typing import NamedTuple

from .openssl import TlsError
from .openssl.constants import (
    ERR_LIB_SSL,
    SSL_AD_BAD_RECORD_MAC,
    SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC,
    SSL_R_PACKET_LENGTH_TOO_LONG,
)

KEY_UPDATE, BAD_RECORD, KEY_EXPIRED, TOO_BIG = "key_update", "bad_record", "key_expired", "too_big"
BAD_RECORD_MAC, SENDFILE_FAILED, IO_ERROR, SSL_ERROR = "bad_record_mac", "sendfile_failed", "io_error", "ssl_error"
KERNEL_KINDS = (BAD_RECORD, KEY_EXPIRED, TOO_BIG, KEY_UPDATE, BAD_RECORD_MAC, SENDFILE_FAILED)
"""Errors that kTLS may be the cause of: what watches over it looks at these."""

# What only the kernel's TLS answers on a TCP socket (Documentation/networking/tls.rst; net/tls/tls_sw.c): a record that
# does not decrypt, keys that the peer has replaced (since 6.14), a record larger than TLS allows.
_OF_ERRNO = {errno.EBADMSG: BAD_RECORD, errno.EKEYEXPIRED: KEY_EXPIRED, errno.EMSGSIZE: TOO_BIG}
# How OpenSSL tells two of them when it reads (ssl/record/ssl3_record.c in 3.0, methods/ktls_meth.c since 3.2).
_OF_REASON = {SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC: BAD_RECORD, SSL_R_PACKET_LENGTH_TOO_LONG: TOO_BIG}


class Blame(NamedTuple):
    """``ours`` and the error's name in the counters; else it is the client's, and the name that of an abort."""

    ours: bool
    kind: str


def kind_of(number: int | None) -> str:
    """Return the name of an error of a system call on a socket or a file."""
    return _OF_ERRNO.get(number or 0, IO_ERROR)


def blame(error: TlsError, handshaking: bool, kernel_reads: bool = False) -> Blame:
    """Judge ``error``, which ended a connection; ``handshaking``: before its first request.

    ``kernel_reads``: the kernel decrypts. A record that it cannot decrypt may be the client's fault or the kernel's.
    Nobody here can tell, so it is ours.
    """
    if error.peer_left:
        return Blame(False, "handshake" if handshaking else "reset")
    if error.errno in _OF_ERRNO:
        return Blame(True, _OF_ERRNO[error.errno])
    if kernel_reads and error.operation == "SSL_read":
        for entry in error.entries:
            if entry.lib == ERR_LIB_SSL and entry.reason in _OF_REASON:
                return Blame(True, _OF_REASON[entry.reason])
    if error.operation == "SSL_read" and "invalid aad" in str(error):
        # A record of TLS 1.2 too short for its tag: OpenSSL 3.0 calls that internal, but the client made it.
        return Blame(False, BAD_RECORD)
    if error.is_internal:
        return Blame(True, SSL_ERROR)
    if "no suitable record layer" in str(error):
        # What OpenSSL says when the kernel takes no second key: Linux before 6.14.
        return Blame(True, KEY_UPDATE)
    if handshaking:
        return Blame(False, "handshake")
    if error.alert == SSL_AD_BAD_RECORD_MAC:
        # The client says that what we sent did not decrypt.
        return Blame(True, BAD_RECORD_MAC)
    if error.operation == "SSL_sendfile":
        return Blame(True, SENDFILE_FAILED)
    if error.operation == "SSL_read":
        return Blame(False, "alert" if error.alert is not None else BAD_RECORD)
    return Blame(True, IO_ERROR if error.errno else SSL_ERROR)
