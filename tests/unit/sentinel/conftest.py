# SPDX-License-Identifier: Apache-2.0
"""Two network namespaces with a cable between them, and what runs in each. Needs root."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ktls_host import jsonsock
from ktls_host.errors import KtlsError
from ktls_host.probe_object import PROBE_NAME, probe_bytes
from tests.authority import Authority, KeyPair

ROOT = Path(__file__).parents[3]
NAME = "files1.example.org"
SERVER, PEER = "192.0.2.1", "192.0.2.2"
TLS_PORT, PLAIN_PORT = 8443, 8080


@dataclass
class Wire:
    """``a`` serves, ``b`` watches; the interface of each is ``eth0``."""

    a: str
    b: str
    directory: Path
    authority: Authority
    pair: KeyPair
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def run(self, namespace: str, *command: str) -> subprocess.CompletedProcess[str]:
        argv = ["ip", "netns", "exec", namespace, *command]
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)

    def spawn(self, namespace: str, *command: str, log: str, **more: Any) -> subprocess.Popen[bytes]:
        with open(self.directory / log, "wb") as out:
            argv = ["ip", "netns", "exec", namespace, *command]
            process = subprocess.Popen(argv, stdout=out, stderr=out, stdin=subprocess.DEVNULL, **more)
        self.started.append(process)
        return process

    def end(self, process: subprocess.Popen[bytes]) -> int:
        process.terminate()
        try:
            return process.wait(10)
        finally:
            process.kill()
            process.wait()

    def tls_server(self, *options: str, port: int = TLS_PORT) -> subprocess.Popen[bytes]:
        """``openssl s_server`` with the probe file in its root."""
        argv = ["openssl", "s_server", "-quiet", "-accept", str(port), "-cert", str(self.pair.certificate)]
        argv += ["-key", str(self.pair.key), "-WWW", *options]
        process = self.spawn(self.a, *argv, log=f"s_server-{port}.log", cwd=self.directory)
        self.listening(port)
        return process

    def listening(self, port: int, namespace: str | None = None) -> None:
        for _ in range(200):
            if f":{port} " in self.run(namespace or self.a, "ss", "-Htln").stdout + " ":
                return
            time.sleep(0.05)
        raise AssertionError(f"nobody listens on port {port}")

    def config(self, **more: Any) -> dict[str, Any]:
        target = {"name": "files1", "host": SERVER, "port": TLS_PORT, "server_name": NAME}
        return {
            "interface": "eth0",
            "targets": [target],
            "ca": str(self.authority.path),
            "interval_s": 1.0,
            "timeout_s": 20.0,
            "socket": str(self.directory / "sentinel.sock"),
            "state_dir": str(self.directory / "state"),
            **more,
        }


@dataclass
class Watcher:
    """A running sentinel."""

    wire: Wire
    process: subprocess.Popen[bytes]
    socket: str

    def status(self) -> dict[str, Any]:
        return jsonsock.call(self.socket, {"verb": "status"}, 5.0)

    def clear(self) -> dict[str, Any]:
        return jsonsock.call(self.socket, {"verb": "clear"}, 5.0)

    def wait(self, what: Callable[[dict[str, Any]], bool], limit_s: float = 60.0) -> dict[str, Any]:
        """The status in which ``what`` holds."""
        deadline = time.monotonic() + limit_s
        status: dict[str, Any] = {}
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log()
            with contextlib.suppress(KtlsError):
                status = self.status()
                if what(status):
                    return status
            time.sleep(0.05)
        raise AssertionError(f"not so within {limit_s} s: {json.dumps(status)}\n{self.log()}")

    def log(self) -> str:
        return (self.wire.directory / "sentinel.log").read_text()

    def end(self) -> int:
        return self.wire.end(self.process)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)


@pytest.fixture(scope="module")
def cable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """The namespaces, for all tests of a module."""
    a, b = f"ktls-snt-{os.getpid()}-a", f"ktls-snt-{os.getpid()}-b"
    directory = tmp_path_factory.mktemp("wire")
    (directory / PROBE_NAME).write_bytes(probe_bytes())
    authority = Authority(directory)
    made: list[str] = []
    try:
        for name in (a, b):
            ip("netns", "add", name)
            made.append(name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("link", "add", "eth0", "netns", a, "type", "veth", "peer", "name", "eth0", "netns", b)
        for name, address, six in ((a, SERVER, "2001:db8::1"), (b, PEER, "2001:db8::2")):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            ip("-n", name, "address", "add", f"{six}/64", "dev", "eth0", "nodad")
            ip("-n", name, "link", "set", "eth0", "up")
        yield Wire(a, b, directory, authority, authority.issue("server", [NAME]))
    finally:
        for name in made:
            ip("netns", "del", name)


@pytest.fixture
def wire(cable: Wire, tmp_path: Path) -> Iterator[Wire]:
    """The same with nothing running, and with places of this test's own."""
    (tmp_path / PROBE_NAME).write_bytes(probe_bytes())
    (tmp_path / "state").mkdir()
    mine = Wire(cable.a, cable.b, tmp_path, cable.authority, cable.pair)
    yield mine
    for process in mine.started:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.fixture
def watch(wire: Wire) -> Callable[..., Watcher]:
    """Starts the sentinel in namespace ``b``: ``watch(interval_s=2.0, prefix=("setpriv", ...))``."""

    def start(prefix: Sequence[str] = (), **more: Any) -> Watcher:
        config = wire.config(**more)
        path = wire.directory / "sentinel.json"
        path.write_text(json.dumps(config))
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "agent")}
        argv = [*prefix, sys.executable, "-m", "ktls_sentinel", "serve", "--config", str(path)]
        process = wire.spawn(wire.b, *argv, log="sentinel.log", env=environment)
        return Watcher(wire, process, config["socket"])

    return start
