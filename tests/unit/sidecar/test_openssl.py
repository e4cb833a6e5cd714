# SPDX-License-Identifier: Apache-2.0
"""The binding: versions, errors with the library's reason, misuse, and a read side that is fed by hand."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_sidecar.openssl import (
    WANT_READ,
    Library,
    OpenSSLError,
    ServerContext,
    TlsConnection,
    TlsError,
    UnsupportedOpenSSLError,
    load,
)
from ktls_sidecar.openssl.alpn import choose_alpn
from ktls_sidecar.openssl.library import check_version
from tests.unit.sidecar.support import Certificate


@pytest.fixture(scope="module")
def lib() -> Library:
    return load()


@pytest.fixture(scope="module")
def context(lib: Library, certificate: Certificate) -> ServerContext:
    return ServerContext(lib, str(certificate.certificate), str(certificate.key))


class Pair:
    """A server connection fed by hand, and a client of Python's ``ssl`` in memory."""

    def __init__(self, context: ServerContext, certificate: Certificate, version: ssl.TLSVersion) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.theirs.setblocking(False)
        self.tls = TlsConnection(context, self.ours.fileno(), want_ktls_tx=False)
        client = ssl.create_default_context(cafile=str(certificate.ca))
        client.minimum_version = client.maximum_version = version
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = client.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")

    def move(self, piece: int = 1 << 20) -> None:
        """Carry bytes both ways; towards the server in pieces of ``piece`` bytes."""
        with contextlib.suppress(BlockingIOError):
            self.incoming.write(self.theirs.recv(1 << 20))
        data = self.outgoing.read(piece)
        self.tls.feed(data, len(data))

    def handshake(self, piece: int = 1 << 20) -> None:
        ours = theirs = False
        for _ in range(5000):
            if not theirs:
                try:
                    self.client.do_handshake()
                    theirs = True
                except ssl.SSLWantReadError:
                    pass
            self.move(piece)
            ours = ours or self.tls.handshake() == 1
            if ours and theirs:
                return
        raise AssertionError("no handshake")

    def close(self) -> None:
        self.tls.free()
        self.ours.close()
        self.theirs.close()


VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_receive_side_is_memory(
    context: ServerContext, certificate: Certificate, version: ssl.TLSVersion, piece: int
) -> None:
    pair = Pair(context, certificate, version)
    pair.handshake(piece)
    assert pair.tls.version == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
    assert "AES128-GCM" in pair.tls.cipher.replace("_", "").replace("AES128GCM", "AES128-GCM")
    assert not pair.tls.ktls_send
    assert not pair.tls.ktls_receive
    pair.client.write(b"x" * 100)
    received: bytes | int = WANT_READ
    while received == WANT_READ:
        pair.move(piece)
        received = pair.tls.read()
    assert received == b"x" * 100
    buffer = ctypes.create_string_buffer(b"y" * 50000, 50000)
    assert pair.tls.write(buffer, 50000) == 50000
    got = b""
    while len(got) < 50000:
        pair.move()
        try:
            got += pair.client.read(65536)
        except ssl.SSLWantReadError:
            continue
    assert got == b"y" * 50000
    pair.tls.shutdown()
    pair.move()
    assert pair.client.read(10) == b""
    pair.close()


def test_sendfile_without_ktls_sends_nothing(context: ServerContext, certificate: Certificate, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"plaintext" * 100)
    pair = Pair(context, certificate, ssl.TLSVersion.TLSv1_3)
    pair.handshake()
    pair.move()
    with open(path, "rb") as file, pytest.raises(TlsError, match="SSL_sendfile"):
        pair.tls.sendfile(file.fileno(), 0, 900)
    with pytest.raises(BlockingIOError):
        pair.theirs.recv(1)
    pair.close()


def test_client_close_reads_as_the_end(context: ServerContext, certificate: Certificate) -> None:
    pair = Pair(context, certificate, ssl.TLSVersion.TLSv1_3)
    pair.handshake()
    with pytest.raises(ssl.SSLWantReadError):
        pair.client.unwrap()
    pair.move()
    assert pair.tls.read() == 0
    pair.close()


@given(st.binary(min_size=1, max_size=300))
def test_garbage_never_makes_a_handshake(context: ServerContext, data: bytes) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    tls = TlsConnection(context, ours.fileno(), want_ktls_tx=False)
    tls.feed(data, len(data))
    try:
        assert tls.handshake() == WANT_READ
    except TlsError as error:
        assert error.entries
        assert not error.is_internal
        assert not error.peer_left
    tls.free()
    ours.close()
    theirs.close()


def test_reason_is_the_librarys_own(context: ServerContext) -> None:
    ours, theirs = socket.socketpair()
    tls = TlsConnection(context, ours.fileno(), want_ktls_tx=False)
    request = b"GET / HTTP/1.1\r\n\r\n"
    tls.feed(request, len(request))
    with pytest.raises(TlsError, match="SSL_do_handshake: http request"):
        tls.handshake()
    # A dead or freed connection refuses instead of touching the library.
    with pytest.raises(ValueError, match="dead"):
        tls.read()
    tls.free()
    tls.free()
    for use in (tls.handshake, tls.input_pending, lambda: tls.version, lambda: tls.ktls_send, tls.disable_ktls):
        with pytest.raises(ValueError, match=r"freed|dead"):
            use()
    tls.shutdown()
    ours.close()
    theirs.close()


class LongBytes(bytes):
    """Says that it is longer than it is."""

    def __len__(self) -> int:
        return 1000


class LongArray(ctypes.c_char * 10):  # type: ignore[misc]
    """The same for an array."""

    def __len__(self) -> int:
        return 1000


def test_lengths_are_checked(context: ServerContext, certificate: Certificate) -> None:
    pair = Pair(context, certificate, ssl.TLSVersion.TLSv1_3)
    pair.handshake()
    tls = pair.tls
    buffer = ctypes.create_string_buffer(10)
    misuses: list[Callable[[], object]] = [
        lambda: tls.write(buffer, 11),
        lambda: tls.write(buffer, 0),
        lambda: tls.write(buffer, 2**32 + 5),  # C would see 5
        lambda: tls.write(LongArray(), 11),
        lambda: tls.write_bytes(b""),
        lambda: tls.feed(b"abc", 4),
        lambda: tls.feed(b"abc", -1),
        lambda: tls.feed(LongArray(), 11),
        lambda: tls.sendfile(0, -1, 5),
        lambda: tls.sendfile(0, 0, 0),
        lambda: tls.sendfile(2**32, 0, 5),
        lambda: tls.sendfile(0, 2**63, 5),
        lambda: TlsConnection(context, -1),
        lambda: TlsConnection(context, 2**32),
    ]
    for misuse in misuses:
        with pytest.raises(ValueError, match=r"length|positive|outside"):
            misuse()
    assert tls.write(buffer, 10) == 10
    pair.close()


def test_types_are_checked(context: ServerContext, certificate: Certificate) -> None:
    pair = Pair(context, certificate, ssl.TLSVersion.TLSv1_3)
    pair.handshake()
    tls: Any = pair.tls
    buffer = ctypes.create_string_buffer(10)
    misuses: list[Callable[[], object]] = [
        lambda: tls.write(b"bytes", 5),
        lambda: tls.write(buffer, 5.0),
        lambda: tls.write(buffer, True),
        lambda: tls.write(ctypes.pointer(buffer), 5),
        lambda: tls.write_bytes(LongBytes(b"abc")),
        lambda: tls.write_bytes("text"),
        lambda: tls.write_bytes(bytearray(5)),
        lambda: tls.feed("text", 4),
        lambda: tls.feed(LongBytes(b"abc"), 4),
        lambda: tls.feed(b"abc", None),
        lambda: tls.sendfile("0", 0, 1),
        lambda: tls.key_update(1),
        lambda: TlsConnection(context, "5"),  # type: ignore[arg-type]
        lambda: TlsConnection(None, 5),  # type: ignore[arg-type]
        lambda: ServerContext(context.lib, None, "key"),  # type: ignore[arg-type]
        lambda: ServerContext(None, "certificate", "key"),  # type: ignore[arg-type]
        lambda: context.set_ticket_keys("k" * 80),  # type: ignore[arg-type]
        lambda: context.choose_by_name(None),  # type: ignore[arg-type]
        lambda: copy.copy(tls),
        lambda: copy.copy(context),
    ]
    for misuse in misuses:
        with pytest.raises(TypeError):
            misuse()
    assert tls.write(buffer, 10) == 10
    pair.close()


def test_key_of_another_certificate(lib: Library, certificate: Certificate, other_certificate: Certificate) -> None:
    with pytest.raises(OpenSSLError, match="key values mismatch"):
        ServerContext(lib, str(certificate.certificate), str(other_certificate.key))


def test_bad_ciphers(lib: Library, certificate: Certificate) -> None:
    with pytest.raises(OpenSSLError, match="SSL_CTX_set_cipher_list: no cipher match"):
        ServerContext(lib, str(certificate.certificate), str(certificate.key), tls12_ciphers="NONE-SUCH")


@pytest.mark.parametrize("number", [0x1010117F, 0x20000000, 0x30700000, 0x30F00010, 0x40000000])
def test_other_series_are_refused(number: int) -> None:
    with pytest.raises(UnsupportedOpenSSLError, match=r"supports 3\.0 to 3\.6"):
        check_version(number, "OpenSSL X")


def test_this_series_is_taken(lib: Library) -> None:
    check_version(0x30000130, "OpenSSL 3.0.19")
    check_version(0x30600FF0, "OpenSSL 3.6.255")
    assert lib.version[0] == 3
    assert ".".join(map(str, lib.version)) in lib.version_text


def test_missing_library_names_the_cure() -> None:
    with pytest.raises(UnsupportedOpenSSLError, match="install package libssl3"):
        Library(libssl="libssl.so.nonesuch")


def offer(*names: bytes) -> bytes:
    return b"".join(bytes([len(name)]) + name for name in names)


@pytest.mark.parametrize(
    ("offered", "expected"),
    [
        (offer(b"http/1.1"), b"http/1.1"),
        (offer(b"h2", b"http/1.1"), b"http/1.1"),
        (offer(b"http/1.0", b"http/1.1"), b"http/1.1"),
        (offer(b"http/1.0"), b"http/1.0"),
        (offer(b"h2"), None),
        (b"", None),
    ],
)
def test_alpn(offered: bytes, expected: bytes | None) -> None:
    choice = choose_alpn(offered)
    assert (None if choice is None else offered[choice[0] : choice[0] + choice[1]]) == expected


@given(st.binary(max_size=60))
def test_alpn_points_inside_the_offer(data: bytes) -> None:
    choice = choose_alpn(data)
    if choice is not None:
        assert data[choice[0] : choice[0] + choice[1]] in (b"http/1.1", b"http/1.0")


def test_connections_do_not_leak(context: ServerContext, certificate: Certificate) -> None:
    def resident_kib() -> int:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

    def once() -> None:
        pair = Pair(context, certificate, ssl.TLSVersion.TLSv1_3)
        pair.handshake()
        pair.close()

    for _ in range(50):
        once()
    before = resident_kib()
    for _ in range(300):
        once()
    # One SSL with its handshake is about 30 KiB: 300 of them lost would be 9 MiB.
    assert resident_kib() - before < 4096
