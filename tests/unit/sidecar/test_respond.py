# SPDX-License-Identifier: Apache-2.0
"""Status and header fields of responses, without sockets."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_sidecar.web import conditions
from ktls_sidecar.web.dates import format_date, parse_date
from ktls_sidecar.web.files import OpenFile
from ktls_sidecar.web.mediatypes import media_type
from ktls_sidecar.web.represent import Representation
from ktls_sidecar.web.respond import STATUS_LINES, Plan, header_lines, refuse

MODIFIED = 784111777
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
FILE = OpenFile(fd=-1, name="f.txt", size=1000, mtime_ns=MODIFIED * 1_000_000_000 + 5, inode=7)
WHOLE = Representation(FILE, media_type(FILE.name))
EARLIER, LATER = format_date(MODIFIED - 1), format_date(MODIFIED + 1)


def test_dates() -> None:
    assert format_date(MODIFIED) == DATE
    assert parse_date(DATE) == MODIFIED


@given(st.integers(0, 4_000_000_000))
def test_dates_round_trip(seconds: int) -> None:
    assert parse_date(format_date(seconds)) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "Sunday, 06-Nov-1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 25:00:00 GMT",
        "Sun, 00 Nov 1994 08:49:37 GMT",
    ],
)
def test_what_is_no_date_reads_as_absent(text: str) -> None:
    assert parse_date(text) is None


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 200),
        ({"if-none-match": FILE.etag}, 304),
        ({"if-none-match": f"W/{FILE.etag}"}, 304),
        ({"if-none-match": f'"x", {FILE.etag}'}, 304),
        ({"if-none-match": "*"}, 304),
        ({"if-none-match": '"x"'}, 200),
        ({"if-none-match": '"x"', "if-modified-since": DATE}, 200),
        ({"if-modified-since": DATE}, 304),
        ({"if-modified-since": LATER}, 304),
        ({"if-modified-since": EARLIER}, 200),
        ({"if-modified-since": "soon"}, 200),
        ({"if-match": FILE.etag}, 200),
        ({"if-match": "*"}, 200),
        ({"if-match": '"x"'}, 412),
        ({"if-match": f"W/{FILE.etag}"}, 412),
        ({"if-unmodified-since": EARLIER}, 412),
        ({"if-unmodified-since": DATE}, 200),
        ({"range": "bytes=0-9"}, 206),
        ({"range": "bytes=1000-"}, 416),
        ({"range": "bytes=0-9", "if-range": FILE.etag}, 206),
        ({"range": "bytes=0-9", "if-range": '"x"'}, 200),
        ({"range": "bytes=0-9", "if-range": DATE}, 206),
        ({"range": "bytes=0-9", "if-range": EARLIER}, 200),
        ({"range": "bytes=0-9", "if-range": LATER}, 200),
        ({"range": "bytes=0-9", "if-range": f"W/{FILE.etag}"}, 200),
        ({"range": "bytes=0-9", "if-none-match": FILE.etag}, 304),
        ({"range": "bytes=1000-", "if-match": '"x"'}, 412),
    ],
)
def test_conditions(fields: dict[str, str], status: int) -> None:
    assert WHOLE.plan("GET", fields).status == status


def test_partial_content_names_the_range() -> None:
    decided = WHOLE.plan("GET", {"range": "bytes=990-"})
    headers = dict(decided.headers)
    assert (decided.offset, decided.length) == (990, 10)
    assert headers["Content-Range"] == "bytes 990-999/1000"
    assert headers["Content-Length"] == "10"


def test_head_ignores_ranges() -> None:
    assert WHOLE.plan("HEAD", {"range": "bytes=0-9"}).status == 200


def test_unsatisfiable_names_the_size() -> None:
    assert dict(WHOLE.plan("GET", {"range": "bytes=5000-"}).headers)["Content-Range"] == "bytes */1000"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.html", "text/html; charset=utf-8"),
        ("a.txt", "text/plain; charset=utf-8"),
        ("a.png", "image/png"),
        ("a.json", "application/json"),
        ("a.tar.gz", "application/gzip"),
        ("a.bin", "application/octet-stream"),
        ("noname", "application/octet-stream"),
    ],
)
def test_content_type(name: str, expected: str) -> None:
    assert media_type(name) == expected


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Sunday, 06-Nov-94 08:49:37 GMT", MODIFIED),
        ("Sun Nov  6 08:49:37 1994", MODIFIED),
        ("Sunday, 06-Nov-26 08:49:37 GMT", 1793954977),
        ("Friday, 06-Nov-70 08:49:37 GMT", 26729377),
    ],
)
def test_the_old_forms_of_dates(text: str, seconds: int) -> None:
    assert parse_date(text, now=1_700_000_000 if "-70 " not in text else 1_500_000_000) == seconds


@pytest.mark.parametrize(("now", "strong"), [(MODIFIED, False), (MODIFIED + 0.9, False), (MODIFIED + 1, True)])
def test_a_date_is_no_strong_validator_within_its_second(now: float, strong: bool) -> None:
    """The file may be written again in that second, and the date would not tell."""
    assert conditions.if_range(DATE, '"x"', MODIFIED, now) is strong
    assert not conditions.if_range(EARLIER, '"x"', MODIFIED, now)
    assert not conditions.if_range(DATE, '"x"', None, now)


@pytest.mark.parametrize("seconds", [-5, int(time.time()) + 3600, 2**40], ids=["before 1970", "soon", "far"])
def test_a_time_that_must_not_be_told(seconds: int) -> None:
    file = OpenFile(fd=-1, name="f", size=1000, mtime_ns=seconds * 1_000_000_000, inode=7)
    found = Representation(file, "text/plain")
    assert b"Last-Modified" not in found.whole.head
    for name in ("if-modified-since", "if-unmodified-since", "if-range"):
        for date in (DATE, LATER, "Fri, 31 Dec 9999 23:59:59 GMT"):
            assert found.plan("GET", {name: date}) is found.whole
    assert found.plan("GET", {"if-none-match": found.etag}).status == 304


def test_head_is_what_headers_say() -> None:
    for decided in (
        WHOLE.plan("GET", {}),
        WHOLE.plan("GET", {"range": "bytes=1-2"}),
        refuse(404, "x", [("A", "b: c")]),
    ):
        assert header_lines(decided.headers) == decided.head
    assert refuse(404, "x", [("A", "b: c")]).headers[-1] == ("A", "b: c")
    assert STATUS_LINES[206] == b"HTTP/1.1 206 Partial Content\r\n"
    assert Plan(204, b"").body_length == 0


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\n", "\r"])
def test_no_header_field_breaks_the_line(value: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        header_lines([("Location", value)])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.mjs", "text/javascript; charset=utf-8"),
        ("a.JS", "text/javascript; charset=utf-8"),
        ("a.wasm", "application/wasm"),
        ("a.woff2", "font/woff2"),
        ("a.avif", "image/avif"),
        ("a.webp", "image/webp"),
        ("a.tar.zst", "application/zstd"),
        ("a.webmanifest", "application/manifest+json"),
        ("a.m3u8", "application/vnd.apple.mpegurl"),
        ("a.ts", "video/mp2t"),
        ("a.deb", "application/vnd.debian.binary-package"),
        ("a.rpm", "application/x-rpm"),
        ("a.iso", "application/x-iso9660-image"),
        ("a.mp4", "video/mp4"),
        ("a.css", "text/css; charset=utf-8"),
        ("a.", "application/octet-stream"),
    ],
)
def test_web_types(name: str, expected: str) -> None:
    assert media_type(name) == expected
