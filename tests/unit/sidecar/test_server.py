# SPDX-License-Identifier: Apache-2.0
"""Real TLS on the loopback: HTTP manners, limits, mode changes, draining, faults."""

from __future__ import annotations

import email.message
import errno
import hashlib
import itertools
import json
import os
import random
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ktls_host.jsonsock import JsonSockError
from ktls_sidecar import ulp
from ktls_sidecar.connection import Connection
from ktls_sidecar.openssl import TlsConnection
from ktls_sidecar.poller import Poller
from ktls_sidecar.transfer import KernelTransfer
from tests.unit.sidecar.support import Certificate, Client, Sidecar, eventually, running

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
BIG = random.Random(1).randbytes(12 * 1024 * 1024 + 12345)


@pytest.fixture
def big(sidecar: Sidecar) -> Path:
    path = sidecar.root / "big.bin"
    path.write_bytes(BIG)
    return path


def slow_client(sidecar: Sidecar, path: str = "/big.bin") -> Client:
    """A client that has asked for a file larger than all socket buffers and has read 100 kB of it."""
    client = sidecar.client()
    client.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head = client.stream.readline()
    assert head.startswith(b"HTTP/1.1 200"), head
    while client.stream.readline() != b"\r\n":
        pass
    assert client.stream.read(100_000) == BIG[:100_000]
    return client


def rest(client: Client) -> bytes:
    """Read to the end, however it ends."""
    parts = []
    try:
        while part := client.stream.read1(1 << 20):
            parts.append(part)
    except (ssl.SSLError, OSError):
        pass
    return b"".join(parts)


# --- content ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_big_file_arrives_whole(sidecar: Sidecar, big: Path, version: ssl.TLSVersion) -> None:
    with sidecar.client(version=version, alpn=["h2", "http/1.1"]) as client:
        assert client.sock.selected_alpn_protocol() == "http/1.1"
        response = client.get("/big.bin")
        assert response.status == 200
        assert hashlib.sha256(response.body).digest() == hashlib.sha256(BIG).digest()
        (row,) = sidecar.status()["by"]
        assert (row["path"], row["protocol"]) == ("userspace", client.sock.version())
        assert row["connections"] == 1
        cipher = client.sock.cipher()
        assert cipher is not None
        assert row["cipher"] == cipher[0]
        assert "128" in row["cipher"]


def test_many_at_once(sidecar: Sidecar, big: Path) -> None:
    failures: list[str] = []

    def download(number: int) -> None:
        with sidecar.client(version=VERSIONS[number % 2]) as client:
            bodies = [client.get("/big.bin").body for _ in range(2)]
        if bodies != [BIG, BIG]:
            failures.append(f"client {number}")

    threads = [threading.Thread(target=download, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    status = sidecar.status()
    assert status["errors"] == {}
    assert status["bytes"]["userspace"] > 12 * len(BIG)


@pytest.mark.parametrize("size", [0, 1, 16384, 262144, 262145, 3 * 262144])
def test_sizes_around_the_buffer(sidecar: Sidecar, size: int) -> None:
    (sidecar.root / "f").write_bytes(BIG[:size])
    with sidecar.client() as client:
        assert client.get("/f").body == BIG[:size]
        assert client.get("/hello.txt").body == b"hello, world\n"


def test_ranges(sidecar: Sidecar, big: Path) -> None:
    with sidecar.client() as client:
        whole = client.get("/big.bin", method="HEAD")
        assert (whole.status, whole.headers["content-length"], whole.body) == (200, str(len(BIG)), b"")
        etag = whole.headers["etag"]
        for field, expected in (
            ("bytes=0-0", BIG[:1]),
            ("bytes=300000-900000", BIG[300000:900001]),
            ("bytes=-5", BIG[-5:]),
            (f"bytes={len(BIG) - 3}-", BIG[-3:]),
        ):
            response = client.get("/big.bin", Range=field, If_Range=etag)
            assert (response.status, response.body) == (206, expected)
        assert client.get("/big.bin", Range=f"bytes={len(BIG)}-").status == 416
        several = client.get("/hello.txt", Range="bytes=0-1,-3")
        kind, boundary = several.headers["content-type"].split("; boundary=")
        assert (several.status, kind) == (206, "multipart/byteranges")
        message = f"Content-Type: {kind}; boundary={boundary}\r\n\r\n".encode() + several.body
        parts = email.message_from_bytes(message).get_payload()
        assert isinstance(parts, list)
        fields = [part["Content-Range"] for part in parts if isinstance(part, email.message.Message)]
        assert fields == ["bytes 0-1/13", "bytes 10-12/13"]
        assert b"he" in several.body and b"ld\n" in several.body
        assert client.get("/hello.txt").body == b"hello, world\n"
        assert client.get("/hello.txt", If_None_Match="*").status == 304
        # Still in step after the bodiless ones.
        assert client.get("/hello.txt").body == b"hello, world\n"
        assert sidecar.status()["connections_total"]["userspace"] == 1


def test_headers(sidecar: Sidecar) -> None:
    with sidecar.client() as client:
        response = client.get("/hello.txt")
        assert response.headers["content-type"] == "text/plain; charset=utf-8"
        assert response.headers["accept-ranges"] == "bytes"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["last-modified"].endswith(" GMT")
        again = client.get("/hello.txt", If_None_Match=response.headers["etag"])
        assert (again.status, again.headers["etag"]) == (304, response.headers["etag"])
        assert client.get("/hello.txt", If_Modified_Since=response.headers["last-modified"]).status == 304


def test_pipelining_keeps_order(sidecar: Sidecar, big: Path) -> None:
    with sidecar.client() as client:
        request = "GET {} HTTP/1.1\r\nHost: x\r\n\r\n"
        paths = ["/hello.txt", "/nothing", "/big.bin", "/hello.txt"]
        client.send("".join(request.format(path) for path in paths).encode())
        answers = [client.response() for _ in paths]
        assert [answer.status for answer in answers] == [200, 404, 200, 200]
        assert answers[2].body == BIG
        assert answers[3].body == b"hello, world\n"


def test_http_1_0_closes(sidecar: Sidecar) -> None:
    with sidecar.client() as client:
        client.send(b"GET /hello.txt HTTP/1.0\r\n\r\n")
        assert client.response().body == b"hello, world\n"
        assert client.closed()


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_curl(sidecar: Sidecar, big: Path, tmp_path: Path, version: str) -> None:
    url = f"https://localhost:{sidecar.port}"
    command = [
        "curl",
        "-sS",
        "--fail",
        "--cacert",
        str(sidecar.certificate.ca),
        f"--tlsv{version}",
        "--tls-max",
        version,
    ]
    command += ["-o", str(tmp_path / "a"), f"{url}/big.bin", "-o", str(tmp_path / "b"), f"{url}/hello.txt"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a").read_bytes() == BIG
    assert (tmp_path / "b").read_bytes() == b"hello, world\n"
    assert sidecar.status()["connections_total"]["userspace"] == 1


# --- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nothing", 404),
        ("/", 404),
        ("/../etc/passwd", 400),
        ("/%2e%2e/etc/passwd", 400),
        ("/a%2fb", 400),
        ("/.env", 403),
        ("/x%00", 400),
        ("/" + "x" * 5000, 414),
        ("/link", 403),
    ],
)
def test_refused_paths_keep_the_connection(sidecar: Sidecar, path: str, status: int) -> None:
    (sidecar.root / "link").symlink_to("/etc/passwd")
    with sidecar.client() as client:
        response = client.get(path)
        assert response.status == status
        assert response.body.startswith(str(status).encode())
        assert client.get("/hello.txt").status == 200


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"POST /hello.txt HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nabc", 405),
        (b"DELETE /hello.txt HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"\x00\x01\x02 nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20000, 431),
        (b"GET /" + b"y" * 20000, 414),
        (b"GET /hello.txt HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + b"z" * 100000, 413),
    ],
)
def test_refused_requests_end_the_connection(sidecar: Sidecar, raw: bytes, status: int) -> None:
    with sidecar.client() as client:
        client.send(raw)
        response = client.response()
        assert (response.status, response.headers["connection"]) == (status, "close")
        assert client.closed()
    status_now = sidecar.status()
    assert status_now["errors"] == {}


def test_the_answer_survives_a_large_unread_body(sidecar: Sidecar) -> None:
    with sidecar.client() as client:
        body = b"z" * 3_000_000
        client.send(b"POST /hello.txt HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n" + body)
        assert client.response().status == 405
        assert client.closed()


def test_405_names_what_is_allowed(sidecar: Sidecar) -> None:
    with sidecar.client() as client:
        assert client.get("/hello.txt", method="PUT").headers["allow"] == "GET, HEAD"


def test_small_body_of_a_get_is_dropped(sidecar: Sidecar) -> None:
    with sidecar.client() as client:
        client.send(b"GET /hello.txt HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
        assert client.response().status == 200
        assert client.get("/hello.txt").status == 200


def test_unreadable_file(sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_options: object) -> int:
        raise PermissionError(13, "Permission denied")

    with sidecar.client() as client:
        monkeypatch.setattr("ktls_sidecar.web.files.os.open", refuse)
        assert client.get("/hello.txt").status == 403
        monkeypatch.undo()
        assert client.get("/hello.txt").status == 200


def test_host_fault_is_a_500_and_an_error(sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_options: object) -> int:
        raise OSError(5, "Input/output error")

    with sidecar.client() as client:
        monkeypatch.setattr("ktls_sidecar.web.files.os.open", fail)
        assert client.get("/hello.txt").status == 500
    assert sidecar.status()["errors"] == {"io_error": 1}


# --- limits -----------------------------------------------------------------------------------------------------


def test_timeouts(tmp_path: Path, certificate: Certificate) -> None:
    limits = {"handshake_timeout_s": 0.3, "request_timeout_s": 0.3, "idle_timeout_s": 0.6, "send_timeout_s": 0.5}
    with running(tmp_path, certificate, **limits) as sidecar:
        (sidecar.root / "big.bin").write_bytes(BIG)
        with socket.create_connection(("127.0.0.1", sidecar.port), timeout=5) as silent:
            assert silent.recv(1) == b""
        with sidecar.client() as client:
            client.send(b"GET / HTT")
            assert client.closed()
        with sidecar.client() as client:
            start = time.monotonic()
            assert client.closed()
            assert time.monotonic() - start > 0.5
        with slow_client(sidecar) as client:
            eventually(lambda: sidecar.status()["connections"]["userspace"] == 0)
            assert len(rest(client)) < len(BIG) - 100_000
        status = sidecar.status()
        assert status["client_aborts"] == {"handshake_timeout": 1, "request_timeout": 1, "send_timeout": 1}
        assert status["errors"] == {}


def test_too_many_connections_get_a_503(tmp_path: Path, certificate: Certificate) -> None:
    with running(tmp_path, certificate, max_connections=1) as sidecar:
        (sidecar.root / "f").write_text("f")
        with sidecar.client() as first:
            assert first.get("/f").status == 200
            with sidecar.client() as second:
                response = second.get("/f")
                assert (response.status, response.headers["connection"]) == (503, "close")
                assert response.headers["retry-after"] == "5"
                assert second.closed()
            assert first.get("/f").status == 200


def test_noise_is_not_an_error_of_ours(
    sidecar: Sidecar, certificate: Certificate, other_certificate: Certificate
) -> None:
    for noise in (b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01\x00\x05hello", os.urandom(3000), b""):
        with socket.create_connection(("127.0.0.1", sidecar.port), timeout=5) as raw:
            raw.sendall(noise)
            raw.shutdown(socket.SHUT_WR)
            while raw.recv(4096):
                pass
    with pytest.raises(ssl.SSLError):
        Client(sidecar.port, other_certificate.ca)
    with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
        sidecar.client(alpn=["h2"])
    eventually(lambda: sum(sidecar.status()["client_aborts"].values()) == 6)
    status = sidecar.status()
    assert status["client_aborts"] == {"handshake": 6}
    assert status["errors"] == {}
    assert status["connections"] == {"ktls_tx": 0, "userspace": 0}


def test_a_client_that_leaves_is_not_an_error_of_ours(sidecar: Sidecar, big: Path) -> None:
    client = slow_client(sidecar)
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    with client:
        pass
    eventually(lambda: sidecar.status()["client_aborts"] == {"reset": 1})
    assert sidecar.status()["errors"] == {}


def test_nothing_is_left_behind(sidecar: Sidecar) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    with sidecar.client() as client:
        client.get("/hello.txt")
    eventually(lambda: sidecar.status()["connections"]["userspace"] == 0)
    before = descriptors()
    for _ in range(30):
        with sidecar.client() as client:
            client.get("/hello.txt")
            client.get("/nothing")
    eventually(lambda: sidecar.status()["connections"]["userspace"] == 0)
    eventually(lambda: descriptors() <= before)


# --- files that change ------------------------------------------------------------------------------------------


def test_truncated_file_ends_short(sidecar: Sidecar, big: Path) -> None:
    with slow_client(sidecar) as client:
        os.truncate(big, 1_000_000)
        # No close_notify: not even a client that ignores Content-Length takes this for the end.
        got = []
        with pytest.raises(ssl.SSLError, match=r"(?i)eof"):
            while part := client.stream.read1(1 << 20):
                got.append(part)
        body = b"".join(got)
        assert len(body) < len(BIG) - 100_000
        assert BIG[100_000:].startswith(body)
    assert sidecar.status()["errors"] == {"file_changed": 1}


def test_file_written_in_place_ends_short(sidecar: Sidecar, big: Path) -> None:
    with slow_client(sidecar) as client:
        with open(big, "r+b") as file:
            file.seek(len(BIG) - 5)
            file.write(b"other")
        assert len(rest(client)) < len(BIG) - 100_000
    assert sidecar.status()["errors"] == {"file_changed": 1}


def test_file_replaced_by_rename_is_sent_as_it_was(sidecar: Sidecar, big: Path) -> None:
    with slow_client(sidecar) as client:
        (sidecar.root / "new").write_bytes(b"new")
        os.rename(sidecar.root / "new", big)
        assert client.stream.read(len(BIG) - 100_000) == BIG[100_000:]
        assert client.get("/big.bin").body == b"new"


def test_a_client_that_pipelines_into_a_full_pipe_burns_no_cpu(
    sidecar: Sidecar, big: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[float] = []
    original = Connection._ready

    def counted(connection: Connection, events: int) -> None:
        calls.append(time.monotonic())
        original(connection, events)

    monkeypatch.setattr(Connection, "_ready", counted)
    with slow_client(sidecar) as client:
        calls.clear()
        client.send(b"GET /hello.txt HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.3)
        assert 1 <= len(calls) <= 2
        assert client.stream.read(len(BIG) - 100_000) == BIG[100_000:]
        assert client.response().body == b"hello, world\n"


def test_one_client_does_not_take_all_the_time(sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sends requests faster than they are answered lets others have their turn."""
    turns: list[int] = []
    original = Connection._yield

    def counted(connection: Connection) -> None:
        turns.append(connection._served)
        original(connection)

    monkeypatch.setattr(Connection, "_yield", counted)
    with sidecar.client() as client:
        client.send(b"GET /hello.txt HTTP/1.1\r\nHost: x\r\n\r\n" * 400)
        for _ in range(400):
            assert client.response().body == b"hello, world\n"
    assert len(turns) >= 400 / 16 - 1
    assert max(later - earlier for earlier, later in itertools.pairwise([0, *turns])) <= 16


def test_a_turn_is_asked_for_once(sidecar: Sidecar, big: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when events come meanwhile, each of which would otherwise leave one more caller behind."""
    waiting: list[int] = []
    original = Poller.later

    def counted(poller: Poller, call: Callable[[], None]) -> None:
        original(poller, call)
        waiting.append(len(poller._later))

    monkeypatch.setattr(Poller, "later", counted)
    with sidecar.client() as client:
        client.send(b"GET /big.bin HTTP/1.1\r\nHost: x\r\n\r\n")
        for _ in range(50):
            client.send(b"GET /hello.txt HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.response().body == BIG
        for _ in range(50):
            client.response()
    assert waiting
    assert max(waiting) == 1


# --- counting ---------------------------------------------------------------------------------------------------


def test_bytes_are_counted_while_they_are_sent(sidecar: Sidecar, big: Path) -> None:
    with slow_client(sidecar) as client:
        midway = sidecar.status()["bytes"]["userspace"]
        assert 100_000 <= midway < len(BIG)
        client.stream.read(len(BIG) - 100_000)
        total = sidecar.status()["bytes"]["userspace"]
        assert len(BIG) < total < len(BIG) + 1000


def test_status_and_metrics_agree(sidecar: Sidecar) -> None:
    with sidecar.client() as client:
        client.get("/hello.txt")
        client.get("/nothing")
        status = sidecar.status()
        text = sidecar.call(verb="metrics")["text"]
    (row,) = status["by"]
    labels = f'{{assigned="userspace",path="userspace",protocol="{row["protocol"]}",cipher="{row["cipher"]}"}}'
    assert f"ktls_sidecar_bytes_total{labels} {row['bytes_total']}\n" in text
    assert 'ktls_sidecar_requests_total{code="404"} 1\n' in text
    assert (status["mode"], status["effective_mode"], status["off_flag"]) == ("userspace", "userspace", False)
    assert status["port"] == sidecar.port
    assert status["openssl"].startswith("OpenSSL 3")
    assert status["last_ktls_tx_established_age_s"] is None
    assert status["ktls_tx_zero_age_s"] is None


def test_unknown_verb(sidecar: Sidecar) -> None:
    with pytest.raises(JsonSockError) as caught:
        sidecar.call(verb="dance")
    assert caught.value.code == "bad_verb"


def test_access_log(sidecar: Sidecar) -> None:
    with sidecar.client() as client:
        client.get("/hello.txt?q=1")
        client.send(b"nonsense\r\n\r\n")
        client.response()
    eventually(lambda: sidecar.log.getvalue().count("\n") == 2)
    first, second = (json.loads(line) for line in sidecar.log.getvalue().splitlines())
    assert {key: first[key] for key in ("method", "path", "status", "complete", "protocol", "ktls_tx")} == {
        "method": "GET",
        "path": "/hello.txt?q=1",
        "status": 200,
        "complete": True,
        "protocol": "TLSv1.3",
        "ktls_tx": False,
    }
    assert first["bytes"] > 13
    assert re.fullmatch(r"127\.0\.0\.1:\d+", first["remote"])
    assert (second["method"], second["status"]) == (None, 400)


# --- modes ------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without the tls module, whatever this machine has."""
    monkeypatch.setattr(ulp, "attach", lambda _sock: "no_tls_ulp")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.usefixtures("no_module")
def test_fallback_is_silent_for_the_client_and_loud_in_the_counters(
    sidecar: Sidecar, big: Path, version: ssl.TLSVersion
) -> None:
    assert sidecar.call(verb="mode", mode="tx")["effective_mode"] == "tx"
    with sidecar.client(version=version) as client:
        assert client.get("/big.bin").body == BIG
    status = sidecar.status()
    assert status["fallbacks"] == {"no_tls_ulp": 1}
    assert status["connections_total"] == {"ktls_tx": 0, "userspace": 1}
    assert status["errors"] == {}


def test_userspace_mode_never_attaches_the_ulp(sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def attach(sock: socket.socket) -> str:
        calls.append(sock)
        return "no_tls_ulp"

    monkeypatch.setattr(ulp, "attach", attach)
    with sidecar.client() as client:
        client.get("/hello.txt")
    assert calls == []
    sidecar.call(verb="mode", mode="tx")
    with sidecar.client() as client:
        client.get("/hello.txt")
    assert len(calls) == 1


@pytest.mark.usefixtures("no_module")
def test_each_connection_is_told_the_mode_that_it_drew(sidecar: Sidecar) -> None:
    def drawn() -> dict[str, int]:
        rows = sidecar.status()["by"]
        assert {row["path"] for row in rows} == {"userspace"}, "there is no module"
        return {row["assigned"]: row["connections_total"] for row in rows}

    for mode in ("rx", "tx", "userspace"):
        sidecar.call(verb="mode", mode=mode)
        with sidecar.client() as client:
            client.get("/hello.txt")
    assert drawn() == {"rx": 1, "tx": 1, "userspace": 1}
    sidecar.call(verb="mode", mode="tx", share=0.5)
    for _ in range(40):
        with sidecar.client() as client:
            client.get("/hello.txt")
    found = drawn()
    assert 5 < found["tx"] < 36
    assert found["tx"] + found["userspace"] == 42
    assert sidecar.status()["fallbacks"] == {"no_tls_ulp": 1 + found["tx"]}


@pytest.mark.usefixtures("no_module")
def test_mode_change_ends_idle_connections_at_once(sidecar: Sidecar) -> None:
    with sidecar.client() as client:
        client.get("/hello.txt")
        start = time.monotonic()
        sidecar.call(verb="mode", mode="tx")
        assert client.closed()
        assert time.monotonic() - start < 0.5
    with sidecar.client() as client:
        client.get("/hello.txt")
        sidecar.call(verb="mode", mode="tx")  # no change
        assert client.get("/hello.txt").status == 200


@pytest.mark.usefixtures("no_module")
def test_mode_change_lets_a_running_response_finish(sidecar: Sidecar, big: Path) -> None:
    with slow_client(sidecar) as client:
        sidecar.call(verb="mode", mode="tx")
        assert client.stream.read(len(BIG) - 100_000) == BIG[100_000:]
        assert client.closed()


@pytest.mark.usefixtures("no_module")
def test_response_after_a_mode_change_says_close(sidecar: Sidecar) -> None:
    with sidecar.client() as client:
        client.get("/hello.txt")
        client.send(b"GET /hello.txt HTTP/1.1\r\n")
        time.sleep(0.1)
        sidecar.call(verb="mode", mode="tx")
        client.send(b"Host: x\r\n\r\n")
        response = client.response()
        assert (response.status, response.headers["connection"]) == (200, "close")
        assert client.closed()


@pytest.mark.usefixtures("no_module")
def test_a_new_connection_gets_its_first_answer_through_a_mode_change(sidecar: Sidecar) -> None:
    with sidecar.client() as client, sidecar.client() as silent:
        eventually(lambda: sidecar.status()["connections"]["userspace"] == 2)
        start = time.monotonic()
        sidecar.call(verb="mode", mode="tx")
        response = client.get("/hello.txt")
        assert (response.status, response.headers["connection"]) == (200, "close")
        assert silent.closed()
        assert time.monotonic() - start < 2.0


@pytest.mark.usefixtures("no_module")
def test_off_flag(sidecar: Sidecar) -> None:
    sidecar.call(verb="mode", mode="tx")
    with sidecar.client() as old:
        old.get("/hello.txt")
        start = time.monotonic()
        sidecar.off_flag.touch()
        assert old.closed()
        assert time.monotonic() - start < 1.0
    status = sidecar.status()
    assert (status["mode"], status["effective_mode"], status["off_flag"]) == ("userspace", "userspace", True)
    with pytest.raises(JsonSockError) as caught:
        sidecar.call(verb="mode", mode="tx")
    assert caught.value.code == "off_latched"
    assert sidecar.call(verb="mode", mode="userspace")["ok"]
    sidecar.off_flag.unlink()
    assert sidecar.status()["effective_mode"] == "userspace"
    assert sidecar.call(verb="mode", mode="tx")["effective_mode"] == "tx"


def test_off_flag_is_seen_by_the_very_next_connection(sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch) -> None:
    attached: list[float] = []

    def attach(_sock: socket.socket) -> str:
        attached.append(time.monotonic())
        return "no_tls_ulp"

    monkeypatch.setattr(ulp, "attach", attach)
    for _ in range(10):
        sidecar.call(verb="mode", mode="tx")
        sidecar.off_flag.touch()
        with sidecar.client() as client:
            client.get("/hello.txt")
        sidecar.off_flag.unlink()
    assert attached == []


def test_other_modes(sidecar: Sidecar) -> None:
    with pytest.raises(JsonSockError) as caught:
        sidecar.call(verb="mode", mode="fast")
    assert caught.value.code == "bad_mode"


# --- connections that the kernel would encrypt, as far as userspace can play them -------------------------------------


@pytest.fixture
def pretend_ktls(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSSL claims kTLS although the kernel does not encrypt."""
    monkeypatch.setattr(TlsConnection, "ktls_send", property(lambda _self: True))


@pytest.mark.usefixtures("pretend_ktls")
def test_a_failing_sendfile_is_an_error_and_leaks_nothing(sidecar: Sidecar) -> None:
    (sidecar.root / "f").write_bytes(b"plaintext" * 1000)
    with sidecar.client() as client:
        client.send(b"GET /f HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"plaintext" not in rest(client)
    status = sidecar.status()
    assert status["errors"] == {"sendfile_failed": 1}
    assert status["ktls_tx_zero_age_s"] is not None


@pytest.mark.usefixtures("pretend_ktls")
@pytest.mark.parametrize(
    ("number", "kind"), [(errno.EBADMSG, "bad_record"), (errno.EKEYEXPIRED, "key_expired"), (errno.EMSGSIZE, "too_big")]
)
def test_errors_of_the_kernel_have_names_of_their_own(
    sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch, number: int, kind: str
) -> None:
    def fail(_self: KernelTransfer) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(KernelTransfer, "step", fail)
    with sidecar.client() as client:
        client.send(b"GET /hello.txt HTTP/1.1\r\nHost: x\r\n\r\n")
        rest(client)
    eventually(lambda: sidecar.status()["errors"] == {kind: 1})


class Relay:
    """Forwards one TCP connection; while ``hold`` is set, bytes to the server wait and then leave in one piece."""

    def __init__(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.hold = threading.Event()
        self._server = socket.create_connection(("127.0.0.1", port))
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._up, self._down)]
        self._accepted = threading.Event()
        for thread in self._threads:
            thread.start()

    def _up(self) -> None:
        self._client, _ = self._listener.accept()
        self._accepted.set()
        self._client.settimeout(0.02)
        waiting = b""
        while True:
            try:
                data = self._client.recv(65536)
            except TimeoutError:
                data = None
            except OSError:
                break
            waiting += data or b""
            if waiting and not self.hold.is_set():
                try:
                    self._server.sendall(waiting)
                except OSError:
                    break
                waiting = b""
            if data == b"":
                break
        self._listener.close()

    def _down(self) -> None:
        self._accepted.wait(10)
        try:
            while data := self._server.recv(65536):
                self._client.sendall(data)
            self._client.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def s_client(sidecar: Sidecar, *lines: str, relay: Relay | None = None) -> str:
    """Drive ``openssl s_client``: K asks for new keys on both sides, k changes its own only (openssl-s_client(1)).

    The lines HOLD and FLUSH speak to the relay.
    """
    binary = shutil.which("openssl")
    assert binary, "install package openssl"
    command = [
        binary,
        "s_client",
        "-connect",
        f"127.0.0.1:{relay.port if relay else sidecar.port}",
        "-tls1_3",
        "-crlf",
        "-verify_return_error",
    ]
    command += ["-CAfile", str(sidecar.certificate.ca)]
    before = sidecar.status()["connections_total"]
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert child.stdin is not None
    eventually(lambda: sidecar.status()["connections_total"] != before)
    for line in lines:
        if line in ("HOLD", "FLUSH"):
            assert relay is not None
            (relay.hold.set if line == "HOLD" else relay.hold.clear)()
            continue
        try:
            child.stdin.write(line + "\n")
            child.stdin.flush()
        except BrokenPipeError:
            break
        time.sleep(0.25)
    output, _ = child.communicate(timeout=10)
    return output


REQUEST = "GET /nothing HTTP/1.1\nHost: x\n"


@pytest.mark.usefixtures("pretend_ktls")
def test_key_update_that_ktls_cannot_follow_ends_cleanly(sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sidecar.server._shared, "can_rekey", False)
    output = s_client(sidecar, REQUEST, "K", REQUEST)
    assert output.count("404 Not Found") == 2  # status line and body of the first answer
    assert "bad record mac" not in output
    assert "alert" not in output.lower().replace("close notify", "")
    status = sidecar.status()
    assert status["errors"] == {"key_update": 1}
    assert status["client_aborts"] == {}


@pytest.mark.usefixtures("pretend_ktls")
def test_key_update_is_seen_although_more_follows_at_once(sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sidecar.server._shared, "can_rekey", False)
    s_client(sidecar, REQUEST, "HOLD", "K", "k", REQUEST, "FLUSH", "k", relay=Relay(sidecar.port))
    status = sidecar.status()
    assert status["errors"] == {"key_update": 1}
    assert status["client_aborts"] == {}


@pytest.mark.parametrize("can_rekey", [True, False])
def test_key_update_in_userspace_is_harmless(
    sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch, can_rekey: bool
) -> None:
    monkeypatch.setattr(sidecar.server._shared, "can_rekey", can_rekey)
    output = s_client(sidecar, REQUEST, "K", REQUEST, "k", REQUEST)
    assert output.count("404 Not Found") == 6
    assert sidecar.status()["errors"] == {}


# --- the end ----------------------------------------------------------------------------------------------------


def test_drain_finishes_what_runs(sidecar: Sidecar, big: Path) -> None:
    with sidecar.client() as idle, slow_client(sidecar) as busy:
        idle.get("/hello.txt")
        port = sidecar.port
        sidecar.stop(drain_s=10, wait=False)
        assert idle.closed()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
        assert busy.stream.read(len(BIG) - 100_000) == BIG[100_000:]
        assert busy.closed()
        start = time.monotonic()
        sidecar.join()
        assert time.monotonic() - start < 5


def test_drain_has_an_end(sidecar: Sidecar, big: Path) -> None:
    with slow_client(sidecar) as client:
        start = time.monotonic()
        sidecar.stop(drain_s=0.5)
        assert time.monotonic() - start < 3
        assert len(rest(client)) < len(BIG) - 100_000


def reload(sidecar: Sidecar) -> list[BaseException]:
    """Reload inside the server's loop, as SIGHUP does."""
    failures: list[BaseException] = []
    done = threading.Event()

    def run() -> None:
        try:
            sidecar.server.reload()
        except Exception as error:
            failures.append(error)
        done.set()

    sidecar._loop.call_soon_threadsafe(run)
    assert done.wait(5)
    return failures


def test_reload(tmp_path: Path, certificate: Certificate, other_certificate: Certificate) -> None:
    mine = Certificate(certificate.ca, tmp_path / "cert.pem", tmp_path / "key.pem")
    shutil.copy(certificate.certificate, mine.certificate)
    shutil.copy(certificate.key, mine.key)
    with running(tmp_path, mine) as sidecar:
        (sidecar.root / "f").write_text("f")
        with sidecar.client() as old:
            assert old.get("/f").status == 200
            shutil.copy(other_certificate.certificate, mine.certificate)
            (failure,) = reload(sidecar)  # the key is still the old one
            assert "does not belong" in str(failure) or "key values mismatch" in str(failure)
            with sidecar.client() as still:
                assert still.get("/f").status == 200
            shutil.copy(other_certificate.key, mine.key)
            assert reload(sidecar) == []
            assert old.get("/f").status == 200
        with Client(sidecar.port, other_certificate.ca) as fresh:
            assert fresh.get("/f").status == 200


def test_internal_faults_are_counted(sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: Any) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr("ktls_sidecar.response.decide", broken)
    with sidecar.client() as client:
        client.send(b"GET /hello.txt HTTP/1.1\r\nHost: x\r\n\r\n")
        assert rest(client) == b""
    monkeypatch.undo()
    assert sidecar.status()["errors"] == {"internal": 1}
    assert any("boom" in line for line in sidecar.complaints)
    with sidecar.client() as client:
        assert client.get("/hello.txt").status == 200
