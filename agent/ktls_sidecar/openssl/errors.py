# SPDX-License-Identifier: Apache-2.0
"""OpenSSL's error queue as exceptions that carry the library's own reason."""

from __future__ import annotations

import errno as errno_names
import os
from dataclasses import dataclass

from .constants import (
    ERR_LIB_SSL,
    ERR_LIB_SYS,
    ERR_R_FATAL,
    ERR_SYSTEM_FLAG,
    SSL_AD_REASON_OFFSET,
    SSL_R_UNEXPECTED_EOF_WHILE_READING,
)
from .library import Library


@dataclass(frozen=True)
class ErrorEntry:
    """One entry of the queue. ``reason`` is the number inside library ``lib``; ERR_get_error(3)."""

    lib: int
    reason: int
    text: str


class OpenSSLError(Exception):
    """A call failed. ``entries`` is the queue, oldest first (the first is the cause)."""

    def __init__(self, operation: str, entries: tuple[ErrorEntry, ...], detail: str = "") -> None:
        """Keep the operation (a C name) and what the library said."""
        self.operation = operation
        self.entries = entries
        reasons = "; ".join(entry.text for entry in entries) or detail or "no reason given"
        super().__init__(f"{operation}: {reasons}")


class TlsError(OpenSSLError):
    """A connection is dead. ``errno`` is 0 when the cause is in the protocol and not in a system call."""

    def __init__(self, operation: str, entries: tuple[ErrorEntry, ...], errno: int) -> None:
        """Keep ``errno`` beside the queue."""
        self.errno = errno
        super().__init__(operation, entries, os.strerror(errno) if errno else "the peer broke the protocol")

    @property
    def alert(self) -> int | None:
        """Number of the fatal alert that the peer sent (RFC 8446 section 6), else None."""
        for entry in self.entries:
            alert = entry.reason - SSL_AD_REASON_OFFSET
            if entry.lib == ERR_LIB_SSL and 0 <= alert <= 255:
                return alert
        return None

    @property
    def is_internal(self) -> bool:
        """True when OpenSSL blames itself or memory, not the peer: a reason of class ERR_R_FATAL (err.h)."""
        return any(entry.lib != ERR_LIB_SYS and entry.reason & ERR_R_FATAL == ERR_R_FATAL for entry in self.entries)

    @property
    def peer_left(self) -> bool:
        """True when the connection was cut from outside: a reset, a timeout, a lost network, an end without goodbye.

        The last is met only where OpenSSL reads from the socket, and is an error since 3.0:
        SSL_OP_IGNORE_UNEXPECTED_EOF in SSL_CTX_set_options(3).
        """
        return left_by_peer(self.errno) or any(
            entry.lib == ERR_LIB_SSL and entry.reason == SSL_R_UNEXPECTED_EOF_WHILE_READING for entry in self.entries
        )


def left_by_peer(number: int) -> bool:
    """True for an errno that a peer or the network causes."""
    return number in _PEER_ERRNOS


_PEER_ERRNOS = frozenset(
    {
        errno_names.EPIPE,
        errno_names.ECONNRESET,
        errno_names.ECONNABORTED,
        errno_names.ETIMEDOUT,
        errno_names.EHOSTUNREACH,
        errno_names.ENETUNREACH,
        errno_names.ENETDOWN,
        errno_names.ENOTCONN,
    }
)


def drain(lib: Library) -> tuple[ErrorEntry, ...]:
    """Empty the queue of this thread; ERR_get_error(3), ERR_reason_error_string(3)."""
    entries: list[ErrorEntry] = []
    while True:
        code = lib.ERR_get_error()
        if not code:
            return tuple(entries)
        entries.append(_entry(lib, code))


def _entry(lib: Library, code: int) -> ErrorEntry:
    # Packing since 3.0 (include/openssl/err.h): bit 31 marks an errno, else 8 bits library, 23 bits reason.
    if code & ERR_SYSTEM_FLAG:
        number = code & 0x7FFFFFFF
        return ErrorEntry(ERR_LIB_SYS, number, os.strerror(number))
    number = code & 0x7FFFFF
    text = lib.ERR_reason_error_string(code)
    reason = text.decode("ascii", "replace") if text else f"reason {number}"
    return ErrorEntry((code >> 23) & 0xFF, number, reason)
