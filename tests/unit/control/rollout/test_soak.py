# SPDX-License-Identifier: Apache-2.0
"""How long a wave soaks, by its time, its traffic and what the judge says of its series."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ktls_control.judge.model import HostSeries, Outcome, WaveVerdict
from ktls_control.plan.model import Gates, Soak
from ktls_control.rollout import control, judging
from ktls_control.rollout.engine import Engine

from .driver import events_of, plan_of, world_of

SWITCHBACK = Gates(method="switchback", on_inconclusive="fail", block_s=40.0, washout_s=7.0)


class Judge:
    """Says what it is told to, and remembers what it was asked about."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = list(outcomes)
        self.asked: list[list[HostSeries]] = []
        self.others: list[int] = []

    def __call__(
        self, plan: Any, planned: Any, series: Sequence[HostSeries], others: Sequence[HostSeries], checks: Any
    ) -> WaveVerdict:
        self.asked.append(list(series))
        self.others.append(len(others))
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        return WaveVerdict(outcome, () if outcome == "pass" else (f"the judge says {outcome}",))


def soaked(events: Sequence[dict[str, Any]]) -> float:
    began = next(event["at"] for event in events if event["event"] == "soak_started")
    return float(next(event["at"] for event in events if event["event"] == "verdict") - began)


@pytest.mark.parametrize(
    ("outcomes", "least", "most"),
    [
        (("pass",), 600, 620),
        (("inconclusive", "inconclusive", "inconclusive", "fail"), 300, 540),
        (("inconclusive",), 1800, 1810),
    ],
)
def test_the_judge_ends_a_soak_early_or_asks_for_all_of_it(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch, outcomes: tuple[Outcome, ...], least: float, most: float
) -> None:
    judge = Judge(*outcomes)
    monkeypatch.setattr(judging, "judge", judge)
    plan = plan_of((1,), gates=SWITCHBACK, soak=Soak(600, 1800, 0, 1), lease_s=900.0)
    world = world_of(state_dir, plan)
    said = world.playbook(plan)
    assert said == "ok" if outcomes == ("pass",) else "the judge says" in said
    assert least <= soaked(events_of(world, plan)) <= most
    told = [event["interim"]["outcome"] for event in events_of(world, plan) if event.get("interim")]
    assert told == [*outcomes, *outcomes[-1:] * (len(told) - len(outcomes))], "for those who watch"
    assert {len(one.samples) for series in judge.asked[:-1] for one in series} == {20}, "all pages of the series"


def test_a_host_that_does_not_send_its_series_is_asked_again(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is busy; that it keeps none was not said."""
    monkeypatch.setattr(judging, "judge", Judge("pass"))
    plan = plan_of((1,), gates=SWITCHBACK, soak=Soak(600, 1800, 0, 1), lease_s=900.0)
    world = world_of(state_dir, plan)
    real, asked = Engine.series, [0]

    def lost(engine: Engine, names: Sequence[str]) -> list[HostSeries]:
        asked[0] += 1
        return real(engine, names) if asked[0] > 10 else []

    monkeypatch.setattr(Engine, "series", lost)
    assert world.playbook(plan) == "ok"
    assert 700 < soaked(events_of(world, plan)) < 1800


def test_a_quiet_wave_soaks_until_its_traffic_is_there(state_dir: Path) -> None:
    plan = plan_of((1,), soak=Soak(60, 600, 0, 100_000_000))
    world = world_of(state_dir, plan)
    world.hosts["h1"].faults.add("idle")

    def wake() -> None:
        if world.now > 1_800_000_300:
            world.hosts["h1"].faults.discard("idle")
            world.hosts["h1"].sent["ktls_tx"] += 20_000_000

    world.on_sleep = wake
    assert world.playbook(plan) == "ok"
    assert 240 < soaked(events_of(world, plan)) < 400


def test_connections_of_all_hosts_together_are_waited_for(state_dir: Path) -> None:
    plan = plan_of((2,), soak=Soak(10, 600, 40, 0))
    world = world_of(state_dir, plan)
    assert world.playbook(plan) == "ok"
    # One connection a host for each look, which are a second apart at least.
    assert 15 < soaked(events_of(world, plan)) < 60


def test_one_lost_question_is_no_lost_host(state_dir: Path) -> None:
    plan = plan_of((1,), soak=Soak(60, 120, 0, 0), lease_s=600.0)
    world = world_of(state_dir, plan)
    world.hosts["h1"].faults.add("busy")
    assert world.playbook(plan) == "ok"
    assert "busy" not in world.hosts["h1"].faults, "it was asked"


def test_later_waves_are_what_a_difference_is_told_from(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Judge("pass")
    monkeypatch.setattr(judging, "judge", judge)
    plan = plan_of((1, 3), gates=Gates(method="difference", on_inconclusive="fail"))
    assert world_of(state_dir, plan).playbook(plan) == "ok"
    assert set(judge.others) == {3, 0}


def test_an_order_carries_the_experiment_of_the_plan(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "judge", Judge("pass"))
    plan = plan_of((1, 1), gates=SWITCHBACK)
    world = world_of(state_dir, plan)
    seen: list[Any] = []
    task = world.task

    def spy(step: str, file: Any, name: str) -> None:
        if step == "order":
            seen.append(file.experiment_of(name))
            assert file.experiment_of(name) == file.experiment_of(name) != file.experiment_of("another")
        task(step, file, name)

    monkeypatch.setattr(world, "task", spy)
    assert world.playbook(plan) == "ok"
    assert [(one["method"], one["block_s"], one["washout_s"]) for one in seen] == [("switchback", 40.0, 7.0)] * 2
    assert seen[0]["seed"] != seen[1]["seed"]


def test_the_real_judge_cannot_tell_a_short_soak_and_a_person_is_asked(state_dir: Path) -> None:
    plan = plan_of((1,), gates=Gates(method="switchback", on_inconclusive="pause"))
    world = world_of(state_dir, plan)

    def stop(event: str) -> None:
        if event == "waiting":
            control.ask(world.fleet(plan).newest().control, "abort", by="grace@control1")

    world.on_event = stop
    assert "aborted by grace@control1" in world.playbook(plan)
    verdict = next(event for event in events_of(world, plan) if event["event"] == "verdict")
    assert verdict["outcome"] == "inconclusive"
    assert verdict["verdict"]["reasons"] != []
