# SPDX-License-Identifier: Apache-2.0
"""Downloads while a host is drilled for ``hw``: such that a card can encrypt them, verified, and never in the way."""

from __future__ import annotations

import hashlib
import http.server
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ktls_control.ca import Authority
from ktls_control.drill.downloads import Downloads

from .test_ca import request

BODY = b"probe" * 1000
SHA256 = hashlib.sha256(BODY).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves one body over TLS, and remembers what was negotiated."""

    def __init__(self, directory: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        authority = Authority.open(directory / "ca")
        cert = directory / "cert.pem"
        cert.write_text(authority.sign(request(directory, "DNS:web1.example.org"), ["web1.example.org"]))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, directory / "key.pem")
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.ca, self.url = str(authority.certificate_path), f"https://127.0.0.1:{self.server_port}"
        self.negotiated: list[tuple[str | None, str]] = []


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        tls = self.connection
        assert isinstance(tls, ssl.SSLSocket)
        self.server.negotiated.append((tls.version(), (tls.cipher() or ("",))[0]))
        self.send_response(200 if self.path == "/ktls-probe.bin" else 404)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *_args: object) -> None: ...


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(tmp_path)
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield found
    found.shutdown()
    found.server_close()
    thread.join()


def some(downloads: Downloads) -> None:
    """Until one is done, or found to be damaged."""
    deadline = time.monotonic() + 20
    while not (downloads.done or downloads.damaged) and time.monotonic() < deadline:
        time.sleep(0.01)


def test_they_are_such_as_a_card_takes(server: Server) -> None:
    with Downloads(server.url, server.ca, "web1.example.org", SHA256) as downloads:
        some(downloads)
    assert (downloads.done > 0, downloads.damaged) == (True, None)
    assert {version for version, _cipher in server.negotiated} == {"TLSv1.2"}
    assert all("GCM" in cipher for _version, cipher in server.negotiated)


def test_what_is_not_what_was_sent_is_said(server: Server) -> None:
    with Downloads(server.url, server.ca, "web1.example.org", "0" * 64) as downloads:
        some(downloads)
    assert downloads.damaged is not None and SHA256 in downloads.damaged


def test_a_host_that_cannot_be_reached_or_verified_is_for_others_to_speak_of(server: Server) -> None:
    with Downloads(server.url, server.ca, "web2.example.org", SHA256) as downloads:
        time.sleep(0.2)
    assert (downloads.done, downloads.damaged, server.negotiated) == (0, None, [])
    with Downloads("https://127.0.0.1:9", server.ca, None, SHA256) as lost:
        time.sleep(0.05)
    assert (lost.done, lost.damaged) == (0, None)


def test_without_a_url_nothing_is_started() -> None:
    threads = threading.active_count()
    with Downloads(None, None, None, SHA256):
        assert threading.active_count() == threads
