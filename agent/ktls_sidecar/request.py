# SPDX-License-Identifier: Apache-2.0
"""Read requests: the plain ones with one regular expression, all others with h11.

h11 takes some 60 microseconds for a request and its response head, more than everything else that a small file needs
(docs/decisions/0011). So what nearly all clients send, GET or HEAD without a body in well-formed HTTP/1.1, is
recognised here, and whatever is not exactly that, be it right, odd, in pieces or hostile, is h11's to judge. What is
recognised here must mean the same to h11: tests compare the two.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import h11

BODY_LIMIT = 65536

# RFC 9110 section 5.6.2 (token) and 5.5 (field values without obs-text), RFC 9112 section 3 (request line).
_PLAIN = re.compile(
    rb"(GET|HEAD) (/[!-~]*) HTTP/1\.([01])\r\n"
    rb"((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~]*\r\n){0,64})\r\n"
)
# RFC 3986 section 3.2.2 and 3.2.3; RFC 9112 section 3.2: 400 for any other value.
_HOST = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?", re.ASCII)
# What decides about framing or the connection; all but plain values of Connection is h11's.
_DECISIVE = frozenset({"connection", "content-length", "transfer-encoding", "expect", "upgrade", "te", "trailer"})


class Request:
    """One request. ``fields`` has lower-case names; repeated ones are joined by a comma (RFC 9110 section 5.3).

    ``keep_alive``: the client allows another request on this connection.
    """

    __slots__ = ("fields", "keep_alive", "method", "target")

    def __init__(self, method: str, target: bytes, fields: Mapping[str, str], keep_alive: bool) -> None:
        """Keep all four."""
        self.method = method
        self.target = target
        self.fields = fields
        self.keep_alive = keep_alive


@dataclass(frozen=True)
class Refusal:
    """The request cannot be served, and nothing may follow it."""

    status: int
    text: str
    request: Request | None = None


def parse_plain(data: bytes, limit: int) -> tuple[Request, int] | None:
    """Return the request that ``data`` begins with, and its length in bytes; None when h11 must look at it.

    ``limit``: bytes that a request may have.
    """
    match = _PLAIN.match(data)
    if match is None or match.end() > limit:
        return None
    method, target, minor, block = match.groups()
    known = _known.get(block)
    if known is None:
        known = _fields(block)
        if len(block) <= _KNOWN_BLOCK_MAX:
            if len(_known) >= _KNOWN_MAX:
                _known.clear()
            _known[block] = known
    fields, keep_alive = known
    if fields is None:
        return None
    if minor == b"0":
        keep_alive = False
    elif "host" not in fields:
        return None
    return Request("GET" if method == b"GET" else "HEAD", target, fields, keep_alive), match.end()


# A client sends the same lines with each request, and many clients send the same ones.
_known: dict[bytes, tuple[Mapping[str, str] | None, bool]] = {}
_KNOWN_MAX, _KNOWN_BLOCK_MAX = 256, 2048


def _fields(block: bytes) -> tuple[Mapping[str, str] | None, bool]:
    """Return the fields of a plain header block, None when h11 must look at it, and whether the connection stays."""
    fields: dict[str, str] = {}
    keep_alive = True
    for line in block.decode("ascii").split("\r\n"):
        name, colon, value = line.partition(":")
        if not colon:
            break
        name = name.lower()
        value = value.strip(" \t")
        if name in fields:
            if name == "host":
                return None, False
            fields[name] += ", " + value
        else:
            fields[name] = value
    if _HOST.fullmatch(fields.get("host", "")) is None:
        return None, False
    for name in _DECISIVE & fields.keys():
        if name != "connection":
            return None, False
        option = fields[name].lower()
        if option == "close":
            keep_alive = False
        elif option != "keep-alive":
            return None, False
    return fields, keep_alive


class Reader:
    """h11's reading of one request that is not plain. Feed it until :meth:`next` returns something."""

    def __init__(self, limit: int) -> None:
        """``limit``: bytes that the head of the request may have."""
        self._http: Any = h11.Connection(h11.SERVER, max_incomplete_event_size=limit)
        self._request: Any = None
        self._body = 0
        self.closed = False

    @property
    def started(self) -> bool:
        """True when some of a request is here."""
        return self._request is not None or bool(self._http.trailing_data[0])

    def feed(self, data: bytes) -> None:
        """Take decrypted bytes; b"" when the client has finished."""
        self.closed = self.closed or not data
        self._http.receive_data(data)

    def next(self) -> Request | Refusal | None:
        """Return the request with its body read and dropped, or a refusal; None: feed more, or the end if closed."""
        try:
            return self._next()
        except h11.RemoteProtocolError as error:
            return self._refusal(error)

    def rest(self) -> bytes:
        """Return what the client has sent beyond the request."""
        return bytes(self._http.trailing_data[0])

    def _next(self) -> Request | Refusal | None:
        http = self._http
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                return self._built() if http.they_are_waiting_for_100_continue else None
            if isinstance(event, h11.Request):
                self._request = event
                refusal = self._odd(event)
                if refusal is not None:
                    return refusal
                if event.method not in (b"GET", b"HEAD"):
                    # Refused whatever follows, so the body is not waited for.
                    return self._built()
            elif isinstance(event, h11.Data):
                self._body += len(event.data)
                if self._body > BODY_LIMIT:
                    return Refusal(413, "a GET here takes no body", self._built())
            elif isinstance(event, h11.EndOfMessage):
                return self._built()
            else:  # ConnectionClosed
                return None

    def _odd(self, event: Any) -> Refusal | None:
        """What h11 lets pass and RFC 9112 does not."""
        fields = dict(event.headers)
        if event.http_version[:2] != b"1.":
            # RFC 9110 section 15.6.6.
            return Refusal(505, "this server speaks HTTP/1.1", self._built())
        if b"transfer-encoding" in fields and b"content-length" in fields:
            # Section 6.1: where the request ends is in doubt, and the connection must not go on.
            return Refusal(400, "a length and a transfer coding", self._built())
        if _HOST.fullmatch(fields.get(b"host", b"").decode("latin-1")) is None:
            return Refusal(400, "the host is not valid", self._built())
        return None

    def _built(self) -> Request:
        event = self._request
        found: dict[str, str] = {}
        for raw_name, raw_value in event.headers:
            name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
            found[name] = f"{found[name]}, {value}" if name in found else value
        keep_alive = self._http.their_state is h11.DONE
        return Request(event.method.decode("ascii"), bytes(event.target), found, keep_alive)

    def _refusal(self, error: Any) -> Refusal:
        status = int(error.error_status_hint)
        request = self._built() if self._request is not None else None
        if status == 431 and self._request is not None:
            return Refusal(400, "a chunk's header is too long", request)
        if status == 431 and b"\n" not in self._http.trailing_data[0]:
            return Refusal(414, "the request line is too long", request)
        if status == 431:
            return Refusal(431, "the header is too long", request)
        return Refusal(status if status in (400, 501) else 400, "this is not valid HTTP/1.1", request)
