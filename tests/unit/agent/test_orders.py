# SPDX-License-Identifier: Apache-2.0
"""The way of an order through its steps: what is done in which order, and what a refusal at each of them leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ktls_agent.core import Agent
from ktls_agent.machine import RefusedError
from ktls_agent.probe import ProbeResult
from ktls_agent.selftest import can_receive, verdict
from ktls_agent.store import Store, lease_text
from ktls_host.jsonsock import Peer

from .conftest import Host, drained, order

Scenario = Callable[[Host, Agent], Awaitable[None]]


def run(host: Host, scenario: Scenario) -> Agent:
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


async def refused(work: Awaitable[Any]) -> str:
    with pytest.raises(RefusedError) as caught:
        await work
    assert "\n" not in caught.value.message
    return caught.value.code


def over(connection: int) -> Peer:
    return Peer(1, 0, 0, connection)


def test_every_step_comes_after_what_will_undo_it(host: Host) -> None:
    host.ktls = False

    async def scenario(host: Host, agent: Agent) -> None:
        host.steps.clear()
        await agent.order(order())

    run(host, scenario)
    after = [name for name in host.steps if name.startswith("after")]
    assert after == [
        "after put epoch", "after put intent.json", "after put lease", "after timer arm", "after module load",
        "after nic off", "after mode tx", "after probe",
    ]  # fmt: skip
    assert host.ktls


def test_confirm_is_durable_before_the_lease_goes_and_the_timer_last(host: Host) -> None:
    async def scenario(host: Host, agent: Agent) -> None:
        await agent.order(order())
        host.steps.clear()
        await agent.confirm("o1", 1)

    run(host, scenario)
    assert [name for name in host.steps if name.startswith("after")] == [
        "after put order.json", "after drop lease", "after drop intent.json", "after timer disarm",
    ]  # fmt: skip
    assert not host.helpers.armed
    assert host.audit.names == ["order", "intent", "pending", "confirm"]


def test_intent_tells_what_was_there_before(host: Host) -> None:
    async def scenario(host: Host, agent: Agent) -> None:
        await agent.order(order())
        await agent.confirm("o1", 1)
        await agent.order(order("o2", 2, "rx", 30.0))

    run(host, scenario)
    intent = json.loads((host.state_dir / "intent.json").read_text())
    assert (intent["boot_id"], intent["deadline_boottime_s"], intent["since_boottime_s"]) == ("boot-1", 1030.0, 1000.0)
    previous = intent["previous"]
    assert (previous["status"], previous["phase"], previous["mode"], previous["epoch"]) == ("committed", "tx", "tx", 1)
    assert previous["order"]["id"] == "o1"
    assert (host.state_dir / "lease").read_text() == "id=o2\nepoch=2\nboot_id=boot-1\ndeadline_s=1030.00\n"


def test_the_deadline_for_the_shell_is_never_later_than_ours() -> None:
    from ktls_agent.machine import Order

    text = lease_text(Order("a", 1, "tx", 5.0, "0" * 64), 12.3456, "b")
    assert "deadline_s=12.34\n" in text
    assert text.endswith("\n")


def test_userspace_needs_no_lever(host: Host) -> None:
    async def scenario(host: Host, agent: Agent) -> None:
        await agent.order(order())
        host.helpers.broken = {"arm", "load", "off"}
        await agent.order(order("o2", 2, "userspace"))
        assert (agent.state.status, agent.state.wanted) == ("pending", "userspace")

    run(host, scenario)


@pytest.mark.parametrize("verb", ["arm", "load", "off"])
@pytest.mark.parametrize("before", ["none", "committed", "pending"])
def test_a_lever_that_fails_refuses_the_order_and_changes_nothing(host: Host, verb: str, before: str) -> None:
    expected = {"arm": "timer_failed", "load": "module_failed", "off": "nic_failed"}[verb]

    async def scenario(host: Host, agent: Agent) -> None:
        if before != "none":
            await agent.order(order())
        if before == "committed":
            await agent.confirm("o1", 1)
        host.ktls = False
        state, mode = agent.state, host.sidecar.mode
        lease = (host.state_dir / "lease").read_text() if before == "pending" else None
        host.helpers.broken = {verb}
        host.sidecar.calls.clear()
        assert await refused(agent.order(order("o2", 2))) == expected
        assert agent.state == state
        assert (host.sidecar.mode, host.sidecar.calls) == (mode, [])
        assert (host.state_dir / "intent.json").exists() == (before == "pending")
        if lease is not None:
            assert (host.state_dir / "lease").read_text() == lease, "the pending order is guarded as before"
            assert host.helpers.armed
        else:
            assert not (host.state_dir / "lease").exists()
            assert not host.helpers.armed or verb == "arm"
        refusal = host.audit.events[-1]
        assert (refusal[0], refusal[1]["code"]) == ("refused", expected)
        host.helpers.broken = set()
        await agent.order(order("o3", 3))
        assert agent.state.status == "pending"

    run(host, scenario)


def test_a_host_without_helpers_takes_orders(host: Host) -> None:
    host.sockets = (None, None, None)

    async def scenario(host: Host, agent: Agent) -> None:
        await agent.order(order())
        await agent.confirm("o1", 1)
        await agent.revert("test")

    agent = run(host, scenario)
    assert host.helpers.calls == []
    assert {one["step"]: one["result"] for one in agent.revert_steps()}["nic"] == "nothing"


def test_a_module_that_loads_but_offers_no_tls_is_no_ktls(host: Host) -> None:
    host.ktls = False
    host.helpers.on_call = lambda verb: None

    async def call(path: str, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        return {"ok": True}

    host.helpers.call = call  # type: ignore[method-assign]

    async def scenario(host: Host, agent: Agent) -> None:
        assert await refused(agent.order(order())) == "no_ktls"

    run(host, scenario)


def test_a_sidecar_that_does_not_answer_refuses_before_anything_is_touched(host: Host) -> None:
    async def scenario(host: Host, agent: Agent) -> None:
        await agent.order(order())
        await agent.confirm("o1", 1)
        host.sidecar.gone = True
        host.steps.clear()
        assert await refused(agent.order(order("o2", 2))) == "sidecar_unreachable"
        assert host.steps == []
        assert agent.state.status == "committed"

    run(host, scenario)


def test_the_mark_of_the_last_lapse_is_removed_only_when_the_timer_is_armed(host: Host) -> None:
    lapsed = host.run_dir / "lapsed"
    lapsed.touch()
    (host.run_dir / "revert").write_text("tx done\n")
    there: list[tuple[str, bool]] = []
    host.helpers.on_call = lambda verb: there.append((verb, lapsed.exists()))

    async def scenario(host: Host, agent: Agent) -> None:
        there.clear()
        await agent.order(order())

    run(host, scenario)
    assert there == [("arm", True), ("off", False)]
    assert host.sidecar.effective == "tx"
    assert not (host.run_dir / "revert").exists()


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("restarted", [False, True])
def test_what_the_timer_took_back_stays_back(host: Host, committed: bool, restarted: bool) -> None:
    async def scenario(host: Host, agent: Agent) -> None:
        await agent.order(order())
        if committed:
            await agent.confirm("o1", 1)
        (host.run_dir / "lapsed").touch()
        (host.run_dir / "revert").write_text("nic done\nrx nothing\ntx done by the mark\nodd\n")
        if not restarted:
            agent.tick()

    agent = run(host, scenario)
    if restarted:
        agent = run(host, nothing)
    assert (agent.state.status, agent.state.reason) == ("reverted", "lease_expired")
    assert host.sidecar.mode == "userspace"
    assert "lease_expired" in host.audit.names
    assert run(host, nothing).state.reason == "lease_expired"


def test_after_a_reboot_the_reason_is_the_reboot(host: Host) -> None:
    async def scenario(host: Host, agent: Agent) -> None:
        await agent.order(order())

    run(host, scenario)
    host.boot = "boot-2"
    (host.run_dir / "lapsed").touch()  # the boot check was here
    assert run(host, nothing).state.reason == "rebooted"


def test_lines_of_the_shell_are_shown_where_we_took_no_step(host: Host) -> None:
    (host.run_dir / "revert").write_text("nic done eth0: tls-hw-tx-offload off\nmodule kept \x1b[31m\n\ngarbage\n")
    agent = run(host, nothing)
    shown = [(one["step"], one["result"], one["detail"], one["by"]) for one in agent.revert_steps()]
    assert shown == [
        ("nic", "done", "eth0: tls-hw-tx-offload off", "ktls-off"),
        ("module", "kept", " [31m", "ktls-off"),
    ]


def test_a_confirmation_comes_over_a_newer_connection(host: Host) -> None:
    async def scenario(host: Host, agent: Agent) -> None:
        await agent.order(order(), over(3))
        for old in (3, 2):
            assert await refused(agent.confirm("o1", 1, over(old))) == "same_connection"
        assert agent.state.status == "pending"
        await agent.order(order(), over(4))  # the same again is not a new order
        await agent.confirm("o1", 1, over(4))
        assert agent.state.status == "committed"
        await agent.confirm("o1", 1, over(3))  # committed already: nothing to refuse

    run(host, scenario)


def test_extend(host: Host) -> None:
    async def scenario(host: Host, agent: Agent) -> None:
        await agent.order(order(lease_s=10))
        host.now += 8
        await agent.extend("o1", 1, 20)
        assert agent.state.deadline_s == 1028
        assert "deadline_s=1028.00" in (host.state_dir / "lease").read_text()
        intent = json.loads((host.state_dir / "intent.json").read_text())
        assert (intent["deadline_boottime_s"], intent["since_boottime_s"]) == (1028.0, 1000.0)
        assert intent["previous"]["mode"] == "userspace", "extended, but what was before is still what was before"
        await agent.extend("o1", 1, 2)
        assert agent.state.deadline_s == 1028, "never shortened"
        host.now += 19
        agent.tick()
        assert agent.state.status == "pending"
        await agent.confirm("o1", 1)

    run(host, scenario)
    assert "extend" in host.audit.names


@pytest.mark.parametrize(
    ("arguments", "later_s", "expected"),
    [
        (("o2", 1, 5), 0, "wrong_order"),
        (("o1", 2, 5), 0, "wrong_order"),
        (("o1", 1, 5), 60, "not_pending"),  # the lease is over, seen by then
        (("o1", 1, 86400), 1, "lease_too_long"),
        (("o1", 1, 0), 0, "bad_order"),
        (("o1", 1, float("nan")), 0, "bad_order"),
        (("o1", 1, "5"), 0, "bad_order"),
        (("o1", True, 5), 0, "bad_order"),
        ((None, 1, 5), 0, "bad_order"),
    ],
)
def test_extensions_that_are_refused(host: Host, arguments: Any, later_s: float, expected: str) -> None:
    async def scenario(host: Host, agent: Agent) -> None:
        await agent.order(order())
        lease = (host.state_dir / "lease").read_text()
        host.now += later_s
        assert await refused(agent.extend(*arguments)) == expected
        if later_s < 60:
            assert agent.state.deadline_s == 1060
            assert (host.state_dir / "lease").read_text() == lease

    run(host, scenario)


def test_an_extension_without_a_timer_does_not_count(host: Host) -> None:
    async def scenario(host: Host, agent: Agent) -> None:
        await agent.order(order(lease_s=10))
        host.helpers.broken = {"arm"}
        assert await refused(agent.extend("o1", 1, 60)) == "timer_failed"
        assert agent.state.deadline_s == 1010
        assert "deadline_s=1010.00" in (host.state_dir / "lease").read_text()

    run(host, scenario)


def test_a_committed_order_has_no_lease_to_extend(host: Host) -> None:
    async def scenario(host: Host, agent: Agent) -> None:
        await agent.order(order())
        await agent.confirm("o1", 1)
        assert await refused(agent.extend("o1", 1, 60)) == "not_pending"
        assert await refused(agent.cancel("o1", 1)) == "not_pending"
        assert agent.state.status == "committed"

    run(host, scenario)


def test_cancel_is_for_this_order_and_idempotent(host: Host) -> None:
    async def scenario(host: Host, agent: Agent) -> None:
        await agent.order(order())
        assert await refused(agent.cancel("o9", 1)) == "wrong_order"
        assert await refused(agent.cancel("o1", 2)) == "wrong_order"
        assert agent.state.status == "pending"
        await agent.cancel("o1", 1)
        assert (agent.state.status, agent.state.reason) == ("reverted", "cancelled")
        assert host.sidecar.mode == "userspace"
        await agent.cancel("o1", 1)

    run(host, scenario)
    assert host.audit.names.count("cancel") == 1


@pytest.mark.parametrize(("verb", "after"), [("confirm", "after put order.json"), ("extend", "after put lease")])
def test_what_the_shell_took_back_meanwhile_is_not_promised(host: Host, verb: str, after: str) -> None:
    """The lease ended, by the other guardian's clock, while the answer was on its way to the disk."""
    real = host.checkpoint

    def checkpoint(name: str) -> None:
        real(name)
        if name == after and host.steps.count("after probe"):
            (host.run_dir / "lapsed").touch()

    host.checkpoint = checkpoint  # type: ignore[method-assign]

    async def scenario(host: Host, agent: Agent) -> None:
        await agent.order(order())
        promise = agent.confirm("o1", 1) if verb == "confirm" else agent.extend("o1", 1, 600)
        assert await refused(promise) == "not_pending"
        assert (agent.state.status, agent.state.reason, agent.state.wanted) == (
            "reverted", "lease_expired", "userspace",
        )  # fmt: skip
        await drained(agent)
        assert json.loads((host.state_dir / "order.json").read_text())["status"] == "reverted"
        assert not (host.state_dir / "lease").exists()

    run(host, scenario)


@pytest.mark.parametrize("how", ["cancel", "revert", "off", "lapsed", "flag"])
def test_an_order_that_is_taken_back_on_its_way_does_not_arrive(host: Host, how: str) -> None:
    """It hangs at the timer, before it is in force; meanwhile somebody wants userspace."""

    async def scenario(host: Host, agent: Agent) -> None:
        entered, release = asyncio.Event(), asyncio.Event()
        real = host.helpers.call

        async def slow(path: str, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
            if request["verb"] == "off":
                entered.set()
                await release.wait()
            return await real(path, request, timeout_s)

        agent._levers._call = slow
        ordering = asyncio.ensure_future(agent.order(order()))
        await asyncio.wait_for(entered.wait(), 5)
        if how == "cancel":
            await agent.cancel("o1", 1)
        elif how == "revert":
            await agent.revert("test")
        elif how == "off":
            await agent.off("test")
        elif how == "flag":
            (host.run_dir / "off").touch()
        else:
            # The lease ends while the lever hangs.
            host.now += 100
        release.set()
        with pytest.raises(RefusedError) as caught:
            await ordering
        expected = {"off": "off_latched", "flag": "off_latched", "lapsed": "lease_expired"}.get(how, "apply_failed")
        assert caught.value.code == expected
        await drained(agent)
        assert "tx" not in host.sidecar.calls
        assert not (host.state_dir / "lease").exists()
        assert not (host.state_dir / "intent.json").exists()
        assert not host.helpers.armed

    run(host, scenario)


def result(**changes: Any) -> ProbeResult:
    seen = {"ok": True, "at_s": 0.0, "ktls_tx": True, "ktls_rx": True, "protocol": "TLSv1.3", **changes}
    return ProbeResult(**seen)


@pytest.mark.parametrize(
    ("seen", "phase", "openssl", "says"),
    [
        ({}, "tx", (3, 0), ""),
        ({}, "rx", (3, 5), ""),
        ({"ktls_rx": False}, "tx", (3, 5), ""),
        ({"ktls_rx": False}, "rx", (3, 5), "receive stays"),
        ({"ktls_rx": None}, "rx", (3, 2), "receive stays"),
        ({"ktls_rx": False}, "rx", (3, 1), ""),  # this OpenSSL does not receive TLS 1.3 by kTLS
        ({"ktls_rx": False, "protocol": "TLSv1.2"}, "rx", (3, 0), "receive stays"),
        ({"ktls_tx": False}, "rx", (3, 5), "userspace TLS"),
        ({"ktls_tx": None}, "tx", (3, 5), "could not see"),
        ({"ok": False, "error": "x"}, "tx", (3, 5), "failed: x"),
    ],
)
def test_what_a_self_test_must_show(seen: dict[str, Any], phase: str, openssl: tuple[int, int], says: str) -> None:
    found = verdict(result(**seen), phase, openssl)
    assert says in found
    assert bool(found) == bool(says)
    assert can_receive("TLSv1.2", (3, 0))


def test_rx_is_ordered_and_read_back(host: Host) -> None:
    async def scenario(host: Host, agent: Agent) -> None:
        await agent.order(order(phase="rx"))
        assert host.sidecar.mode == "rx"
        await agent.revert("test")
        assert {one["step"]: one["result"] for one in agent.revert_steps()}["rx"] == "done"
        host.probe_rx = False
        if can_receive("TLSv1.3"):
            assert await refused(agent.order(order("o2", 2, "rx"))) == "apply_failed"
            assert host.sidecar.mode == "userspace"

    run(host, scenario)


def test_a_store_that_is_loaded_sweeps_what_a_killed_writer_left(host: Host) -> None:
    litter = host.state_dir / ".lease.0123456789ab.tmp"
    litter.touch()
    Store(str(host.state_dir)).load()
    assert not litter.exists()


def test_a_refusal_before_the_intent_leaves_the_pending_order_alone(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that takes no epoch would not take the old intent again either; but that one is untouched."""

    async def scenario(host: Host, agent: Agent) -> None:
        await agent.order(order())

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(agent._store, "put_epoch", full)
        monkeypatch.setattr(agent._store, "put_intent", full)
        assert await refused(agent.order(order("o2", 2))) == "state_write_failed"
        assert (agent.state.status, host.sidecar.mode, host.helpers.armed) == ("pending", "tx", True)

    run(host, scenario)


def test_an_intent_that_cannot_be_put_back_takes_the_pending_order_down(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease on disk may be the longer one of the order that was refused: nobody could end it in time."""

    async def scenario(host: Host, agent: Agent) -> None:
        await agent.order(order())

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(agent._store, "put_intent", full)
        assert await refused(agent.order(order("o2", 2))) == "state_write_failed"
        assert (agent.state.status, host.sidecar.mode) == ("reverted", "userspace")

    run(host, scenario)


def test_a_lease_that_went_away_is_written_again_while_the_order_is_pending(host: Host) -> None:
    lease = host.state_dir / "lease"

    async def scenario(host: Host, agent: Agent) -> None:
        await agent.order(order())
        text = lease.read_text()
        lease.rename(host.state_dir / "lease.reverted")
        host.now += 2
        agent.tick()
        await drained(agent)
        assert lease.read_text() == text
        lease.unlink()
        (host.run_dir / "lapsed").touch()  # not lost, but over
        host.now += 2
        agent.tick()
        await drained(agent)
        assert agent.state.reason == "lease_expired"
        assert not lease.exists()

    run(host, scenario)
