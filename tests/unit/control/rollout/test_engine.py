# SPDX-License-Identifier: Apache-2.0
"""Whole rollouts on fake hosts: what goes on, what goes back, and who is obeyed."""

from __future__ import annotations

from pathlib import Path

import pytest

from ktls_control.off.outlook import outlook
from ktls_control.plan.model import Freeze, Gates, Headroom, Soak
from ktls_control.rollout import control

from .driver import KilledError, World, events_of, plan_of, state_of, world_of


def ask(world: World, verb: str, wave: int = 0) -> None:
    run = next((world.state_dir / "fleet" / "runs").iterdir())
    control.ask(run / "control", verb, by="grace@control1", why="test", wave=wave)


def phases(world: World) -> dict[str, str]:
    return {name: host.phase for name, host in world.hosts.items()}


def orders(world: World) -> dict[str, str]:
    return {name: host.order for name, host in world.hosts.items()}


def names(world: World, plan: object) -> list[str]:
    return [event["event"] for event in events_of(world, plan)]  # type: ignore[arg-type]


def test_every_wave_passes_and_the_journal_tells_it(state_dir: Path) -> None:
    plan = plan_of()
    world = world_of(state_dir, plan)
    assert world.playbook(plan) == "ok"
    assert set(orders(world).values()) == {"committed"}
    state = state_of(world, plan)
    assert (state.outcome, state.epoch, state.operator) == ("completed", 1, "ada@control1")
    assert [wave.state for wave in state.waves] == ["promoted"] * 3
    wave = [name for name in names(world, plan) if name != "observed"][1:9]
    assert wave == [
        "wave_opened", "host_ordered", "soak_started", "verdict", "confirming", "host_confirmed", "wave_promoted",
        "wave_opened",
    ]  # fmt: skip
    assert all(len(host.asked) == 2 for host in world.hosts.values()), "order and confirm, once each"


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("cut", "h3 cannot be reached"),
        ("refuse", "the kernel offers no tls ULP"),
        ("leak", "0.00 % of"),
        ("idle", "bytes served during the soak"),
        ("broken", "probe: content hash differs"),
        ("drift", "kernel was 6.12, is 6.13"),
        ("errors", "new sidecar errors: sendfile_failed"),
        ("lease", "order: order is reverted: lease_expired"),
    ],
)
def test_one_sick_host_takes_its_wave_back_and_stops_the_run(state_dir: Path, fault: str, says: str) -> None:
    plan = plan_of()
    world = world_of(state_dir, plan)
    world.hosts["h3"].faults.add(fault)
    said = world.playbook(plan)
    assert "h3" in said, said
    assert says in said, said
    assert phases(world)["h1"] == "tx", "the wave that passed stays"
    assert phases(world)["h2"] == "userspace"
    assert ("back", 1) in world.hosts["h2"].asked
    assert world.hosts["h4"].asked == []
    state = state_of(world, plan)
    assert (state.outcome, [wave.state for wave in state.waves]) == ("failed", ["promoted", "reverted", "waiting"])


def test_a_host_that_refused_before_it_changed_anything_is_left_as_it_is(state_dir: Path) -> None:
    plan = plan_of()
    world = world_of(state_dir, plan)
    world.hosts["h2"].faults.add("drift")
    world.hosts["h2"].phase, world.hosts["h2"].order = "tx", "committed"
    assert "kernel was 6.12, is 6.13" in world.playbook(plan)
    assert (world.hosts["h2"].phase, world.hosts["h2"].order) == ("tx", "committed")


def test_within_the_failure_budget_a_host_goes_back_alone(state_dir: Path) -> None:
    plan = plan_of((1, 3, 1), failure_budget=1)
    world = world_of(state_dir, plan)
    world.hosts["h3"].faults.add("leak")
    assert world.playbook(plan) == "ok"
    assert orders(world) == {
        "h1": "committed", "h2": "committed", "h3": "reverted", "h4": "committed", "h5": "committed",
    }  # fmt: skip
    assert list(state_of(world, plan).failed) == ["h3"]


def test_the_failure_budget_is_of_the_whole_run(state_dir: Path) -> None:
    plan = plan_of((2, 2, 2), failure_budget=1)
    world = world_of(state_dir, plan)
    world.hosts["h2"].faults.add("leak")
    world.hosts["h3"].faults.add("refuse")
    said = world.playbook(plan)
    assert "failure budget 1" in said, said
    assert phases(world) == {
        "h1": "tx", "h2": "userspace", "h3": "userspace", "h4": "userspace", "h5": "userspace", "h6": "userspace",
    }  # fmt: skip


def test_half_the_wave_dead_is_over_any_small_budget(state_dir: Path) -> None:
    plan = plan_of((1, 8), failure_budget=2)
    world = world_of(state_dir, plan)

    def die(event: str) -> None:
        if event == "soak_started" and world.hosts["h1"].order == "committed":
            for name in ("h2", "h3", "h4", "h5"):
                world.hosts[name].faults.add("cut")

    world.on_event = die
    said = world.playbook(plan)
    assert "not reached, their lease takes them back: h2, h3, h4, h5" in said, said
    assert all(world.hosts[name].phase == "userspace" for name in ("h6", "h7", "h8", "h9"))
    lost = [event for event in events_of(world, plan) if event["event"] == "host_reverted" and not event["ok"]]
    assert all(0 < event["lease_left_s"] <= 60 for event in lost)


def test_nobody_knows_whether_a_host_that_was_cut_off_when_it_was_to_confirm_holds(state_dir: Path) -> None:
    plan = plan_of((3,))
    world = world_of(state_dir, plan)

    def spoil(event: str) -> None:
        if event == "confirming":
            world.hosts["h2"].order = "reverted"
            world.hosts["h3"].faults.add("cut")

    world.on_event = spoil
    said = world.playbook(plan)
    assert "not reached, confirmed or not" in said, said
    ends = {e["host"]: e for e in events_of(world, plan) if e["event"] == "host_reverted"}
    assert (ends["h1"]["ok"], ends["h2"]["ok"], ends["h3"]["holds"]) == (True, True, "unknown")
    assert ends["h3"]["lease_left_s"] > 0


def test_no_lease_is_promised_for_a_host_whose_confirmation_arrived(state_dir: Path) -> None:
    plan = plan_of((2,))
    world = world_of(state_dir, plan)

    def spoil(event: str) -> None:
        if event == "confirming":
            world.hosts["h2"].order = "reverted"
        elif event == "host_confirmed":
            world.hosts["h1"].faults.add("cut")

    world.on_event = spoil
    said = world.playbook(plan)
    assert "not reached, confirmed before, so they hold until `ktls off` reaches them: h1" in said, said
    assert world.hosts["h1"].order == "committed"
    lost = next(e for e in events_of(world, plan) if e["event"] == "host_reverted" and e["host"] == "h1")
    assert (lost["ok"], lost["holds"]) == (False, "yes")
    assert "lease_left_s" not in lost
    host = state_of(world, plan).wave(1).hosts["h1"]
    assert (host.state, host.holds, host.lease_until) == ("unreachable", "yes", None)
    told = outlook("h1", [("run", state_of(world, plan))], world.now, flag=False)
    assert (told.kind, told.text.split(" (")[0]) == ("holds", "holds tx, confirmed, then not reached")


def test_a_host_cut_off_in_a_long_soak_fails_before_its_end(state_dir: Path) -> None:
    plan = plan_of((1, 1), soak=Soak(3600, 7200, 0, 1), lease_s=600.0)
    world = world_of(state_dir, plan)
    began = world.now

    def die(event: str) -> None:
        if event == "soak_started":
            world.hosts["h1"].faults.add("cut")

    world.on_event = die
    assert "h1 cannot be reached for" in world.playbook(plan)
    assert world.now - began < 120


def test_an_earlier_wave_that_goes_bad_stops_a_later_one(state_dir: Path) -> None:
    plan = plan_of()
    world = world_of(state_dir, plan)

    def spoil(event: str) -> None:
        if event == "wave_promoted" and world.hosts["h2"].order == "none":
            world.hosts["h1"].phase, world.hosts["h1"].order = "userspace", "reverted"

    world.on_event = spoil
    said = world.playbook(plan)
    assert "h1: wave 1: order: order is reverted" in said, said
    assert world.hosts["h2"].order == "reverted"
    verdict = next(event for event in events_of(world, plan) if event["event"] == "verdict" and event["wave"] == 2)
    assert verdict["outcome"] == "pass", "the wave itself was well"
    assert list(verdict["recheck"]) == ["h1"]


def spoiled(world: World, name: str, fault: str) -> None:
    """The host turns bad as soon as wave 2 soaks."""

    def spoil(event: str) -> None:
        if event == "soak_started" and world.hosts[name].order == "committed":
            world.hosts[name].faults.add(fault)

    world.on_event = spoil


def test_an_earlier_wave_that_goes_bad_goes_back_as_one(state_dir: Path) -> None:
    plan = plan_of((2, 1, 1))
    world = world_of(state_dir, plan)
    spoiled(world, "h1", "broken")
    said = world.playbook(plan)
    assert "wave 1 is not well any more (wave 1: probe: content hash differs) and goes back too: h1, h2" in said, said
    assert set(phases(world).values()) == {"userspace"}
    assert ("revert", 1) in world.hosts["h2"].asked, "its wave goes back as one"
    state = state_of(world, plan)
    assert [wave.state for wave in state.waves] == ["reverted", "reverted", "waiting"]
    assert {host.state for host in state.waves[0].hosts.values()} == {"reverted"}
    order = [(e["event"], e["wave"]) for e in events_of(world, plan) if e["event"].startswith("wave_revert")]
    assert order == [("wave_reverting", 2), ("wave_reverted", 2), ("wave_reverting", 1), ("wave_reverted", 1)]


def test_an_earlier_wave_holds_where_the_policy_says_so(state_dir: Path) -> None:
    plan = plan_of((2, 1, 1), earlier="hold")
    world = world_of(state_dir, plan)
    spoiled(world, "h1", "broken")
    assert "h1: wave 1: probe: content hash differs" in world.playbook(plan)
    assert (phases(world)["h1"], phases(world)["h2"], phases(world)["h3"]) == ("tx", "tx", "userspace")
    assert state_of(world, plan).waves[0].state == "promoted"


def test_within_the_budget_a_host_of_an_earlier_wave_goes_back_alone(state_dir: Path) -> None:
    plan = plan_of((2, 1, 1), failure_budget=1)
    world = world_of(state_dir, plan)
    spoiled(world, "h1", "broken")
    assert world.playbook(plan) == "ok"
    assert phases(world) == {"h1": "userspace", "h2": "tx", "h3": "tx", "h4": "tx"}
    state = state_of(world, plan)
    assert [wave.state for wave in state.waves] == ["promoted"] * 3
    assert (state.waves[0].hosts["h1"].state, list(state.failed)) == ("reverted", ["h1"])


def test_a_host_of_an_earlier_wave_that_is_not_reached_is_not_said_to_be_back(state_dir: Path) -> None:
    plan = plan_of((2, 1, 1))
    world = world_of(state_dir, plan)
    spoiled(world, "h1", "cut")
    said = world.playbook(plan)
    assert "goes back too: h2" in said and "they hold until `ktls off` reaches them: h1" in said, said
    host = state_of(world, plan).waves[0].hosts["h1"]
    assert (host.state, host.holds) == ("unreachable", "yes")


def test_somebody_elses_order_is_left_alone_when_an_earlier_wave_goes_back(state_dir: Path) -> None:
    plan = plan_of((2, 1, 1))
    world = world_of(state_dir, plan)
    spoiled(world, "h1", "broken")

    before = world.on_event

    def taken(event: str) -> None:
        before(event)
        if event == "wave_reverting":
            world.hosts["h2"].order_id = "another"

    world.on_event = taken
    world.playbook(plan)
    assert phases(world)["h2"] == "tx"
    assert "of somebody else" in state_of(world, plan).waves[0].hosts["h2"].info


@pytest.mark.parametrize("last", ["verdict", "wave_reverting", "host_reverted", "wave_reverted"])
def test_the_way_back_of_an_earlier_wave_survives_the_control_process(state_dir: Path, last: str) -> None:
    plan = plan_of((2, 1, 1))
    world = world_of(state_dir, plan)
    spoiled(world, "h1", "broken")
    before, seen = world.on_event, []

    def kill(event: str) -> None:
        before(event)
        seen.append(event)
        of_wave_2 = event == "verdict" and world.hosts["h3"].order == "pending"
        # The first such event is of wave 2, which goes back before the earlier one; that is killed right after it too.
        of_wave_1 = event != "verdict" and (last == "wave_reverted" or "wave_reverted" in seen[:-1])
        if event == last and (of_wave_2 or of_wave_1):
            world.on_event = before
            raise KilledError(event)

    world.on_event = kill
    with pytest.raises(KilledError):
        world.playbook(plan)
    assert world.playbook(plan) != "ok"
    assert {name: phase for name, phase in phases(world).items() if phase != "userspace"} == {}
    assert [wave.state for wave in state_of(world, plan).waves] == ["reverted", "reverted", "waiting"]


def test_one_question_to_an_earlier_wave_may_be_lost(state_dir: Path) -> None:
    """All earlier waves are asked at once, and the control node may be busy."""
    plan = plan_of()
    world = world_of(state_dir, plan)

    def busy(event: str) -> None:
        if event == "observed" and world.hosts["h2"].order_id:
            world.hosts["h1"].faults.add("busy")

    world.on_event = busy
    world.playbook(plan)
    assert state_of(world, plan).outcome == "completed"
    rechecks = [event["recheck"] for event in events_of(world, plan) if event["event"] == "verdict"]
    assert rechecks and not any(rechecks)
    assert "busy" not in world.hosts["h1"].faults, "the question was asked, and lost"


@pytest.mark.parametrize("when", ["wave_opened", "soak_started", "waiting", "verdict", "confirming", "host_confirmed"])
@pytest.mark.parametrize("verb", ["abort", "off"])
def test_abort_is_obeyed_wherever_the_wave_is(state_dir: Path, when: str, verb: str) -> None:
    plan = plan_of(approve=(2,))
    world = world_of(state_dir, plan)

    def stop(event: str) -> None:
        if event == when and (world.hosts["h2"].order_id or event == "wave_opened") and world.hosts["h1"].order_id:
            ask(world, verb)
        elif event == "waiting":
            ask(world, "promote", 2)

    world.on_event = stop
    assert "by grace@control1: test" in world.playbook(plan)
    assert (orders(world)["h1"], orders(world)["h2"], orders(world)["h4"]) == ("committed", "reverted", "none")
    assert state_of(world, plan).outcome == {"abort": "aborted", "off": "off"}[verb]


def test_abort_beats_a_promotion_that_came_first(state_dir: Path) -> None:
    plan = plan_of(approve=(1,))
    world = world_of(state_dir, plan)

    def both(event: str) -> None:
        if event == "waiting":
            ask(world, "promote", 1)
            ask(world, "abort")

    world.on_event = both
    assert "aborted by grace@control1" in world.playbook(plan)
    assert orders(world)["h1"] == "reverted"


def test_abort_beats_a_promotion_that_was_just_obeyed(state_dir: Path) -> None:
    plan = plan_of(approve=(1,))
    world = world_of(state_dir, plan)

    def one_after_the_other(event: str) -> None:
        if event == "waiting":
            ask(world, "promote", 1)
        if event == "waited":
            ask(world, "abort")

    world.on_event = one_after_the_other
    assert "aborted by grace@control1" in world.playbook(plan)
    assert "confirming" not in names(world, plan)
    assert "confirm" not in [step for step, _epoch in world.hosts["h1"].asked], "nobody was told to keep it"


def test_an_aborted_plan_does_not_start_again(state_dir: Path) -> None:
    plan = plan_of()
    world = world_of(state_dir, plan)
    world.on_event = lambda event: ask(world, "abort") if event == "soak_started" else None
    world.playbook(plan)
    world.on_event = lambda _event: None
    assert world.playbook(plan).startswith("plan_aborted: plan p1 was aborted (run ")
    assert world.playbook(plan_of(id="p2")) == "ok"


def test_off_ends_the_run_as_off_and_its_plan_may_start_again(state_dir: Path) -> None:
    plan = plan_of()
    world = world_of(state_dir, plan)

    def off(event: str) -> None:
        if event == "soak_started":
            run = world.fleet(plan).newest()
            control.ask(run.control, "off", by="grace@control1", why="incident 4711")

    world.on_event = off
    assert "off by grace@control1: incident 4711" in world.playbook(plan)
    assert state_of(world, plan).outcome == "off"
    world.on_event = lambda _event: None
    assert world.playbook(plan) == "ok"


def test_approval_waits_with_the_lease_extended(state_dir: Path) -> None:
    plan = plan_of((1,), approve=(1,))
    world = world_of(state_dir, plan)
    began = world.now

    def later() -> None:
        if world.now - began > 1000:
            ask(world, "promote", 1)

    world.on_sleep = later
    assert world.playbook(plan) == "ok"
    assert world.now - began > 1000, "much longer than a lease"
    assert world.hosts["h1"].order == "committed"
    waited = next(event for event in events_of(world, plan) if event["event"] == "waited")
    assert (waited["on"], waited["by"]) == ("approval", "grace@control1")


def test_auto_abort_stays_armed_while_a_person_is_waited_for(state_dir: Path) -> None:
    plan = plan_of((1,), approve=(1,))
    world = world_of(state_dir, plan)
    world.on_event = lambda event: world.hosts["h1"].faults.add("broken") if event == "waiting" else None
    assert "probe: content hash differs" in world.playbook(plan)
    assert world.hosts["h1"].phase == "userspace"


def test_inconclusive_waits_for_a_person_who_may_say_yes(state_dir: Path) -> None:
    plan = plan_of((1,), gates=Gates(method="none", on_inconclusive="pause"), soak=Soak(2, 6, 0, 10**12))
    world = world_of(state_dir, plan)
    world.on_event = lambda event: ask(world, "promote", 1) if event == "waiting" else None
    assert world.playbook(plan) == "ok"
    assert [event["on"] for event in events_of(world, plan) if event["event"] == "waiting"] == ["inconclusive"]


def test_pause_holds_the_promotion_and_the_next_wave(state_dir: Path) -> None:
    plan = plan_of((1, 1))
    world = world_of(state_dir, plan)
    since: list[float] = []

    def pause(event: str) -> None:
        if event == "soak_started" and not since:
            ask(world, "pause")
        if event == "waiting":
            since.append(world.now)

    def resume() -> None:
        if since and world.now - since[-1] > 300:
            ask(world, "resume")

    world.on_event, world.on_sleep = pause, resume
    assert world.playbook(plan) == "ok"
    said = [event for event in names(world, plan) if event in ("control", "waiting", "waited", "confirming")]
    assert said == ["control", "waiting", "control", "waited", "confirming", "confirming"]


def test_a_freeze_delays_a_wave_and_is_no_obstacle_for_going_back(state_dir: Path) -> None:
    # The clock begins at 2027-01-15T08:00:00Z.
    freeze = Freeze("2027-01-15T07:00:00+00:00", "2027-01-15T10:00:00+01:00", "release night")
    plan = plan_of((1,), freezes=(freeze,))
    world = world_of(state_dir, plan)
    began = world.now
    assert world.playbook(plan) == "ok"
    assert world.now - began >= 3600
    waiting = next(event for event in events_of(world, plan) if event["event"] == "waiting")
    assert (waiting["on"], waiting["until"]) == ("freeze", began + 3600)


def test_a_fleet_that_cannot_afford_userspace_is_not_started(state_dir: Path) -> None:
    plan = plan_of(headroom=Headroom("h2", 0.93, 0.85))
    world = world_of(state_dir, plan)
    said = world.playbook(plan)
    assert said.startswith("no_headroom: if everything went back to userspace TLS, h2 would need 93%")
    assert all(host.asked == [] for host in world.hosts.values())


def test_the_epoch_is_higher_than_any_seen(state_dir: Path) -> None:
    plan = plan_of(epoch_floor=41)
    world = world_of(state_dir, plan)
    assert world.playbook(plan) == "ok"
    assert {host.epoch for host in world.hosts.values()} == {42}
    (state_dir / "fleet" / "epoch").write_text("99\n")
    assert world.playbook(plan) == "ok"
    assert {host.epoch for host in world.hosts.values()} == {100}


def test_a_host_of_a_newer_rollout_fences_this_one_off(state_dir: Path) -> None:
    plan = plan_of()
    world = world_of(state_dir, plan)
    world.hosts["h1"].epoch, world.hosts["h1"].phase, world.hosts["h1"].order = 7, "tx", "committed"
    assert "epoch 1 is older than 7" in world.playbook(plan)
    assert (world.hosts["h1"].phase, world.hosts["h1"].order) == ("tx", "committed"), "it is none of ours"


class Templated(dict[str, str]):
    """Variables as Ansible hands them over: each is worked out when somebody reads it."""

    def get(self, key: str, default: object = None) -> str | None:  # type: ignore[override]
        if key == "ansible_host":
            raise ValueError("'rack' is\nundefined")
        return None


def test_an_address_that_cannot_be_worked_out_is_not_replaced_by_another(state_dir: Path) -> None:
    plan = plan_of()
    world = world_of(state_dir, plan, variables=lambda name: Templated() if name == "h2" else {})
    said = world.playbook(plan)
    expected = "bad_inventory: h2: ansible_host of the inventory cannot be worked out: 'rack' is undefined"
    assert said == expected
    assert all(host.asked == [] for host in world.hosts.values())


def test_a_plan_whose_hosts_are_not_all_there_is_refused(state_dir: Path) -> None:
    plan = plan_of()
    world = world_of(state_dir, plan)
    del world.hosts["h3"]
    assert world.playbook(plan).startswith("hosts_missing: plan p1")
    assert all(host.asked == [] for host in world.hosts.values())
