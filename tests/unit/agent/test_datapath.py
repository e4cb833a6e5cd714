# SPDX-License-Identifier: Apache-2.0
"""The agent over a datapath that is not the sidecar: refusals come first, and tx+rx is what tx ordered."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from ktls_agent import config
from ktls_agent.core import Agent
from ktls_agent.datapath import DatapathCall, seen
from ktls_agent.evidence.model import Kind, Snapshot, Volume
from ktls_agent.levers import Levers
from ktls_agent.machine import RefusedError
from ktls_agent.store import Store
from ktls_host.datapath.model import TX_RX, Flow, Wish
from ktls_host.errors import KtlsError

from .conftest import Host, order

BASE = {
    "socket": "/run/s", "state_dir": "/var/s", "run_dir": "/run/r", "sidecar_socket": "/run/sidecar.sock",
    "probe": {"host": "127.0.0.1", "port": 8444, "server_name": "web1", "ca": "/ca", "path": "/p"},
}  # fmt: skip


def agent_of(host: Host, refusal: KtlsError | None = None, effective: str | None = None) -> Agent:
    async def call(request: dict[str, Any]) -> dict[str, Any]:
        answer = await host.call_sidecar(request)
        if effective and answer["effective_mode"] == "tx":
            answer["effective_mode"] = effective
        return answer

    async def refuse(phase: str) -> KtlsError | None:
        return refusal if phase != "userspace" else None

    return Agent(
        Store(str(host.state_dir), host.checkpoint),
        host.flags,
        call,
        host.self_test,
        lambda: host.now,
        host.boot,
        lambda: host.ktls,
        host.audit,
        Levers(host.helpers.call, *host.sockets),
        refusal=refuse,
    )


def test_a_refusal_comes_before_anything_is_touched(host: Host) -> None:
    async def main() -> None:
        agent = agent_of(host, KtlsError("tx_means_rx", "both ways"))
        await agent.start()
        steps = len(host.steps)
        with pytest.raises(RefusedError) as caught:
            await agent.order(order())
        assert caught.value.code == "tx_means_rx"
        assert len(host.steps) == steps
        assert agent.state.epoch == 0
        assert host.audit.names[-1] == "refused"
        await agent.order(order("o2", 1, "userspace"))
        agent.close()

    asyncio.run(main())


def test_a_refusal_leaves_what_is_pending(host: Host) -> None:
    async def main() -> None:
        agent = agent_of(host)
        await agent.start()
        await agent.order(order())
        agent._refusal = _nobody
        with pytest.raises(RefusedError):
            await agent.order(order("o2", 2))
        assert agent.state.order is not None
        assert agent.state.order.id == "o1"
        assert agent.state.status == "pending"
        assert host.sidecar.mode == "tx"
        agent.close()

    async def _nobody(phase: str) -> KtlsError | None:
        return KtlsError("nginx_config_broken", "line 3")

    asyncio.run(main())


def test_tx_rx_stands_for_tx_and_its_self_test_wants_both(host: Host) -> None:
    async def main() -> None:
        agent = agent_of(host, effective=TX_RX)
        await agent.start()
        await agent.order(order())
        assert agent.state.tested
        await agent.confirm("o1", 1)
        host.probe_rx = False
        with pytest.raises(RefusedError, match="receive stays in userspace"):
            await agent.order(order("o2", 2))
        agent.close()

    asyncio.run(main())


def test_rx_is_not_what_tx_ordered(host: Host) -> None:
    async def main() -> None:
        agent = agent_of(host, effective="rx")
        await agent.start()
        with pytest.raises(RefusedError) as caught:
            await agent.order(order())
        assert caught.value.code == "apply_failed"
        agent.close()

    asyncio.run(main())


class Recorded:
    def __init__(self) -> None:
        self.wishes: list[Wish] = []

    def switch(self, wish: Wish) -> dict[str, Any]:
        self.wishes.append(wish)
        return {"mode": wish.mode}

    def observe(self) -> dict[str, Any]:
        return {"mode": "userspace"}

    def refusal(self, mode: str) -> KtlsError | None:
        return KtlsError("no", mode)


def test_requests_become_calls() -> None:
    async def in_thread(function: Any, *args: Any) -> Any:
        return function(*args)

    recorded = Recorded()
    call = DatapathCall(recorded, in_thread, in_thread)  # type: ignore[arg-type]

    async def main() -> None:
        assert await call({"verb": "status"}) == {"mode": "userspace"}
        await call({"verb": "mode", "mode": "tx"})
        await call({"verb": "mode", "mode": "hw", "share": 0.5, "tls12": True})
        assert await call.refusal("userspace") is None
        assert (await call.refusal("tx")) is not None

    asyncio.run(main())
    assert recorded.wishes == [Wish("tx"), Wish("hw", 0.5, True)]


def test_evidence_as_a_datapath_takes_it() -> None:
    kind = Kind(443, "nginx", "TLSv1.3", "AES-256-GCM", "sw", "sw")
    gone = Kind(443, "nginx", "", "", "none", "none")
    snapshot = Snapshot(5.0, connections={kind: 2}, volumes={kind: Volume(10, 1), gone: Volume(3, 4)}, since_s=1.0)
    assert seen(None) is None
    found = seen(snapshot)
    assert found is not None
    assert (found.at_s, found.since_s) == (5.0, 1.0)
    assert set(found.flows) == {
        Flow(443, "nginx", "TLSv1.3", "AES-256-GCM", "sw", "sw", 2, 10, 1),
        Flow(443, "nginx", "", "", "none", "none", 0, 3, 4),
    }


def test_configuration(tmp_path: Path) -> None:
    usual = config.parse(BASE, "x").datapath
    assert usual is not None
    assert (usual.kind, usual.settings.socket) == ("sidecar", "/run/sidecar.sock")
    nginx = config.parse({**BASE, "datapath": {"kind": "nginx", "tx_rx_consent": True}}, "x").datapath
    assert nginx is not None
    assert (nginx.kind, nginx.settings.unit, nginx.settings.tx_rx_consent) == ("nginx", "nginx.service", True)
    with pytest.raises(KtlsError, match=r"datapath\.tx_rx_consent is not true or false"):
        config.parse({**BASE, "datapath": {"kind": "nginx", "tx_rx_consent": "yes"}}, "x")
