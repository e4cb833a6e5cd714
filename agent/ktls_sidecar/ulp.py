# SPDX-License-Identifier: Apache-2.0
"""Attach the kernel's TLS upper layer protocol to a connected TCP socket.

The sidecar does this itself, and only for connections that want kTLS, so that sockets of userspace connections
never hold the tls module. It fits every OpenSSL 3: up to 3.0.18, 3.3.5, 3.4.3, 3.5.4 and 3.6.0 the
library expects the ULP to be attached before it installs keys; later ones attach it in ktls_start() and ignore the
EEXIST that follows (include/internal/ktls.h).
"""

from __future__ import annotations

import errno
import os
import platform
import re
import socket
from collections.abc import Sequence

TCP_ULP = 31
"""include/uapi/linux/tcp.h."""
SOL_TLS, TLS_TX_ZEROCOPY_RO = 282, 3
"""include/linux/socket.h, include/uapi/linux/tls.h."""


def attach(sock: socket.socket) -> str | None:
    """Attach the ULP ``tls``. Returns None, or why the kernel refused: ``no_tls_ulp`` or ``ulp_<errno name>``.

    ENOENT: module tls is neither loaded nor loadable by this process (Documentation/networking/tls.rst).
    """
    try:
        sock.setsockopt(socket.IPPROTO_TCP, TCP_ULP, b"tls")
    except OSError as error:
        if error.errno == errno.ENOENT:
            return "no_tls_ulp"
        return f"ulp_{errno.errorcode.get(error.errno or 0, 'unknown').lower()}"
    return None


def set_zerocopy(sock: socket.socket, allowed: bool) -> bool:
    """Let a NIC that encrypts take file pages as they are, or not. Returns whether that is in force.

    Only for files that cannot change: a page that changes before a retransmission no longer has its authentication tag
    (Documentation/networking/tls.rst, TLS_TX_ZEROCOPY_RO, since Linux 5.19). Changes nothing where the kernel encrypts.
    Raises OSError when it cannot be taken back: then nothing more may be sent.
    """
    try:
        sock.setsockopt(SOL_TLS, TLS_TX_ZEROCOPY_RO, int(allowed))
    except OSError:
        if not allowed:
            raise  # it may be in force still, and what follows may change
        return False
    return allowed


def can_rekey(openssl: Sequence[int], kernel_release: str | None = None) -> bool:
    """True when this stack survives a TLS 1.3 KeyUpdate with keys in the kernel: Linux 6.14 and OpenSSL 3.2.

    Older kernels answer EBUSY to a second TLS_TX (net/tls/tls_main.c); older OpenSSL keeps the old key silently.
    """
    release = platform.release() if kernel_release is None else kernel_release
    match = re.match(r"(\d+)\.(\d+)", release)
    kernel = (int(match.group(1)), int(match.group(2))) if match else (0, 0)
    return kernel >= (6, 14) and tuple(openssl[:2]) >= (3, 2)


def flag_exists(path: str) -> bool:
    """True when ``path`` exists, be it a dangling link, and also when the kernel will not say: off is the safe side."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True
