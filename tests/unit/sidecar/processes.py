# SPDX-License-Identifier: Apache-2.0
"""The sidecar as processes: the command with a configuration of its own, and a supervisor with its workers."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from ktls_host.jsonsock import JsonSockError, call
from tests.unit.sidecar.support import Certificate, Client, eventually

WORKERS = 3
AGENT = Path(__file__).parents[3] / "agent"


class Command:
    """``python -m ktls_sidecar`` with a configuration in a directory of its own."""

    def __init__(self, directory: Path, certificate: Certificate) -> None:
        self.directory = directory
        self.settings: dict[str, Any] = {
            "listen": [{"host": "127.0.0.1", "port": 0}],
            "root": str(directory / "root"),
            "certificate": str(certificate.certificate),
            "key": str(certificate.key),
            "control_socket": str(directory / "control.sock"),
            "control_group": None,
            "http_socket": str(directory / "http.sock"),
            "off_flags": [str(directory / "off")],
        }
        (directory / "root").mkdir()
        (directory / "root" / "f").write_text("f")
        self.listeners: list[socket.socket] = []
        """Passed as systemd passes them: from descriptor 3 on, sd_listen_fds(3)."""
        self._children: list[subprocess.Popen[str]] = []
        self.environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join([str(AGENT), *sys.path])}

    def start(self, **settings: Any) -> subprocess.Popen[str]:
        path = self.directory / "config.json"
        path.write_text(json.dumps({**self.settings, **settings}))
        argv = [sys.executable, "-m", "ktls_sidecar", "--config", str(path)]
        high = [fcntl.fcntl(listener, fcntl.F_DUPFD, 100) for listener in self.listeners]
        if high:
            passed = " ".join(f"{3 + place}<&{number} {number}<&-" for place, number in enumerate(high))
            script = f'export LISTEN_PID=$$ LISTEN_FDS={len(high)}; exec "$@" {passed}'
            argv = ["bash", "-c", script, "activate", *argv]
        try:
            return self._popen(argv, high)
        finally:
            for number in high:
                os.close(number)

    def _popen(self, argv: list[str], descriptors: list[int]) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            argv,
            pass_fds=descriptors,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._children.append(child)
        return child

    def kill(self) -> None:
        """End what a failed test left running."""
        for child in self._children:
            if child.poll() is None:
                child.kill()
                child.communicate()

    def fail(self, **settings: Any) -> tuple[int, str]:
        """Start with settings that cannot work; return exit status and the one line on stderr."""
        child = self.start(**settings)
        _, errors = child.communicate(timeout=20)
        assert "Traceback" not in errors
        (line,) = errors.splitlines()
        return child.returncode, line


class Crew:
    """A running supervisor and its workers."""

    def __init__(self, command: Command, certificate: Certificate, **settings: Any) -> None:
        self.directory = command.directory
        self.certificate = certificate
        self.socket: str = command.settings["control_socket"]
        self.off_flag = command.directory / "off"
        self.child = command.start(**{"workers": WORKERS, **settings})
        try:
            eventually(self._up, 20)
        except BaseException:
            self.child.kill()
            raise
        self.port: int = self.status()["port"]

    def _up(self) -> bool:
        assert self.child.poll() is None, self.child.communicate()
        try:
            return bool(self.call(verb="health")["healthy"]) and all(w["serving"] for w in self.status()["workers"])
        except JsonSockError:
            return False

    def call(self, **request: Any) -> dict[str, Any]:
        return call(self.socket, request)

    def status(self) -> dict[str, Any]:
        return self.call(verb="status")

    def pids(self) -> list[int]:
        return [worker["pid"] for worker in self.status()["workers"]]

    def client(self, **options: Any) -> Client:
        return Client(self.port, self.certificate.ca, **options)

    def spread(self) -> list[Client]:
        """Open connections until each worker has one."""
        clients: list[Client] = []
        for _ in range(200):
            clients.append(self.client())
            clients[-1].get("/f")
            if all(worker["connections"] for worker in self.status()["workers"]):
                return clients
        raise AssertionError("200 connections, and a worker got none")

    def end(self) -> tuple[int, str]:
        """Stop it if it still runs. Returns exit status and stderr."""
        if self.child.poll() is None:
            self.child.terminate()
        try:
            _, errors = self.child.communicate(timeout=20)
        finally:
            self.child.kill()
        return self.child.returncode, errors
