# SPDX-License-Identifier: Apache-2.0
"""The client that counts without decrypting, against a real TLS server."""

from __future__ import annotations

import hashlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import skim

BODY = bytes(range(256)) * 400


def record(plaintext: int, kind: int = 23) -> bytes:
    length = plaintext + 17
    return bytes([kind, 3, 3, length >> 8, length & 0xFF]) + bytes(length)


@given(st.lists(st.integers(0, 16384), max_size=6), st.lists(st.integers(1, 20000), min_size=1, max_size=8))
def test_any_cut_of_the_stream_counts_the_same(sizes: list[int], cuts: list[int]) -> None:
    stream = b"".join(record(size) for size in sizes)
    walk, position, turn = skim.RecordWalk(), 0, 0
    while position < len(stream):
        step = cuts[turn % len(cuts)]
        walk.feed(memoryview(stream)[position : position + step])
        position, turn = position + step, turn + 1
    assert walk.plaintext == sum(sizes) and walk.at_boundary


def test_inside_of_a_record_is_no_boundary() -> None:
    for cut in (1, 4, 5, 6, 100):
        walk = skim.RecordWalk()
        walk.feed(memoryview(record(200))[:cut])
        assert not walk.at_boundary


@pytest.mark.parametrize("wrong", [record(2, kind=21), bytes([23, 3, 3, 0, 16]) + bytes(16)])
def test_an_alert_is_not_counted(wrong: bytes) -> None:
    with pytest.raises(skim.SkimError, match="ended the connection"):
        skim.RecordWalk().feed(memoryview(wrong))


@pytest.mark.parametrize("head", [b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_only_whole_files_are_followed(head: bytes) -> None:
    with pytest.raises(skim.SkimError, match="not a whole file"):
        skim.content_length(head)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(place / "key.pem"), "-out", str(place / "cert.pem"), "-subj", "/CN=localhost"]
    subprocess.run([*command, "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True)
    return place


class _Tls:
    """Serves BODY on each connection until the client goes; ``later`` is what it serves from the second time on."""

    def __init__(self, certificate: Path) -> None:
        self.later = BODY
        self.asked = 0
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
        self._listener = context.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        body = BODY
        try:
            while connection.recv(65536):
                self.asked += 1
                connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
                body = self.later
        except OSError:
            pass

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def server(certificate: Path) -> Iterator[_Tls]:
    made = _Tls(certificate)
    yield made
    made.close()


def run(server: _Tls, certificate: Path, body: bytes = BODY) -> dict[str, float]:
    digest = hashlib.sha256(body).hexdigest()
    return skim.run(server.port, str(certificate / "cert.pem"), [("/x", digest)], connections=2, seconds=0.5)


def test_it_counts_what_a_real_server_sends(server: _Tls, certificate: Path) -> None:
    found = run(server, certificate)
    assert found["requests"] > 2
    head = len(f"HTTP/1.1 200 OK\r\nContent-Length: {len(BODY)}\r\n\r\n")
    assert found["bytes"] == found["requests"] * (len(BODY) + head)
    assert server.asked == found["requests"] + 2  # the first of each connection, and none is left half sent


def test_a_first_answer_that_is_another_file_is_refused(server: _Tls, certificate: Path) -> None:
    with pytest.raises(skim.SkimError, match="not the file that was asked for"):
        run(server, certificate, b"another")


def test_a_later_answer_of_another_length_is_noticed(server: _Tls, certificate: Path) -> None:
    server.later = BODY + b"more"
    with pytest.raises(skim.SkimError, match="instead of"):
        run(server, certificate)


def test_a_server_that_is_not_trusted_is_not_measured(server: _Tls, certificate: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj",
         "/CN=localhost", "-keyout", str(certificate / "other.key"), "-out", str(certificate / "other.pem"),
         "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    with pytest.raises(ssl.SSLCertVerificationError):
        skim.run(server.port, str(certificate / "other.pem"), [("/x", "")], connections=1, seconds=0.1)
