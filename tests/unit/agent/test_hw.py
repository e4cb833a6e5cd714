# SPDX-License-Identifier: Apache-2.0
"""Phase hw in the agent: cards and TLS 1.2 come with the order, in this order, and go with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from ktls_agent import config
from ktls_agent.core import Agent
from ktls_agent.machine import RefusedError
from ktls_agent.probe import ProbeResult
from ktls_agent.selftest import verdict
from ktls_host.errors import KtlsError

from .conftest import Host, drained, order


def play(tmp_path: Path, scenario: Callable[[Host], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(Host(tmp_path)), 20))


async def started(host: Host, consent: bool = False) -> Agent:
    agent = host.agent()
    agent.tls12_consent = consent
    await agent.start()
    await drained(agent)
    return agent


def test_the_card_is_on_before_the_datapath_and_off_is_not_asked_first(tmp_path: Path) -> None:
    async def scenario(host: Host) -> None:
        agent = await started(host)
        host.steps.clear()
        await agent.order(order(phase="hw"))
        assert agent.state.tested
        nic = [step for step in host.steps if "nic" in step or "mode" in step]
        assert nic == ["before nic on", "after nic on", "before mode hw", "after mode hw"]
        assert next(detail for name, detail in host.audit.events if name == "offload")["id"] == "o1"
        await agent.confirm("o1", 1)
        host.steps.clear()
        await agent.revert("test")
        await drained(agent)
        assert host.helpers.calls[-1] != "off"
        assert "before nic back" in host.steps
        assert [one["result"] for one in agent.revert_steps() if one["step"] in ("nic", "rx", "tx")] == [
            "done",
            "nothing",
            "done",
        ]

    play(tmp_path, scenario)


@pytest.mark.parametrize("phase", ["tx", "rx"])
def test_the_phases_below_force_cards_off(tmp_path: Path, phase: str) -> None:
    async def scenario(host: Host) -> None:
        agent = await started(host)
        await agent.order(order(phase="hw"))
        await agent.confirm("o1", 1)
        host.helpers.calls.clear()
        await agent.order(order("o2", 2, phase))
        assert host.helpers.calls == ["arm", "off"], "before the datapath, and no more"
        assert host.sidecar.mode == phase

    play(tmp_path, scenario)


def test_userspace_over_hw_gives_the_cards_back_at_once(tmp_path: Path) -> None:
    async def scenario(host: Host) -> None:
        agent = await started(host)
        await agent.order(order(phase="hw"))
        await agent.confirm("o1", 1)
        host.helpers.calls.clear()
        await agent.order(order("o2", 2, "userspace"))
        assert host.helpers.calls == ["back"]
        await agent.confirm("o2", 2)
        host.helpers.calls.clear()
        await agent.order(order("o3", 3, "userspace"))
        assert host.helpers.calls == [], "nothing was on"

    play(tmp_path, scenario)


def test_userspace_over_hw_is_not_refused_by_a_card_and_the_card_is_tried_again(tmp_path: Path) -> None:
    async def scenario(host: Host) -> None:
        agent = await started(host)
        await agent.order(order(phase="hw"))
        await agent.confirm("o1", 1)
        host.helpers.broken.add("back")
        await agent.order(order("o2", 2, "userspace"))
        assert (agent.state.status, host.sidecar.mode) == ("pending", "userspace")
        assert "network cards are not as phase userspace wants them" in " ".join(agent.problems)
        host.helpers.broken.clear()
        host.helpers.calls.clear()
        host.now += 6
        agent.tick()
        await drained(agent)
        assert "back" in host.helpers.calls
        assert agent.problems == []

    play(tmp_path, scenario)


@pytest.mark.parametrize("sockets", [("lease", "module", None), ("lease", "module", "nic")])
def test_without_a_card_there_is_no_phase_hw(tmp_path: Path, sockets: tuple[str, str, str | None]) -> None:
    async def scenario(host: Host) -> None:
        host.sockets = sockets
        host.helpers.broken.add("on")
        agent = await started(host)
        with pytest.raises(RefusedError) as caught:
            await agent.order(order(phase="hw"))
        assert caught.value.code == "nic_failed"
        await drained(agent)
        assert agent.state.status == "reverted"
        assert "hw" not in host.sidecar.calls, "the datapath was never asked"
        assert ("back" in host.helpers.calls) == (sockets[2] is not None), "who knows what the helper did"

    play(tmp_path, scenario)


@pytest.mark.parametrize("ends", ["revert", "off", "cancel"])
def test_a_card_that_comes_on_after_its_order_has_gone_is_given_back(tmp_path: Path, ends: str) -> None:
    """The helper was slow: what took the order back has been at the cards before it."""

    async def scenario(host: Host) -> None:
        agent = await started(host)
        going = asyncio.Event()
        ended = asyncio.Event()
        call = host.helpers.call

        async def slow(path: str, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
            if request["verb"] == "on":
                going.set()
                await ended.wait()
            return await call(path, request, timeout_s)

        agent._levers._call = slow
        ordering = asyncio.ensure_future(agent.order(order(phase="hw")))
        await going.wait()
        host.now += 2
        agent.tick()
        while agent._watching is None or not agent._watching.done():
            await asyncio.sleep(0)
        assert "hw" not in host.sidecar.calls, "the watch was before the cards"
        if ends == "cancel":
            await agent.cancel("o1", 1)
        else:
            await (agent.revert if ends == "revert" else agent.off)("test")
        ended.set()
        await asyncio.wait([ordering])
        await drained(agent)
        asked = [verb for verb in host.helpers.calls if verb in ("on", "back")]
        assert asked[-1] == "back", asked
        assert "on" in asked
        assert "hw" not in host.sidecar.calls

    play(tmp_path, scenario)


@pytest.mark.parametrize(("phase", "verb"), [("hw", "on"), ("tx", "off")])
def test_a_start_under_an_order_looks_after_the_cards(tmp_path: Path, phase: str, verb: str) -> None:
    """A boot gives the cards their drivers' way: mlx5 comes up with transmit on."""

    async def scenario(host: Host) -> None:
        first = await started(host)
        await first.order(order(phase=phase))
        await first.confirm("o1", 1)
        first.close()
        host.helpers.calls.clear()
        host.helpers.broken.add(verb)
        agent = await started(host)
        assert host.sidecar.mode == phase, "the datapath does not wait for that"
        assert f"as phase {phase} wants them" in " ".join(agent.problems)
        host.helpers.broken.clear()
        host.now += 6
        agent.tick()
        await drained(agent)
        assert host.helpers.calls.count(verb) == 2
        assert agent.problems == []

    play(tmp_path, scenario)


def test_consent_is_told_with_hw_and_with_nothing_else(tmp_path: Path) -> None:
    async def scenario(host: Host) -> None:
        asked: list[dict[str, Any]] = []
        answer = host.sidecar.answer

        def note(request: dict[str, Any]) -> dict[str, Any]:
            asked.append(request)
            return answer(request)

        host.sidecar.answer = note  # type: ignore[method-assign]
        host.probe_tx = True
        agent = await started(host, consent=True)
        agent._self_test = lambda timeout_s: ProbeResult(True, 0.0, 0.1, True, True, "TLSv1.2", "ECDHE-RSA-AES128-GCM")
        await agent.order(order(phase="hw"))
        assert host.sidecar.tls12 is True
        host.sidecar.tls12 = False  # it was started anew
        host.now += 2
        agent.tick()
        await drained(agent)
        assert host.sidecar.tls12 is True
        await agent.order(order("o2", 2, "tx"))
        assert host.sidecar.tls12 is False
        modes = [(one["mode"], one.get("tls12")) for one in asked if one["verb"] == "mode"]
        assert {tls12 for mode, tls12 in modes if mode == "hw"} == {True}
        assert {tls12 for mode, tls12 in modes if mode != "hw"} == {None}

    play(tmp_path, scenario)


@pytest.mark.parametrize(
    ("protocol", "cipher", "consent", "problem"),
    [
        ("TLSv1.2", "ECDHE-RSA-AES128-GCM-SHA256", True, ""),
        ("TLSv1.3", "TLS_AES_128_GCM_SHA256", False, ""),
        ("TLSv1.3", "TLS_AES_128_GCM_SHA256", True, "not TLS 1.2 with AES-GCM"),
        ("TLSv1.2", "ECDHE-RSA-CHACHA20-POLY1305", True, "not TLS 1.2 with AES-GCM"),
    ],
)
def test_the_self_test_sees_what_was_negotiated(protocol: str, cipher: str, consent: bool, problem: str) -> None:
    result = ProbeResult(True, 0.0, 0.1, True, True, protocol, cipher, None, False)
    assert problem in verdict(result, "hw", tls12=consent)
    assert (verdict(result, "hw", tls12=consent) == "") == (problem == "")
    assert verdict(result, "tx", tls12=consent) == ""


def test_consent_is_a_key_of_the_configuration() -> None:
    base = {"socket": "/a", "state_dir": "/b", "run_dir": "/c", "sidecar_socket": "/d"}
    raw = {**base, "probe": {"host": "::1", "port": 1, "server_name": "x", "ca": "/ca", "path": "/p"}}
    assert config.parse(raw, "x").tls12_consent is False
    assert config.parse({**raw, "tls12_consent": True}, "x").tls12_consent is True
    with pytest.raises(KtlsError, match="tls12_consent is not true or false"):
        config.parse({**raw, "tls12_consent": "yes"}, "x")
