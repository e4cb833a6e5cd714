# SPDX-License-Identifier: Apache-2.0
"""Runs of a plan, with judges that say what a test wants, and with the real one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ktls_control.judge.model import HostSeries, Outcome, WaveVerdict
from ktls_control.plan.model import Gates, Soak
from ktls_control.simulate import fleet, noise, pace, run, study
from ktls_control.simulate.regression import parse

from .plans import plan

QUIET = replace(noise.LEVELS["quiet"], probe_every_s=5.0)


class Judge:
    """Says ``answers`` in turn, the last for ever; remembers what it was asked."""

    def __init__(self, *answers: Outcome) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[Sequence[HostSeries], Sequence[HostSeries], Mapping[str, Any]]] = []

    def __call__(self, _phase: str, _gates: Gates, series: Any, others: Any, checks: Any, _soak: Soak) -> WaveVerdict:
        self.asked.append((series, others, checks))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return WaveVerdict(answer, (f"said {answer}",))


def setting(judge: Any = None, hosts: int | None = None, of: Any = None, **changes: Any) -> run.Setting:
    of = of or plan()
    changes = {"noise": QUIET, "pace": pace.Pace(), **changes}
    if judge:
        changes["judge"] = judge
    return run.Setting(plan=of, fleet=fleet.build(of, hosts), **changes)


def simulate(one: run.Setting, seed: int = 1) -> run.RunResult:
    rng = np.random.default_rng(seed)
    hits = [fleet.affected(one.fleet, regression, rng) for regression in one.regressions]
    return run.simulate(one, hits, rng)


def test_every_wave_is_promoted() -> None:
    done = simulate(setting(Judge("pass"), 1000))
    assert (done.outcome, done.touched, done.why) == ("completed", 1000, "")
    assert [wave.hosts for wave in done.waves] == [1, 51, 253, 695]
    # Half of a soak is no time for a pass: each wave lasts as long as the plan says.
    assert [wave.soak_s for wave in done.waves] == [600] * 4
    assert done.seconds > 4 * 600


def test_a_wave_that_fails_ends_the_run() -> None:
    done = simulate(setting(Judge("inconclusive", "pass", "inconclusive", "fail"), 1000))
    assert (done.outcome, done.touched) == ("stopped", 1 + 51)
    assert done.waves[-1].outcome == "stopped"
    assert done.why == "said fail"


def test_an_early_look_can_fail_a_wave() -> None:
    done = simulate(setting(Judge("fail")))
    assert done.waves[0].soak_s == 300


def test_a_gate_that_cannot_tell_holds_or_stops_as_the_plan_says() -> None:
    judge = Judge("inconclusive")
    assert simulate(setting(judge)).outcome == "held"
    assert simulate(setting(judge)).waves[0].soak_s == 1200, "looked until max_s"
    assert simulate(setting(judge, of=plan(gates=Gates(on_inconclusive="fail")))).outcome == "stopped"
    assert simulate(setting(judge, promote_held=True)).outcome == "completed"


def test_hosts_that_go_away_end_it_beyond_the_budget() -> None:
    lost = simulate(setting(Judge("pass"), 1000, lost_per_hour=0.5))
    assert lost.outcome == "lost"
    assert simulate(setting(Judge("pass"), 1000, plan(failure_budget=1000), lost_per_hour=0.5)).outcome == "completed"


def test_the_judge_gets_a_bounded_number_of_hosts_and_regressions_in_proportion() -> None:
    judge = Judge("pass")
    one = setting(judge, 5000, regressions=[parse("cpu +8% on 20% of hosts")], judged=40)
    simulate(one)
    for series, _others, checks in judge.asked:
        assert len(series) <= 40
        assert len({host.host for host in series}) == len(series)
        assert set(checks) == {host.host for host in series}


def test_one_sick_host_of_many_is_among_those_that_are_judged() -> None:
    one = setting(Judge("pass"), 5000, judged=10)
    hit = np.zeros(5000, dtype=bool)
    members = one.fleet.members(3)
    hit[members[17]] = True
    for seed in range(20):
        chosen = run._choose(members, hit, 10, np.random.default_rng(seed))
        assert members[17] in chosen
        assert len(chosen) == 10


def test_a_wave_waits_for_its_traffic() -> None:
    idle = replace(QUIET, requests_per_s=0.001)
    done = simulate(setting(Judge("pass"), noise=idle, of=plan(soak=Soak(600, 1200, min_bytes=10**9))))
    assert done.waves[0].soak_s == 1200
    judge = Judge("pass")
    simulate(setting(judge, noise=idle, of=plan(soak=Soak(600, 1200, min_bytes=10**9))))
    assert any(check.outcome == "inconclusive" for _, _, checks in judge.asked for check in checks.values())


def test_controls_are_hosts_of_later_waves() -> None:
    judge = Judge("pass")
    simulate(setting(judge, 1000, plan(gates=Gates(method="difference"))))
    assert [bool(others) for _, others, _ in judge.asked][-1] is False, "nobody is left after the last wave"
    assert all(one.ordered_at_s is None for _, others, _ in judge.asked for one in others)
    first, others, _ = judge.asked[0]
    assert not {one.host for one in first} & {one.host for one in others}


def test_the_real_judge_stops_what_is_wrong_and_lets_pass_what_is_not() -> None:
    of = plan(soak=Soak(1200, 2400), gates=Gates(cpu_margin=0.03, latency_margin=0.08, throughput_margin=0.15))
    well = setting(of=of, hosts=2000)
    wrong = replace(well, regressions=[parse("cpu +15%")])
    assert [simulate(well, seed).outcome for seed in range(4)].count("completed") >= 3
    for seed in range(4):
        done = simulate(wrong, seed)
        assert (done.outcome, done.touched) == ("stopped", 1), done
        assert done.why.startswith("cpu: worse by")


def test_the_real_judge_finds_failures_of_a_few_hosts() -> None:
    one = setting(hosts=2000, regressions=[parse("errors 60/min on nic_model=X")], promote_held=True)
    done = simulate(one)
    assert done.outcome == "stopped"
    assert done.touched <= 1 + 102


def test_the_same_seed_gives_the_same_study() -> None:
    one = setting(Judge("pass"), 300, regressions=[parse("cpu +8% on 30 hosts")], judged=3)
    again = [study.as_dict(study.study(one, 3, 5)) for _ in range(2)]
    assert again[0] == again[1]
    assert again[0] != study.as_dict(study.study(one, 3, 6))


def test_a_study_counts_and_says_how_sure_it_is() -> None:
    one = setting(Judge("inconclusive", "pass", "fail"), 300, judged=3)
    found = study.summary(study.study(one, 10, 1).without)
    assert found.outcomes["stopped"] == 10
    share, low, high = found.chance("stopped")
    assert (share, high) == (1.0, 1.0)
    assert low == pytest.approx(0.025 ** (1 / 10))
    assert found.whys == (("said fail", 10),)
