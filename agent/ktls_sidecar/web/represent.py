# SPDX-License-Identifier: Apache-2.0
"""One representation of a file, and the response that a request for it gets."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping

from . import conditions
from .dates import format_date
from .files import OpenFile
from .ranges import UnsatisfiableError, parse_ranges
from .respond import Part, Plan, refuse_lines

SPECIAL = frozenset(
    ("range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since")  # if-range only with range
)
"""Fields without which the answer is always the whole file."""


class Representation:
    """What is known of a file in one content coding; made once for many requests.

    ``whole``: the answer to a plain GET. ``modified``: Unix time in seconds; None for a time that must not be told,
    because it is in the future (RFC 9110 section 8.8.2.1) or no date can say it.
    """

    __slots__ = (
        "_always",
        "_coded",
        "_kind",
        "_lines",
        "_validators",
        "ctime_ns",
        "etag",
        "inode",
        "modified",
        "mtime_ns",
        "size",
        "whole",
    )

    def __init__(
        self, file: OpenFile, kind: str, coding: str = "", vary: bool = False, cache_control: str | None = None
    ) -> None:
        """Prepare the header lines. ``kind``: media type; ``coding``: content coding, empty for none."""
        self.inode = file.inode
        self.size = file.size
        self.mtime_ns = file.mtime_ns
        self.ctime_ns = file.ctime_ns
        # A tag of its own even where the encoded file is a hard link.
        self.etag = f'{file.etag[:-1]}-{coding}"' if coding else file.etag
        seconds = file.mtime_ns // 1_000_000_000
        self.modified = seconds if 0 <= seconds <= time.time() else None
        self._kind = kind.encode("ascii")
        self._coded = bool(coding)
        validators = f"ETag: {self.etag}\r\n"
        if self.modified is not None:
            validators += f"Last-Modified: {format_date(self.modified)}\r\n"
        if vary:
            validators += "Vary: Accept-Encoding\r\n"
        self._validators = validators.encode("ascii")
        cached = f"Cache-Control: {cache_control}\r\n" if cache_control else ""
        encoded = f"Content-Encoding: {coding}\r\n" if coding else ""
        # Errors must not be cached by the rule of the file.
        self._always = (validators + cached).encode("ascii")
        self._lines = f"Accept-Ranges: bytes\r\n{encoded}{validators}{cached}".encode("ascii")
        head = b"Content-Type: %b\r\nContent-Length: %d\r\n%b" % (self._kind, self.size, self._lines)
        self.whole = Plan(200, head, length=self.size)

    def is_of(self, status: os.stat_result) -> bool:
        """True when ``status`` is that of the same, unchanged file."""
        return (
            status.st_ctime_ns == self.ctime_ns
            and status.st_ino == self.inode
            and status.st_size == self.size
            and status.st_mtime_ns == self.mtime_ns
        )

    def is_for(self, file: OpenFile) -> bool:
        """True when ``file`` is that file, unchanged."""
        return (file.ctime_ns, file.inode, file.size, file.mtime_ns) == (
            self.ctime_ns,
            self.inode,
            self.size,
            self.mtime_ns,
        )

    def plan(self, method: str, fields: Mapping[str, str], several: bool = True) -> Plan:
        """Answer GET or HEAD. ``several``: multipart answers may be given; else one range is the most."""
        if SPECIAL.isdisjoint(fields):
            return self.whole
        status = conditions.evaluate(fields, self.etag, self.modified)
        if status == 304:
            return Plan(304, self._always)
        if status == 412:
            return refuse_lines(412, "the file is another one now", self._validators)
        wanted = fields.get("range")
        if wanted is None or method != "GET":
            return self.whole
        validator = fields.get("if-range")
        if validator is not None and not conditions.if_range(validator, self.etag, self.modified):
            return self.whole
        try:
            ranges = parse_ranges(wanted, self.size)
        except UnsatisfiableError:
            extra = b"Content-Range: bytes */%d\r\nAccept-Ranges: bytes\r\n%b" % (self.size, self._validators)
            return refuse_lines(416, "the range lies outside of the file", extra)
        if ranges is None:
            return self.whole
        if len(ranges) > 1:
            # Of a multipart body nobody could say whether Content-Encoding means the parts or all of it.
            return self._multipart(ranges) if several and not self._coded else self.whole
        offset, length = ranges[0]
        head = b"Content-Type: %b\r\nContent-Range: bytes %d-%d/%d\r\nContent-Length: %d\r\n%b" % (
            self._kind,
            offset,
            offset + length - 1,
            self.size,
            length,
            self._lines,
        )
        return Plan(206, head, offset=offset, length=length)

    def _multipart(self, ranges: list[tuple[int, int]]) -> Plan:
        """RFC 9110 section 14.6. The boundary is random, so that no file can hold it on purpose."""
        boundary = secrets.token_hex(16)
        lead, parts, total = "--", [], 0
        for offset, length in ranges:
            prefix = (
                f"{lead}{boundary}\r\nContent-Type: {self._kind.decode()}\r\n"
                f"Content-Range: bytes {offset}-{offset + length - 1}/{self.size}\r\n\r\n"
            ).encode("ascii")
            parts.append(Part(prefix, offset, length))
            total += len(prefix) + length
            lead = "\r\n--"
        end = f"\r\n--{boundary}--\r\n".encode("ascii")
        parts.append(Part(end, 0, 0))
        total += len(end)
        head = b"Content-Type: multipart/byteranges; boundary=%b\r\nContent-Length: %d\r\n%b" % (
            boundary.encode("ascii"),
            total,
            self._lines,
        )
        return Plan(206, head, parts=tuple(parts))
