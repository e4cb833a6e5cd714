# SPDX-License-Identifier: Apache-2.0
"""The command as a process: readiness, signals, and one clear line for each mistake."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from ktls_host.jsonsock import call
from tests.unit.sidecar.processes import Command
from tests.unit.sidecar.support import Certificate, Client


@pytest.fixture
def supervisor(command: Command) -> Iterator[socket.socket]:
    """The socket that systemd would listen on."""
    path = str(command.directory / "notify.sock")
    command.environment["NOTIFY_SOCKET"] = path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        sock.settimeout(20)
        yield sock


def test_life_of_the_service(command: Command, supervisor: socket.socket, certificate: Certificate) -> None:
    with command.start() as child:
        assert child.stdout is not None
        assert child.stderr is not None
        try:
            ready = supervisor.recv(4096).decode().splitlines()
            assert ready[0] == "READY=1"
            assert ready[1].startswith("STATUS=mode userspace, port ")
            status = call(command.settings["control_socket"], {"verb": "status"})
            assert status["pid"] == child.pid
            assert os.stat(command.settings["control_socket"]).st_mode & 0o777 == 0o660
            with Client(status["port"], certificate.ca) as client:
                assert client.get("/f").body == b"f"
                child.send_signal(signal.SIGHUP)
                assert "read again" in child.stderr.readline()
                child.send_signal(signal.SIGTERM)
                assert client.closed()
            assert supervisor.recv(4096).startswith(b"STOPPING=1")
            assert child.wait(10) == 0
            assert json.loads(child.stdout.readline())["path"] == "/f"
            assert child.stderr.read() == ""
            assert not os.path.exists(command.settings["control_socket"])
        finally:
            child.kill()


def test_systemd_is_asked_for_the_time_that_a_drain_may_take(command: Command, supervisor: socket.socket) -> None:
    """The unit's TimeoutStopSec is 20 s, and a drain may be longer: systemd would kill it in the middle."""
    with command.start(drain_s=45) as child:
        try:
            supervisor.recv(4096)
            child.send_signal(signal.SIGTERM)
            said = supervisor.recv(4096).decode().splitlines()
            assert child.wait(10) == 0, "nobody is connected"
        finally:
            child.kill()
    (asked,) = [line for line in said if line.startswith("EXTEND_TIMEOUT_USEC=")]
    assert 47_000_000 <= int(asked.partition("=")[2]) <= 60_000_000


def test_port_in_use(command: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        status, line = command.fail(listen=[{"host": "127.0.0.1", "port": port}])
    assert status == 1
    assert f"cannot listen on 127.0.0.1:{port}: the port is in use" in line
    assert "ss -ltnp" in line


def test_port_in_use_on_ipv6(command: Command) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as other:
        port = other.getsockname()[1]
        status, line = command.fail(listen=[{"host": "127.0.0.1", "port": 0}, {"host": "::1", "port": port}])
    assert (status, f"[::1]:{port}: the port is in use" in line) == (1, True)


def test_two_sidecars(command: Command, supervisor: socket.socket) -> None:
    with command.start() as child:
        try:
            supervisor.recv(4096)
            status, line = command.fail()
            assert status == 1
            assert "another process already listens" in line
        finally:
            child.kill()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"certificate": "/nonexistent/cert.pem"}, "cannot read the TLS certificate /nonexistent/cert.pem"),
        ({"key": "/nonexistent/key.pem"}, "cannot read the TLS key /nonexistent/key.pem"),
        ({"key": None}, "there is no TLS key"),
        ({"root": "/nonexistent/root"}, "cannot read the directory to serve, /nonexistent/root"),
        ({"rooot": "/srv"}, "unknown key 'rooot'"),
        ({"control_group": "no-such-group-here"}, "no-such-group-here"),
    ],
)
def test_mistakes(command: Command, settings: dict[str, Any], says: str) -> None:
    status, line = command.fail(**settings)
    assert line.startswith("ktls-sidecar: ")
    assert says in line
    assert status == 78


def test_key_of_another_certificate(command: Command, other_certificate: Certificate) -> None:
    status, line = command.fail(key=str(other_certificate.key))
    assert (status, "key values mismatch" in line, "issue both again" in line) == (78, True, True)


def test_certificate_that_is_none(command: Command, tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("not a certificate")
    status, line = command.fail(certificate=str(tmp_path / "cert.pem"))
    assert (status, "is not usable" in line) == (78, True)


def test_key_with_a_passphrase_fails_and_asks_nobody(
    command: Command, certificate: Certificate, tmp_path: Path
) -> None:
    key = serialization.load_pem_private_key(certificate.key.read_bytes(), None)
    secret = serialization.BestAvailableEncryption(b"secret")
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (tmp_path / "key.pem").write_bytes(key.private_bytes(pem, form, secret))
    status, line = command.fail(key=str(tmp_path / "key.pem"))
    assert (status, "without passphrase" in line) == (78, True)


def test_no_configuration(command: Command) -> None:
    child = subprocess.run(
        [sys.executable, "-m", "ktls_sidecar", "--config", "/nonexistent.json"],
        env=command.environment,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert child.returncode == 78
    assert child.stderr.count("\n") == 1
    assert "cannot read /nonexistent.json" in child.stderr
