# SPDX-License-Identifier: Apache-2.0
"""The agent's experiments on the sidecar's real processes: who draws what, and what the series says of it.

Real: agent, socket, supervisor, workers, clients. Not here: kernel TLS, so the self-test is told what to say.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ktls_agent.core import Agent
from ktls_agent.flags import OffFlags
from ktls_agent.probe import ProbeResult
from ktls_agent.probe_log import ProbeLog
from ktls_agent.series.config import SeriesConfig
from ktls_agent.series.part import SeriesPart
from ktls_agent.store import Store
from ktls_control.judge.wire import host_series
from ktls_host.jsonsock import call
from tests.unit.sidecar.processes import Command, Crew
from tests.unit.sidecar.support import Certificate


@pytest.fixture
def crew(command: Command, certificate: Certificate) -> Iterator[Crew]:
    running = Crew(command, certificate)
    yield running
    running.end()


def proved(timeout_s: float) -> ProbeResult:
    return ProbeResult(True, 0.0, 0.01, True, True, "TLSv1.3", "C")


def play(crew: Crew, directory: Path, scenario: Callable[[Agent, SeriesPart], Any]) -> None:
    for name in ("state", "run"):
        (directory / name).mkdir()

    async def sidecar(request: dict[str, Any]) -> dict[str, Any]:
        return await asyncio.to_thread(call, crew.socket, request, 5.0)

    async def main() -> None:
        flags = OffFlags(str(directory / "run/off"), str(directory / "state/off"))
        agent = Agent(
            Store(str(directory / "state")), flags, sidecar, proved, time.monotonic, "b", available=lambda: True
        )
        part = SeriesPart(SeriesConfig(period_s=1.0), agent, ProbeLog())
        await agent.start()
        ticking = asyncio.ensure_future(ticks(agent))
        try:
            await scenario(agent, part)
        finally:
            ticking.cancel()
            agent.close()

    asyncio.run(main())


async def ticks(agent: Agent) -> None:
    while True:
        agent.tick()
        await asyncio.sleep(0.05)


async def until(check: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not check():
        assert time.monotonic() < end
        await asyncio.sleep(0.05)


def visit(crew: Crew, times: int) -> None:
    for _ in range(times):
        with crew.client() as client:
            client.get("/f")


def order(method: str) -> dict[str, Any]:
    trial = {"method": method, "block_s": 5.0, "washout_s": 0.5, "seed": 0}
    return {"id": "o", "epoch": 1, "phase": "tx", "lease_s": 60, "plan_sha256": "0" * 64, "experiment": trial}


def test_half_of_the_connections_draw_the_phase_and_both_arms_are_told(crew: Crew, tmp_path: Path) -> None:
    async def scenario(agent: Agent, part: SeriesPart) -> None:
        await asyncio.to_thread(visit, crew, 5)
        await agent.order(order("connections"))
        await until(lambda: crew.status()["share"] == 0.5)
        await agent.sidecar_status()
        await asyncio.to_thread(visit, crew, 100)
        await agent.sidecar_status(cut=True)
        arms = host_series("h", {**part.page(), "boot_id": "b"}, time.time()).arms
        assert arms["on"].connections + arms["off"].connections == 100, "those before do not count"
        assert 25 < arms["on"].connections < 75
        for arm in arms.values():
            assert arm.requests == arm.connections
            assert arm.sent > 0
            assert 0 < len(arm.seconds) <= arm.requests, "those before do not count here either"
        drawn = Counter({row["assigned"]: row["connections_total"] for row in crew.status()["by"]})
        assert drawn["tx"] == arms["on"].connections
        await agent.confirm("o", 1)
        status = crew.status()
        assert (status["mode"], status["share"]) == ("tx", 1)
        assert "times" not in status

    play(crew, tmp_path, scenario)


def test_blocks_turn_all_new_connections(crew: Crew, tmp_path: Path) -> None:
    async def scenario(agent: Agent, part: SeriesPart) -> None:
        await agent.order(order("switchback"))
        await until(lambda: crew.status()["share"] == 0)
        await asyncio.to_thread(visit, crew, 10)
        assert {row["assigned"] for row in crew.status()["by"]} == {"userspace"}
        await until(lambda: crew.status()["share"] == 1)
        await asyncio.to_thread(visit, crew, 10)
        await agent.sidecar_status(cut=True)
        drawn = {row["assigned"]: row["connections_total"] for row in crew.status()["by"]}
        assert drawn == {"userspace": 10, "tx": 10}
        samples = host_series("h", {**part.page(), "boot_id": "b"}, time.time()).samples
        assert sum(one.connections or 0 for one in samples if one.arm == "off") == 10
        assert sum(one.connections or 0 for one in samples if one.arm == "on") == 10
        assert all(one.cpu_s is not None for one in samples)
        await agent.off("test")
        assert crew.status()["effective_mode"] == "userspace"
        assert os.listdir(tmp_path / "run") == ["off"]

    play(crew, tmp_path, scenario)
