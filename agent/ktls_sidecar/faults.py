# SPDX-License-Identifier: Apache-2.0
"""Whose fault it is that a TLS connection died. Pure."""

from __future__ import annotations

from typing import NamedTuple

from .openssl import TlsError
from .openssl.constants import SSL_AD_BAD_RECORD_MAC

KEY_UPDATE = "key_update"


class Blame(NamedTuple):
    """``ours`` and the error's name in the counters; else it is the client's, and the name that of an abort."""

    ours: bool
    kind: str


def blame(error: TlsError, handshaking: bool) -> Blame:
    """Judge ``error``, which ended a connection; ``handshaking``: before its first request."""
    if error.peer_left:
        return Blame(False, "handshake" if handshaking else "reset")
    if error.operation == "SSL_read" and "invalid aad" in str(error):
        # A record of TLS 1.2 too short for its tag: OpenSSL 3.0 calls that internal, but the client made it.
        return Blame(False, "bad_record")
    if error.is_internal:
        return Blame(True, "ssl_error")
    if "no suitable record layer" in str(error):
        # What OpenSSL says when the kernel takes no second key: Linux before 6.14.
        return Blame(True, KEY_UPDATE)
    if handshaking:
        return Blame(False, "handshake")
    if error.alert == SSL_AD_BAD_RECORD_MAC:
        # The client says that what we sent did not decrypt.
        return Blame(True, "bad_record_mac")
    if error.operation == "SSL_sendfile":
        return Blame(True, "sendfile_failed")
    if error.operation == "SSL_read":
        return Blame(False, "alert" if error.alert is not None else "bad_record")
    return Blame(True, "io_error" if error.errno else "ssl_error")
