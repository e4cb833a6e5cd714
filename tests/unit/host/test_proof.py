# SPDX-License-Identifier: Apache-2.0
"""The proof's own machinery, run for real with this host's OpenSSL; only the kernel's part is played.

A kernel that takes the TLS ULP and then no keys leaves OpenSSL in userspace: handshakes, records and new keys are real.
What real kernels answer is in the recorded systems, and in docs/compatibility.md.
"""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import pytest

from ktls_host import isolated, ulp_probe
from ktls_host.proof import connection, openssl
from ktls_host.proof import library as c
from ktls_host.proof.connection import BrokenError, End, Pair
from ktls_host.proof.library import Library, LibraryError
from ktls_host.proof.openssl import KEY_UPDATES, SUITES, Cell, Proof

_SETSOCKOPT = socket.socket.setsockopt
TLS13, TLS12 = SUITES[1], SUITES[5]
MSG = ctypes.CFUNCTYPE(
    None, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p
)
_HANDSHAKE, _KEY_UPDATE = 22, 24  # RFC 8446 sections 5.1 and 4


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.fixture(autouse=True)
def ulp(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """The kernel takes the ULP and no keys; the function makes it refuse the ULP with an errno."""
    refusal: list[int] = []

    def setsockopt(self: socket.socket, level: int, option: int, value: Any, *rest: Any) -> None:
        if (level, option) != (socket.IPPROTO_TCP, ulp_probe.TCP_ULP):
            _SETSOCKOPT(self, level, option, value, *rest)
        elif refusal:
            raise OSError(refusal[0], os.strerror(refusal[0]))

    monkeypatch.setattr(socket.socket, "setsockopt", setsockopt)
    return refusal.append


@pytest.fixture
def in_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel says that it does both directions."""
    monkeypatch.setattr(End, "in_kernel", lambda self, direction: True)


@pytest.fixture(scope="module")
def lib() -> Library:
    return Library()


@pytest.fixture(scope="module")
def identity(lib: Library) -> tuple[int, int]:
    return lib.certificate()


@dataclass
class Bench:
    """Contexts of both ends, and the pairs made of them."""

    lib: Library
    identity: tuple[int, int]
    contexts: list[int] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)

    def server(self, suite: tuple[str, str, str]) -> int:
        return openssl._server_context(self.lib, *self.identity, suite[0], suite[1], self.contexts)

    def client(self, suite: tuple[str, str, str], certificate: int | None = None) -> int:
        trusted = self.identity[1] if certificate is None else certificate
        return openssl._client_context(self.lib, trusted, suite[0], suite[1], self.contexts)

    def pair(self, suite: tuple[str, str, str] = TLS13, *, receive: bool = False) -> Pair:
        self.pairs.append(Pair(self.lib, self.server(suite), self.client(suite), receive=receive))
        return self.pairs[-1]


@pytest.fixture
def bench(lib: Library, identity: tuple[int, int]) -> Iterator[Bench]:
    """Everything that a test makes is freed, and no descriptor is left."""
    before = descriptors()
    made = Bench(lib, identity)
    yield made
    for pair in made.pairs:
        pair.close()
    for context in made.contexts:
        lib.SSL_CTX_free(context)
    assert descriptors() == before


# A connection


@pytest.mark.parametrize("receive", [False, True], ids=["tx", "both"])
@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite[1])
def test_each_suite_shakes_hands_and_carries_data(bench: Bench, suite: tuple[str, str, str], receive: bool) -> None:
    pair = bench.pair(suite, receive=receive)
    lib = bench.lib
    lib._ssl.SSL_get_version.restype = lib._ssl.SSL_CIPHER_get_name.restype = ctypes.c_char_p
    lib._ssl.SSL_get_current_cipher.restype = ctypes.c_void_p
    for end in (pair.server, pair.client):
        assert lib._ssl.SSL_get_version(ctypes.c_void_p(end.ssl)) == suite[0].encode()
        cipher = lib._ssl.SSL_get_current_cipher(ctypes.c_void_p(end.ssl))
        assert lib._ssl.SSL_CIPHER_get_name(ctypes.c_void_p(cipher)) == suite[1].encode()
    pair.check()


def test_only_the_servers_read_side_differs(bench: Bench) -> None:
    """A memory BIO is what keeps the read side out of the kernel."""
    assert bench.pair(receive=False).server.feed and not bench.pair(receive=True).server.feed
    assert not bench.pairs[0].client.feed


def test_records_of_every_size_go_both_ways(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte, a full record, one byte more, and several; what is sent does not compress or repeat."""
    sent: list[tuple[str, bytes]] = []
    transfer = Pair._transfer

    def note(self: Pair, source: End, sink: End, data: bytes) -> None:
        assert source.name != sink.name
        sent.append((source.name, data))
        transfer(self, source, sink, data)

    monkeypatch.setattr(Pair, "_transfer", note)
    bench.pair().check()
    sizes = [1, 16384, 16385, 49152]
    assert [(name, len(data)) for name, data in sent] == [(n, size) for size in sizes for n in ("server", "client")]
    assert len({data for _, data in sent if len(data) > 1}) == 6


def test_more_than_the_socket_holds(bench: Bench) -> None:
    """A write that has to be repeated goes on where it was."""
    pair = bench.pair()
    for end in (pair.server, pair.client):
        end.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    data = os.urandom(500_000)
    pair._transfer(pair.server, pair.client, data)
    pair._transfer(pair.client, pair.server, data)


@dataclass
class KeyUpdateLog:
    """KeyUpdate messages as the library reports them: (end, sent or got, whether an answer is asked for)."""

    seen: list[tuple[str, str, bool]] = field(default_factory=list)
    keep: list[Any] = field(default_factory=list)

    def watch(self, end: End) -> None:
        def callback(sent: int, version: int, kind: int, data: int, size: int, ssl: int, own: int) -> None:
            text = ctypes.string_at(data, size)
            if kind == _HANDSHAKE and text[0] == _KEY_UPDATE:
                self.seen.append((end.name, "sent" if sent else "got", bool(text[4])))

        self.keep.append(MSG(callback))
        end.lib._ssl.SSL_set_msg_callback(ctypes.c_void_p(end.ssl), self.keep[-1])


@pytest.mark.parametrize("receive", [False, True], ids=["tx", "both"])
@pytest.mark.parametrize(
    ("sender", "kind", "expected"),
    [
        ("client", c.SSL_KEY_UPDATE_NOT_REQUESTED, [("client", "sent", False), ("server", "got", False)]),
        (
            "client",
            c.SSL_KEY_UPDATE_REQUESTED,
            [("client", "sent", True), ("server", "got", True), ("server", "sent", False), ("client", "got", False)],
        ),
        ("server", c.SSL_KEY_UPDATE_NOT_REQUESTED, [("server", "sent", False), ("client", "got", False)]),
    ],
    ids=KEY_UPDATES,
)
def test_new_keys_are_really_exchanged(
    bench: Bench, sender: str, kind: int, expected: list[tuple[str, str, bool]], receive: bool
) -> None:
    pair = bench.pair(receive=receive)
    log = KeyUpdateLog()
    log.watch(pair.client)
    log.watch(pair.server)
    pair.key_update(getattr(pair, sender), kind)
    assert log.seen == expected


def test_new_keys_many_times(bench: Bench) -> None:
    pair = bench.pair()
    for _ in range(3):
        pair.key_update(pair.client, c.SSL_KEY_UPDATE_REQUESTED)
        pair.key_update(pair.server, c.SSL_KEY_UPDATE_NOT_REQUESTED)


def test_tls_12_has_no_new_keys(bench: Bench) -> None:
    pair = bench.pair(TLS12)
    with pytest.raises(BrokenError, match=r"^client: wrong ssl version$"):
        pair.key_update(pair.client, c.SSL_KEY_UPDATE_NOT_REQUESTED)


def test_the_kernel_is_asked_for_four_bytes_and_no_key(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = bench.pair()
    asked = []

    def getsockopt(self: socket.socket, level: int, option: int, size: int = 0) -> bytes:
        asked.append((level, option, size))
        if option == ulp_probe.TLS_RX:
            raise OSError(errno.EBUSY, "not set")
        return b"\x04\x03\x34\x00"

    monkeypatch.setattr(socket.socket, "getsockopt", getsockopt)
    assert (pair.server.in_kernel(ulp_probe.TLS_TX), pair.server.in_kernel(ulp_probe.TLS_RX)) == (True, False)
    assert asked == [(ulp_probe.SOL_TLS, 1, 4), (ulp_probe.SOL_TLS, 2, 4)]


def test_no_ulp_is_no_kernel(bench: Bench) -> None:
    """A plain socket on any kernel."""
    pair = bench.pair()
    assert not pair.client.in_kernel(ulp_probe.TLS_TX)


# A connection that fails says where and why


def broken(bench: Bench, server: int, client: int) -> str:
    before = descriptors()
    with pytest.raises(BrokenError) as caught:
        Pair(bench.lib, server, client, receive=False)
    assert descriptors() == before
    return str(caught.value)


def test_the_kernel_refuses_the_ulp(bench: Bench, ulp: Callable[[int], None]) -> None:
    ulp(errno.ENOENT)
    said = broken(bench, bench.server(TLS13), bench.client(TLS13))
    assert said == "server: no TLS ULP (No such file or directory)"


@pytest.mark.parametrize("suite", [TLS13, TLS12], ids=["1.3", "1.2"])
def test_the_certificate_is_verified(bench: Bench, suite: tuple[str, str, str]) -> None:
    """Neither an empty store nor one with another certificate of the same name will do."""
    _, other = bench.lib.certificate()
    assert broken(bench, bench.server(suite), bench.client(suite, other)) == "client: certificate verify failed"
    empty = openssl._context(bench.lib, "TLS_client_method", suite[0], suite[1], bench.contexts)
    bench.lib.SSL_CTX_set_verify(empty, c.SSL_VERIFY_PEER, None)
    assert broken(bench, bench.server(suite), empty) == "client: certificate verify failed"


def test_a_context_without_verification_would_take_anything(bench: Bench) -> None:
    """Shows that the test above fails at the certificate and nowhere else."""
    empty = openssl._context(bench.lib, "TLS_client_method", TLS13[0], TLS13[1], bench.contexts)
    bench.pairs.append(Pair(bench.lib, bench.server(TLS13), empty, receive=False))


def test_an_expired_certificate_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c, "_HOUR_S", 3600)
    key, certificate = bench.lib.certificate()
    bench.lib.X509_gmtime_adj(bench.lib.X509_getm_notAfter(certificate), -60)
    bench.lib.require("X509_sign", certificate, key, bench.lib.EVP_sha256())
    expired = Bench(bench.lib, (key, certificate), bench.contexts)
    assert broken(bench, expired.server(TLS13), expired.client(TLS13)) == "client: certificate verify failed"


@pytest.mark.parametrize(
    ("server", "client"),
    [(SUITES[0], SUITES[1]), (SUITES[4], SUITES[5]), (TLS12, TLS13)],
    ids=["1.3", "1.2", "versions"],
)
def test_nothing_in_common(bench: Bench, server: tuple[str, str, str], client: tuple[str, str, str]) -> None:
    said = broken(bench, bench.server(server), bench.client(client))
    assert said in ("server: no shared cipher", "server: unsupported protocol")


def test_a_bit_flipped_on_the_way_is_noticed(bench: Bench) -> None:
    pair = bench.pair()
    pair._transfer(pair.server, pair.client, b"takes the session tickets out of the way")
    bench.lib.SSL_write(pair.client.ssl, ctypes.create_string_buffer(b"hello", 5), 5)
    data = bytearray(pair.server.sock.recv(1000))
    data[-1] ^= 1
    bench.lib.BIO_write(pair.server.feed, bytes(data), len(data))
    with pytest.raises(BrokenError, match=r"^server: decryption failed or bad record mac$"):
        pair._transfer(pair.client, pair.server, b"more")


def test_other_data_is_noticed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a kernel that encrypts the wrong bytes would have it: the record is sound, its content is not."""
    pair = bench.pair()
    drain = Pair._drain
    monkeypatch.setattr(Pair, "_drain", lambda self, sink, room: drain(self, sink, room).replace(b"x", b"y"))
    with pytest.raises(BrokenError, match=r"^client: other data arrived than was sent$"):
        pair._transfer(pair.server, pair.client, b"abcx")


def test_too_much_data_is_noticed(bench: Bench) -> None:
    pair = bench.pair()
    bench.lib.SSL_write(pair.server.ssl, ctypes.create_string_buffer(b"stray", 5), 5)
    with pytest.raises(BrokenError, match=r"^client: other data arrived"):
        pair._transfer(pair.server, pair.client, b"expected")


@pytest.mark.parametrize("receive", [False, True], ids=["tx", "both"])
@pytest.mark.parametrize(("leaves", "stays"), [("client", "server"), ("server", "client")])
def test_a_peer_that_closes_ends_it_at_once(bench: Bench, leaves: str, stays: str, receive: bool) -> None:
    pair = bench.pair(receive=receive)
    pair._transfer(pair.server, pair.client, b"takes the session tickets out of the way")
    getattr(pair, leaves).sock.shutdown(socket.SHUT_RDWR)
    began = time.monotonic()
    with pytest.raises(BrokenError, match=f"^{stays}: (connection closed|unexpected eof while reading)$"):
        pair._drain(getattr(pair, stays), ctypes.create_string_buffer(16384))
        pair._drain(getattr(pair, stays), ctypes.create_string_buffer(16384))
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("receive", [False, True], ids=["tx", "both"])
def test_a_reset_connection_is_an_outcome_and_no_crash(bench: Bench, receive: bool) -> None:
    pair = bench.pair(receive=receive)
    client = pair.client.sock
    _SETSOCKOPT(client, socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    with pytest.raises(BrokenError, match=r"^server: Connection reset by peer$"):
        pair._drain(pair.server, ctypes.create_string_buffer(16384))


def test_data_that_does_not_come_ends_in_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = bench.pair()
    monkeypatch.setattr(connection, "STEP_TIMEOUT_S", 0.3)
    monkeypatch.setattr(End, "pump", lambda self: None)
    began, busy = time.monotonic(), time.process_time()
    with pytest.raises(BrokenError, match=r"^no data from the client within 0.3 s$"):
        pair._transfer(pair.client, pair.server, b"lost")
    assert 0.3 <= time.monotonic() - began < 3
    assert time.process_time() - busy < 3


def test_a_handshake_that_does_not_come_ends_in_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "STEP_TIMEOUT_S", 0.3)
    monkeypatch.setattr(End, "pump", lambda self: None)
    assert broken(bench, bench.server(TLS13), bench.client(TLS13)) == "no handshake within 0.3 s"


def test_a_library_that_gives_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.lib, "SSL_new", lambda context: None)
    before = descriptors()
    with pytest.raises(LibraryError, match=r"^SSL_new: no reason given$"):
        Pair(bench.lib, bench.server(TLS13), bench.client(TLS13), receive=False)
    assert descriptors() == before


def test_close_may_be_repeated(bench: Bench) -> None:
    pair = bench.pair()
    pair.close()
    pair.close()


# The library


def test_library_has_every_function_that_it_names(lib: Library) -> None:
    for name, (result, arguments) in {**c._CRYPTO, **c._SSL}.items():
        function = getattr(lib, name)
        assert (function.restype, tuple(function.argtypes)) == (result, arguments)
    with pytest.raises(AttributeError):
        lib.SSL_no_such_function  # noqa: B018


def test_a_reason_is_told_and_the_queue_is_empty_then(lib: Library) -> None:
    context = lib.SSL_CTX_new(lib.TLS_client_method())
    with pytest.raises(LibraryError, match=r"^SSL_CTX_set_cipher_list: no cipher match$"):
        lib.require("SSL_CTX_set_cipher_list", context, b"NO-SUCH-CIPHER")
    assert lib.reason() == "no reason given"
    lib.SSL_CTX_free(context)


@pytest.mark.parametrize("missing", ["libcrypto.so.3", "libssl.so.3"])
def test_no_library(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    real = ctypes.CDLL

    def load(name: str, **named: Any) -> ctypes.CDLL:
        return real("lib-that-is-not-there.so.9" if name == missing else name, **named)

    monkeypatch.setattr(ctypes, "CDLL", load)
    with pytest.raises(LibraryError, match="lib-that-is-not-there"):
        Library()


def test_a_function_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(c._SSL, "SSL_of_tomorrow", (ctypes.c_int, ()))
    with pytest.raises(LibraryError, match=r"^no function SSL_of_tomorrow$"):
        Library()


# The whole proof


def test_without_the_module_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "call", lambda *_: pytest.fail("tried all the same"))
    assert openssl.probe(False) == Proof(why="module tls is not loaded")


@pytest.mark.usefixtures("in_kernel")
def test_every_cell_is_tried(lib: Library) -> None:
    """With a kernel that claims everything: what is left to decide is whether data arrives, and it does."""
    found = openssl.probe(True)
    assert (found.done, found.why, found.library) == (True, None, lib.version)
    assert [(cell.version, cell.cipher, cell.kernel_cipher) for cell in found.cells] == list(SUITES)
    for cell in found.cells:
        assert (cell.offered, cell.tx, cell.rx, cell.reason) == (True, True, True, None), cell
        good = dict.fromkeys(KEY_UPDATES, "ok") if cell.version == "TLSv1.3" else None
        assert cell.key_update == {"tx": good, "rx": good}
    assert set(ulp_probe.CIPHERS) == {cell.kernel_cipher for cell in found.cells}


def test_a_library_that_stays_in_userspace_is_found_out() -> None:
    """All data arrives, and that is not enough."""
    for cell in openssl.probe(True).cells:
        assert (cell.offered, cell.tx, cell.rx) == (True, False, False)
        assert cell.reason == "transmit side stays in userspace"
        assert cell.key_update == {"tx": None, "rx": None}


def test_a_kernel_that_only_transmits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(End, "in_kernel", lambda self, direction: direction == ulp_probe.TLS_TX)
    for cell in openssl.probe(True).cells:
        assert (cell.tx, cell.rx, cell.reason) == (True, False, "receive side stays in userspace")
        assert cell.key_update["rx"] is None
        assert (cell.key_update["tx"] is None) == (cell.version == "TLSv1.2")


@pytest.mark.usefixtures("in_kernel")
def test_a_kernel_that_encrypts_other_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says that it encrypts; what arrives is not what was sent. The rest is tried all the same."""

    def spoil(self: Pair) -> None:
        raise BrokenError("client: other data arrived than was sent")

    monkeypatch.setattr(Pair, "check", spoil)
    found = openssl.probe(True)
    assert found.done and len(found.cells) == len(SUITES)
    assert {(cell.tx, cell.reason) for cell in found.cells} == {(False, "client: other data arrived than was sent")}


@pytest.mark.usefixtures("in_kernel")
def test_each_kind_of_new_keys_has_a_sound_connection(monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    """One that did not survive is replaced; one that did serves on."""
    seen: list[tuple[int, str, int]] = []

    def refuse(self: Pair, sender: End, kind: int) -> None:
        seen.append((id(self), sender.name, kind))
        alive.append(self)
        if sender.name == "server":
            return
        raise BrokenError("server: no suitable record layer")

    alive: list[Pair] = []
    monkeypatch.setattr(Pair, "key_update", refuse)
    said = openssl._key_updates(bench.lib, bench.server(TLS13), bench.client(TLS13), receive=True)
    why = "breaks: server: no suitable record layer"
    assert said == {"peer": why, "peer_requested": why, "own": "ok"}
    assert len({pair for pair, *_ in seen}) == 3
    assert [rest for _, *rest in seen] == [["client", 0], ["client", 1], ["server", 0]]
    monkeypatch.setattr(Pair, "key_update", lambda self, *_: alive.append(self))
    alive.clear()
    openssl._key_updates(bench.lib, bench.server(TLS13), bench.client(TLS13), receive=False)
    assert len(alive) == 3 and len({id(pair) for pair in alive}) == 1


def test_leaving_the_kernel_on_new_keys_is_no_success(monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    monkeypatch.setattr(End, "in_kernel", lambda self, direction: False)
    said = openssl._key_updates(bench.lib, bench.server(TLS13), bench.client(TLS13), receive=False)
    assert said == dict.fromkeys(KEY_UPDATES, "breaks: left the kernel")


@pytest.mark.usefixtures("in_kernel")
def test_a_cipher_that_the_library_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a crypto policy or FIPS mode took it out."""
    unknown = (("TLSv1.3", "TLS_SM4_OF_TOMORROW", "sm4"), ("TLSv1.2", "NO-SUCH-CIPHER", "sm4"), *SUITES[:1])
    monkeypatch.setattr(openssl, "SUITES", unknown)
    first, second, third = openssl.probe(True).cells
    for cell in (first, second):
        assert (cell.offered, cell.tx, cell.rx, cell.key_update) == (False, False, False, {"tx": None, "rx": None})
    assert "no cipher match" in (first.reason or "") and "no cipher match" in (second.reason or "")
    assert third.tx


@pytest.mark.usefixtures("in_kernel")
def test_a_cipher_that_no_provider_has_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    """FIPS mode knows the name and lacks the algorithm: the list is empty then, and the handshake is what tells."""
    monkeypatch.setattr(openssl, "SUITES", (("TLSv1.3", "", "chacha20-poly1305"),))
    (cell,) = openssl.probe(True).cells
    assert (cell.offered, cell.tx, cell.rx, cell.reason) == (False, False, False, "client: no ciphers available")


def test_what_was_tried_before_the_end_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def some(emit: isolated.Emit) -> None:
        emit({"library": "OpenSSL 3.9.9"})
        for suite in SUITES[:2]:
            emit(asdict(Cell(*suite, True, True, True, None, {"tx": None, "rx": None})))
        faulthandler.disable()
        os.abort()

    monkeypatch.setattr(openssl, "_prove", some)
    found = openssl.probe(True)
    assert (found.done, found.library, len(found.cells)) == (False, "OpenSSL 3.9.9", 2)
    assert found.why == "the proof ended with signal 6 after 2 of 8 ciphers"
    assert all(isinstance(cell, Cell) for cell in found.cells)


def test_time_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openssl, "TIMEOUT_S", 0.3)
    monkeypatch.setattr(openssl, "_prove", lambda emit: time.sleep(600))
    assert openssl.probe(True).why == "the proof ended with timeout after 0 of 8 ciphers"


def test_no_library_is_an_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise LibraryError("libssl.so.3: cannot open shared object file")

    monkeypatch.setattr(openssl, "Library", fail)
    found = openssl.probe(True)
    assert (found.done, found.library, found.cells) == (False, None, ())
    assert "LibraryError: libssl.so.3: cannot open" in (found.why or "")


def test_as_dict_is_plain() -> None:
    cell = Cell(*TLS13, True, True, False, "why", {"tx": {"peer": "ok"}, "rx": None})
    plain = Proof(True, None, "OpenSSL 3", (cell,)).as_dict()
    assert plain["cells"] == [asdict(cell)] and isinstance(plain["cells"], list)
    assert set(plain) == {"done", "why", "library", "cells"}


def test_the_hosts_configuration_does_not_reach_the_client(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy that asks for kTLS everywhere would put the client into the kernel too; only the server asks."""
    options: dict[str, list[int]] = {}
    lib = bench.lib
    lib._ssl.SSL_get_options.restype = ctypes.c_uint64
    real = openssl._context

    new = lib.SSL_CTX_new

    def made(method: int) -> int:
        context = int(new(method))
        lib._ssl.SSL_CTX_set_options.argtypes = [ctypes.c_void_p, ctypes.c_uint64]
        lib._ssl.SSL_CTX_set_options(context, c.SSL_OP_ENABLE_KTLS)
        return context

    def asks(*arguments: Any) -> int:
        monkeypatch.setattr(lib, "SSL_CTX_new", made)
        return real(*arguments)

    monkeypatch.setattr(openssl, "_context", asks)
    pair = bench.pair()
    for end in (pair.client, pair.server):
        options.setdefault(end.name, []).append(lib._ssl.SSL_get_options(ctypes.c_void_p(end.ssl)))
    assert options["client"][0] & c.SSL_OP_ENABLE_KTLS == 0
    assert options["server"][0] & c.SSL_OP_ENABLE_KTLS
