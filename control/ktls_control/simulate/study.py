# SPDX-License-Identifier: Apache-2.0
"""Many runs of one simulation, and what they amount to."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .flags import Load, load
from .fleet import affected
from .regression import Regression
from .run import Outcome, RunResult, Setting, simulate

OUTCOMES: tuple[Outcome, ...] = ("completed", "stopped", "held", "lost")


@dataclass(frozen=True)
class Summary:
    """What a set of runs did.

    :param outcomes: runs by how they ended.
    :param ended_in: of those that did not complete, by the number of the wave that they ended in, from 0.
    :param touched: hosts that had been given the phase, over the runs that did not complete: mean, median, 95th
        percentile, most; None: every run completed. ``hit``: the mean of hosts with a regression among them.
    :param seconds: how long runs took, those that completed and those that did not: median and 95th percentile.
    :param whys: reasons of runs that did not complete, the commonest first: those that differ in numbers alone
        are one, shown by its first example.
    """

    runs: int
    outcomes: dict[str, int]
    ended_in: dict[int, int]
    touched: dict[str, float] | None
    hit: float | None
    seconds: dict[str, dict[str, float]]
    whys: tuple[tuple[str, int], ...]

    def chance(self, *outcomes: Outcome) -> tuple[float, float, float]:
        """Share of runs that ended in one of ``outcomes``, with its 95 % confidence interval (Clopper-Pearson)."""
        from scipy.stats import binomtest

        count = sum(self.outcomes.get(name, 0) for name in outcomes)
        interval = binomtest(count, self.runs).proportion_ci(method="exact")
        return count / self.runs, float(interval.low), float(interval.high)


@dataclass(frozen=True)
class Study:
    """Runs with the regressions, runs without any, and what flag endpoints bear."""

    setting: Setting
    regressions: tuple[Regression, ...]
    hit_hosts: int
    with_them: tuple[RunResult, ...]
    without: tuple[RunResult, ...]
    load: Load
    seed: int


def study(
    setting: Setting,
    runs: int,
    seed: int,
    poll_s: float = 2.0,
    tell: Callable[[int, int], None] = lambda _done, _of: None,
) -> Study:
    """Run the plan ``runs`` times without a regression, and as often with them if there are any.

    The same ``seed`` gives the same study.
    """
    sequence = np.random.SeedSequence(seed)
    fixed, with_seeds, without_seeds = sequence.spawn(3)
    rng = np.random.default_rng(fixed)
    hits = [affected(setting.fleet, one, rng) for one in setting.regressions]
    total = runs * (2 if hits else 1)
    without, with_them = [], []
    for number, child in enumerate(without_seeds.spawn(runs), 1):
        without.append(simulate(setting, [], np.random.default_rng(child)))
        tell(number, total)
    for number, child in enumerate(with_seeds.spawn(runs) if hits else [], runs + 1):
        own = np.random.default_rng(child)
        # Hosts that no label names are other ones in each run.
        drawn = [
            hit if one.where.label else affected(setting.fleet, one, own)
            for one, hit in zip(setting.regressions, hits, strict=True)
        ]
        with_them.append(simulate(setting, drawn, own))
        tell(number, total)
    anywhere = int(np.logical_or.reduce(hits).sum()) if hits else 0
    return Study(
        setting,
        tuple(setting.regressions),
        anywhere,
        tuple(with_them),
        tuple(without),
        load(setting.fleet.hosts, poll_s, rng),
        seed,
    )


def summary(runs: Sequence[RunResult]) -> Summary:
    """Count and average ``runs`` (one at least)."""
    ended = [run for run in runs if run.outcome != "completed"]
    whys: dict[str, list[str]] = {}
    for run in ended:
        whys.setdefault(re.sub(r"[+-]?[\d.,]+", "#", run.why), []).append(run.why)
    touched = np.asarray([run.touched for run in ended])
    waves = [len(run.waves) - 1 for run in ended]
    return Summary(
        runs=len(runs),
        outcomes={name: sum(run.outcome == name for run in runs) for name in OUTCOMES},
        ended_in={wave: waves.count(wave) for wave in sorted(set(waves))},
        touched={
            "mean": float(touched.mean()),
            "median": float(np.median(touched)),
            "p95": float(np.percentile(touched, 95)),
            "most": float(touched.max()),
        }
        if ended
        else None,
        hit=float(np.mean([run.hit for run in ended])) if ended else None,
        seconds={
            name: {"median": float(np.median(took)), "p95": float(np.percentile(took, 95))}
            for name, took in (
                ("completed", [run.seconds for run in runs if run.outcome == "completed"]),
                ("ended", [run.seconds for run in ended]),
            )
            if took
        },
        whys=tuple((same[0], len(same)) for same in sorted(whys.values(), key=len, reverse=True)),
    )


def as_dict(done: Study) -> dict[str, Any]:
    """Plain data for ``--json``. Seconds, hosts, shares from 0 to 1."""

    def one(runs: Sequence[RunResult]) -> dict[str, Any] | None:
        if not runs:
            return None
        found = summary(runs)
        chances = {name: dict(zip(("share", "low", "high"), found.chance(name), strict=True)) for name in OUTCOMES}
        ended = {str(done.setting.plan.waves[wave].number): count for wave, count in found.ended_in.items()}
        return {**asdict(found), "ended_in": ended, "chances": chances}

    load_ = done.load
    return {
        "schema": 1,
        "plan": done.setting.plan.id,
        "plan_sha256": done.setting.plan.sha256,
        "hosts": done.setting.fleet.hosts,
        "waves": [done.setting.fleet.members(number).size for number in range(done.setting.fleet.waves)],
        "noise": done.setting.noise.name,
        "judged_hosts_at_most": done.setting.judged,
        "seed": done.seed,
        "regressions": [one.text for one in done.regressions],
        "hosts_hit": done.hit_hosts,
        "pace": asdict(done.setting.pace),
        "with_regression": one(done.with_them),
        "without_regression": one(done.without),
        "flag_endpoint": {
            "interval_s": load_.interval_s,
            "requests_per_s": load_.mean,
            "requests_per_s_p99": load_.p99,
            "requests_per_s_peak": load_.peak,
            "cpus": load_.cores,
            "bytes_per_s": load_.bytes_per_s,
        },
        "runs": {
            name: [{**asdict(run), "waves": [asdict(wave) for wave in run.waves]} for run in getattr(done, name)]
            for name in ("with_them", "without")
        },
    }
