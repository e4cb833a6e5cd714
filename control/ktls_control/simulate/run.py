# SPDX-License-Identifier: Apache-2.0
"""One rollout over a simulated fleet, wave by wave, judged by the judge of real ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..judge import gate, looks
from ..judge.model import HostSeries, WaveVerdict
from ..judge.wave import judge_wave
from ..plan.model import Gates, Plan, Soak, Wave
from . import series as draw
from .fleet import Fleet
from .noise import Floats, Noise
from .pace import Pace
from .regression import METRICS, Metric, Regression

#: completed: every wave promoted. stopped: a gate failed. held: a gate could not tell, and a person has to.
#: lost: more hosts went away than the failure budget allows.
Outcome = Literal["completed", "stopped", "held", "lost"]
#: ``(phase, gates, series, others, host_checks, soak) -> verdict``: of real rollouts it is :func:`judge_wave`.
Judge = Callable[
    [str, Gates, Sequence[HostSeries], Sequence[HostSeries], Mapping[str, gate.Verdict], Soak],
    WaveVerdict,
]


@dataclass(frozen=True)
class Setting:
    """What all runs of a simulation share.

    :param judged: hosts of a wave whose series are drawn and judged.
    :param lost_per_hour: chance that a host goes away within an hour, whatever it runs.
    :param promote_held: a person promotes every wave whose gate cannot tell.
    """

    plan: Plan
    fleet: Fleet
    noise: Noise
    pace: Pace
    judge: Judge = judge_wave
    regressions: Sequence[Regression] = ()
    judged: int = 32
    lost_per_hour: float = 0.0
    promote_held: bool = False


@dataclass(frozen=True)
class WaveResult:
    """One wave of one run.

    :param started_s: since the start of the run; ``soak_s``: how long it soaked.
    """

    hosts: int
    hit: int
    started_s: float
    soak_s: float
    ended_s: float
    outcome: str
    why: str = ""


@dataclass(frozen=True)
class RunResult:
    """One run.

    :param touched: hosts that had been given the phase when it ended; ``hit``: of those, hosts with a regression.
    :param on_phase: hosts that kept it.
    """

    outcome: Outcome
    waves: tuple[WaveResult, ...]
    touched: int
    hit: int
    seconds: float
    why: str


def simulate(setting: Setting, hits: Sequence[NDArray[np.bool_]], rng: np.random.Generator) -> RunResult:
    """Run the plan once; ``hits`` says which hosts each regression hits (none: nothing is wrong)."""
    plan, pace = setting.plan, setting.pace
    now, touched, touched_hit, lost = pace.start_s, 0, 0, 0
    anywhere = np.logical_or.reduce(hits) if hits else np.zeros(setting.fleet.hosts, dtype=bool)
    done: list[WaveResult] = []
    for number, wave in enumerate(plan.waves):
        members = setting.fleet.members(number)
        started, size = now, members.size
        touched += size
        touched_hit += int(anywhere[members].sum())
        now += pace.ordering_s(size)
        soak_s, verdict = _judge(setting, wave, number, members, hits, anywhere, rng)
        now += soak_s + pace.judging_s(size)
        lost += int(rng.binomial(touched, 1 - np.exp(-setting.lost_per_hour * (now - started) / 3600)))
        outcome, why = _decide(setting, verdict, lost)
        now += pace.confirming_s(size)
        done.append(WaveResult(size, int(anywhere[members].sum()), started, soak_s, now, outcome or "promoted", why))
        if outcome:
            return RunResult(outcome, tuple(done), touched, touched_hit, now, why)
    return RunResult("completed", tuple(done), touched, touched_hit, now, "")


def _decide(setting: Setting, verdict: WaveVerdict, lost: int) -> tuple[Outcome | None, str]:
    # What the gate says first, without how it came to it.
    why = verdict.reasons[0].partition(" (bounds")[0] if verdict.reasons else ""
    plan = setting.plan
    if lost > plan.failure_budget:
        return "lost", f"{lost} hosts went away, {plan.failure_budget} allowed"
    held = verdict.outcome == "inconclusive" and plan.gates.on_inconclusive == "pause"
    if verdict.outcome == "pass" or (held and setting.promote_held):
        return None, why if held else ""
    return ("held" if held else "stopped"), why


def _judge(
    setting: Setting,
    wave: Wave,
    number: int,
    members: NDArray[np.int64],
    hits: Sequence[NDArray[np.bool_]],
    anywhere: NDArray[np.bool_],
    rng: np.random.Generator,
) -> tuple[float, WaveVerdict]:
    """Soak, and look when the judge does, until it can tell or ``max_s`` is over."""
    plan = setting.plan
    needed_s, idle = _traffic_s(setting.noise, wave, members.size, rng)
    chosen = _choose(members, anywhere, setting.judged, rng)
    names = [f"host{one}" for one in chosen]
    times = looks_s(plan.gates, wave.soak, len(names), needed_s)
    schedule = draw.schedule(plan.gates, times[-1])
    effect = _effect(setting.regressions, hits, chosen)
    ours = draw.Drawing(names, setting.noise, plan.gates, schedule, effect, rng)
    others = _others(setting, number, schedule, rng) if plan.gates.method != "switchback" else None
    checks = {name: _check(idle and not row) for row, name in enumerate(names)}
    for at_s in times:
        theirs = others.until(at_s) if others else []
        verdict = setting.judge(plan.phase, plan.gates, ours.until(at_s), theirs, checks, wave.soak)
        if verdict.outcome == "fail" or (verdict.outcome == "pass" and at_s >= needed_s):
            break
    return at_s, verdict


def looks_s(gates: Gates, soak: Soak, hosts: int, needed_s: float) -> list[float]:
    """When a wave is judged, in seconds of its soak: at the looks of the judge, and at ``max_s``."""
    schedule = looks.schedule(gates, soak, hosts)
    times = [schedule.following(0.0)]
    while times[-1] < soak.max_s * 0.999:
        times.append(schedule.following(times[-1] + 1e-6))
    return sorted({*(one for one in (*times, needed_s) if one < soak.max_s), soak.max_s})


def _traffic_s(noise: Noise, wave: Wave, hosts: int, rng: np.random.Generator) -> tuple[float, bool]:
    """Seconds until every host of the wave has the traffic that its soak asks for; whether one never gets it."""
    connections, sent = noise.rates(hosts, rng)
    soak = wave.soak
    by_bytes = float(np.max(soak.min_bytes / np.maximum(sent, 1e-9)))
    by_connections = soak.min_connections / max(float(connections.sum()), 1e-9)
    needed = max(soak.min_s, by_bytes, by_connections)
    return min(needed, soak.max_s), needed > soak.max_s


def _choose(
    members: NDArray[np.int64], anywhere: NDArray[np.bool_], judged: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Hosts whose series are drawn: of those that a regression hits their share, but one at least."""
    if members.size <= judged:
        return members
    hit, well = members[anywhere[members]], members[~anywhere[members]]
    exact = judged * hit.size / members.size
    count = int(np.floor(exact + rng.random()))
    count = min(max(count, min(1, hit.size)), hit.size, judged)
    return np.concatenate(
        [rng.choice(hit, count, replace=False), rng.choice(well, min(judged - count, well.size), replace=False)]
    )


def _effect(
    regressions: Sequence[Regression], hits: Sequence[NDArray[np.bool_]], chosen: NDArray[np.int64]
) -> draw.Effect:
    change: dict[Metric, Floats] = {metric: np.zeros(chosen.size) for metric in METRICS}
    failing = np.zeros(chosen.size)
    for regression, hit in zip(regressions, hits, strict=True) if hits else ():
        change[regression.metric] = change[regression.metric] + regression.change * hit[chosen]
        failing = failing + (regression.rate or 0.0) * hit[chosen]
    return draw.Effect(change, failing)


def _others(setting: Setting, number: int, schedule: draw.Schedule, rng: np.random.Generator) -> draw.Drawing | None:
    """Hosts of later waves, which still are as they were."""
    later = np.flatnonzero(setting.fleet.wave > number)
    if not later.size:
        return None
    chosen = rng.choice(later, min(setting.judged, later.size), replace=False)
    nothing = _effect((), (), chosen)
    names = [f"host{one}" for one in chosen]
    return draw.Drawing(names, setting.noise, setting.plan.gates, schedule, nothing, rng, ordered=False)


def _check(idle: bool) -> gate.Verdict:
    """A host's own checks: well, but for one that was too idle to be judged."""
    outcome: gate.Outcome = "inconclusive" if idle else "pass"
    check = gate.Check("share", outcome, "too few bytes served during the soak" if idle else "as ordered")
    return gate.Verdict(outcome, (check,), None if idle else 1.0, 0, 0)
