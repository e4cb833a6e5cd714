# SPDX-License-Identifier: Apache-2.0
"""Which protocol a client gets: HTTP/1.1, whatever else it offers. RFC 7301."""

from __future__ import annotations

import ctypes
from typing import Any

from . import constants as c

_PROTOCOLS = (b"http/1.1", b"http/1.0")


def choose_alpn(offer: bytes) -> tuple[int, int] | None:
    """Return (offset, length) of the protocol to take inside ``offer``, else None. Format: RFC 7301 section 3.1."""
    found: dict[bytes, int] = {}
    position = 0
    while position < len(offer):
        length = offer[position]
        name = offer[position + 1 : position + 1 + length]
        found.setdefault(name, position + 1)
        position += 1 + length
    for name in _PROTOCOLS:
        if name in found:
            return found[name], len(name)
    return None


def select_alpn(_ssl: Any, out: Any, out_length: Any, offer: Any, offer_length: int, _arg: Any) -> int:
    """Answer OpenSSL: the callback of SSL_CTX_set_alpn_select_cb(3). ``out`` may point into ``offer``."""
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
