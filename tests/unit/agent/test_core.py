# SPDX-License-Identifier: Apache-2.0
"""The agent against a host in a directory: every step killed, every write failed, OFF at every moment."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import ktls_agent.flags
import ktls_agent.store
from ktls_agent.core import Agent
from ktls_agent.machine import RefusedError
from ktls_host.errors import KtlsError
from ktls_host.files import atomic_write

from .conftest import Host, KilledError, drained, order

Scenario = Callable[[Host, Agent], Awaitable[None]]


def run(host: Host, scenario: Scenario) -> Agent:
    """Start an agent, run ``scenario``, let running work end; return the agent for a look at it."""

    async def main() -> Agent:
        agent = host.agent()
        try:
            await agent.start()
            await scenario(host, agent)
            await drained(agent)
        finally:
            agent.close()
        return agent

    return asyncio.run(main())


async def nothing(host: Host, agent: Agent) -> None:
    return


async def order_it(host: Host, agent: Agent) -> None:
    await agent.order(order())


async def commit_it(host: Host, agent: Agent) -> None:
    await agent.order(order())
    await agent.confirm("o1", 1)


async def supersede(host: Host, agent: Agent) -> None:
    await commit_it(host, agent)
    await agent.order(order("o2", 2))
    await agent.confirm("o2", 2)


async def expire(host: Host, agent: Agent) -> None:
    await agent.order(order(lease_s=5))
    host.now += 5
    agent.tick()
    await drained(agent)


async def revert_it(host: Host, agent: Agent) -> None:
    await commit_it(host, agent)
    await agent.revert("test")


async def off_it(host: Host, agent: Agent) -> None:
    await commit_it(host, agent)
    await agent.off("test")


async def refuse_it(host: Host, agent: Agent) -> None:
    host.probe_ok = False
    with pytest.raises(RefusedError):
        await agent.order(order())


def code(host: Host, scenario: Scenario) -> str:
    with pytest.raises(RefusedError) as caught:
        run(host, scenario)
    assert "\n" not in caught.value.message
    return caught.value.code


def test_order_confirm_and_restart(host: Host) -> None:
    agent = run(host, order_it)
    assert (agent.state.status, agent.state.tested) == ("pending", True)
    assert agent.state.lease_left_s(host.now + 20) == 40
    assert host.sidecar.mode == "tx"
    run(host, nothing)  # the agent is killed and starts again: unconfirmed is undone
    assert host.sidecar.mode == "userspace"
    assert not (host.state_dir / "intent.json").exists()
    again = run(host, order_it)
    assert (again.state.status, again.state.reason) == ("reverted", "agent_restarted")


def test_intent_is_synced_with_its_directory_before_the_sidecar_hears_of_it(host: Host, synced: list[int]) -> None:
    seen: list[int] = []

    def watch(mode: str) -> None:
        seen.append(len(synced))

    async def scenario(host: Host, agent: Agent) -> None:
        synced.clear()
        host.sidecar.on_change = watch
        await agent.order(order())

    run(host, scenario)
    # Epoch, intent and lease: the file and its directory, each.
    assert seen == [6]


def test_committed_is_applied_again_after_a_reboot_and_when_the_sidecar_restarts(host: Host) -> None:
    async def sidecar_restarts(host: Host, agent: Agent) -> None:
        assert host.sidecar.mode == "tx"
        host.sidecar.mode = "userspace"
        host.now += 1
        agent.tick()
        await drained(agent)
        assert host.sidecar.mode == "tx"

    run(host, commit_it)
    host.boot, host.sidecar.mode = "boot-2", "userspace"
    run(host, sidecar_restarts)


def test_lease_expires_within_one_tick(host: Host) -> None:
    agent = run(host, expire)
    assert (agent.state.status, agent.state.reason) == ("reverted", "lease_expired")
    assert host.sidecar.mode == "userspace"
    assert not (host.state_dir / "intent.json").exists()
    assert run(host, nothing).state.reason == "lease_expired", "the reason survives"


def test_flag_switches_everything_off_and_stays(host: Host) -> None:
    async def flag(host: Host, agent: Agent) -> None:
        await commit_it(host, agent)
        (host.run_dir / "off").write_text("smoke in rack 7\nmore")
        agent.tick()
        await drained(agent)
        assert host.sidecar.mode == "userspace"
        assert agent.state.reason == "off: smoke in rack 7"
        with pytest.raises(RefusedError, match="clear"):
            await agent.order(order("o2", 2))
        await agent.clear()
        assert not any(host.flags.present())
        agent.tick()
        assert agent.state.wanted == "userspace", "clear switches nothing on"
        await agent.order(order("o2", 2))

    agent = run(host, flag)
    assert agent.state.status == "pending"


def test_durable_copy_survives_the_loss_of_run(host: Host) -> None:
    run(host, off_it)
    (host.run_dir / "off").unlink()
    agent = run(host, nothing)
    assert agent.state.latched
    assert agent.state.status == "reverted"


def test_refusals(host: Host) -> None:
    host.probe_ok = False
    assert code(host, order_it) == "apply_failed"
    assert host.sidecar.mode == "userspace"
    assert not host.on_is_durable()


@pytest.mark.parametrize(
    ("attribute", "value", "expected"),
    [("probe_tx", False, "apply_failed"), ("ktls", False, "no_ktls"), ("probe_ok", False, "apply_failed")],
)
def test_no_order_stands_without_its_proof(host: Host, attribute: str, value: bool, expected: str) -> None:
    setattr(host, attribute, value)
    host.sockets = ("lease", None, "nic")
    assert code(host, order_it) == expected
    assert host.sidecar.effective == "userspace"
    assert not host.on_is_durable()


def test_sidecar_that_does_not_follow_or_is_gone(host: Host) -> None:
    host.sidecar.stuck = True
    assert code(host, order_it) == "apply_failed"
    host.sidecar.stuck, host.sidecar.gone = False, True
    host.steps.clear()

    async def second(host: Host, agent: Agent) -> None:
        await agent.order(order("o2", 1))

    assert code(host, second) == "sidecar_unreachable"
    assert not host.on_is_durable()


def _full(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    real = atomic_write

    def write(path: str, data: bytes, mode: int = 0o644) -> None:
        if Path(path).name in names:
            cause = OSError(errno.ENOSPC, "No space left on device")
            raise KtlsError("write_failed", f"cannot write {path}") from cause
        real(path, data, mode)

    monkeypatch.setattr(ktls_agent.store, "atomic_write", write)


@pytest.mark.parametrize("name", ["epoch", "intent.json"])
def test_full_disk_refuses_an_order_and_changes_nothing(host: Host, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _full(monkeypatch, name)
    assert code(host, order_it) == "state_write_failed"
    assert "tx" not in host.sidecar.calls
    assert not host.on_is_durable()


def test_full_disk_keeps_a_confirmation_pending(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    async def confirm(host: Host, agent: Agent) -> None:
        await agent.order(order())
        _full(monkeypatch, "order.json")
        with pytest.raises(RefusedError) as caught:
            await agent.confirm("o1", 1)
        assert caught.value.code == "state_write_failed"
        assert "No space left" in caught.value.message
        assert agent.state.status == "pending"
        host.now += 60
        agent.tick()
        await drained(agent)
        assert host.sidecar.mode == "userspace"

    run(host, confirm)


def test_full_disk_stops_neither_off_nor_revert(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    async def revert(host: Host, agent: Agent) -> None:
        await commit_it(host, agent)
        _full(monkeypatch, "order.json", "intent.json", "epoch")
        await agent.revert("test")
        assert host.sidecar.mode == "userspace"

    run(host, revert)
    assert not host.on_is_durable(), "what cannot be written as reverted is at least no longer committed"
    assert run(host, nothing).state.wanted == "userspace"


def test_off_without_any_writable_flag_still_switches_and_retries(host: Host) -> None:
    async def off(host: Host, agent: Agent) -> None:
        await commit_it(host, agent)
        paths = host.flags.run_path, host.flags.durable_path
        host.flags.run_path, host.flags.durable_path = "/proc/nowhere/off", "/proc/nowhere/off"
        await agent.off("test")
        assert host.sidecar.mode == "userspace"
        assert any("/proc/nowhere/off" in problem for problem in agent.problems)
        agent.tick()
        assert agent.state.latched, "off holds in memory while it cannot be written"
        host.flags.run_path, host.flags.durable_path = paths
        host.now += 1
        agent.tick()
        await drained(agent)
        assert host.flags.present() == (True, True)
        agent.tick()
        assert not agent.problems

    run(host, off)


def test_off_while_an_order_is_being_tested_wins(host: Host) -> None:
    """The self-test hangs; OFF must not wait for it, and its late success must not count."""
    import threading

    entered, release = threading.Event(), threading.Event()
    real = host.self_test

    def slow(timeout_s: float) -> Any:
        entered.set()
        assert release.wait(5)
        return real(timeout_s)

    host.self_test = slow  # type: ignore[method-assign]

    async def off(host: Host, agent: Agent) -> None:
        ordering = asyncio.ensure_future(agent.order(order()))
        while not entered.is_set():
            await asyncio.sleep(0.005)
        await asyncio.wait_for(agent.off("now"), 1.0)
        assert host.sidecar.mode == "userspace"
        release.set()
        with pytest.raises(RefusedError) as caught:
            await ordering
        assert caught.value.code == "apply_failed"
        assert host.sidecar.mode == "userspace"

    run(host, off)
    assert run(host, nothing).state.wanted == "userspace"


def test_stop_undoes_what_is_pending(host: Host) -> None:
    async def stop(host: Host, agent: Agent) -> None:
        await agent.order(order())
        await agent.stop()

    assert run(host, stop).state.reason == "agent_stopped"
    assert host.sidecar.mode == "userspace"


@pytest.mark.parametrize("name", ["intent.json", "order.json", "epoch"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"null", b"-5", b"[" * 100_000, b"9" * 70_000])
def test_damaged_state_is_set_aside_and_safe(host: Host, name: str, content: bytes) -> None:
    run(host, commit_it)
    (host.state_dir / name).write_bytes(content)
    agent = run(host, nothing)
    assert any(name in problem for problem in agent.problems)
    aside = list(host.state_dir.glob(f"{name}.corrupt-*"))
    assert len(aside) == 1
    assert aside[0].read_bytes() == content
    expected = "tx" if name == "epoch" else "userspace"  # the commitment itself carries its epoch
    assert agent.state.wanted == host.sidecar.mode == expected
    assert agent.state.epoch == (0 if name == "order.json" else 1) or name == "order.json"


def test_order_file_that_cannot_be_an_order_is_damage(host: Host) -> None:
    run(host, commit_it)
    path = host.state_dir / "order.json"
    body = json.loads(path.read_text())
    body["order"]["phase"] = "warp"
    path.write_text(json.dumps(body))
    assert run(host, nothing).state.wanted == "userspace"


def test_an_unconfirmed_successor_takes_its_predecessor_down_with_it(tmp_path: Path) -> None:
    """A committed, B ordered and expired. Killed anywhere from B's intent on, the host comes back in userspace."""

    async def expired_successor(host: Host, agent: Agent) -> None:
        await commit_it(host, agent)
        host.steps.clear()
        host.kill_at = kill_at
        await agent.order(order("o2", 2, lease_s=5))
        host.now += 5
        agent.tick()
        await drained(agent)

    kill_at = 0
    while True:
        directory = tmp_path / str(kill_at)
        directory.mkdir()
        host = Host(directory)
        with contextlib.suppress(KilledError):
            run(host, expired_successor)
        finished = len(host.steps) <= kill_at
        intended = "after put intent.json" in host.steps
        where, host.kill_at = host.steps[-1], None
        agent = run(host, nothing)
        assert agent.state.wanted == ("userspace" if intended else "tx"), where
        if finished:
            break
        kill_at += 1
    assert kill_at > 8


def test_off_while_a_confirmation_is_being_written_wins(host: Host) -> None:
    import threading

    entered, release = threading.Event(), threading.Event()

    def checkpoint(name: str) -> None:
        if name == "after put order.json" and not release.is_set():
            entered.set()
            assert release.wait(5)

    async def off(host: Host, agent: Agent) -> None:
        await agent.order(order())
        agent._store._checkpoint = checkpoint
        confirming = asyncio.ensure_future(agent.confirm("o1", 1))
        while not entered.is_set():
            await asyncio.sleep(0.005)
        switching = asyncio.ensure_future(agent.off("now"))
        await asyncio.sleep(0.05)
        assert host.sidecar.mode == "userspace", "the switch waits for no disk"
        release.set()
        await switching
        with pytest.raises(RefusedError) as caught:
            await confirming
        assert caught.value.code == "not_pending"
        assert agent.state.status == "reverted"

    run(host, off)
    assert run(host, nothing).state.status == "reverted"


def test_what_is_still_owed_to_the_disk_cannot_hit_the_next_order(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    async def orders(host: Host, agent: Agent) -> None:
        await agent.order(order())
        with monkeypatch.context() as broken:
            broken.setattr(agent._store, "drop_intent", _read_only)
            await agent.revert("test")
            assert agent.problems
            with pytest.raises(RefusedError) as caught:
                await agent.order(order("o2", 2))
            assert caught.value.code == "state_write_failed"
        await agent.order(order("o2", 2))
        assert not agent.problems
        assert host.on_is_durable(), "the late removal of the old intent took the new one along"

    run(host, orders)


def _read_only() -> None:
    raise OSError(errno.EROFS, "Read-only file system")


@pytest.mark.parametrize("at", ["the first file", "the second file"])
def test_a_tick_in_the_middle_of_clear_does_not_raise_the_flag_again(
    host: Host, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """Half a clear looks like half a flag, which a tick completes at any other time."""

    async def scenario(host: Host, agent: Agent) -> None:
        await agent.off("test")
        if at == "the first file":
            agent.tick()
        loop = asyncio.get_running_loop()
        remove = ktls_agent.flags._remove
        removed: list[str] = []

        def slow_remove(path: str) -> None:
            remove(path)
            removed.append(path)
            if len(removed) == (1 if at == "the first file" else 2):
                host.now += 60
                ticked = asyncio.run_coroutine_threadsafe(tick(), loop)
                ticked.result(5)

        async def tick() -> None:
            agent.tick()

        monkeypatch.setattr(ktls_agent.flags, "_remove", slow_remove)
        await agent.clear()
        await asyncio.sleep(0.05)
        agent.tick()
        await drained(agent)
        assert len(removed) == 2

    agent = run(host, scenario)
    assert host.flags.present() == (False, False)
    assert not agent.state.latched
