# SPDX-License-Identifier: Apache-2.0
"""SIGKILL for real: the service as a process, killed at a place, started again; sidecar and helpers outlive it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ktls_agent.store import Store
from ktls_host import jsonsock
from ktls_host.errors import KtlsError
from ktls_host.jsonsock import Peer

from .conftest import order

HERE = Path(__file__).resolve().parent


class Stage:
    """What is there beside the agent, on real sockets. ``deadly``: a request that kills whoever sent it, once done."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("lib", "run"):
            (directory / name).mkdir()
        self.mode, self.armed, self.deadly = "userspace", False, ""
        self.on_without_trace = False
        self.child: subprocess.Popen[str] | None = None
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        handlers = {"sidecar": self.sidecar, "lease": self.lease, "nic": self.nic}
        self.servers = [self.run(jsonsock.serve_unix(self.path(name), call)) for name, call in handlers.items()]
        probe = {"host": "127.0.0.1", "port": 1, "server_name": "x", "ca": "/nowhere", "path": "/p"}
        settings = {
            "socket": self.path("agent"), "state_dir": str(directory / "lib"), "run_dir": str(directory / "run"),
            "sidecar_socket": self.path("sidecar"), "lease_socket": self.path("lease"), "module_socket": None,
            "nic_socket": self.path("nic"), "diag_socket": self.path("diag"), "group": None, "probe": probe,
        }  # fmt: skip
        (directory / "agent.json").write_text(json.dumps(settings))

    def path(self, name: str) -> str:
        return str(self.directory / f"{name}.sock")

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    def close(self) -> None:
        if self.child is not None and self.child.poll() is None:
            self.child.kill()
            self.child.wait(10)
        for server in self.servers:
            self.run(server.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()

    def start(self, kill_at: str = "") -> None:
        environment = {**os.environ, "KTLS_TEST_KILL_AT": kill_at, "PYTHONPATH": str(HERE.parents[2] / "agent")}
        command = [sys.executable, "-S", str(HERE / "killable_agent.py"), str(self.directory / "agent.json")]
        self.child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    def ready(self) -> bool:
        assert self.child is not None
        assert self.child.stdout is not None
        return self.child.stdout.readline() == "ready\n"

    def ask(self, **request: Any) -> dict[str, Any]:
        return jsonsock.call(self.path("agent"), request, 10.0)

    def durable(self) -> bool:
        found = Store(str(self.directory / "lib")).load()
        return found.intent is not None or found.record_status == "committed"

    def struck(self, name: str) -> None:
        if name == self.deadly and self.child is not None:
            self.deadly = ""
            self.child.kill()

    def sidecar(self, request: dict[str, Any], _: Peer) -> dict[str, Any]:
        if request["verb"] == "mode":
            self.on_without_trace |= request["mode"] == "tx" and not self.durable()
            self.mode = request["mode"]
            self.struck(f"mode {self.mode}")
        return {"mode": self.mode, "effective_mode": self.mode}

    def lease(self, request: dict[str, Any], _: Peer) -> dict[str, Any]:
        self.armed = request["verb"] == "arm"
        self.struck(request["verb"])
        return {}

    def nic(self, request: dict[str, Any], _: Peer) -> dict[str, Any]:
        return {"changed": False}


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.close()


def rollout(stage: Stage) -> None:
    stage.ask(verb="order", order=order())
    stage.ask(verb="confirm", id="o1", epoch=1)
    stage.ask(verb="revert", reason="test")


@pytest.mark.parametrize(
    ("place", "committed"),
    [
        ("after put intent.json", False),
        ("after put lease", False),
        ("answer: arm", False),
        ("answer: mode tx", False),
        ("probe", False),
        ("after put order.json", True),
        ("after drop lease", True),
        ("answer: mode userspace", True),
    ],
)
def test_killed_and_started_again(stage: Stage, place: str, committed: bool) -> None:
    stage.start("" if place.startswith("answer: ") else place)
    assert stage.ready()
    stage.deadly = place.partition("answer: ")[2]
    with pytest.raises(KtlsError) as caught:
        rollout(stage)
    assert caught.value.code in ("protocol", "unreachable"), caught.value.message
    assert stage.child is not None
    assert stage.child.wait(10) == -9
    assert stage.mode == "userspace" or stage.durable()
    assert stage.mode == "userspace" or stage.armed or committed, "only the agent guarded it, and it is dead"
    stage.start()
    assert stage.ready()
    status = stage.ask(verb="status")
    assert status["phase"] == stage.mode == ("tx" if committed else "userspace")
    assert status["order"] == ("committed" if committed else "reverted")
    assert not list((stage.directory / "lib").glob("intent*"))
    assert not (stage.directory / "lib/lease").exists()
    assert not stage.on_without_trace
    refused: Callable[..., Any] = stage.ask
    if committed:
        with pytest.raises(KtlsError) as caught:
            refused(verb="order", order=order("o1", 1, "userspace"))
        assert caught.value.code == "bad_order"
    assert stage.ask(verb="off", reason="test")["phase"] == "userspace"
    stage.child.terminate()
    assert stage.child.wait(10) == 0
