# SPDX-License-Identifier: Apache-2.0
"""A response as it is decided: status, header lines, and which bytes of which file. Nothing is sent here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from typing import NamedTuple

Headers = list[tuple[str, str]]

STATUS_LINES = {int(status): f"HTTP/1.1 {int(status)} {status.phrase}\r\n".encode("ascii") for status in HTTPStatus}
"""Status -> ready status line."""


class Part(NamedTuple):
    """A piece of a multipart body: the bytes ``prefix``, then ``length`` bytes of the file from ``offset``."""

    prefix: bytes
    offset: int
    length: int


@dataclass(frozen=True)
class Plan:
    """A response. The body is ``text``, or the ``parts`` in order, or ``length`` bytes of the file from ``offset``.

    ``head``: the header lines, each with its CRLF, Content-Length among them where there is a body; the caller adds
    the status line before, and Date, Server, Connection and the empty line after. To HEAD no body is sent.
    """

    status: int
    head: bytes
    text: bytes = b""
    offset: int = 0
    length: int = 0
    parts: tuple[Part, ...] = ()

    @cached_property
    def body_length(self) -> int:
        """Bytes of the body, which is what Content-Length says."""
        return len(self.text) or self.length or sum(len(part.prefix) + part.length for part in self.parts)

    @property
    def headers(self) -> Headers:
        """``head`` as pairs of name and value."""
        lines = self.head.decode("latin-1").split("\r\n")[:-1]
        return [(name, value) for name, _, value in (line.partition(": ") for line in lines)]


def header_lines(headers: Headers) -> bytes:
    """Return header lines. Raises ValueError for a line break inside of one."""
    text = "".join([f"{name}: {value}\r\n" for name, value in headers])
    if text.count("\n") != len(headers) or text.count("\r") != len(headers):
        raise ValueError("a header field holds a line break")
    return text.encode("latin-1")


def refuse(status: int, text: str, extra: Headers | None = None) -> Plan:
    """Return a response with a short text body."""
    return refuse_lines(status, text, header_lines(extra) if extra else b"")


def refuse_lines(status: int, text: str, lines: bytes = b"") -> Plan:
    """Return a response with a short text body; ``lines`` are ready header lines."""
    body = f"{status} {HTTPStatus(status).phrase}: {text}\n".encode()
    head = b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n%b" % (len(body), lines)
    return Plan(status, head, text=body)
