# SPDX-License-Identifier: Apache-2.0
"""What is sent: the decision, and the bytes in front of the file."""

from __future__ import annotations

import time

from .config import Config
from .openssl import TlsConnection
from .request import Refusal, Request
from .transfer import Piece
from .web.dates import format_date
from .web.files import OpenFile, RefusedError
from .web.respond import STATUS_LINES, Plan, refuse
from .web.site import Site

_AFTER = b"X-Content-Type-Options: nosniff\r\n\r\n"
_AFTER_CLOSE = b"X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
_NO_BODY = frozenset({204, 304})


def decide(site: Site, config: Config, request: Request, overloaded: bool) -> tuple[Plan, OpenFile | None]:
    """Answer one request. Raises OSError for a fault of this host."""
    if overloaded:
        return refuse(503, "too many connections", [("Retry-After", "5")]), None
    if request.method not in ("GET", "HEAD"):
        return refuse(405, "only GET and HEAD are served", [("Allow", "GET, HEAD")]), None
    if len(request.target) > config.uri_limit:
        return refuse(414, "the path is too long"), None
    try:
        answer = site.answer(request.method, request.target, request.fields)
    except RefusedError as error:
        return refuse(error.status, error.text), None
    return answer.plan, answer.file


def refusal(found: Refusal) -> Plan:
    """Answer what is no request."""
    return refuse(found.status, found.text)


def unreadable() -> Plan:
    """Answer when this host cannot read its file."""
    return refuse(500, "the file cannot be read")


def pieces(plan: Plan, head_only: bool, close: bool) -> list[Piece]:
    """Return what to send, in order."""
    head = STATUS_LINES[plan.status] + _now() + plan.head + (_AFTER_CLOSE if close else _AFTER)
    if head_only or plan.status in _NO_BODY:
        return [head]
    if plan.text:
        return [head + plan.text]
    if plan.parts:
        found: list[Piece] = [head]
        for part in plan.parts:
            found.append(part.prefix)
            if part.length:
                found.append((part.offset, part.length))
        return found
    return [head, (plan.offset, plan.length)] if plan.length else [head]


def fallback_reason(tls: TlsConnection) -> str:
    """Say why a connection that should have kTLS TX has not, as far as it can be told from its parameters."""
    if tls.version not in ("TLSv1.2", "TLSv1.3"):
        return "version"
    cipher = tls.cipher
    if not any(mode in cipher for mode in ("GCM", "CHACHA20", "CCM")) or "CCM8" in cipher:
        return f"cipher:{cipher}"
    return "max_fragment" if tls.small_fragments else "other"


def rx_fallback_reason(tls: TlsConnection) -> str:
    """Say why a connection has kTLS TX and not the RX that was wanted."""
    # OpenSSL moves the receiving side of TLS 1.3 since 3.2 (its CHANGES).
    return "rx:openssl" if tls.version == "TLSv1.3" and tls.lib.version < (3, 2) else "rx:other"


_clock: tuple[int, bytes] = (0, b"")


def _now() -> bytes:
    """Return the first fields of each response; they change once a second."""
    global _clock
    second = int(time.time())
    if _clock[0] != second:
        _clock = (second, f"Date: {format_date(second)}\r\nServer: ktls-sidecar\r\n".encode("ascii"))
    return _clock[1]
