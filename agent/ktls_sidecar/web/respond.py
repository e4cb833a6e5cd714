# SPDX-License-Identifier: Apache-2.0
"""Decide the response to a GET or HEAD: status, header fields, and which bytes of the file."""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from .dates import format_date, parse_date
from .files import OpenFile
from .ranges import UnsatisfiableError, parse_range

# Only Python's own table: the answer must not depend on files of the host.
mimetypes.init(files=[])
_ENCODED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}
Headers = list[tuple[str, str]]


@dataclass(frozen=True)
class Plan:
    """A response. The body is ``text``, or ``length`` bytes of the file from ``offset``."""

    status: int
    headers: Headers
    text: bytes = b""
    offset: int = 0
    length: int = 0

    @property
    def head(self) -> bytes:
        return "".join(f"{n}: {v}\r\n" for n, v in self.headers).encode("latin-1")

    @property
    def body_length(self) -> int:
        """Bytes of the body."""
        return len(self.text) or self.length


def reason(status: int) -> bytes:
    """Return the reason phrase."""
    return HTTPStatus(status).phrase.encode("ascii")


def content_type(name: str) -> str:
    """Return the media type for a file name; a compressed file is what it is, not what it holds."""
    kind, encoding = mimetypes.guess_type(name)
    if encoding is not None:
        return _ENCODED.get(encoding, "application/octet-stream")
    if kind is None:
        return "application/octet-stream"
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind


def refuse(status: int, text: str, extra: Headers | None = None) -> Plan:
    """Return a response with a short text body."""
    body = f"{status} {HTTPStatus(status).phrase}: {text}\n".encode()
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body))), *(extra or [])]
    return Plan(status, headers, text=body)


def plan(method: str, fields: Mapping[str, str], file: OpenFile) -> Plan:
    """Answer for ``file``. ``fields`` has lower-case names. Order of conditions: RFC 9110 section 13.2.2."""
    modified = file.mtime_ns // 1_000_000_000
    validators: Headers = [("ETag", file.etag), ("Last-Modified", format_date(modified))]
    status = _conditions(fields, file.etag, modified)
    if status == 304:
        return Plan(304, validators)
    if status == 412:
        return refuse(412, "the file is another one now", validators)
    common: Headers = [("Content-Type", content_type(file.name)), ("Accept-Ranges", "bytes"), *validators]
    offset, length, code = 0, file.size, 200
    wanted = fields.get("range")
    if wanted is not None and method == "GET" and _if_range(fields.get("if-range"), file.etag):
        try:
            found = parse_range(wanted, file.size)
        except UnsatisfiableError:
            extra = [("Content-Range", f"bytes */{file.size}"), ("Accept-Ranges", "bytes"), *validators]
            return refuse(416, "the range lies outside of the file", extra)
        if found is not None:
            offset, length, code = found[0], found[1], 206
            common.append(("Content-Range", f"bytes {offset}-{offset + length - 1}/{file.size}"))
    common.append(("Content-Length", str(length)))
    return Plan(code, common, offset=offset, length=length)


def _conditions(fields: Mapping[str, str], etag: str, modified: int) -> int | None:
    if_match = fields.get("if-match")
    if if_match is not None:
        if not _matches(if_match, etag, weak=False):
            return 412
    else:
        since = parse_date(fields.get("if-unmodified-since", ""))
        if since is not None and modified > since:
            return 412
    if_none_match = fields.get("if-none-match")
    if if_none_match is not None:
        return 304 if _matches(if_none_match, etag, weak=True) else None
    since = parse_date(fields.get("if-modified-since", ""))
    return 304 if since is not None and modified <= since else None


def _matches(field: str, etag: str, weak: bool) -> bool:
    if field.strip() == "*":
        return True
    for item in field.split(","):
        tag = item.strip()
        if tag == etag or (weak and tag == f"W/{etag}"):
            return True
    return False


def _if_range(field: str | None, etag: str) -> bool:
    # A date is a weak validator here (one second); sending the whole file instead is always right.
    return field is None or field.strip() == etag
