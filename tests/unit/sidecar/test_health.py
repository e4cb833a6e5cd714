# SPDX-License-Identifier: Apache-2.0
"""Health and metrics over HTTP on the Unix socket, asked by curl and by clients with worse manners."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator

import pytest

from tests.unit.sidecar.processes import Command, Crew
from tests.unit.sidecar.support import Certificate, eventually


@pytest.fixture
def crew(command: Command, certificate: Certificate) -> Iterator[Crew]:
    running = Crew(command, certificate, workers=1)
    yield running
    running.end()


def ask(crew: Crew, path: str, *options: str) -> tuple[int, str]:
    """Ask with curl. Returns the status and the body."""
    command = ["curl", "-sS", "-m", "10", "--unix-socket", str(crew.directory / "http.sock"), "-w", "\n%{http_code}"]
    done = subprocess.run([*command, *options, f"http://x{path}"], capture_output=True, text=True, check=True)
    body, _, code = done.stdout.rpartition("\n")
    return int(code), body


def test_healthy_and_metrics(crew: Crew) -> None:
    assert ask(crew, "/healthz") == (200, "ok\n")
    assert ask(crew, "/healthz?verbose") == (200, "ok\n")
    status, text = ask(crew, "/metrics")
    assert status == 200
    assert text.startswith("# HELP ktls_sidecar_info")
    assert "ktls_sidecar_up 1\n" in text
    assert text.splitlines()[-1] == crew.call(verb="metrics")["text"].splitlines()[-1]
    status, head = ask(crew, "/metrics", "-I")
    assert status == 200
    assert "text/plain; version=0.0.4" in head
    assert crew.call(verb="health")["health"] == "ok"


@pytest.mark.parametrize(
    ("path", "options", "status"),
    [("/", [], 404), ("/healthz/..", ["--path-as-is"], 404), ("/healthz", ["-d", "x"], 405)],
)
def test_nothing_else_is_there(crew: Crew, path: str, options: list[str], status: int) -> None:
    assert ask(crew, path, *options)[0] == status


def test_the_socket_is_for_its_group(crew: Crew) -> None:
    found = os.stat(crew.directory / "http.sock")
    assert stat.S_IMODE(found.st_mode) == 0o660
    assert stat.S_ISSOCK(found.st_mode)
    crew.end()
    assert not (crew.directory / "http.sock").exists()


def test_unhealthy_while_it_drains(command: Command, certificate: Certificate) -> None:
    (command.directory / "root" / "big").write_bytes(bytes(20_000_000))
    crew = Crew(command, certificate, drain_s=30)
    with crew.client() as client:
        client.send(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.stream.read(100)
        crew.child.terminate()
        eventually(lambda: ask(crew, "/healthz") == (503, "draining\n"))
    crew.end()


def test_unhealthy_without_a_worker(crew: Crew) -> None:
    # Each one dies sooner than it can serve: the pauses in between grow.
    seen = set()
    for _ in range(40):
        for worker in crew.call(verb="health")["workers"]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker["pid"], signal.SIGKILL)
        seen.add(ask(crew, "/healthz"))
        if (503, "no_worker\n") in seen:
            break
    assert (503, "no_worker\n") in seen
    eventually(lambda: ask(crew, "/healthz") == (200, "ok\n"), 10)


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20000,
        b"\x00" * 100,
    ],
)
def test_bad_requests_get_an_answer(crew: Crew, raw: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(crew.directory / "http.sock"))
        sock.sendall(raw)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(4096).startswith(b"HTTP/1.1 4")
    assert ask(crew, "/healthz") == (200, "ok\n")


def test_those_who_say_nothing_do_no_harm(crew: Crew) -> None:
    silent = [socket.socket(socket.AF_UNIX) for _ in range(60)]
    for sock in silent:
        sock.connect(str(crew.directory / "http.sock"))
    assert crew.call(verb="health")["healthy"]
    for sock in silent:
        sock.close()
    eventually(lambda: ask(crew, "/healthz") == (200, "ok\n"))


def test_it_can_be_left_out(command: Command, certificate: Certificate) -> None:
    crew = Crew(command, certificate, workers=1, http_socket=None)
    assert not (command.directory / "http.sock").exists()
    assert crew.end() == (0, "")
