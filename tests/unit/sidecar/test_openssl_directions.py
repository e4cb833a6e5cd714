# SPDX-License-Identifier: Apache-2.0
"""The binding: both ways to receive, key updates, unfinished writes, and a foreign error queue."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import socket
import ssl
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ktls_sidecar.openssl
from ktls_sidecar.openssl import (
    WANT_READ,
    WANT_WRITE,
    Library,
    OpenSSLError,
    ServerContext,
    TlsConnection,
    TlsError,
    load,
)
from ktls_sidecar.openssl.constants import SSL_OP_ENABLE_KTLS
from tests.unit.sidecar.openssl_support import VERSIONS, Authority, Pair

both_versions = pytest.mark.parametrize("version", VERSIONS)
both_sides = pytest.mark.parametrize("rx", [False, True], ids=["fed", "socket"])


@pytest.fixture(scope="module")
def lib() -> Library:
    return load()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("directions"))


@pytest.fixture(scope="module")
def context(lib: Library, authority: Authority) -> ServerContext:
    return authority.context(lib, "localhost")


@both_versions
@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_reading_from_the_socket(
    context: ServerContext, authority: Authority, version: ssl.TLSVersion, piece: int
) -> None:
    pair = Pair(context, authority.client(), version, rx=True)
    assert not pair.tls.feeds
    pair.handshake(piece)
    assert pair.to_server(b"x" * 40000, max(piece, 7)) == b"x" * 40000
    assert pair.tls.read() == WANT_READ
    assert not pair.tls.input_pending()
    with pytest.raises(ValueError, match="cannot be fed"):
        pair.tls.feed(b"x", 1)
    assert pair.tls.write_bytes(b"y" * 30000) == 30000
    assert pair.at_client(30000) == b"y" * 30000
    # This kernel has no ULP on a Unix socket, so nothing can have moved.
    assert not pair.tls.ktls_send
    assert not pair.tls.ktls_receive
    pair.close()


@pytest.mark.parametrize(
    ("tx", "rx", "option", "feeds"), [(0, 0, False, True), (1, 0, True, True), (1, 1, True, False)]
)
def test_modes(context: ServerContext, lib: Library, tx: int, rx: int, option: bool, feeds: bool) -> None:
    with socket.socket() as sock:
        tls = TlsConnection(context, sock.fileno(), want_ktls_tx=bool(tx), want_ktls_rx=bool(rx))
        assert tls.feeds == feeds
        assert bool(lib.SSL_get_options(tls._ssl) & SSL_OP_ENABLE_KTLS) == option
        assert (lib.SSL_get_rbio(tls._ssl) == lib.SSL_get_wbio(tls._ssl)) == (not feeds)
        tls.disable_ktls()
        assert not lib.SSL_get_options(tls._ssl) & SSL_OP_ENABLE_KTLS
        tls.free()


def test_receiving_alone_is_no_mode(context: ServerContext) -> None:
    with pytest.raises(ValueError, match="no mode"):
        TlsConnection(context, 0, want_ktls_rx=True)


@both_sides
def test_an_end_without_goodbye(context: ServerContext, authority: Authority, rx: bool) -> None:
    pair = Pair(context, authority.client(), rx=rx)
    pair.handshake()
    pair.theirs.close()
    if rx:
        with pytest.raises(TlsError, match="unexpected eof") as caught:
            pair.tls.read()
        assert caught.value.peer_left
        assert not caught.value.is_internal
    else:
        assert pair.tls.read() == WANT_READ  # the caller sees the end of the stream
    pair.close()


@both_versions
@both_sides
def test_a_goodbye_ends_reading_and_not_sending(
    context: ServerContext, authority: Authority, version: ssl.TLSVersion, rx: bool
) -> None:
    pair = Pair(context, authority.client(), version, rx=rx)
    pair.handshake()
    with pytest.raises(ssl.SSLWantReadError):
        pair.client.unwrap()
    pair.move()
    assert pair.tls.read() == 0
    assert pair.tls.read() == 0
    assert pair.tls.write_bytes(b"late") == 4
    # The client leaves for good: 3.0 takes the failed system call for the goodbye, which is no byte count.
    pair.theirs.close()
    with pytest.raises(TlsError) as caught:
        pair.tls.write_bytes(b"too late")
    assert caught.value.peer_left
    pair.close()


@both_sides
def test_pending(context: ServerContext, authority: Authority, rx: bool) -> None:
    pair = Pair(context, authority.client(), rx=rx)
    pair.handshake()
    assert not pair.tls.pending()
    pair.client.write(b"one")
    record = pair.outgoing.read()
    give = pair.theirs.sendall if rx else lambda data: pair.tls.feed(data, len(data))
    give(record[:20])
    assert pair.tls.input_pending() == (not rx)
    assert pair.tls.read() == WANT_READ
    assert not pair.tls.input_pending() or rx
    assert pair.tls.pending()
    give(record[20:])
    assert pair.tls.read() == b"one"
    assert not pair.tls.pending()
    pair.close()


# --- key updates ------------------------------------------------------------------------------------------------------


@both_sides
@pytest.mark.parametrize("request_peer", [False, True])
@pytest.mark.parametrize("by", ["write", "handshake"])
def test_key_update(context: ServerContext, authority: Authority, rx: bool, request_peer: bool, by: str) -> None:
    pair = Pair(context, authority.client(), ssl.TLSVersion.TLSv1_3, rx=rx)
    pair.handshake()
    for round_ in range(3):
        assert not pair.tls.key_update_pending
        pair.tls.key_update(request_peer)
        assert pair.tls.key_update_pending
        if by == "handshake":
            assert pair.tls.handshake() == 1
            assert not pair.tls.key_update_pending
        text = b"after the update %d" % round_
        assert pair.tls.write_bytes(text) == len(text)
        assert not pair.tls.key_update_pending
        assert pair.at_client(len(text)) == text
        # The client answers a request before its next data.
        assert pair.to_server(text) == text
    pair.close()


def test_key_update_wants_tls13(context: ServerContext, authority: Authority) -> None:
    pair = Pair(context, authority.client(), ssl.TLSVersion.TLSv1_2)
    with pytest.raises(ValueError, match="not ready"):
        pair.tls.key_update(True)
    pair.handshake()
    with pytest.raises(OpenSSLError, match="SSL_key_update: wrong ssl version") as caught:
        pair.tls.key_update(False)
    assert not isinstance(caught.value, TlsError)
    assert pair.to_server(b"goes on") == b"goes on"
    pair.close()


# --- unfinished writes ------------------------------------------------------------------------------------------------


def blocked(pair: Pair, data: bytes) -> int:
    """Write ``data`` until the socket is full; return how often it went out whole."""
    for count in range(10000):
        if pair.tls.write_bytes(data) == WANT_WRITE:
            return count
    raise AssertionError("the socket never filled")


@both_sides
def test_an_unfinished_write_takes_no_other_data(
    context: ServerContext, authority: Authority, rx: bool, tmp_path: Path
) -> None:
    pair = Pair(context, authority.client(), ssl.TLSVersion.TLSv1_3, rx=rx)
    pair.handshake()
    data = os.urandom(50000)
    whole = blocked(pair, data)
    copy = bytes(bytearray(data))
    assert copy == data
    assert copy is not data
    with open(tmp_path / "f", "wb+") as file:
        misuses: list[Callable[[], object]] = [
            lambda: pair.tls.write_bytes(copy),
            lambda: pair.tls.write_bytes(b"x"),
            lambda: pair.tls.write(ctypes.create_string_buffer(data, len(data)), len(data)),
            lambda: pair.tls.sendfile(file.fileno(), 0, 10),
            pair.tls.handshake,
        ]
        for misuse in misuses:
            with pytest.raises(ValueError, match="unfinished"):
                misuse()
    with pytest.raises(OpenSSLError, match="bad write retry"):
        pair.tls.key_update(False)
    assert pair.at_client(whole * len(data)) == data * whole
    assert pair.tls.write_bytes(data) == len(data)
    assert pair.at_client(len(data)) == data
    assert pair.tls.write_bytes(b"next") == 4
    assert pair.at_client(4) == b"next"
    pair.close()


def test_the_length_of_an_unfinished_write_is_kept(context: ServerContext, authority: Authority) -> None:
    pair = Pair(context, authority.client())
    pair.handshake()
    buffer = ctypes.create_string_buffer(os.urandom(100000), 100000)
    while pair.tls.write(buffer, 60000) != WANT_WRITE:
        pass
    for length in (59999, 60001, 100000, 1):
        with pytest.raises(ValueError, match="unfinished"):
            pair.tls.write(buffer, length)
    pair.close()


def test_the_data_of_an_unfinished_write_is_kept_alive(context: ServerContext, authority: Authority) -> None:
    pair = Pair(context, authority.client())
    pair.handshake()

    gone: list[bool] = []

    class Memory(ctypes.c_char * 50000):  # type: ignore[misc]
        def __del__(self) -> None:
            gone.append(True)

    buffer = Memory()
    while pair.tls.write(buffer, 50000) != WANT_WRITE:
        pass
    del buffer
    assert not gone
    pair.tls.free()
    assert gone
    pair.close()


def test_no_goodbye_in_the_middle_of_a_write(context: ServerContext, authority: Authority) -> None:
    pair = Pair(context, authority.client())
    pair.handshake()
    data = os.urandom(50000)
    whole = blocked(pair, data)
    assert pair.tls.shutdown()
    assert pair.at_client(whole * len(data)) == data * whole
    with pytest.raises(ssl.SSLWantReadError):
        # What remains is a part without an end: neither all of the data nor a clean close.
        assert len(pair.client.read(len(data))) < len(data)
        for _ in range(10):
            pair.move()
            assert pair.client.read(len(data)) != b""
    pair.close()


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(1, 70000), min_size=1, max_size=12),
    drain=st.integers(1, 60000),
    rx=st.booleans(),
    updates=st.booleans(),
)
def test_every_byte_arrives_in_order(
    context: ServerContext, authority: Authority, sizes: list[int], drain: int, rx: bool, updates: bool
) -> None:
    """Writes of any size through a socket that is nearly always full, the client reading now and then."""
    pair = Pair(context, authority.client(), ssl.TLSVersion.TLSv1_3, rx=rx)
    pair.handshake()
    pair.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    sent = received = b""
    for index, size in enumerate(sizes):
        data = os.urandom(size)
        if updates and index % 3 == 2:
            pair.tls.key_update(bool(index % 2))
        buffer = ctypes.create_string_buffer(data, size)
        while True:
            result = pair.tls.write(buffer, size) if index % 2 else pair.tls.write_bytes(data)
            if result == size:
                break
            assert result == WANT_WRITE
            try:
                received += pair.client.read(drain)
            except ssl.SSLWantReadError:
                pair.move()
        sent += data
    received += pair.at_client(len(sent) - len(received))
    assert received == sent
    pair.close()


# --- errors -----------------------------------------------------------------------------------------------------------


@both_sides
def test_errors_that_others_left_are_not_taken_for_ours(
    context: ServerContext, authority: Authority, lib: Library, rx: bool
) -> None:
    """The queue is the thread's: the interpreter's own OpenSSL may be the same library."""
    crypto = ctypes.CDLL("libcrypto.so.3")

    def leave_an_error() -> None:
        assert crypto.OBJ_txt2obj(b"no such object!", 0) == 0
        assert lib.ERR_peek_error()

    pair = Pair(context, authority.client(), rx=rx)
    for _ in range(50):
        leave_an_error()
        if pair.tls.handshake() == 1:
            break
        with contextlib.suppress(ssl.SSLWantReadError):
            pair.client.do_handshake()
        pair.move()
    leave_an_error()
    assert pair.tls.read() == WANT_READ
    assert not lib.ERR_peek_error()
    leave_an_error()
    data = os.urandom(100000)
    while pair.tls.write_bytes(data) != WANT_WRITE:
        leave_an_error()
    leave_an_error()
    assert pair.tls.write_bytes(data) == WANT_WRITE
    assert not lib.ERR_peek_error()
    leave_an_error()
    with pytest.raises(OpenSSLError) as caught:
        pair.tls.key_update(True)
    assert [entry.text for entry in caught.value.entries] == ["bad write retry"]
    pair.close()


@both_sides
def test_a_failed_system_call_keeps_its_errno(context: ServerContext, authority: Authority, rx: bool) -> None:
    pair = Pair(context, authority.client(), rx=rx)
    pair.handshake()
    ctypes.set_errno(errno.EXDEV)
    pair.ours.close()
    with pytest.raises(TlsError, match=os.strerror(errno.EBADF)) as caught:
        pair.tls.write_bytes(b"x")
    assert caught.value.errno == errno.EBADF
    pair.close()


def test_a_stale_errno_is_not_reported(context: ServerContext, authority: Authority, tmp_path: Path) -> None:
    pair = Pair(context, authority.client())
    pair.handshake()
    ctypes.set_errno(errno.EXDEV)
    with open(tmp_path / "f", "wb+") as file, pytest.raises(TlsError, match="SSL_sendfile: uninitialized") as caught:
        pair.tls.sendfile(file.fileno(), 0, 10)
    assert caught.value.errno == 0
    pair.close()
    pair = Pair(context, authority.client())
    ctypes.set_errno(errno.EXDEV)
    pair.tls.feed(b"GET / HTTP/1.1\r\n\r\n", 18)
    with pytest.raises(TlsError, match="http request") as caught:
        pair.tls.handshake()
    assert caught.value.errno == 0
    pair.close()


def test_threads_do_not_share_what_they_read(context: ServerContext, authority: Authority) -> None:
    different: set[bool] = set()

    def work(fill: bytes) -> None:
        mine = authority.context(context.lib, "localhost")
        pair = Pair(mine, authority.client())
        pair.handshake()
        for _ in range(200):
            different.add(pair.to_server(fill * 16000) != fill * 16000)
        pair.close()

    threads = [threading.Thread(target=work, args=(fill,)) for fill in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert different == {False}


# --- the package's example --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_the_example_in_the_documentation_runs(authority: Authority, version: ssl.TLSVersion) -> None:
    text = ktls_sidecar.openssl.__doc__ or ""
    found = re.search(r"::\n\n((?:    .*\n|\n)+)", text)
    assert found
    names: dict[str, Any] = {}
    exec(compile(textwrap.dedent(found.group(1)), "example", "exec"), names)
    certificate, key = authority.pair("localhost")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=names["serve_one"], args=(listener, certificate, key), daemon=True)
        server.start()
        client = authority.client()
        client.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
        client.minimum_version = client.maximum_version = version
        with socket.create_connection(listener.getsockname(), timeout=10) as raw:
            sock = client.wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=False)
            sock.sendall(b"hello")
            assert sock.recv(100) == b"HELLO"
            assert sock.recv(100) == b""
            sock.close()
        server.join(10)
        assert not server.is_alive()
