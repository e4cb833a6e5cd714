# SPDX-License-Identifier: Apache-2.0
"""The agent out of the built zipapp, as a process that can be killed."""

from __future__ import annotations

import json
import os
import signal
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ktls_host import jsonsock

Artefacts = dict[str, dict[str, Any]]


class Sidecar(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        request = json.loads(self.rfile.readline())
        server: Any = self.server
        server.mode = request.get("mode", server.mode)
        server.heard.append(request)
        answer = {"ok": True, "mode": server.mode, "effective_mode": server.mode}
        self.wfile.write(json.dumps(answer).encode() + b"\n")


class Service:
    """The agent's process, its configuration, and the clients' view of it."""

    def __init__(self, artefact: str, directory: Path) -> None:
        self.artefact, self.directory = artefact, directory
        probe = {"host": "127.0.0.1", "port": 1, "server_name": "x", "ca": "/nowhere", "path": "/p"}
        for name in ("lib", "run"):
            (directory / name).mkdir()
        raw = {
            "socket": str(directory / "a.sock"), "state_dir": str(directory / "lib"), "run_dir": str(directory / "run"),
            "sidecar_socket": str(directory / "s.sock"), "group": None, "probe": probe,
            "lease_socket": None, "module_socket": None, "nic_socket": None,
        }  # fmt: skip
        (directory / "agent.json").write_text(json.dumps(raw))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        argv = [self.artefact, "agent", "serve", "--config", str(self.directory / "agent.json")]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(argv, stderr=log, env={})
        deadline = time.monotonic() + 20
        while not self.answers():
            assert time.monotonic() < deadline, (self.directory / "log").read_text()
            time.sleep(0.02)

    def answers(self) -> bool:
        try:
            return bool(self.ask(verb="status")["ok"])
        except jsonsock.JsonSockError:
            return False

    def end(self, number: int) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(20)

    def ask(self, **request: Any) -> dict[str, Any]:
        return jsonsock.call(str(self.directory / "a.sock"), request, 10.0)


@pytest.fixture
def service(artefacts: Artefacts, tmp_path: Path) -> Iterator[Service]:
    found = Service(artefacts["1.0"]["path"], tmp_path)
    yield found
    if found.process is not None and found.process.poll() is None:
        found.end(signal.SIGKILL)


@pytest.fixture
def sidecar(tmp_path: Path) -> Iterator[Any]:
    with socketserver.ThreadingUnixStreamServer(str(tmp_path / "s.sock"), Sidecar) as server:
        server.mode, server.heard = "userspace", []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def order(epoch: int) -> dict[str, Any]:
    return {"id": f"o{epoch}", "epoch": epoch, "phase": "userspace", "lease_s": 600, "plan_sha256": "0" * 64}


def test_killed_and_stopped(service: Service, sidecar: Any) -> None:
    service.start()
    status = service.ask(verb="order", order=order(3))
    assert (status["order"], status["epoch"], status["version"]) == ("pending", 3, "1.0")
    assert (service.directory / "lib/intent.json").exists()
    service.end(signal.SIGKILL)

    service.start()
    status = service.ask(verb="status")
    assert (status["order"], status["revert_reason"]) == ("reverted", "agent_restarted")
    assert sidecar.heard[-1]["verb"] in ("mode", "status")
    with pytest.raises(jsonsock.JsonSockError) as caught:
        service.ask(verb="order", order=order(2))
    assert caught.value.code == "stale_epoch"

    service.ask(verb="order", order=order(4))
    assert service.ask(verb="confirm", id="o4", epoch=4)["order"] == "committed"
    assert service.end(signal.SIGTERM) == 0
    service.start()
    assert service.ask(verb="status")["order"] == "committed"

    sidecar.mode = "tx"  # as if it had been switched behind the agent's back
    sidecar.heard.clear()
    (service.directory / "run/off").touch()
    deadline = time.monotonic() + 1.0
    while {"verb": "mode", "mode": "userspace"} not in sidecar.heard:
        assert time.monotonic() < deadline, "the flag was not obeyed within a second"
        time.sleep(0.01)
    assert service.ask(verb="status")["off"]["flag"] is True


def test_memory_stays_within_the_fence(service: Service, sidecar: Any) -> None:
    service.start()
    for _ in range(20):
        service.ask(verb="status")
    assert service.process is not None
    fields = Path(f"/proc/{service.process.pid}/status").read_text().splitlines()
    resident = next(int(line.split()[1]) for line in fields if line.startswith("VmRSS:"))
    assert resident < 40 * 1024, f"{resident} KiB"
    assert os.path.exists(service.directory / "a.sock")
