# SPDX-License-Identifier: Apache-2.0
"""Requests: what is recognised without h11 means to h11 exactly the same."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ktls_sidecar.request import Reader, Refusal, Request, parse_plain

LIMIT = 16384
PLAIN = b"GET /a%20b?c=d HTTP/1.1\r\nHost: x\r\nAccept: */*\r\nX-Two:  a b \t\r\nX-Two: c\r\n\r\n"


def by_h11(data: bytes) -> tuple[Request | Refusal | None, bytes]:
    reader = Reader(LIMIT)
    reader.feed(data)
    return reader.next(), reader.rest()


def same(data: bytes) -> bool:
    """Compare the two on ``data``; returns whether it was plain."""
    found = parse_plain(data, LIMIT)
    if found is None:
        return False
    request, end = found
    other, rest = by_h11(data)
    assert isinstance(other, Request), f"h11 says {other}"
    assert (request.method, request.target, request.fields) == (other.method, other.target, other.fields)
    assert request.keep_alive == other.keep_alive
    assert data[end:] == rest
    return True


@pytest.mark.parametrize(
    "data",
    [
        PLAIN,
        PLAIN.replace(b"GET", b"HEAD"),
        PLAIN + PLAIN,
        PLAIN + b"\x00garbage",
        b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
        b"GET / HTTP/1.1\r\nhOST: a\r\nConnection: Keep-Alive\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nconnection: CLOSE\r\n\r\n",
        b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET //../ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\n\r\n",
    ],
)
def test_plain_requests_are_recognised(data: bytes) -> None:
    assert same(data)


NOT_PLAIN = {
    "in pieces": PLAIN[:-1],
    "empty": b"",
    "no host": b"GET / HTTP/1.1\r\nA: b\r\n\r\n",
    "no fields": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "a body": b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
    "chunked": b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "expect": b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
    "upgrade": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    "an unknown option": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close, x\r\n\r\n",
    "old, two hosts": b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n",
    "newer": b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
    "lower case": b"get / HTTP/1.1\r\nHost: a\r\n\r\n",
    "another method": b"POST / HTTP/1.1\r\nHost: a\r\n\r\n",
    "no path": b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
    "absolute": b"GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "bare line feeds": b"GET / HTTP/1.1\nHost: a\n\n",
    "space before the colon": b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    "folded": b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
    "NUL": b"GET / HTTP/1.1\r\nHost: a\x00\r\n\r\n",
    "bare return": b"GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n",
    "not ASCII": b"GET / HTTP/1.1\r\nHost: \xe9\r\n\r\n",
    "an empty line first": b"\r\n" + PLAIN,
    "too long": b"GET /" + b"a" * LIMIT + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "very many fields": b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * 64 + b"\r\n",
}


@pytest.mark.parametrize("data", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_everything_else_is_left_to_h11(data: bytes) -> None:
    assert parse_plain(data, LIMIT) is None


PARTS = [
    *(b"GET HEAD POST get / /a ?q=1 HTTP/1.1 HTTP/1.0 Host: host: x Connection: close keep-alive ".split()),
    *(b'Content-Length: Transfer-Encoding: chunked Expect: 100-continue 0 1 , ; " % %00 %2f : a-b \\'.split()),
    *(
        b" ",
        b"  ",
        b"\t",
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b"\x00",
        b"\x7f",
        b"\x0b",
        b"\xa0",
        b"GET / HTTP/1.1\r\n",
    ),
]


@settings(max_examples=1500)
@given(st.lists(st.sampled_from(PARTS), max_size=14), st.integers(0, len(PLAIN)), st.integers(0, 6))
def test_the_two_agree_on_mutations(parts: list[bytes], at: int, cut: int) -> None:
    same(PLAIN[:at] + b"".join(parts) + PLAIN[at + cut :])


@settings(max_examples=500)
@given(
    st.lists(
        st.tuples(
            st.text("!#$%&'*+.^_`|~0Aa-", min_size=1, max_size=8),
            st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=12),
        ),
        max_size=8,
    ),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=20),
)
def test_the_two_agree_on_all_fields_that_are_plain(fields: list[tuple[str, str]], target: str) -> None:
    lines = "".join(f"{name}:{value}\r\n" for name, value in fields)
    assert same(f"GET /{target} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode())


def test_a_request_in_pieces_is_put_together() -> None:
    reader = Reader(LIMIT)
    for at in range(len(PLAIN)):
        assert reader.next() is None
        reader.feed(PLAIN[at : at + 1])
    found = reader.next()
    assert isinstance(found, Request)
    assert found.fields["x-two"] == "a b, c"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /" + b"a" * 20000, 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 20000, 431),
        (b"\x16\x03\x01\x00", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 70000\r\n\r\n" + b"x" * 70000, 413),
    ],
)
def test_what_is_refused(data: bytes, status: int) -> None:
    found, _ = by_h11(data)
    assert isinstance(found, Refusal)
    assert found.status == status
