# SPDX-License-Identifier: Apache-2.0
"""The control process dies at every step of a run, and the run is resumed."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from ktls_control.plan.model import Freeze, Plan
from ktls_control.rollout import control, lock

from .driver import KilledError, World, events_of, plan_of, state_of, world_of

#: More than any of the runs below has events; those past the end are no test and end at once.
MOST = 36


def well(world: World) -> None:
    """Nothing is wrong with anybody."""


def sick(world: World) -> None:
    world.hosts["h3"].faults.add("leak")


def lost(world: World) -> None:
    world.hosts["h3"].faults.add("cut")


def killed(world: World, plan: Plan, after: int) -> bool:
    """Run, and die when ``after`` events are written; False: the run was over before."""
    world.kill_after = after
    try:
        world.playbook(plan)
    except KilledError:
        lock.release(world.fleet(plan).lock, os.getpid())
        return True
    return False


@pytest.mark.parametrize("after", range(1, MOST))
@pytest.mark.parametrize("how", [well, sick, lost])
def test_killed_after_any_event_a_run_is_resumed_to_its_right_end(
    state_dir: Path, how: Callable[[World], None], after: int
) -> None:
    plan = plan_of((1, 2, 1))
    world = world_of(state_dir, plan)
    how(world)
    if not killed(world, plan, after):
        assert state_of(world, plan).outcome != "running"
        return
    before = {name: list(host.asked) for name, host in world.hosts.items()}
    promoted = [wave.number for wave in state_of(world, plan).waves if wave.state == "promoted"]
    done = state_of(world, plan).outcome != "running"
    if done:
        return
    said = world.playbook(plan)
    state = state_of(world, plan)
    assert len(list((state_dir / "fleet" / "runs").iterdir())) == 1, "it is the same run"
    assert state.epoch == 2
    if how is well:
        assert said == "ok", said
        assert {host.order for host in world.hosts.values()} == {"committed"}
        assert (state.outcome, [wave.state for wave in state.waves]) == ("completed", ["promoted"] * 3)
    else:
        assert "h3" in said, said
        assert state.outcome == "failed"
        assert (world.hosts["h1"].order, world.hosts["h2"].phase) == ("committed", "userspace")
        assert world.hosts["h4"].asked == [], "the next wave never starts"
    for wave in plan.waves:
        if wave.number in promoted:
            for name in wave.hosts:
                assert world.hosts[name].asked == before[name], "a promoted wave is left alone"
    for host in world.hosts.values():
        epochs = [epoch for _step, epoch in host.asked]
        assert epochs == sorted(epochs), "never with an older epoch than before"


@pytest.mark.parametrize("after", range(1, MOST))
def test_killed_and_aborted_the_open_wave_goes_back(state_dir: Path, after: int) -> None:
    plan = plan_of((1, 2, 1))
    world = world_of(state_dir, plan)
    if not killed(world, plan, after) or state_of(world, plan).outcome != "running":
        return
    promoted = [wave.number for wave in state_of(world, plan).waves if wave.state == "promoted"]
    run = world.fleet(plan).newest()
    control.ask(run.control, "abort", by="grace@control1")
    said = world.playbook(plan)
    state = state_of(world, plan)
    if len(promoted) == 3:
        assert said == "ok", "nothing was left to abort"
        return
    assert "aborted by grace@control1" in said, said
    assert state.outcome == "aborted"
    for wave in plan.waves:
        orders = {world.hosts[name].order for name in wave.hosts}
        assert orders <= ({"committed"} if wave.number in promoted else {"none", "reverted"})


@pytest.mark.parametrize("how", [well, sick, lost])
@pytest.mark.parametrize("task", range(14))
def test_killed_in_the_midst_of_the_work_on_hosts(state_dir: Path, how: Callable[[World], None], task: int) -> None:
    plan = plan_of((1, 2, 1))
    world = world_of(state_dir, plan)
    how(world)
    world.kill_at_task = task
    with suppress(KilledError):
        world.playbook(plan)
    lock.release(world.fleet(plan).lock, os.getpid())
    if state_of(world, plan).outcome == "running":
        world.playbook(plan)
    state = state_of(world, plan)
    if how is well:
        assert {host.order for host in world.hosts.values()} == {"committed"}
        assert state.outcome == "completed"
    else:
        assert (world.hosts["h1"].order, world.hosts["h2"].phase) == ("committed", "userspace")
        assert (state.outcome, world.hosts["h4"].asked) == ("failed", [])


def test_resumed_in_a_freeze_the_open_wave_lapses_and_is_ordered_anew(state_dir: Path) -> None:
    # The clock begins at 2027-01-15T08:00:00Z.
    plan = plan_of((1,), freezes=(Freeze("2027-01-15T08:00:02+00:00", "2027-01-15T09:00:00+00:00"),))
    world = world_of(state_dir, plan)
    assert killed(world, plan, 6)
    assert world.hosts["h1"].order == "pending"
    world.now += 5
    assert world.playbook(plan) == "ok"
    assert [step for step, _epoch in world.hosts["h1"].asked] == ["order", "order", "confirm"]


@pytest.mark.parametrize("cut", [1, 40, 200])
def test_a_line_cut_short_by_the_crash_is_set_aside(state_dir: Path, cut: int) -> None:
    plan = plan_of((1, 1))
    world = world_of(state_dir, plan)
    assert killed(world, plan, 5)
    path = world.fleet(plan).newest().journal
    data = path.read_bytes()
    path.write_bytes(data[:-cut])
    assert world.playbook(plan) == "ok"
    assert state_of(world, plan).outcome == "completed"
    assert path.with_suffix(".torn").read_bytes() != b""


def test_a_second_plan_waits_for_the_run_that_died(state_dir: Path) -> None:
    plan = plan_of()
    world = world_of(state_dir, plan)
    assert killed(world, plan, 6)
    other = plan_of(id="p2")
    assert world.playbook(other).startswith("unfinished_run: fleet: run ")
    assert world.playbook(plan) == "ok"
    assert world.playbook(other) == "ok"


def test_one_that_was_not_planned_closes_the_run_that_died(state_dir: Path) -> None:
    plan = plan_of(id="implicit-1", created="1")
    world = world_of(state_dir, plan)
    assert killed(world, plan, 6)
    died = world.fleet(plan).newest()
    assert world.playbook(plan_of(id="implicit-1", created="2")) == "ok"
    from ktls_control.rollout import journal

    last = journal.read(died.journal)[-1]
    assert (last["event"], last["outcome"]) == ("run_ended", "failed")
    assert "its process died while wave 2 was under way" in last["why"] or "wave 1" in last["why"]


def test_a_changed_journal_is_not_gone_on_with(state_dir: Path) -> None:
    plan = plan_of()
    world = world_of(state_dir, plan)
    assert killed(world, plan, 6)
    path = world.fleet(plan).newest().journal
    lines = path.read_bytes().split(b"\n")
    lines[2] = lines[2].replace(b'"ok":true', b'"ok":false')
    path.write_bytes(b"\n".join(lines))
    said = world.playbook(plan)
    assert said.startswith("journal_broken"), said
    assert "line 3 was changed" in said
    assert events_of.__name__
