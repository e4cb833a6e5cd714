# SPDX-License-Identifier: Apache-2.0
"""Reverts: their steps, what is tried again, when a host is stuck, and that the datapath waits for nothing."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import ktls_agent.marks
from ktls_agent.core import Agent
from ktls_agent.machine import UNDO_TRIES, RefusedError
from ktls_host.errors import KtlsError

from .conftest import Host, drained, order
from .test_orders import nothing, refused, run

Scenario = Callable[[Host, Agent], Awaitable[None]]


async def tried(host: Host, agent: Agent, times: int) -> None:
    """Let the agent try ``times`` times more."""
    for _ in range(times):
        host.now += 60
        agent.tick()
        await drained(agent)


def results(agent: Agent) -> dict[str, str]:
    return {one["step"]: one["result"] for one in agent.revert_steps()}


def on_disk(host: Host) -> dict[str, Any]:
    return dict(json.loads((host.state_dir / "revert.json").read_text()))


async def commit(agent: Agent, phase: str = "tx") -> None:
    await agent.order(order(phase=phase))
    await agent.confirm("o1", 1)


def test_the_steps_in_their_order_with_time_and_durable(host: Host) -> None:
    async def scenario(host: Host, agent: Agent) -> None:
        await commit(agent)
        await agent.revert("test")

    before = time.time()
    agent = run(host, scenario)
    steps = agent.revert_steps()
    assert [(one["step"], one["result"]) for one in steps] == [
        ("nic", "nothing"), ("rx", "nothing"), ("tx", "done"), ("policy", "kept"), ("module", "kept"),
    ]  # fmt: skip
    assert all(before - 1 < one["at"] < time.time() + 1 for one in steps)
    assert [one["step"] for one in on_disk(host)["steps"]] == ["nic", "rx", "tx", "policy", "module"]
    assert (on_disk(host)["tries"], on_disk(host)["stuck"]) == (1, False)
    assert run(host, nothing).revert_steps() == steps, "a restart forgets none of it"
    assert host.helpers.calls.count("off") == 2, "and does nothing again that was done"


def test_a_revert_that_a_restart_interrupted_is_finished(host: Host) -> None:
    async def scenario(host: Host, agent: Agent) -> None:
        await commit(agent)
        host.helpers.broken = {"off"}
        await agent.revert("test")

    assert results(run(host, scenario))["nic"] == "failed"
    host.helpers.broken = set()
    agent = run(host, nothing)
    assert (results(agent)["nic"], agent.state.revert.tries if agent.state.revert else 0) == ("nothing", 2)


def test_what_fails_is_tried_again_and_then_stuck_until_cleared(host: Host) -> None:
    async def scenario(host: Host, agent: Agent) -> None:
        await commit(agent)
        host.helpers.broken = {"off"}
        await agent.revert("test")
        assert host.sidecar.mode == "userspace", "a step that fails does not stop the later ones"
        assert (agent.state.status, results(agent)["tx"]) == ("reverted", "done")
        await tried(host, agent, UNDO_TRIES - 2)
        assert agent.state.status == "reverted"
        await tried(host, agent, 1)
        assert agent.state.status == "stuck"
        assert any("STUCK at nic" in problem for problem in agent.problems)
        calls = len(host.helpers.calls)
        await tried(host, agent, 3)
        assert len(host.helpers.calls) == calls, "no loop"
        assert await refused(agent.order(order("o2", 2))) == "stuck"
        await agent.order(order("o3", 2, "userspace"))
        await agent.confirm("o3", 2)
        assert await refused(agent.order(order("o4", 4))) == "stuck"

    run(host, scenario)
    assert host.audit.names.count("stuck") == 1

    async def still(host: Host, agent: Agent) -> None:
        assert agent.state.stuck, "a restart does not repair it"
        assert await refused(agent.order(order("o4", 4))) == "stuck"
        await agent.off("never blocked")
        host.helpers.broken = set()
        await agent.clear()
        assert not agent.state.stuck
        await agent.order(order("o4", 4))

    assert run(host, still).state.status == "pending"


def test_clear_tries_again_what_is_stuck(host: Host) -> None:
    async def scenario(host: Host, agent: Agent) -> None:
        await commit(agent)
        host.helpers.broken = {"off"}
        await agent.revert("test")
        await tried(host, agent, UNDO_TRIES)
        assert agent.state.status == "stuck"
        await agent.clear()
        assert agent.state.status == "reverted"
        await tried(host, agent, UNDO_TRIES)
        assert agent.state.status == "stuck", "cleared, but not repaired"
        host.helpers.broken = set()
        await agent.clear()
        assert (agent.state.status, results(agent)["nic"], agent.problems) == ("reverted", "nothing", [])

    run(host, scenario)
    assert run(host, nothing).state.status == "reverted"


def test_the_shell_can_be_stuck_too(host: Host) -> None:
    async def scenario(host: Host, agent: Agent) -> None:
        (host.run_dir / "stuck").touch()
        agent.tick()
        assert any("STUCK" in problem for problem in agent.problems)
        assert await refused(agent.order(order())) == "stuck"
        await agent.clear()
        assert not (host.run_dir / "stuck").exists()
        agent.tick()
        await agent.order(order())

    run(host, scenario)
    assert "stuck" in host.audit.names


def test_the_datapath_waits_neither_for_the_nic_nor_for_the_disk(host: Host) -> None:
    import threading

    async def scenario(host: Host, agent: Agent) -> None:
        await commit(agent)
        agent._undoer._wait_s = 0.1
        host.helpers.hanging = {"off"}
        release = threading.Event()
        agent._disk._thread.submit(release.wait, 5)
        switched = asyncio.Event()
        host.sidecar.on_change = lambda mode: switched.set()
        reverting = asyncio.ensure_future(agent.revert("test"))
        await asyncio.wait_for(switched.wait(), 0.5)
        assert host.sidecar.mode == "userspace"
        release.set()
        await reverting
        assert (results(agent)["nic"], results(agent)["tx"]) == ("failed", "done")
        agent.close()

    async def main() -> None:
        agent = host.agent()
        await agent.start()
        await scenario(host, agent)

    asyncio.run(main())


def test_a_disk_that_hangs_does_not_stop_the_watch(host: Host) -> None:
    import threading

    async def main() -> None:
        agent = host.agent()
        await agent.start()
        await agent.order(order())
        release = threading.Event()
        agent._disk._thread.submit(release.wait, 5)
        for _ in range(3):
            host.now += 1
            host.sidecar.mode = "userspace"  # it has restarted
            agent.tick()
            await asyncio.sleep(0.02)
            assert host.sidecar.mode == "tx"
        release.set()
        await drained(agent)
        agent.close()

    asyncio.run(main())


def test_a_nic_that_answers_late_is_heard_with_the_next_try(host: Host) -> None:
    async def scenario(host: Host, agent: Agent) -> None:
        await commit(agent)
        agent._undoer._wait_s = 0.02
        answer = asyncio.Event()

        async def slow(path: str, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
            asked.append(request["verb"])
            if path == "nic":
                await answer.wait()
            return {"ok": True, "changed": True, "notes": ["eth0 first"]}

        asked: list[str] = []
        agent._levers._call = slow
        await agent.revert("test")
        assert results(agent)["nic"] == "failed"
        await tried(host, agent, UNDO_TRIES + 1)
        assert agent.state.status == "reverted", "waiting for it is not another try"
        answer.set()
        await asyncio.sleep(0)
        await tried(host, agent, 1)
        assert results(agent)["nic"] == "done"
        assert asked.count("off") == 1, "one that hangs is not asked again"

    run(host, scenario)


@pytest.mark.parametrize("how", ["gone", "stuck", "hangs"])
def test_a_sidecar_that_does_not_obey_is_kept_in_userspace_by_the_mark(host: Host, how: str) -> None:
    async def scenario(host: Host, agent: Agent) -> None:
        await commit(agent)
        agent._undoer._wait_s = 0.05
        if how == "gone":
            host.sidecar.gone = True
        elif how == "stuck":
            real = host.call_sidecar

            async def deaf(request: dict[str, Any]) -> dict[str, Any]:
                answer = await real({"verb": "status"})
                return {**answer, "effective_mode": host.sidecar.effective}

            agent._call_sidecar = deaf
        else:

            async def hang(request: dict[str, Any]) -> dict[str, Any]:
                await asyncio.sleep(5)
                return {}

            agent._call_sidecar = hang
        await agent.revert("test")
        assert host.sidecar.effective == "userspace"
        assert (host.run_dir / "lapsed").exists()
        shown = {one["step"]: one for one in agent.revert_steps()}
        assert shown["tx"]["result"] == "done"
        assert "mark" in shown["tx"]["detail"]
        if how == "hangs":
            agent.close()
            for task in list(agent._tasks):
                task.cancel()

    run(host, scenario)


def test_neither_sidecar_nor_mark_is_a_failure_and_never_a_success(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object) -> None:
        raise OSError(30, "Read-only file system")

    async def scenario(host: Host, agent: Agent) -> None:
        await commit(agent)
        host.sidecar.gone = True
        monkeypatch.setattr(ktls_agent.marks.Marks, "raise_lapsed", refuse)
        await agent.revert("test")
        assert results(agent)["tx"] == "failed"
        host.sidecar.gone = False
        await tried(host, agent, 1)
        assert results(agent)["tx"] == "done"
        assert host.sidecar.mode == "userspace"

    run(host, scenario)


@pytest.mark.parametrize(
    ("broken", "expected"), [(set(), "done"), ({"unload"}, "kept")]
)  # a refusal is an answer: it is in use
def test_the_module_goes_only_when_asked(host: Host, broken: set[str], expected: str) -> None:
    async def scenario(host: Host, agent: Agent) -> None:
        await commit(agent)
        await agent.revert("test")
        assert (results(agent)["module"], host.ktls) == ("kept", True)
        host.helpers.broken = broken
        await agent.revert("and the module", unload=True)
        assert results(agent)["module"] == expected
        assert host.ktls == bool(broken)
        assert agent.state.reason == "test", "asking for more does not change why it was reverted"

    run(host, scenario)


def test_a_new_order_is_not_disturbed_by_what_is_left_of_the_last_revert(host: Host) -> None:
    async def scenario(host: Host, agent: Agent) -> None:
        await commit(agent)
        host.helpers.broken = {"off"}
        await agent.revert("test")
        host.helpers.broken = set()
        await agent.order(order("o2", 2))
        host.now += 2
        agent.tick()
        await drained(agent)
        assert (agent.state.status, host.sidecar.mode, agent.revert_steps()) == ("pending", "tx", [])

    run(host, scenario)


def test_damaged_progress_is_set_aside_and_the_steps_are_done_again(host: Host) -> None:
    async def scenario(host: Host, agent: Agent) -> None:
        await commit(agent)
        await agent.revert("test")

    run(host, scenario)
    (host.state_dir / "revert.json").write_text('{"order": 1}')
    agent = run(host, nothing)
    assert any("revert.json" in problem for problem in agent.problems)
    assert results(agent)["tx"] == "done"
    assert agent.state.status == "reverted"


def test_a_refused_order_names_what_is_stuck(host: Host) -> None:
    async def scenario(host: Host, agent: Agent) -> None:
        await commit(agent)
        host.helpers.broken = {"off"}
        await agent.revert("test")
        await tried(host, agent, UNDO_TRIES)
        with pytest.raises(RefusedError, match=r"nic.*ktls-agent clear"):
            await agent.order(order("o2", 2))

    run(host, scenario)


def test_what_a_slow_revert_still_has_to_write_does_not_hit_the_next_order(host: Host) -> None:
    async def scenario(host: Host, agent: Agent) -> None:
        await commit(agent)
        real, release = host.call_sidecar, asyncio.Event()

        async def slow(request: dict[str, Any]) -> dict[str, Any]:
            if request.get("mode") == "userspace":
                await release.wait()
            return await real(request)

        agent._call_sidecar = slow
        reverting = asyncio.ensure_future(agent.revert("test"))
        await asyncio.sleep(0)
        ordering = asyncio.ensure_future(agent.order(order("o2", 2)))
        await asyncio.sleep(0.05)
        release.set()
        await asyncio.gather(reverting, ordering)
        await drained(agent)
        assert agent.state.status == "pending"
        assert (host.state_dir / "lease").read_text().startswith("id=o2\n")
        assert (host.state_dir / "intent.json").exists()
        assert host.helpers.armed

    run(host, scenario)


def test_a_timer_that_an_order_needs_is_not_stopped(host: Host) -> None:
    async def scenario(host: Host, agent: Agent) -> None:
        await agent.order(order())
        await agent._disarm(())  # of the order before, and late
        assert host.helpers.armed

    run(host, scenario)


def test_helpers_that_take_their_time_are_asked_once_each(host: Host) -> None:
    """As on an emulated host, where one takes five seconds: no pile of them, and nobody is stuck."""

    async def scenario(host: Host, agent: Agent) -> None:
        await commit(agent)
        agent._undoer._wait_s = 0.02
        asked: list[str] = []
        go_on = asyncio.Event()

        async def slow(path: str, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
            asked.append(request["verb"])
            await go_on.wait()
            return {"ok": True, "changed": True}

        agent._levers._call = slow
        agent._armed = True
        await agent.revert("test", unload=True)
        for _ in range(10):
            host.now += 60
            agent.tick()
            await asyncio.sleep(0.01)
        assert sorted(asked) == ["disarm", "off", "unload"]
        go_on.set()
        await asyncio.sleep(0.01)
        await tried(host, agent, 2)
        assert (results(agent)["nic"], results(agent)["module"]) == ("done", "done")
        assert sorted(asked) == ["disarm", "off", "unload"]
        assert (agent.state.status, agent.problems, agent._armed) == ("reverted", [], False)

    run(host, scenario)


def test_nobody_is_stuck_while_a_helper_is_at_work(host: Host) -> None:
    """As under load, where it takes longer than a step waits, and fails in the end: only the end is a try."""

    async def scenario(host: Host, agent: Agent) -> None:
        await commit(agent)
        agent._undoer._wait_s = 0.01
        answers: list[asyncio.Future[dict[str, Any]]] = []

        async def slow(path: str, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
            if path != "nic":
                return await host.helpers.call(path, request, timeout_s)
            answers.append(asyncio.get_running_loop().create_future())
            return await answers[-1]

        agent._levers._call = slow
        await agent.revert("test")
        for number in range(1, UNDO_TRIES):
            assert len(answers) == number
            answers[-1].set_exception(KtlsError("timeout", "no answer within 30 s"))
            await tried(host, agent, 1)  # hears of it
            assert agent.state.revert is not None
            assert (agent.state.revert.tries, agent.state.status) == (number, "reverted")
            await tried(host, agent, 1)  # and asks again
        answers[-1].set_result({"ok": True, "changed": True})
        await tried(host, agent, 1)
        assert (results(agent)["nic"], agent.state.status) == ("done", "reverted")

    run(host, scenario)


def test_what_is_done_is_not_done_again_for_what_failed(host: Host) -> None:
    async def scenario(host: Host, agent: Agent) -> None:
        await commit(agent)
        host.helpers.hanging = {"unload"}
        agent._levers._call = lambda path, request, timeout_s: host.helpers.call(path, request, 0.0)
        host.helpers.calls.clear()
        await agent.revert("test", unload=True)
        await tried(host, agent, 2)
        assert (host.helpers.calls.count("off"), host.helpers.calls.count("unload")) == (1, 3)
        host.helpers.hanging = set()
        await tried(host, agent, 1)
        assert results(agent)["module"] == "done"

    run(host, scenario)


def test_a_revert_that_makes_progress_does_not_stop_the_next_order(host: Host) -> None:
    async def scenario(host: Host, agent: Agent) -> None:
        await commit(agent)
        host.helpers.broken = {"off"}
        await agent.revert("test")
        host.helpers.broken = set()
        entered, release = asyncio.Event(), asyncio.Event()
        real = host.helpers.call

        async def slow(path: str, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
            if request["verb"] == "arm":
                entered.set()
                await release.wait()
            return await real(path, request, timeout_s)

        agent._levers._call = slow
        ordering = asyncio.ensure_future(agent.order(order("o2", 2)))
        await entered.wait()
        host.now += 5
        agent.tick()
        await asyncio.sleep(0.02)
        assert results(agent)["nic"] == "nothing", "the next try has worked"
        release.set()
        await ordering
        assert (agent.state.status, host.sidecar.mode) == ("pending", "tx")

    run(host, scenario)


def test_an_answer_to_an_earlier_revert_does_not_count_for_the_next(host: Host) -> None:
    async def scenario(host: Host, agent: Agent) -> None:
        await commit(agent)
        agent._undoer._wait_s = 0.02
        answer = asyncio.Event()

        async def slow(path: str, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
            await answer.wait()
            return await host.helpers.call(path, request, timeout_s)

        agent._levers._call = slow
        await agent.revert("first", unload=True)
        answer.set()
        await asyncio.sleep(0.01)  # unloaded, but nobody has heard of it
        assert not host.ktls
        await agent.order(order("o2", 2))
        assert host.ktls
        await agent.revert("second", unload=True)
        assert (results(agent)["module"], host.ktls) == ("done", False)

    run(host, scenario)
