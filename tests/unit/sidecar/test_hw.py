# SPDX-License-Identifier: Apache-2.0
"""Mode hw: what it orders, who is moved to TLS 1.2 by consent, and that all of it ends with the mode.

Real TLS on the loopback. Kernel TLS is not here, so the ULP says yes and does nothing: OpenSSL then stays in userspace.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import subprocess
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_host.jsonsock import JsonSockError
from ktls_sidecar import connection, ulp
from ktls_sidecar.hello import Hello, gains
from ktls_sidecar.leave import is_back, is_ordered
from ktls_sidecar.page import MODES, Order, pack, unpack
from tests.unit.sidecar.support import Client, Sidecar, eventually


def hello(**settings: Any) -> bytes:
    """The ClientHello that a real client sends with these settings of its context."""
    context = ssl.create_default_context()
    for name, value in settings.items():
        if name == "set_ciphers":
            context.set_ciphers(value)
        else:
            setattr(context, name, value)
    out = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return out.read()


USUAL = hello()


@pytest.mark.parametrize(
    ("settings", "able"),
    [
        ({}, True),
        ({"minimum_version": ssl.TLSVersion.TLSv1_3}, False),
        ({"maximum_version": ssl.TLSVersion.TLSv1_2}, False),
        ({"set_ciphers": "ECDHE-RSA-CHACHA20-POLY1305:ECDHE-ECDSA-CHACHA20-POLY1305"}, False),
        ({"set_ciphers": "ECDHE-RSA-AES128-GCM-SHA256"}, False),
        ({"set_ciphers": "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-GCM-SHA256"}, True),
        ({"set_ciphers": "AES128-GCM-SHA256:DHE-RSA-AES128-GCM-SHA256"}, False),
    ],
)
def test_who_gains_by_tls12(settings: dict[str, Any], able: bool) -> None:
    assert gains(hello(**settings)) is able


def in_records(data: bytes, size: int) -> bytes:
    """The same message in records of ``size`` bytes."""
    body = data[5:]
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(data[:3] + len(part).to_bytes(2, "big") + part for part in parts)


@pytest.mark.parametrize("size", [1, 7, 100, 16384])
def test_a_hello_comes_in_pieces_of_any_size(size: int) -> None:
    data = in_records(USUAL, size)
    found = Hello()
    for at in range(len(data)):
        assert found.able is None
        found.take(data[at : at + 1])
    assert found.able is True
    assert gains(data + b"\x14\x03\x03\x00\x01\x01") is True, "what follows does not count"


@given(st.binary(max_size=400))
def test_garbage_is_nobody_who_gains(data: bytes) -> None:
    assert not gains(data)
    assert not gains(b"\x16\x03\x01\x01\x00\x01\x00\x00\xfc" + data)


@given(st.integers(0, len(USUAL) - 1), st.integers(0, 255))
def test_a_damaged_hello_raises_nothing(at: int, byte: int) -> None:
    gains(USUAL[:at] + bytes([byte]) + USUAL[at + 1 :])


def test_a_hello_without_end_is_given_up() -> None:
    found = Hello()
    found.take(b"\x16\x03\x01\xff\xff\x01\xff\xff\xff" + bytes(65527))
    assert found.able is None
    found.take(bytes(1))
    assert found.able is False


# --- the order ----------------------------------------------------------------------------------------------------


@given(st.sampled_from(MODES), st.booleans(), st.integers(0, 1_000_000), st.integers(0, 2**32 - 1))
def test_the_word_holds_tls12(mode: str, tls12: bool, share: int, number: int) -> None:
    order = Order(mode, share / 1e6, number, tls12)
    assert unpack(pack(order)) == order


@pytest.mark.parametrize(
    ("mode", "tx", "rx", "assigned", "may"),
    [
        ("hw", True, False, "hw", True),
        ("hw", True, False, "tx", True),
        ("hw", True, True, "rx", False),
        ("rx", True, False, "hw", False),
        ("tx", True, False, "hw", False),
        ("tx", False, False, "hw", True),
        ("tx", True, False, "tx", True),
        ("userspace", True, False, "hw", False),
        ("userspace", False, False, "hw", True),
    ],
)
def test_what_a_connection_may_be(mode: str, tx: bool, rx: bool, assigned: str, may: bool) -> None:
    assert is_ordered(mode, tx, rx, assigned) is may


def test_which_way_is_back() -> None:
    back = {(before, after) for before in MODES for after in MODES if is_back(before, after)}
    assert back == {
        *(("tx", "userspace"), ("rx", "userspace"), ("hw", "userspace")),
        *(("rx", "tx"), ("hw", "tx"), ("hw", "rx"), ("rx", "hw")),
    }


@pytest.mark.parametrize("request_", [{"mode": "tx", "tls12": True}, {"mode": "hw", "tls12": 1}])
def test_tls12_goes_with_hw_alone(sidecar: Sidecar, request_: dict[str, Any]) -> None:
    with pytest.raises(JsonSockError) as caught:
        sidecar.call(verb="mode", **request_)
    assert caught.value.code == "bad_tls12"
    assert sidecar.status()["mode"] == "userspace"


# --- connections --------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel takes the ULP, as far as the sidecar can see."""
    monkeypatch.setattr(ulp, "attach", lambda _sock: None)


def negotiated(sidecar: Sidecar, **options: Any) -> tuple[str | None, str]:
    with sidecar.client(**options) as client:
        assert client.get("/hello.txt").status == 200
        cipher = client.sock.cipher()
        assert cipher is not None
        return client.sock.version(), cipher[0]


@pytest.mark.usefixtures("asked")
def test_with_consent_a_client_that_can_has_tls12_with_gcm_and_only_in_hw(sidecar: Sidecar) -> None:
    answer = sidecar.call(verb="mode", mode="hw", tls12=True)
    assert (answer["effective_mode"], answer["tls12"]) == ("hw", True)
    version, cipher = negotiated(sidecar)
    assert version == "TLSv1.2"
    assert "AES" in cipher
    assert "GCM" in cipher
    answer = sidecar.call(verb="mode", mode="hw")
    assert answer["tls12"] is False
    assert negotiated(sidecar)[0] == "TLSv1.3", "without consent nothing changes"
    sidecar.call(verb="mode", mode="hw", tls12=True)
    sidecar.call(verb="mode", mode="tx")
    assert sidecar.status()["tls12"] is False
    assert negotiated(sidecar)[0] == "TLSv1.3", "it has gone with the phase"
    rows = {(row["assigned"], row["protocol"]): row["connections_total"] for row in sidecar.status()["by"]}
    assert rows == {("hw", "TLSv1.2"): 1, ("hw", "TLSv1.3"): 1, ("tx", "TLSv1.3"): 1}


@pytest.mark.usefixtures("asked")
def test_a_flag_ends_tls12_too(sidecar: Sidecar) -> None:
    sidecar.call(verb="mode", mode="hw", tls12=True)
    sidecar.off_flag.touch()
    assert negotiated(sidecar)[0] == "TLSv1.3"
    sidecar.off_flag.unlink()
    assert negotiated(sidecar)[0] == "TLSv1.3", "and it does not come back by itself"
    assert sidecar.status()["tls12"] is False


@pytest.mark.usefixtures("asked")
def test_who_draws_userspace_keeps_its_version(sidecar: Sidecar) -> None:
    sidecar.call(verb="mode", mode="hw", tls12=True, share=0.0)
    assert negotiated(sidecar)[0] == "TLSv1.3"


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize(
    ("options", "version"),
    [
        ({"version": ssl.TLSVersion.TLSv1_3}, "TLSv1.3"),
        ({"ciphers": "ECDHE+CHACHA20"}, "TLSv1.3"),
        ({"version": ssl.TLSVersion.TLSv1_2}, "TLSv1.2"),
    ],
)
def test_consent_breaks_no_client(sidecar: Sidecar, options: dict[str, Any], version: str) -> None:
    sidecar.call(verb="mode", mode="hw", tls12=True)
    assert negotiated(sidecar, **options)[0] == version
    assert sidecar.status()["client_aborts"] == {}


@pytest.mark.usefixtures("asked")
def test_a_client_of_openssl_itself_accepts_it(sidecar: Sidecar) -> None:
    """It looks for the mark of a downgrade attack (RFC 8446 section 4.1.3), as other clients do."""
    sidecar.call(verb="mode", mode="hw", tls12=True)
    argv = ["openssl", "s_client", "-connect", f"127.0.0.1:{sidecar.port}", "-CAfile", str(sidecar.certificate.ca)]
    argv.append("-verify_return_error")
    done = subprocess.run(argv, input="", check=True, capture_output=True, text=True, timeout=20)
    assert "Verify return code: 0 (ok)" in done.stdout
    assert "TLSv1.2" in done.stdout


@pytest.mark.usefixtures("asked")
def test_a_session_of_tls13_does_not_hinder_tls12_nor_back(sidecar: Sidecar) -> None:
    context = ssl.create_default_context(cafile=str(sidecar.certificate.ca))
    session: ssl.SSLSession | None = None
    for mode, version in (("tx", "TLSv1.3"), ("hw", "TLSv1.2"), ("hw", "TLSv1.2"), ("userspace", "TLSv1.3")):
        sidecar.call(verb="mode", mode=mode, tls12=mode == "hw")
        raw = socket.create_connection(("127.0.0.1", sidecar.port), timeout=10)
        with context.wrap_socket(raw, server_hostname="localhost", session=session) as sock:
            sock.sendall(b"GET /hello.txt HTTP/1.1\r\nHost: x\r\n\r\n")
            assert sock.recv(4096).startswith(b"HTTP/1.1 200")
            assert sock.version() == version
            session = sock.session


@pytest.mark.usefixtures("asked")
def test_a_client_that_fails_with_tls12_is_spared_it_the_next_time(sidecar: Sidecar) -> None:
    sidecar.call(verb="mode", mode="hw", tls12=True)
    with socket.create_connection(("127.0.0.1", sidecar.port), timeout=10) as raw:
        raw.sendall(USUAL)
        assert raw.recv(65536)
        raw.sendall(b"\x15\x03\x03\x00\x02\x02\x2f")  # alert: illegal_parameter
        while raw.recv(65536):
            pass
    eventually(lambda: sidecar.status()["client_aborts"] == {"handshake": 1})
    assert negotiated(sidecar)[0] == "TLSv1.3"
    assert sidecar.status()["fallbacks"] == {"peer": 1, "other": 0} or sidecar.status()["fallbacks"] == {"peer": 1}


@pytest.mark.usefixtures("asked")
def test_a_hello_in_many_segments_is_waited_for(sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_RECEIVE_SIZE", 7)
    sidecar.call(verb="mode", mode="hw", tls12=True)
    received = socket.socket.recv_into

    def few(sock: socket.socket, buffer: Any, *rest: Any) -> int:
        return received(sock, buffer, 7)

    monkeypatch.setattr(socket.socket, "recv_into", few)
    # The client's own reads go through OpenSSL and not through this.
    with Client(sidecar.port, sidecar.certificate.ca) as client:
        assert client.sock.version() == "TLSv1.2"


# --- zero-copy ----------------------------------------------------------------------------------------------------


class Stubborn:
    """A socket whose kernel does not know the option, or does not take it back."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.asked: list[int] = []

    def setsockopt(self, level: int, option: int, value: int) -> None:
        assert (level, option) == (282, 3)
        self.asked.append(value)
        if self.number:
            raise OSError(self.number, "refused")


def test_zerocopy_that_cannot_be_taken_back_ends_the_connection() -> None:
    old = cast(socket.socket, Stubborn(errno.ENOPROTOOPT))
    assert ulp.set_zerocopy(old, True) is False, "a kernel without it copies"
    with pytest.raises(OSError, match="refused"):
        ulp.set_zerocopy(old, False)
    new = Stubborn(0)
    assert ulp.set_zerocopy(cast(socket.socket, new), True) is True
    assert ulp.set_zerocopy(cast(socket.socket, new), False) is False
    assert new.asked == [1, 0]
