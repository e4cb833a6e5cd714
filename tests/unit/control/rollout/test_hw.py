# SPDX-License-Identifier: Apache-2.0
"""Phase ``hw``: cards that stop to work, and what a sentinel sees on the wire, at every moment of a rollout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ktls_control.plan.model import Gates, Hardware, Plan, PlannedHost, Soak
from ktls_control.rollout import control

from .driver import FACTS, KilledError, World, events_of, plan_of, state_of, world_of

WATCHED = Hardware(("s1",))
ALONE = Hardware((), True)


def hw_plan(sizes: tuple[int, ...] = (1, 2, 1), **changes: Any) -> Plan:
    names = [f"h{number}" for number in range(1, sum(sizes) + 1)]
    hosts = {name: PlannedHost(FACTS, cards={"eth1": "mlx5_core"}, consent=True) for name in names}
    return plan_of(sizes, **{"phase": "hw", "hardware": WATCHED, "hosts": hosts, **changes})


def named(world: World, plan: Plan, event: str) -> list[dict[str, Any]]:
    return [one for one in events_of(world, plan) if one["event"] == event]


def test_a_rollout_of_hw_is_proved_by_bytes_and_watched(state_dir: Path) -> None:
    plan = hw_plan()
    world = world_of(state_dir, plan)
    assert world.playbook(plan) == "ok"
    assert {(host.phase, host.order) for host in world.hosts.values()} == {("hw", "committed")}
    verdicts = named(world, plan, "verdict")
    assert [one["sentinel"] for one in verdicts] == [{"sight": "clean", "why": "it is clean"}] * 3
    seen = named(world, plan, "observed")[-1]["hosts"]["h4"]["hw"]
    assert seen["encrypted"] > seen["hw"] >= 1_000_000 and seen["fallback"] == 0, seen
    asked = [since for names, since in world.sentinel.asked if names == ("h2", "h3")]
    assert set(asked) == {one["at"] for one in named(world, plan, "soak_started")[1:2]}, "since its order, not before"


def _from_soak(world: World, host: str, fault: str, after_s: float) -> None:
    """The fault comes so many seconds after the first soak began."""
    began: list[float] = []

    def on_event(name: str) -> None:
        if name == "soak_started" and not began:
            began.append(world.now)

    def on_sleep() -> None:
        if began and world.now - began[0] >= after_s:
            world.hosts[host].faults.add(fault)

    world.on_event, world.on_sleep = on_event, on_sleep


@pytest.mark.parametrize(
    ("fault", "after_s", "words"),
    [
        # Nine tenths of the soak were well: no share over all of it would tell.
        ("frozen", 540.0, "card: stale: its count of encrypted bytes stands still"),
        ("corrupt", 60.0, "decrypt: 1 errors of decryption"),
    ],
)
def test_a_card_that_fails_in_the_middle_of_a_soak_takes_its_wave_back(
    state_dir: Path, fault: str, after_s: float, words: str
) -> None:
    plan = hw_plan((1, 1), soak=Soak(600, 1800, 0, 1), lease_s=900.0)
    world = world_of(state_dir, plan)
    _from_soak(world, "h1", fault, after_s)
    said = world.playbook(plan)
    assert words in said, said
    assert "3 of them known to be stale" in said if fault == "frozen" else True
    assert named(world, plan, "verdict") == [], "nobody waited for the gate"
    assert {host.phase for host in world.hosts.values()} == {"userspace"}
    assert world.offs == [], "a card that does nothing leaks nothing"


def test_a_full_card_fails_at_the_gate(state_dir: Path) -> None:
    plan = hw_plan((1, 1), soak=Soak(120, 600, 0, 15_000_000), lease_s=900.0)
    world = world_of(state_dir, plan)
    _from_soak(world, "h1", "full", 40.0)
    said = world.playbook(plan)
    assert "fallback: " in said and "the card refuses sessions" in said, said
    full_from_the_start = world_of(state_dir / "b", plan)
    full_from_the_start.hosts["h1"].faults.add("full")
    assert "card: nothing is offloaded" in full_from_the_start.playbook(plan)


def test_a_feature_that_is_known_to_be_on_a_little_late_is_not_missed(state_dir: Path) -> None:
    plan = hw_plan((1,), soak=Soak(10, 30, 0, 1))
    world = world_of(state_dir, plan)
    host = world.hosts["h1"]
    hw, ordered = host.hw, world.now

    def late() -> dict[str, Any]:
        found = hw()
        if world.now < ordered + 5:
            found["interfaces"][0]["tx_on"] = False
        return found

    host.hw = late  # type: ignore[method-assign]
    assert world.playbook(plan) == "ok"


def test_a_feature_that_somebody_switches_off_fails_at_once(state_dir: Path) -> None:
    plan = hw_plan((1,), soak=Soak(600, 1800, 0, 1), lease_s=900.0)
    world = world_of(state_dir, plan)
    host = world.hosts["h1"]
    hw, ordered = host.hw, world.now

    def off() -> dict[str, Any]:
        found = hw()
        if world.now > ordered + 60:
            found["interfaces"][0]["tx_on"] = False
        return found

    host.hw = off  # type: ignore[method-assign]
    assert "features: TLS transmit offload is off: eth1" in world.playbook(plan)
    assert world.now < ordered + 200


def test_an_agent_that_says_nothing_of_cards_does_not_pass(state_dir: Path) -> None:
    plan = hw_plan((1,))
    world = world_of(state_dir, plan)
    world.hosts["h1"].faults.add("mute")
    assert "gate inconclusive: card: its agent says nothing of cards" in world.playbook(plan)


def test_without_a_sentinel_only_by_consent_and_on_record(state_dir: Path) -> None:
    plan = hw_plan((1,), hardware=ALONE)
    world = world_of(state_dir, plan)
    world.sentinel.sight = world.sentinel.armed = "none"
    assert world.playbook(plan) == "ok"
    assert named(world, plan, "verdict")[0]["sentinel"]["sight"] == "none"
    nobody = hw_plan((1,), hardware=None)
    assert world_of(state_dir / "b", nobody).playbook(nobody).startswith("no_sentinel: ")


def test_a_sentinel_that_left_the_inventory_is_missed_before_any_host_is_touched(state_dir: Path) -> None:
    plan = hw_plan((1,), hardware=Hardware(("s9",)))
    world = world_of(state_dir, plan)
    assert "no_sentinel: plan p1: s9 is to watch the wire" in world.playbook(plan)
    assert world.hosts["h1"].asked == []


def test_nobody_is_ordered_before_somebody_watches(state_dir: Path) -> None:
    plan = hw_plan((1,))
    world = world_of(state_dir, plan)
    world.sentinel.armed = "blind"
    said = world.playbook(plan)
    assert "sentinel blind: it is blind" in said
    assert world.hosts["h1"].asked == []
    late = world_of(state_dir / "b", plan)
    late.sentinel.armed = "blind"

    def arm() -> None:
        late.sentinel.armed = "clean"

    late.on_sleep = arm
    assert late.playbook(plan) == "ok", "one that has just started is waited for"


@pytest.mark.parametrize("on_inconclusive", ["pause", "fail"])
def test_a_sentinel_that_dies_in_the_middle_of_a_soak_leaves_the_gate_inconclusive(
    state_dir: Path, on_inconclusive: Any
) -> None:
    plan = hw_plan((1,), gates=Gates(method="none", on_inconclusive=on_inconclusive), soak=Soak(10, 30, 0, 1))
    world = world_of(state_dir, plan)

    def on_event(name: str) -> None:
        if name == "sentinel":
            world.sentinel.sight = "blind"
        if name == "waiting":
            control.ask(world.fleet(plan).newest().control, "promote", by="ada@control1", wave=1)

    world.on_event = on_event
    said = world.playbook(plan)
    events = events_of(world, plan)
    verdict = next(one for one in events if one["event"] == "verdict")
    assert (verdict["outcome"], verdict["sentinel"]["sight"]) == ("inconclusive", "blind")
    assert "sentinel blind: it is blind" in verdict["verdict"]["reasons"]
    began = next(one["at"] for one in events if one["event"] == "soak_started")
    assert verdict["at"] - began >= 30, "it had all of the soak to come back"
    assert world.offs == []
    if on_inconclusive == "pause":
        assert said == "ok", "a person has promoted it"
    else:
        assert "sentinel blind" in said and world.hosts["h1"].phase == "userspace"


@pytest.mark.parametrize("moment", ["soak", "gate", "approval", "open"])
def test_a_leak_takes_all_hosts_of_all_waves_back(state_dir: Path, moment: str) -> None:
    plan = hw_plan((1, 2, 1), approve=(2,))
    world = world_of(state_dir, plan)
    world.sentinel.sight = "clean"
    seen: list[str] = []

    def on_event(name: str) -> None:
        seen.append(name)
        second = seen.count("wave_opened") == 2
        promoted = seen.count("wave_promoted") == 1
        if moment == "soak" and second and name == "soak_started":
            world.sentinel.sight = "leak"
        if moment == "gate" and second and name == "observed":
            world.sentinel.sight = "leak"
        if moment == "approval" and name == "waiting":
            world.sentinel.sight = "leak"
        if moment == "open" and promoted:
            world.sentinel.armed = "leak"

    world.on_event = on_event
    said = world.playbook(plan)
    assert "plaintext on the wire: it is leak; all 4 hosts of the fleet are off" in said, said
    assert world.offs == ["sentinel: it is leak"]
    assert {(host.phase, host.off) for host in world.hosts.values()} == {("userspace", True)}
    state = state_of(world, plan)
    assert (state.outcome, state.owes_off) == ("off", None)
    assert state.waves[0].state == "reverted", "the promoted wave is back too, and the journal says so"
    order = [one["event"] for one in events_of(world, plan)]
    asked = [(one["verb"], one["by"]) for one in named(world, plan, "control") if one["verb"] == "off"]
    assert asked == [("off", "sentinel")]
    assert order.index("control" if moment != "approval" else "fleet_off") < order.index("run_ended")
    assert order.index("fleet_off") < order.index("run_ended")
    judged = [one["wave"] for one in named(world, plan, "verdict")]
    assert judged == {"soak": [1], "gate": [1], "approval": [1, 2], "open": [1]}[moment], "nobody waits for the gate"
    aborted = world.playbook(plan)
    assert aborted != "ok", "the same plan does not start again"


def test_a_leak_with_a_host_that_off_does_not_reach_is_named(state_dir: Path) -> None:
    plan = hw_plan((1, 1))
    world = world_of(state_dir, plan)

    def on_event(name: str) -> None:
        if name == "wave_promoted":
            world.hosts["h1"].faults.add("cut")
            world.sentinel.armed = "leak"

    world.on_event = on_event
    said = world.playbook(plan)
    assert "NOT off: h1: run `ktls off` now" in said, said
    host = state_of(world, plan).waves[0].hosts["h1"]
    assert (host.state, host.holds) == ("unreachable", "yes")


def test_off_that_cannot_be_done_still_takes_the_wave_back(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = hw_plan((1,))
    world = world_of(state_dir, plan)
    world.sentinel.sight = "leak"

    def broken(_why: str) -> dict[str, Any]:
        raise OSError("the inventory is gone")

    monkeypatch.setattr(world, "off", broken)
    said = world.playbook(plan)
    assert "the fleet could NOT be switched off: OSError: the inventory is gone: run `ktls off` now" in said, said
    assert world.hosts["h1"].phase == "userspace"
    assert named(world, plan, "fleet_off")[0]["ok"] is False


def test_plaintext_that_was_seen_while_nobody_drove_the_run_switches_off_too(state_dir: Path) -> None:
    plan = hw_plan((1, 1))
    world = world_of(state_dir, plan)

    def on_event(name: str) -> None:
        if name == "soak_started":
            world.on_event = lambda _name: None
            world.sentinel.armed = "leak"
            raise KilledError(name)

    world.on_event = on_event
    with pytest.raises(KilledError):
        world.playbook(plan)
    assert "plaintext on the wire" in world.playbook(plan)
    assert world.offs == ["sentinel: it is leak"], "the first wave had its order"


def test_plaintext_before_anybody_had_an_order_is_no_reason_for_an_off(state_dir: Path) -> None:
    plan = hw_plan((1, 1))
    world = world_of(state_dir, plan)
    world.sentinel.armed = "leak"
    assert "sentinel leak: it is leak" in world.playbook(plan)
    assert (world.offs, world.hosts["h1"].asked) == ([], [])


@pytest.mark.parametrize("at", ["off", "sentinel", "control", "fleet_off", "wave_reverting"])
def test_whoever_resumes_after_a_leak_does_what_is_left_of_the_off(state_dir: Path, at: str) -> None:
    plan = hw_plan((1, 1))
    world = world_of(state_dir, plan)
    died: list[str] = []

    def on_event(name: str) -> None:
        if name == "soak_started" and world.hosts["h1"].order == "committed":
            world.sentinel.sight = "leak"
        if name == at and world.sentinel.sight == "leak" and not died:
            died.append(name)
            raise KilledError(name)

    world.on_event = on_event
    world.kill_at_off = at == "off"
    with pytest.raises(KilledError):
        world.playbook(plan)
    said = world.playbook(plan)
    assert "plaintext" in said or "off by sentinel" in said, said
    assert {(host.phase, host.off) for host in world.hosts.values()} == {("userspace", True)}
    assert state_of(world, plan).outcome == "off"
    done = [one for one in events_of(world, plan) if one["event"] == "fleet_off"]
    assert len(done) == 1 and done[0]["ok"]
    opened = [one["wave"] for one in events_of(world, plan) if one["event"] == "wave_opened"]
    assert opened == [1, 2], "nobody is ordered anew"
