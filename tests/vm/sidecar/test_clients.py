# SPDX-License-Identifier: Apache-2.0
"""Independent clients on the build machine, the sidecar on a real kernel, kernel TLS in one and in both directions.

The clients are those of tests/conformance. What they get is compared by SHA-256; that the kernel did the work is
witnessed by ss, /proc/net/tls_stat and the sidecar's access log.
"""

from __future__ import annotations

import http.client
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import browser
from tests.conformance.clients import (
    Endpoint,
    Interactive,
    curl,
    gnutls_argv,
    request,
    run,
    s_client_argv,
    wget_argv,
)
from tests.conformance.conftest import Site
from tests.conformance.content import sha256
from tests.conformance.harness import Switcher, eventually, tls_context
from tests.conformance.raw import ClosedError, Raw
from tests.conformance.test_chromium import check

from . import test_ktls
from .served import push_tree
from .test_ktls import HOST, Sidecar

#: The fixture that boots the VM. Its image has a kernel that cannot change keys: the harder case for KeyUpdate.
sidecar = test_ktls.sidecar
here = pytest.mark.parametrize("sidecar", ["debian13"], indirect=True, scope="module")
MODES = ("tx", "rx")
BODY = "medium+1.bin"


@dataclass(frozen=True)
class Target:
    """The sidecar, where to reach it, and what it serves below /site/."""

    sidecar: Sidecar
    endpoint: Endpoint
    site: Site
    path: str = "/site/medium%2B1.bin"
    """Of BODY."""

    def order(self, mode: str) -> None:
        answer = self.sidecar.call(verb="mode", mode=mode)
        assert answer.get("effective_mode") == mode, answer

    def access_log(self) -> list[dict[str, Any]]:
        text = self.sidecar.run("sleep 0.5; journalctl -u ktls-sidecar -o cat --no-pager")
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def target(sidecar: Sidecar, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """The module loaded and the conformance tests' tree in place."""
    root = tmp_path_factory.mktemp("site")
    sidecar.run("modprobe tls")
    files = push_tree(sidecar.lab, HOST, root)
    hashes = {name: sha256(data) for name, data in files.items()}
    yield Target(sidecar, Endpoint(sidecar.lab.https_port(HOST), sidecar.ca), Site(root, files, hashes))


# --- the clients: each fetches BODY (or more), and fails when a byte is wrong ----------------------------------------


def by_curl(target: Target, tmp_path: Path) -> None:
    for options in (["--tlsv1.2", "--tls-max", "1.2"], ["--tlsv1.3"]):
        assert sha256(curl(target.endpoint, target.path, *options).body) == target.site.sha256[BODY]
    part = curl(target.endpoint, target.path, "-r", "100000-900000")
    assert (part.status, sha256(part.body)) == (206, sha256(target.site.files[BODY][100000:900001]))
    assert curl(target.endpoint, target.path, "-I").headers["content-length"] == str(len(target.site.files[BODY]))
    assert curl(target.endpoint, target.path, "-H", f"If-None-Match: {part.headers['etag']}").status == 304
    resumed = tmp_path / "resumed"
    resumed.write_bytes(target.site.files[BODY][:300_001])
    curl(target.endpoint, target.path, "-C", "-", "-o", str(resumed))
    assert sha256(resumed.read_bytes()) == target.site.sha256[BODY]


def by_wget(target: Target, tmp_path: Path) -> None:
    for protocol in ("TLSv1_2", "TLSv1_3"):
        out = tmp_path / protocol
        argv = wget_argv(target.endpoint, f"--secure-protocol={protocol}", "-O", str(out))
        done = run([*argv, target.endpoint.url(target.path)])
        assert done.code == 0, done
        assert sha256(out.read_bytes()) == target.site.sha256[BODY]


def by_gnutls(target: Target, tmp_path: Path) -> None:
    for version in ("1.2", "1.3"):
        argv = gnutls_argv(
            target.endpoint, "--priority", f"NORMAL:-VERS-ALL:+VERS-TLS{version}", log=str(tmp_path / "log")
        )
        done = run(argv, request(target.path, "Connection: close"))
        head, _, body = done.out.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK"), done
        assert sha256(body) == target.site.sha256[BODY]


def by_s_client(target: Target, tmp_path: Path) -> None:
    for version in ("-tls1_2", "-tls1_3"):
        argv = s_client_argv(target.endpoint, version, "-quiet")
        done = run(argv, request(target.path, "Connection: close"))
        assert sha256(done.out.partition(b"\r\n\r\n")[2]) == target.site.sha256[BODY], done


def by_python(target: Target, tmp_path: Path) -> None:
    context = tls_context(target.endpoint.ca)
    connection = http.client.HTTPSConnection("localhost", target.endpoint.port, context=context, timeout=60)
    for _ in range(4):
        # http.client connects again by itself after a response that closes.
        connection.request("GET", target.path)
        response = connection.getresponse()
        assert (response.status, sha256(response.read())) == (200, target.site.sha256[BODY])
    connection.close()


def by_chromium(target: Target, tmp_path: Path) -> None:
    check(browser.result(browser.dump_dom(target.endpoint, "/site/index.html", tmp_path)), target.site)


CLIENTS: dict[str, Callable[[Target, Path], None]] = {
    "curl": by_curl,
    "wget": by_wget,
    "gnutls": by_gnutls,
    "s_client": by_s_client,
    "python": by_python,
}


@here
@pytest.mark.parametrize("mode", MODES)
def test_clients(target: Target, tmp_path: Path, mode: str) -> None:
    """Each client in turn. Which request is whose, the query tells."""
    target.order(mode)
    errors, before = target.sidecar.call(verb="status")["errors"], target.sidecar.tls_stat()
    for name, client in CLIENTS.items():
        directory = tmp_path / name
        directory.mkdir()
        client(replace(target, path=f"{target.path}?{mode}-{name}"), directory)
    after, lines = target.sidecar.tls_stat(), target.access_log()
    for name in CLIENTS:
        seen = {(line["ktls_tx"], line["ktls_rx"]) for line in lines if line["path"].endswith(f"?{mode}-{name}")}
        assert seen == {(True, mode == "rx")}, name
    assert after["TlsTxSw"] - before["TlsTxSw"] >= 2 * len(CLIENTS) - 1
    assert (after["TlsRxSw"] - before["TlsRxSw"] >= 2 * len(CLIENTS) - 1) == (mode == "rx")
    assert after["TlsDecryptError"] == before["TlsDecryptError"]
    assert target.sidecar.call(verb="status")["errors"] == errors


@here
@pytest.mark.parametrize("mode", MODES)
def test_ss_agrees(target: Target, mode: str) -> None:
    target.order(mode)
    client = Raw(target.endpoint, timeout_s=60)
    assert sha256(client.ask(request(target.path)).body) == target.site.sha256[BODY]
    (line,) = target.sidecar.sockets()
    assert "txconf: sw" in line
    assert ("rxconf: sw" in line) == (mode == "rx")
    # In step after that, in both directions.
    assert sha256(client.ask(request("/site/small.bin")).body) == target.site.sha256["small.bin"]
    client.close()


@here
def test_chromium(target: Target, tmp_path: Path) -> None:
    target.order("rx")
    before = target.sidecar.tls_stat()
    by_chromium(target, tmp_path)
    after = target.sidecar.tls_stat()
    assert after["TlsTxSw"] > before["TlsTxSw"]
    assert after["TlsRxSw"] > before["TlsRxSw"]


@here
@pytest.mark.parametrize("mode", MODES)
def test_wrk(target: Target, mode: str) -> None:
    target.order(mode)
    before = target.sidecar.tls_stat()
    done = run(["wrk", "-t1", "-c8", "-d3s", "--timeout", "30s", target.endpoint.url("/site/small.bin")])
    output = done.out.decode()
    assert "Socket errors" not in output, output
    assert "Non-2xx" not in output, output
    assert int(re.findall(r"(\d+) requests in", output)[0]) > 20
    after = target.sidecar.tls_stat()
    assert after["TlsTxSw"] - before["TlsTxSw"] >= 8
    assert (after["TlsRxSw"] - before["TlsRxSw"] >= 8) == (mode == "rx")


@here
def test_under_mode_switching(target: Target, tmp_path: Path) -> None:
    """All clients at once while the mode goes round: no wrong byte, all paths taken, nothing left in the kernel.

    Before the KeyUpdates: what they teach of this address is remembered (key_update_memory_s).
    """
    target.order("userspace")
    status, logged = target.sidecar.call(verb="status"), len(target.access_log())
    failures: list[str] = []
    rounds: list[str] = []
    end = threading.Event()

    def work(name: str, client: Callable[[Target, Path], None]) -> None:
        number = 0
        while not end.is_set() or number == 0:
            directory = tmp_path / f"{name}-{number}"
            directory.mkdir()
            try:
                client(target, directory)
            except (http.client.RemoteDisconnected, ConnectionError, ClosedError):
                pass  # an idle connection that a change of the mode closed: such clients try again
            except Exception as error:
                failures.append(f"{name}: {type(error).__name__} {error}")
                return
            number += 1
            rounds.append(name)

    threads = [threading.Thread(target=work, args=item) for item in CLIENTS.items()]
    switcher = Switcher(target.order, ("tx", "userspace", "rx"), every_s=0.5)
    for thread in threads:
        thread.start()
    try:
        done = lambda: switcher.switched >= 6 or bool(failures) or bool(switcher.refused)  # noqa: E731
        eventually(done, 120, "six changes of the mode")
    finally:
        end.set()
        for thread in threads:
            thread.join(120)
        switcher.stop()
    assert switcher.refused == {}
    assert failures == []
    assert set(rounds) == set(CLIENTS)
    lines = target.access_log()[logged:]
    assert {(line["ktls_tx"], line["ktls_rx"]) for line in lines} == {(False, False), (True, False), (True, True)}
    assert all(line["complete"] for line in lines)
    assert target.sidecar.call(verb="status")["errors"] == status["errors"]
    target.order("userspace")
    eventually(lambda: target.sidecar.tls_stat()["TlsCurrTxSw"] == target.sidecar.tls_stat()["TlsCurrRxSw"] == 0, 60)
    assert target.sidecar.tls_stat()["TlsDecryptError"] == 0


@here
@pytest.mark.parametrize("command", [b"k", b"K"])
@pytest.mark.parametrize("mode", MODES)
def test_key_update(target: Target, mode: str, command: bytes) -> None:
    """docs/compatibility.md: on this host only the client's own change under ``tx`` is harmless.

    Whatever else happens, the stream is right up to where it ends, and no record is one that the client cannot read.
    """
    target.order(mode)
    body = target.site.files["record+1.bin"]
    errors = target.sidecar.call(verb="status")["errors"]
    client = Interactive(s_client_argv(target.endpoint, "-tls1_3"))
    try:
        assert client.wait_for(b"Verify return code: 0 (ok)")
        client.send(request("/site/record%2B1.bin"))
        assert client.wait_for(body[-64:])
        client.send(command + b"\n")
        assert client.wait_for(b"KEYUPDATE")
        mark = len(client.output)
        client.send(request("/site/record%2B1.bin"))
        served = client.wait_for(body[-64:], 2)
        rest = bytes(client.output[mark:])
    finally:
        client.close()
    if served:
        assert body in rest
    else:
        assert b"HTTP/1.1 200" not in rest or body.startswith(rest.partition(b"\r\n\r\n")[2][: len(body)])
    assert b"bad record mac" not in client.output
    assert b"decryption failed" not in client.output
    if (mode, command) == ("tx", b"k"):
        assert served
    after = target.sidecar.call(verb="status")["errors"]
    # What it cost is said under its own name.
    assert {name for name in after if after[name] != errors.get(name, 0)} <= {"key_update"}
    assert target.sidecar.tls_stat()["TlsDecryptError"] == 0
