# SPDX-License-Identifier: Apache-2.0
"""Requests that do not wait for responses."""

from __future__ import annotations

import random
import socket
import ssl
import threading

import pytest

from .clients import request
from .conftest import Site
from .content import sha256
from .harness import Native
from .raw import Raw


@pytest.fixture
def raw(steady: Native) -> Raw:
    return Raw(steady.endpoint)


def test_answers_come_in_order(raw: Raw, site: Site) -> None:
    """Six kinds of answers, 120 requests in one write."""
    etag = raw.ask(request("/small.bin", method="HEAD"), head=True).headers["etag"]
    kinds: list[tuple[bytes, int, bytes]] = [
        (request("/small.bin"), 200, site.files["small.bin"]),
        (request("/large.bin", "Range: bytes=5-9"), 206, site.files["large.bin"][5:10]),
        (request("/small.bin", f"If-None-Match: {etag}"), 304, b""),
        (request("/small.bin", method="HEAD"), 200, b""),
        (request("/nothing"), 404, b""),
        (request("/empty.bin"), 200, b""),
        (request("/plain.txt", "Range: bytes=9999-"), 416, b""),
    ]
    order = random.Random(1).choices(kinds, k=120)
    raw.send(b"".join(kind[0] for kind in order))
    for question, status, body in order:
        response = raw.response(head=question.startswith(b"HEAD"))
        assert response.status == status
        if status in (200, 206):
            assert sha256(response.body) == sha256(body)
    raw.close()


def test_large_answers_in_a_row(raw: Raw, site: Site) -> None:
    raw.send(request("/large.bin") * 4 + request("/small.bin", "Connection: close") + request("/medium.bin"))
    for _ in range(4):
        assert sha256(raw.response().body) == site.sha256["large.bin"]
    last = raw.response()
    assert (sha256(last.body), last.headers["connection"]) == (site.sha256["small.bin"], "close")
    assert raw.at_end(), "a request after Connection: close was answered"


def test_one_byte_a_record(raw: Raw, site: Site) -> None:
    for byte in request("/small.bin") * 2:
        raw.send(bytes([byte]))
    for _ in range(2):
        assert sha256(raw.response().body) == site.sha256["small.bin"]
    raw.close()


def test_requests_cut_anywhere(raw: Raw, site: Site) -> None:
    rng = random.Random(2)
    stream = request("/record%2B1.bin") * 60
    sent = 0

    def write() -> None:
        nonlocal sent
        while sent < len(stream):
            size = rng.randint(1, 200)
            raw.send(stream[sent : sent + size])
            sent += size

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(60):
        assert sha256(raw.response().body) == site.sha256["record+1.bin"]
    writer.join(10)
    raw.close()


def test_a_client_that_sends_much_and_reads_nothing(steady: Native, site: Site) -> None:
    """The server stops reading, and keeps serving others; when the client reads, all is there."""
    client = Raw(steady.endpoint, receive_buffer=8192)
    count = 300
    writer = threading.Thread(target=client.send, args=(request("/buffer.bin") * count,))
    writer.start()
    other = Raw(steady.endpoint)
    assert sha256(other.ask(request("/small.bin")).body) == site.sha256["small.bin"]
    other.close()
    for _ in range(count):
        assert sha256(client.response().body) == site.sha256["buffer.bin"]
    writer.join(30)
    client.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_that_says_goodbye_first(steady: Native, site: Site, version: ssl.TLSVersion) -> None:
    """close_notify right after the request ends only the client's direction (RFC 8446 section 6.1)."""
    client = Raw(steady.endpoint, version=version)
    client.send(request("/large.bin", "Connection: close"))
    client.say_goodbye()
    assert sha256(client.response().body) == site.sha256["large.bin"]
    client.close()


def test_a_client_that_closes_its_half(steady: Native, site: Site) -> None:
    client = Raw(steady.endpoint)
    client.send(request("/large.bin", "Connection: close"))
    client.sock.shutdown(socket.SHUT_WR)
    assert sha256(client.response().body) == site.sha256["large.bin"]
    client.close()
