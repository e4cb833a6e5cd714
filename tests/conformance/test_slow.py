# SPDX-License-Identifier: Apache-2.0
"""Slowloris in all its forms, all at once, while a good client is served without a break."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.authority import Authority, KeyPair

from .clients import request
from .conftest import Site
from .content import sha256
from .harness import Native, eventually, running
from .raw import ClosedError, Raw
from .test_bad_tls import client_hello

LIMITS = {"handshake_timeout_s": 2, "request_timeout_s": 2, "idle_timeout_s": 3, "send_timeout_s": 3}
#: The limits, what lingering and sweeping add, and patience for a busy machine.
LATEST_S = 3 + 12
STEP_S = 0.2
COPIES = 8


def _ended(sock: socket.socket, seconds: float) -> bool:
    """True when the other side ends the connection within ``seconds``; what it sends is dropped."""
    sock.settimeout(seconds)
    try:
        return sock.recv(65536) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def _drip(send: Callable[[bytes], None], sock: socket.socket, data: bytes) -> None:
    """Send a byte, wait, send the next, until the other side ends the connection."""
    end = time.monotonic() + LATEST_S
    at = 0
    while time.monotonic() < end:
        try:
            send(data[at % len(data) :][:1])
        except OSError:
            return
        at += 1
        if _ended(sock, STEP_S):
            return
    raise AssertionError("still there")


def silent(native: Native) -> None:
    """Connects and says nothing."""
    with socket.create_connection(("127.0.0.1", native.port)) as sock:
        assert _ended(sock, LATEST_S)


def slow_handshake(native: Native) -> None:
    """A ClientHello, a byte at a time."""
    with socket.create_connection(("127.0.0.1", native.port)) as sock:
        _drip(sock.sendall, sock, client_hello())


def stopped_handshake(native: Native) -> None:
    """A whole ClientHello, and no answer to the server's part."""
    with socket.create_connection(("127.0.0.1", native.port)) as sock:
        sock.sendall(client_hello())
        end = time.monotonic() + LATEST_S
        while not _ended(sock, 1):
            assert time.monotonic() < end


def idle(native: Native) -> None:
    """A handshake, and no request: ended cleanly."""
    assert Raw(native.endpoint, timeout_s=LATEST_S).at_end()


def idle_after_a_request(native: Native) -> None:
    """A connection that is kept and not used: ended cleanly."""
    client = Raw(native.endpoint, timeout_s=LATEST_S)
    client.ask(request("/small.bin"))
    assert client.at_end()


def _timed_out(client: Raw) -> None:
    """The stream ends; before that there may be a 408."""
    with contextlib.suppress(ClosedError, ConnectionError):
        assert client.response().status == 408
        client.read()


def half_a_header(native: Native) -> None:
    """Stops in the middle of a request."""
    client = Raw(native.endpoint, timeout_s=LATEST_S)
    client.send(b"GET /small.bin HTTP/1.1\r\nHost: loc")
    _timed_out(client)


def slow_header(native: Native) -> None:
    """The classic: one more byte of the header now and then."""
    client = Raw(native.endpoint)
    client.send(b"GET /small.bin HTTP/1.1\r\nHost: localhost\r\n")
    _drip(client.send, client.sock, b"X-A: b\r\n")


def slow_second_request(native: Native) -> None:
    """The same on a connection that has been served."""
    client = Raw(native.endpoint)
    client.ask(request("/small.bin"))
    _drip(client.send, client.sock, request("/small.bin")[:-4] + b"\r\nX: " + b"y" * 500)


def slow_body(native: Native) -> None:
    """A GET with a body that hardly comes (R-U-Dead-Yet)."""
    client = Raw(native.endpoint)
    client.send(request("/small.bin", "Content-Length: 60000"))
    _drip(client.send, client.sock, b"x")


def slow_chunks(native: Native) -> None:
    """The same in chunks of a byte."""
    client = Raw(native.endpoint)
    client.send(request("/small.bin", "Transfer-Encoding: chunked"))
    _drip(client.send, client.sock, b"1\r\nx\r\n")


def slow_post(native: Native) -> None:
    """A POST with a body that hardly comes: refused at once, or ended."""
    client = Raw(native.endpoint)
    client.send(request("/small.bin", "Content-Length: 60000", method="POST"))
    _drip(client.send, client.sock, b"x")


def reads_nothing(native: Native) -> None:
    """Asks for much and reads nothing.

    A close alone would not end it: the FIN waits behind what the client does not take, and the kernel holds all of
    that for minutes. A reset does.
    """
    client = Raw(native.endpoint, receive_buffer=4096)
    client.send(request("/large.bin") * 5)
    end = time.monotonic() + LATEST_S
    while time.monotonic() < end:
        try:
            client.sock.send(b"")
            # TCP_INFO's first byte is the state; anything but ESTABLISHED (1) is an end.
            if client.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != 1:
                return
        except OSError:
            return
        time.sleep(STEP_S)
    raise AssertionError("still there")


def reads_slowly(native: Native) -> None:
    """Reads a few bytes of a large response now and then (slow read)."""
    client = Raw(native.endpoint, receive_buffer=4096)
    client.send(request("/large.bin") * 5)
    end = time.monotonic() + LATEST_S
    while time.monotonic() < end:
        try:
            client.sock.recv(16)
            if client.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != 1:
                return
        except OSError:
            return
        time.sleep(STEP_S)
    raise AssertionError("still there")


ATTACKS = (
    silent,
    slow_handshake,
    stopped_handshake,
    idle,
    idle_after_a_request,
    half_a_header,
    slow_header,
    slow_second_request,
    slow_body,
    slow_chunks,
    slow_post,
    reads_nothing,
    reads_slowly,
)


@pytest.fixture(scope="module")
def hasty(
    tmp_path_factory: pytest.TempPathFactory, site: Site, pair: KeyPair, authority: Authority
) -> Iterator[Native]:
    """It gives clients little time."""
    with running(tmp_path_factory.mktemp("hasty"), site.root, pair, authority.path, **LIMITS) as native:
        yield native


@pytest.fixture(scope="module")
def siege(hasty: Native, site: Site) -> dict[str, list[str]]:
    """All attacks at once, several times each. Returns what failed, by attack; ``good`` is the good client."""
    failed: dict[str, list[str]] = {"good": []}
    served = 0

    def attack(function: Callable[[Native], None]) -> None:
        try:
            function(hasty)
        except Exception as error:
            failed.setdefault(function.__name__, []).append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=attack, args=(function,)) for function in ATTACKS for _ in range(COPIES)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        try:
            client = Raw(hasty.endpoint)
            for name in ("small.bin", "record.bin"):
                assert sha256(client.ask(request(f"/{name}")).body) == site.sha256[name]
            client.close()
            served += 1
        except Exception as error:
            failed["good"].append(f"{type(error).__name__}: {error}")
        time.sleep(0.05)
    if served < 10:
        failed["good"].append(f"served {served} times only")
    return failed


@pytest.mark.parametrize("name", ["good", *(function.__name__ for function in ATTACKS)])
def test_under_siege(siege: dict[str, list[str]], name: str) -> None:
    assert siege.get(name, []) == []


def test_nothing_is_left(siege: dict[str, list[str]], hasty: Native) -> None:
    assert hasty.status()["errors"] == {}, hasty.messages()
    eventually(lambda: sum(hasty.status()["connections"].values()) == 0)
    assert {"handshake_timeout", "request_timeout", "send_timeout"} <= set(hasty.status()["client_aborts"])
