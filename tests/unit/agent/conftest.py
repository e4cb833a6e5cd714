# SPDX-License-Identifier: Apache-2.0
"""A host in a directory: a store, the flags, and a sidecar that obeys as the real one does."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ktls_agent.core import Agent
from ktls_agent.flags import OffFlags
from ktls_agent.levers import Levers
from ktls_agent.machine import State
from ktls_agent.probe import ProbeResult
from ktls_agent.store import Store
from ktls_host.jsonsock import JsonSockError

PLAN = "ab" * 32


class KilledError(BaseException):
    """SIGKILL: no handler of the agent may catch it."""


def order(
    order_id: str = "o1", epoch: int = 1, phase: str = "tx", lease_s: float = 60.0, **more: Any
) -> dict[str, Any]:
    return {"id": order_id, "epoch": epoch, "phase": phase, "lease_s": lease_s, "plan_sha256": PLAN, **more}


def experiment(method: str = "switchback", block_s: float = 10.0, washout_s: float = 3.0, seed: int = 7) -> Any:
    return {"method": method, "block_s": block_s, "washout_s": washout_s, "seed": seed}


@dataclasses.dataclass
class FakeSidecar:
    """Holds a mode; the flag files, and the mark of a lapsed lease, make it userspace whatever was asked."""

    flags: OffFlags
    on_change: Callable[[str], None] = lambda mode: None
    mode: str = "userspace"
    stuck: bool = False
    gone: bool = False
    calls: list[str] = dataclasses.field(default_factory=list)
    share: float = 1.0
    share_stuck: bool = False
    tls12: bool = False

    @property
    def effective(self) -> str:
        flags = (*self.flags.present(), os.path.lexists(os.path.join(os.path.dirname(self.flags.run_path), "lapsed")))
        return "userspace" if self.stuck or any(flags) else self.mode

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if self.gone:
            raise JsonSockError("unreachable", "cannot connect to the sidecar: start the service that owns it")
        if request["verb"] == "mode":
            self.calls.append(request["mode"])
            self.mode = request["mode"]
            if not self.share_stuck:
                self.share = request.get("share", 1.0)
            self.tls12 = request.get("tls12", False)
            self.on_change(self.mode)
        return {
            "ok": True,
            "mode": self.mode,
            "effective_mode": self.effective,
            "share": self.share,
            "tls12": self.tls12,
            "connections": {"ktls_tx": 1, "userspace": 2},
            "bytes": {"ktls_tx": 30, "userspace": 10},
        }

    async def call(self, request: dict[str, Any]) -> dict[str, Any]:
        return self.answer(request)


@dataclasses.dataclass
class FakeHelpers:
    """The root helpers. ``broken``: verbs that fail; ``hanging``: verbs that do not answer."""

    host: Host
    calls: list[str] = dataclasses.field(default_factory=list)
    broken: set[str] = dataclasses.field(default_factory=set)
    hanging: set[str] = dataclasses.field(default_factory=set)
    armed: bool = False
    on_call: Callable[[str], None] = lambda verb: None

    async def call(self, path: str, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        verb = request["verb"]
        name = {"lease": "timer", "module": "module", "nic": "nic"}[path]
        self.host.checkpoint(f"before {name} {verb}")
        self.on_call(verb)
        self.calls.append(verb)
        if verb in self.hanging:
            await asyncio.sleep(timeout_s)
            raise JsonSockError("timeout", f"{path} did not answer within {timeout_s:g} s")
        if verb in self.broken:
            raise JsonSockError("helper_failed", f"{verb} did not work: look at its log")
        if path == "lease":
            self.armed = verb == "arm"
        if verb == "load":
            self.host.ktls = True
        if verb == "unload":
            self.host.ktls = False
        self.host.checkpoint(f"after {name} {verb}")
        return {"ok": True, "changed": verb != "off"}


class Trail:
    """An audit trail in memory."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def record(self, event: str, **detail: Any) -> None:
        self.events.append((event, detail))

    @property
    def names(self) -> list[str]:
        return [event for event, _ in self.events]


class Host:
    """What outlives an agent: the disk, the sidecar, the clock."""

    def __init__(self, tmp_path: Path) -> None:
        self.state_dir = tmp_path / "lib"
        self.run_dir = tmp_path / "run"
        self.state_dir.mkdir()
        self.run_dir.mkdir()
        self.flags = OffFlags(str(self.run_dir / "off"), str(self.state_dir / "off"))
        self.sidecar = FakeSidecar(self.flags)
        self.now = 1000.0
        self.boot = "boot-1"
        self.ktls = True
        self.probe_ok = True
        self.probe_tx: bool | None = None  # None: as the sidecar does
        self.probe_rx = True
        self.helpers = FakeHelpers(self)
        self.sockets: tuple[str | None, str | None, str | None] = ("lease", "module", "nic")
        self.audit = Trail()
        self.steps: list[str] = []
        self.kill_at: int | None = None

    def checkpoint(self, name: str) -> None:
        """Note a step; die there if so ordered."""
        self.steps.append(name)
        if self.kill_at is not None and len(self.steps) > self.kill_at:
            raise KilledError(name)

    def self_test(self, timeout_s: float) -> ProbeResult:
        self.checkpoint("before probe")
        tx = self.sidecar.effective in ("tx", "rx", "hw") if self.probe_tx is None else self.probe_tx
        error = None if self.probe_ok else "the content arrived damaged"
        result = ProbeResult(
            self.probe_ok, self.now, 0.01, self.probe_ok, tx, "TLSv1.3", "C", error, tx and self.probe_rx
        )
        self.checkpoint("after probe")
        return result

    async def call_sidecar(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["verb"] == "status":
            return self.sidecar.answer(request)
        self.checkpoint(f"before mode {request['mode']}")
        answer = self.sidecar.answer(request)
        self.checkpoint(f"after mode {request['mode']}")
        return answer

    def agent(self) -> Agent:
        """Make the next agent process of this host (inside a running event loop)."""
        return Agent(
            Store(str(self.state_dir), self.checkpoint),
            self.flags,
            self.call_sidecar,
            self.self_test,
            lambda: self.now,
            self.boot,
            lambda: self.ktls,
            self.audit,
            Levers(self.helpers.call, *self.sockets),
        )

    def on_is_durable(self, state: State | None = None) -> bool:
        """Whether the disk alone says that kTLS may be on now: an intent to undo it, or a commitment to it."""
        durable = Store(str(self.state_dir)).load()
        committed = durable.record_status == "committed" and durable.record_order is not None
        return durable.intent is not None or (committed and durable.record_order.phase != "userspace")  # type: ignore[union-attr]


async def drained(agent: Agent) -> None:
    """Let what the agent has begun come to its end."""
    while agent._tasks:
        done, _ = await asyncio.wait(set(agent._tasks), timeout=5)
        assert done, "the agent does not come to rest"
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count fsync(2) instead of waiting for it: no power is cut here."""
    calls: list[int] = []
    monkeypatch.setattr(os, "fsync", calls.append)
    return calls


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory in memory, where there is one: hundreds of hosts are made in it."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as name:
        yield Path(name)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)
