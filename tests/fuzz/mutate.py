# SPDX-License-Identifier: Apache-2.0
"""Change bytes at random, with a taste for what HTTP parsers stumble over. The same seed gives the same inputs."""

from __future__ import annotations

import random
from collections.abc import Sequence

_PUNCTUATION = ("\r\n", "\n", "\r", "\0", " ", "\t", ":", ": ", ",", ";", "=", '"', "\x7f", "\x85", "\xa0", "\xff")
_START = (
    "GET",
    "HEAD",
    "POST",
    "get",
    " HTTP/1.1",
    " HTTP/1.0",
    " HTTP/2.0",
    "HTTP/9.9",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n",
)
_PATH = (
    "/",
    "//",
    "/../",
    "/./",
    "%2e",
    "%2f",
    "%00",
    "%5c",
    "%c0%ae",
    "%",
    "%2",
    "%zz",
    "\\",
    "?",
    "#",
    "*",
    "https://x",
)
_FRAMING = (
    *(
        "Host: x\r\n",
        "host:y\r\n",
        "Content-Length: 5\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 99999999999\r\n",
    ),
    *("Transfer-Encoding: chunked\r\n", "transfer-encoding:chunked\r\n", "TE: trailers\r\n", "5\r\nhello\r\n0\r\n\r\n"),
    *("Connection: close\r\n", "Connection: keep-alive\r\n", "connection: Close , x\r\n", "Expect: 100-continue\r\n"),
    *("Upgrade: h2c\r\n", "X: \r\n y\r\n"),
)
_FIELDS = (
    *("Range: bytes=0-0\r\n", "Range: bytes=-1,1-,0-9999999999999999999999\r\n", "bytes=", "-", "0-", ",0-0" * 50),
    *("If-None-Match: *\r\n", 'If-Match: W/"a", "b"\r\n', 'If-Range: "a"\r\n'),
    *(f"{name}: Sun, 06 Nov 1994 08:49:37 GMT\r\n" for name in ("If-Range", "If-Modified-Since")),
    *("If-Unmodified-Since: Fri, 31 Dec 9999 23:59:60 GMT\r\n", ";q=0.001", "identity;q=0"),
    "Accept-Encoding: gzip, br;q=0.5, zstd;q=0, *;q=1e9\r\n",
)
TOKENS = tuple(token.encode("latin-1") for token in (*_PUNCTUATION, *_START, *_PATH, *_FRAMING, *_FIELDS))
_LONGEST = 100_000


def mutate(data: bytes, pool: Sequence[bytes], rng: random.Random) -> bytes:
    """Return ``data`` changed in one to eight places; ``pool`` is what it may be mixed with."""
    changed = bytearray(data)
    for _ in range(1 << rng.randrange(4)):
        _step(changed, pool, rng)
    return bytes(changed[:_LONGEST])


def _step(data: bytearray, pool: Sequence[bytes], rng: random.Random) -> None:
    at = rng.randint(0, len(data))
    size = min(rng.choice((1, 1, 2, 4, 16, 64, 400)), len(data) - at)
    kind = rng.randrange(9)
    if kind == 0 and at < len(data):
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1 and at < len(data):
        data[at] = rng.randrange(256)
    elif kind == 2:
        del data[at : at + size]
    elif kind == 3:
        # Repeated: long fields, many fields, many requests.
        data[at:at] = bytes(data[at : at + size]) * rng.choice((1, 2, 8, 70, 2000))
    elif kind == 4:
        other = rng.choice(pool)
        start = rng.randint(0, len(other))
        data[at : at + size] = other[start : start + rng.choice((1, 8, 64, 1000))]
    elif kind == 5:
        data[at:at] = rng.randbytes(rng.choice((1, 2, 8)))
    elif kind == 6:
        # A whole line moved, which keeps the rest well-formed.
        lines = bytes(data).split(b"\r\n")
        line = lines.pop(rng.randrange(len(lines)))
        lines.insert(rng.randint(0, len(lines)), line)
        data[:] = b"\r\n".join(lines)
    else:
        data[at : at + rng.choice((0, 0, size))] = rng.choice(TOKENS)
