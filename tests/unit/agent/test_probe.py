# SPDX-License-Identifier: Apache-2.0
"""The self-probe against a real TLS server: it verifies, bounds its time, and never calls damage good."""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ktls_agent import probe
from ktls_agent.config import ProbeConfig
from ktls_host.errors import KtlsError
from ktls_host.probe_object import probe_bytes

NAME = "web1.test.internal"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"


def certificate(directory: Path, name: str) -> tuple[str, str]:
    """Make a self-signed certificate, which is its own CA file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    names = x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.9"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    cert, secret = directory / f"{name}.pem", directory / f"{name}.key"
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return str(cert), str(secret)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return certificate(tmp_path_factory.mktemp("tls"), NAME)


Serve = Callable[[Callable[[Any], None]], ProbeConfig]


@pytest.fixture
def serve(pair: tuple[str, str]) -> Iterator[Serve]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    threads: list[threading.Thread] = []
    listeners: list[socket.socket] = []

    def start(talk: Callable[[Any], None]) -> ProbeConfig:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def answer() -> None:
            try:
                raw, _ = listener.accept()
                with raw, context.wrap_socket(raw, server_side=True) as tls:
                    tls.recv(65536)
                    talk(tls)
                    tls.settimeout(3)
                    tls.recv(1)
            except OSError:
                return

        threads.append(threading.Thread(target=answer))
        threads[-1].start()
        return ProbeConfig("127.0.0.1", listener.getsockname()[1], NAME, pair[0], "/ktls-probe.bin")

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)  # wakes accept(2), which close(2) does not
        listener.close()
    for thread in threads:
        thread.join()


def whole(tls: Any) -> None:
    body = probe_bytes()
    tls.sendall(HEAD % len(body) + body)


def test_good_content_and_the_kernels_view_of_that_very_connection(serve: Serve) -> None:
    seen: list[int] = []

    def ktls_tx(port: int) -> bool:
        seen.append(port)
        return True

    result = probe.run(serve(whole), ktls_tx, 5, lambda port: False)
    assert (result.ok, result.sha256_ok, result.ktls_tx, result.error) == (True, True, True, None)
    assert result.ktls_rx is False
    assert result.protocol == "TLSv1.3"
    assert len(seen) == 1
    assert seen[0] > 0
    assert 0 < result.duration_s < 5
    times = result.timings
    assert None not in times.as_dict().values()
    assert times.transfer_s >= times.first_byte_s > 0  # type: ignore[operator]
    assert times.connect_s + times.handshake_s + times.transfer_s <= result.duration_s  # type: ignore[operator]


def test_kernel_view_that_fails_is_unknown_not_false(serve: Serve) -> None:
    def ktls_tx(port: int) -> bool:
        raise KtlsError("need_net_admin", "hidden")

    result = probe.run(serve(whole), ktls_tx, 5)
    assert result.ktls_tx is None
    assert "hidden" in str(result.error)
    assert (result.ok, result.failure) == (True, "kernel_view")


def test_nobody_listens_and_nobody_shakes_hands(pair: tuple[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        config = ProbeConfig("127.0.0.1", silent.getsockname()[1], NAME, pair[0], "/x")
        result = probe.run(config, lambda port: True, 0.3)
        assert (result.failure, result.timings.handshake_s) == ("handshake", None)
        assert result.timings.connect_s is not None
    assert probe.run(config, lambda port: True, 0.3).failure == "connect"


def flipped(tls: Any) -> None:
    body = bytearray(probe_bytes())
    body[1000] ^= 1
    tls.sendall(HEAD % len(body) + body)


def short(tls: Any) -> None:
    body = probe_bytes()
    tls.sendall(HEAD % len(body) + body[:-1])
    tls.shutdown(socket.SHUT_WR)


def endless(tls: Any) -> None:
    tls.sendall(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000)


def garbage(tls: Any) -> None:
    """A record under no key of this connection, as a kernel with a wrong key would send it."""
    with socket.socket(fileno=os.dup(tls.fileno())) as raw:
        raw.sendall(b"\x17\x03\x03\x00\x40" + b"x" * 64)


def drip(tls: Any) -> None:
    for _ in range(30):
        tls.sendall(b"H")
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("talk", "said", "failure"),
    [
        (flipped, "SHA-256", "content"),
        (short, "closed before|EOF", "answer"),
        (endless, "headers do not end", "answer"),
        (garbage, "MAC|mac|record", "record"),
        (lambda tls: tls.sendall(b"HTTP/1.1 404 Not Found\r\n\r\n"), "404", "refused"),
        (lambda tls: tls.sendall(b"HTTP/1.1 503 Service Unavailable\r\n\r\n"), "503", "busy"),
        (
            lambda tls: tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n12345"),
            "announced 5 bytes",
            "refused",
        ),
        (lambda tls: tls.sendall(b"nonsense\r\n\r\n"), "nonsense", "answer"),
    ],
)
def test_damage_is_named(serve: Serve, talk: Callable[[Any], None], said: str, failure: str) -> None:
    result = probe.run(serve(talk), lambda port: True, 5)
    assert not result.ok
    assert result.failure == failure
    assert not result.sha256_ok
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(result.error)
    assert "\n" not in str(result.error)


def test_slow_server_is_bounded(serve: Serve) -> None:
    started = time.monotonic()
    result = probe.run(serve(drip), lambda port: True, 0.5)
    assert time.monotonic() - started < 1.5
    assert "within 0.5 s" in str(result.error)
    assert result.failure == "timeout"
    assert None not in (result.timings.connect_s, result.timings.handshake_s, result.timings.first_byte_s)
    assert result.timings.transfer_s is None


def test_wrong_name_and_unknown_ca_are_refused(serve: Serve, tmp_path: Path) -> None:
    from dataclasses import replace

    result = probe.run(replace(serve(whole), server_name="other.test.internal"), lambda port: True, 5)
    assert not result.ok
    assert "certificate was not accepted" in str(result.error)
    assert (result.failure, result.timings.handshake_s) == ("certificate", None)
    stranger, _ = certificate(tmp_path, "stranger")
    result = probe.run(replace(serve(whole), ca=stranger), lambda port: True, 5)
    assert not result.ok
    assert "certificate was not accepted" in str(result.error)
    assert not probe.run(replace(serve(whole), ca=str(tmp_path / "none")), lambda port: True, 5).ok
