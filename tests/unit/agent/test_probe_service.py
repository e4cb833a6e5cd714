# SPDX-License-Identifier: Apache-2.0
"""The self-probe of a server that is not ours: another object with a known hash, or no more than a handshake."""

from __future__ import annotations

import hashlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ktls_agent import config, probe, probe_known
from ktls_agent.config import ProbeConfig
from ktls_agent.selftest import verdict
from ktls_host.errors import KtlsError
from ktls_host.probe_object import EXPECTED_SHA256, PROBE_SIZE
from ktls_host.service import baseline
from tests.unit.agent.test_probe import HEAD, NAME, certificate

BODY = b"not the probe object" * 1000
DIGEST = hashlib.sha256(BODY).hexdigest()
CONFIG: dict[str, Any] = {"socket": "/a", "state_dir": "/b", "run_dir": "/c", "sidecar_socket": "/d"}
PROBE: dict[str, Any] = {"host": "127.0.0.1", "port": 1, "server_name": NAME, "ca": "/ca", "path": "/p"}

Server = Callable[[bytes], int]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return certificate(tmp_path_factory.mktemp("tls"), NAME)


@pytest.fixture
def server(pair: tuple[str, str]) -> Iterator[Server]:
    """Serve ``answer`` to everybody who asks, and return the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    listener = socket.create_server(("127.0.0.1", 0))
    answers: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                raw, _ = listener.accept()
            except OSError:
                return
            try:
                with raw, context.wrap_socket(raw, server_side=True) as tls:
                    if tls.recv(65536):
                        tls.sendall(answers[0])
                        tls.settimeout(2)
                        tls.recv(1)
            except OSError:
                continue

    def start(answer: bytes) -> int:
        answers.append(answer)
        port: int = listener.getsockname()[1]
        return port

    thread = threading.Thread(target=serve)
    thread.start()
    yield start
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def at(port: int, ca: str, **more: Any) -> ProbeConfig:
    return ProbeConfig("127.0.0.1", port, NAME, ca, **{"path": "/x", "sha256": DIGEST, "size": len(BODY), **more})


def test_another_object_is_compared_with_its_own_hash(server: Server, pair: tuple[str, str]) -> None:
    port = server(HEAD % len(BODY) + BODY)
    good = probe.run(at(port, pair[0]), lambda port: True, 5)
    assert (good.ok, good.sha256_ok, good.failure) == (True, True, None)
    other = probe.run(at(port, pair[0], sha256="0" * 64), lambda port: True, 5)
    assert (other.ok, other.sha256_ok, other.failure) == (False, False, "content")
    short = probe.run(at(port, pair[0], size=5), lambda port: True, 5)
    assert (short.ok, short.failure) == (False, "refused")


def test_a_handshake_proves_the_path_and_no_content(server: Server, pair: tuple[str, str]) -> None:
    """The server is asked for nothing, and may still be about to take the key to receive with."""
    port, looks = server(b""), [0]

    def receives(port: int) -> bool:
        looks[0] += 1
        return looks[0] >= 3

    done = probe.run(at(port, pair[0], path=None), lambda port: True, 5, receives)
    assert (done.ok, done.sha256_ok, done.ktls_tx, done.ktls_rx, done.failure) == (True, None, True, True, None)
    assert (done.protocol, looks[0]) == ("TLSv1.3", 3)
    assert verdict(done, "rx", (3, 5)) == ""
    assert done.timings.transfer_s is None
    plain = probe.run(at(port, pair[0], path=None), lambda port: False, 5, lambda port: False)
    assert (plain.ok, plain.ktls_tx) == (True, False)
    assert "userspace TLS" in verdict(plain, "tx")


def test_a_handshake_verifies_too(server: Server, tmp_path: Path) -> None:
    stranger = certificate(tmp_path, NAME)[0]
    done = probe.run(at(server(b""), stranger, path=None), lambda port: True, 5)
    assert (done.ok, done.sha256_ok, done.failure) == (False, False, "certificate")


def test_what_was_recorded_counts_from_the_next_probe_on(tmp_path: Path) -> None:
    """And a record that is missing or damaged makes a handshake of it, not a failure."""
    record = tmp_path / "service.json"
    found = config.parse({**CONFIG, "probe": {**PROBE, "path": None, "known": str(record)}}, "x").probe
    assert probe_known.current(found).path is None
    for text in ("", "[]", '{"baseline": null}', '{"baseline": {"url": "https://x/"}}', "\0"):
        record.write_text(text)
        assert probe_known.current(found) == found
    record.write_text(json.dumps({"baseline": {"url": "https://x:1/a?b=c", "sha256": DIGEST, "size": 7}}))
    now = probe_known.current(found)
    assert (now.path, now.sha256, now.size, now.port) == ("/a?b=c", DIGEST, 7, found.port)


def test_configuration() -> None:
    usual = config.parse({**CONFIG, "probe": PROBE}, "x").probe
    assert (usual.path, usual.size, usual.sha256) == ("/p", PROBE_SIZE, EXPECTED_SHA256)
    assert probe_known.current(usual) == usual
    assert config.parse({**CONFIG, "probe": {**PROBE, "path": None}}, "x").probe.known is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"path": ""}, "probe.path"),
        ({"path": None, "known": 5}, "probe.known"),
        ({"known": "/x"}, "unknown key probe.known"),
    ],
)
def test_configuration_that_cannot_be_used(change: dict[str, Any], said: str) -> None:
    with pytest.raises(KtlsError, match=said) as caught:
        config.parse({**CONFIG, "probe": {**PROBE, **change}}, "x")
    assert caught.value.code == "bad_config"


# The hash is taken when the service is taken over


def test_baseline(server: Server, pair: tuple[str, str]) -> None:
    url = f"https://{NAME}:{server(HEAD % len(BODY) + BODY)}/p?q=1"
    where = baseline.place(url, "127.0.0.1", pair[0])
    assert (where.server_name, where.path) == (NAME, "/p?q=1")
    baseline.wait(where)
    found, in_kernel = baseline.fetch(where, url)
    assert (found.sha256, found.size, found.url) == (DIGEST, len(BODY), url)
    assert in_kernel is not True, "this machine's Python does not ask for kernel TLS"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 1\r\n\r\nx", "answered 404"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "announces no size"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "announces no size"),
        (b"SSH-2.0\r\n", "SSH-2.0"),
    ],
)
def test_a_url_that_will_not_do(server: Server, pair: tuple[str, str], answer: bytes, said: str) -> None:
    url = f"https://{NAME}:{server(answer)}/"
    with pytest.raises(KtlsError, match=said) as caught:
        baseline.fetch(baseline.place(url, "127.0.0.1", pair[0]), url)
    assert caught.value.code == "probe_failed"


def test_the_baseline_verifies(server: Server, tmp_path: Path) -> None:
    url = f"https://{NAME}:{server(HEAD % 1 + b'x')}/"
    with pytest.raises(KtlsError, match="certificate"):
        baseline.fetch(baseline.place(url, "127.0.0.1", certificate(tmp_path, NAME)[0]), url)


@pytest.mark.parametrize("url", ["http://x/", "https:///p", "https://u@x/", "https://x:99999/", "https://x/a b", "x"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(KtlsError) as caught:
        baseline.place(url, "127.0.0.1", "/ca")
    assert caught.value.code == "bad_url"


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(KtlsError) as caught:
        baseline.wait(baseline.place(f"https://x:{port}/", "127.0.0.1", "/ca"), 0.2)
    assert caught.value.code == "not_listening"
