# SPDX-License-Identifier: Apache-2.0
"""Modes on a machine with or without kernel TLS, the off flag, limits, reload, and the end."""

from __future__ import annotations

import signal
import socket
import ssl
import threading
from collections import Counter
from pathlib import Path

import pytest

from ktls_host.jsonsock import JsonSockError
from tests.authority import Authority, KeyPair

from .clients import Endpoint, curl_argv, request, run, s_client_argv
from .conftest import MODES, NAMES, Site
from .content import MIB, blob, make_tree, sha256
from .harness import Native, Switcher, eventually, running
from .raw import ClosedError, Raw


def has_ktls() -> bool:
    """True when this machine's kernel has the ULP at hand."""
    return "tls" in Path("/proc/sys/net/ipv4/tcp_available_ulp").read_text().split()


@pytest.fixture
def own(tmp_path: Path, site: Site, pair: KeyPair, authority: Authority) -> Native:
    """Settings that tests of their own start from; not started."""
    return Native(tmp_path / "own", site.root, pair, authority.path)


@pytest.mark.parametrize("mode", ["tx", "rx"])
def test_kernel_tls_that_is_not_there_is_no_fault(
    tmp_path: Path, site: Site, pair: KeyPair, authority: Authority, mode: str
) -> None:
    """Silent for the client, loud in the counters: each connection is a fallback with a reason."""
    with running(tmp_path, site.root, pair, authority.path) as native:
        assert native.mode(mode)["effective_mode"] == mode
        for _ in range(5):
            client = Raw(native.endpoint)
            assert sha256(client.ask(request("/large.bin")).body) == site.sha256["large.bin"]
            client.close()
        status = native.status()
        if has_ktls():
            assert status["fallbacks"] == {}
        else:
            assert sum(status["fallbacks"].values()) == 5
            assert set(status["fallbacks"]) == {"no_tls_ulp"}
        assert status["errors"] == {}
        assert "fallback" in native.call(verb="metrics")["text"]


def test_modes_changed_all_the_time(switching_process: tuple[Native, Switcher]) -> None:
    native, switcher = switching_process
    eventually(lambda: switcher.switched >= 8, 20, "eight changes of the mode")
    assert switcher.refused == {}, "a mode is not there"
    assert {"tx", "rx", "userspace"} == set(MODES)
    if not has_ktls():

        def fell_back() -> bool:
            Raw(native.endpoint).close()
            return set(native.status()["fallbacks"]) == {"no_tls_ulp"}

        eventually(fell_back, what="a connection that wanted kernel TLS")


def test_a_mode_change_closes_idle_connections_and_lets_responses_finish(own: Native, site: Site) -> None:
    own.start()
    try:
        idle, busy = Raw(own.endpoint), Raw(own.endpoint, receive_buffer=16384)
        idle.ask(request("/small.bin"))
        busy.send(request("/large.bin") * 2)
        own.mode("tx")
        assert idle.at_end()
        first = busy.response()
        assert sha256(first.body) == site.sha256["large.bin"]
        # The second was pipelined behind it: answered, or the connection ends cleanly.
        try:
            assert sha256(busy.response().body) == site.sha256["large.bin"]
        except ClosedError as end:
            assert end.clean
        assert own.status()["errors"] == {}
    finally:
        assert own.stop() == 0


def test_the_off_flag(own: Native, site: Site) -> None:
    own.start()
    try:
        own.mode("tx")
        own.off_flag.touch()
        eventually(lambda: own.status()["effective_mode"] == "userspace", 5, "the flag's effect")
        with pytest.raises(JsonSockError) as caught:
            own.mode("tx")
        assert caught.value.code == "off_latched"
        assert sha256(Raw(own.endpoint).ask(request("/small.bin")).body) == site.sha256["small.bin"]
        own.off_flag.unlink()
        assert own.status()["effective_mode"] == "userspace", "an order does not come back by itself"
    finally:
        assert own.stop() == 0


def test_too_many_connections(tmp_path: Path, site: Site, pair: KeyPair, authority: Authority) -> None:
    """503 over TLS with Retry-After, and the connections that are there go on."""
    limit = 8
    with running(tmp_path, site.root, pair, authority.path, max_connections=limit) as native:
        clients, seen = [], Counter[int]()
        for _ in range(3 * limit):
            client = Raw(native.endpoint)
            response = client.ask(request("/small.bin"))
            seen[response.status] += 1
            if response.status == 200:
                clients.append(client)
                continue
            assert (response.status, response.headers["connection"]) == (503, "close")
            assert int(response.headers["retry-after"]) > 0
            assert client.at_end()
        assert seen[503] >= 2 * limit
        assert 1 <= seen[200] <= limit
        for client in clients:
            assert client.ask(request("/small.bin")).status == 200
            client.close()
        assert native.status()["errors"] == {}
        # Room again.
        eventually(lambda: Raw(native.endpoint).ask(request("/small.bin")).status == 200)


def test_a_graceful_end(own: Native, site: Site) -> None:
    """SIGTERM: idle connections end cleanly, a download finishes, nobody new is let in, status 0."""
    own.start()
    idle, busy = Raw(own.endpoint), Raw(own.endpoint, receive_buffer=16384)
    idle.ask(request("/small.bin"))
    busy.send(request("/large.bin"))
    own.signal(signal.SIGTERM)
    assert idle.at_end()
    with pytest.raises(OSError):
        while True:
            socket.create_connection(("127.0.0.1", own.port), timeout=5).close()
    assert sha256(busy.response().body) == site.sha256["large.bin"]
    assert busy.at_end()
    assert own.wait(30) == 0, own.messages()


def test_a_file_cut_while_it_is_sent(own: Native, tmp_path: Path) -> None:
    """curl sees an error, never a short file with a clean end."""
    root = tmp_path / "changing"
    root.mkdir()
    data = blob("cut", 48 * MIB)
    (root / "cut.bin").write_bytes(data)
    native = Native(tmp_path / "cut", root, own.pair, own.ca).start()
    out = tmp_path / "out"
    argv = curl_argv(native.endpoint, "--limit-rate", "4M", "-o", str(out))
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(run([*argv, native.endpoint.url("/cut.bin")]).code))
    thread.start()
    eventually(lambda: out.exists() and out.stat().st_size > MIB, 20, "the start of the download")
    with (root / "cut.bin").open("r+b") as file:
        file.truncate(1000)
    thread.join(60)
    assert results[0] in (18, 56), "18: partial file, 56: failure in receiving data"
    got = out.read_bytes()
    assert len(got) < len(data)
    assert got == data[: len(got)]
    assert set(native.status()["errors"]) == {"file_changed"}
    assert native.stop() == 0


def test_a_file_replaced_while_it_is_sent(own: Native, tmp_path: Path) -> None:
    """The usual way to publish, write anew and rename: who reads the old one gets all of it."""
    root = tmp_path / "changing"
    root.mkdir()
    old, new = blob("old", 24 * MIB), blob("new", 24 * MIB)
    (root / "file.bin").write_bytes(old)
    native = Native(tmp_path / "replace", root, own.pair, own.ca).start()
    client = Raw(native.endpoint, receive_buffer=16384)
    client.send(request("/file.bin"))
    first = client.read()
    (root / "next").write_bytes(new)
    (root / "next").rename(root / "file.bin")
    client._buffer = first
    assert sha256(client.response().body) == sha256(old)
    client.close()
    assert sha256(Raw(native.endpoint).ask(request("/file.bin")).body) == sha256(new)
    assert native.status()["errors"] == {}
    assert native.stop() == 0


def serial(endpoint: Endpoint, name: str) -> int:
    """The serial number of the certificate that ``name`` gets; verified."""
    context = ssl.create_default_context(cafile=str(endpoint.ca))
    raw = socket.create_connection(("127.0.0.1", endpoint.port), timeout=10)
    with context.wrap_socket(raw, server_hostname=name) as tls:
        found = tls.getpeercert()
        assert found is not None
        return int(str(found["serialNumber"]), 16)


def test_a_new_certificate_without_restart(tmp_path: Path, site: Site, authority: Authority) -> None:
    """SIGHUP: new connections get it, old ones go on; a broken one is not taken."""
    pair = authority.issue("renewed", NAMES)
    with running(tmp_path, site.root, pair, authority.path) as native:
        first = serial(native.endpoint, "localhost")
        old = Raw(native.endpoint)
        assert old.ask(request("/small.bin")).status == 200
        authority.issue("renewed", NAMES)
        native.signal(signal.SIGHUP)
        eventually(lambda: serial(native.endpoint, "localhost") != first, 10, "the new certificate")
        second = serial(native.endpoint, "localhost")
        # Every worker has it.
        assert {serial(native.endpoint, "localhost") for _ in range(20)} == {second}
        assert old.ask(request("/small.bin")).status == 200
        old.close()
        pair.certificate.write_text("this is no certificate\n")
        native.signal(signal.SIGHUP)
        eventually(lambda: bool(native.status()["errors"].get("reload_failed")), 10, "the refusal")
        assert {serial(native.endpoint, "localhost") for _ in range(5)} == {second}


def test_several_certificates_by_name(tmp_path: Path, site: Site, authority: Authority) -> None:
    """SNI: each name gets its own, an unknown name and a client without SNI the first."""
    first = authority.issue("first", ["localhost", "first.example.test"])
    second = authority.issue("second", ["second.example.test", "*.wild.example.test"])
    third = authority.issue("third", ["third.example.test"], use_rsa=True)
    more = [{"certificate": str(pair.certificate), "key": str(pair.key)} for pair in (second, third)]
    with running(tmp_path, site.root, first, authority.path, certificates=more) as native:
        port = native.port
        for name in ("first", "second", "third", "a.wild", "SECOND"):
            host = f"{name}.example.test"
            done = run([*curl_argv(native.endpoint, "--connect-to", f"::127.0.0.1:{port}"), f"https://{host}:{port}/"])
            assert done.code == 0, done
        argv = s_client_argv(Endpoint(port, authority.path), "-noservername")
        del argv[argv.index("-servername") : argv.index("-servername") + 2]
        done = run(argv)
        assert b"subject=CN = localhost" in done.out, done
        unknown = run(s_client_argv(Endpoint(port, authority.path, "localhost"), "-servername", "nobody.example.test"))
        assert b"subject=CN = localhost" in unknown.out
        assert native.status()["errors"] == {}


def test_health_and_metrics(own: Native) -> None:
    """Over HTTP on a Unix socket, by curl."""
    own.start()
    try:
        argv = ["curl", "-q", "-sS", "-i", "--unix-socket", str(own.directory / "http.sock")]
        health = run([*argv, "http://localhost/healthz"])
        assert health.out.startswith(b"HTTP/1.1 200 "), health
        assert health.out.endswith(b"\r\n\r\nok\n")
        assert Raw(own.endpoint).ask(request("/small.bin")).status == 200
        metrics = run([*argv, "http://localhost/metrics"]).out
        assert b"\r\nContent-Type: text/plain; version=0.0.4" in metrics
        assert b"# TYPE ktls_sidecar_requests_total counter" in metrics
        assert run([*argv, "http://localhost/other"]).out.startswith(b"HTTP/1.1 404 ")
        # Files are not served there.
        assert run([*argv, "http://localhost/small.bin"]).out.startswith(b"HTTP/1.1 404 ")
    finally:
        assert own.stop() == 0


def test_cache_control(tmp_path: Path, site: Site, pair: KeyPair, authority: Authority) -> None:
    """By pattern, the first that fits; never on errors."""
    rules = [["dir/*", "no-store"], ["*.bin", "public, max-age=31536000, immutable"]]
    with running(tmp_path, site.root, pair, authority.path, files={"cache_control": rules}) as native:
        client = Raw(native.endpoint)

        def field(path: str) -> str | None:
            return client.ask(request(path)).headers.get("cache-control")

        assert field("/small.bin") == "public, max-age=31536000, immutable"
        assert field("/dir/") == "no-store"
        assert field("/text.txt") is None
        assert field("/nothing.bin") is None
        client.close()


def test_a_directory_is_listed_where_that_is_wanted(
    tmp_path: Path, site: Site, pair: KeyPair, authority: Authority
) -> None:
    with running(tmp_path, site.root, pair, authority.path, files={"autoindex": True, "index": "none.html"}) as native:
        client = Raw(native.endpoint)
        body = client.ask(request("/")).body
        assert b"small.bin" in body
        assert b".hidden" not in body
        client.close()


def test_the_tree_is_what_the_tests_say(tmp_path: Path) -> None:
    """Reproducible: two runs serve the same bytes."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert make_tree(tmp_path / "a") == make_tree(tmp_path / "b")
