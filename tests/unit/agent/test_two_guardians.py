# SPDX-License-Identifier: Apache-2.0
"""The agent and the real ``ktls-off --lease``: what one writes the other reads, and neither undoes the other's work."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from ktls_agent.core import Agent
from ktls_agent.flags import OffFlags

from .conftest import FakeSidecar, Host, drained, order

SCRIPT = Path(__file__).resolve().parents[3] / "agent/units/ktls-off"


class Rooted(Host):
    """A host whose files are where the script looks for them, under another root directory."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.root = root
        self.state_dir, self.run_dir = root / "var/lib/ktls", root / "run/ktls"
        for directory in (self.state_dir, self.run_dir, root / "proc/sys/kernel/random"):
            directory.mkdir(parents=True)
        self.flags = OffFlags(str(self.run_dir / "off"), str(self.state_dir / "off"))
        self.sidecar = FakeSidecar(self.flags)

    def shell(self, verb: str = "--lease") -> str:
        """Run the script as the timer does, at the time of this host."""
        (self.root / "proc/uptime").write_text(f"{self.now:.2f} 1.00\n")
        (self.root / "proc/sys/kernel/random/boot_id").write_text(f"{self.boot}\n")
        environment = {**os.environ, "KTLS_OFF_PREFIX": str(self.root)}
        done = subprocess.run(["sh", str(SCRIPT), verb], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def rooted(tmp_path: Path) -> Rooted:
    return Rooted(tmp_path)


def run(host: Rooted, scenario: Callable[[Rooted, Agent], Awaitable[None]]) -> Agent:
    async def main() -> Agent:
        agent = host.agent()
        await agent.start()
        try:
            await scenario(host, agent)
            await drained(agent)
        finally:
            agent.close()
        return agent

    return asyncio.run(main())


async def ordered(host: Rooted, agent: Agent) -> None:
    await agent.order(order(lease_s=10))


async def nothing(host: Rooted, agent: Agent) -> None:
    return


def test_a_lease_that_runs_is_left_alone_and_one_that_is_over_is_not(rooted: Rooted) -> None:
    run(rooted, ordered)  # and the agent is gone
    rooted.now += 9.99
    assert rooted.shell() == ""
    assert rooted.sidecar.effective == "tx"
    rooted.now += 0.01
    assert "its lease is over" in rooted.shell()
    assert rooted.sidecar.effective == "userspace"
    agent = run(rooted, nothing)
    assert (agent.state.status, agent.state.reason) == ("reverted", "lease_expired")
    assert rooted.shell() == "", "nothing is left to do"
    run(rooted, again)
    assert rooted.sidecar.effective == "tx"


async def again(host: Rooted, agent: Agent) -> None:
    await agent.order(order("o2", 2))


def test_an_extended_lease_is_believed(rooted: Rooted) -> None:
    async def extended(host: Rooted, agent: Agent) -> None:
        await ordered(host, agent)
        await agent.extend("o1", 1, 100)

    run(rooted, extended)
    rooted.now += 50
    assert rooted.shell() == ""
    rooted.now += 50
    assert "reverted" in rooted.shell()


def test_a_confirmed_order_is_none_of_its_business(rooted: Rooted) -> None:
    async def confirmed(host: Rooted, agent: Agent) -> None:
        await ordered(host, agent)
        await agent.confirm("o1", 1)

    run(rooted, confirmed)
    rooted.now += 500
    assert rooted.shell() == ""
    rooted.boot = "boot-2"
    assert rooted.shell("--boot") == ""
    assert run(rooted, nothing).state.wanted == "tx"


def test_an_agent_that_lives_sees_what_the_shell_did(rooted: Rooted) -> None:
    async def scenario(host: Rooted, agent: Agent) -> None:
        await ordered(host, agent)
        host.now += 10
        host.shell()
        assert not (host.state_dir / "lease").exists()
        agent.tick()
        await drained(agent)
        assert (agent.state.status, agent.state.reason) == ("reverted", "lease_expired")
        assert not (host.state_dir / "lease").exists(), "a lease that is over is not written again"
        shown = {(one["step"], one["by"]) for one in agent.revert_steps()}
        assert {("tx", "agent"), ("nic", "agent"), ("order", "ktls-off")} <= shown

    run(rooted, scenario)


def test_the_boot_check_comes_before_the_agent(rooted: Rooted) -> None:
    run(rooted, ordered)
    rooted.boot, rooted.now, rooted.sidecar.mode = "boot-2", 3.0, "userspace"
    assert "not confirmed before this boot" in rooted.shell("--boot")
    agent = run(rooted, nothing)
    assert (agent.state.status, agent.state.reason) == ("reverted", "rebooted")


def test_off_by_the_shell_is_off_for_the_agent(rooted: Rooted) -> None:
    async def scenario(host: Rooted, agent: Agent) -> None:
        await ordered(host, agent)
        host.shell("by-hand")
        agent.tick()
        await drained(agent)
        assert agent.state.latched
        assert agent.state.reason == "off: by-hand"
        await agent.clear()
        await agent.order(order("o2", 2))

    run(rooted, scenario)


def test_where_the_shell_gave_up_the_agent_takes_no_order_until_cleared(rooted: Rooted) -> None:
    async def scenario(host: Rooted, agent: Agent) -> None:
        (host.run_dir / "stuck").write_text("gave up after 5 tries\n")
        agent.tick()
        assert agent.state.stuck
        await agent.clear()
        assert not (host.run_dir / "stuck").exists()
        await agent.order(order())

    run(rooted, scenario)
