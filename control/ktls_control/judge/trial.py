# SPDX-License-Identifier: Apache-2.0
"""How often the judge is wrong, counted: many fleets of which the truth is known, each judged like a real wave."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from ..plan.model import Gates, Soak
from . import columns, errors, looks, power, regimes
from .columns import OFF, ON, Array, Columns
from .model import HostSeries, WaveVerdict
from .wave import judge_columns


@dataclass
class Count:
    """Verdicts of many waves of one kind, and the p-values of their metrics."""

    passed: int = 0
    failed: int = 0
    unclear: int = 0
    p: dict[str, list[float]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """How many were judged."""
        return self.passed + self.failed + self.unclear

    def add(self, verdict: WaveVerdict) -> None:
        """Count one."""
        self.passed += verdict.outcome == "pass"
        self.failed += verdict.outcome == "fail"
        self.unclear += verdict.outcome == "inconclusive"
        for metric in verdict.metrics:
            if metric.name in looks.GATING and metric.p is not None:
                self.p.setdefault(metric.name, []).append(metric.p)

    def merged(self, other: Count) -> Count:
        """Both together, without p-values."""
        return Count(self.passed + other.passed, self.failed + other.failed, self.unclear + other.unclear)


def upper(count: int, total: int, confidence: float = 0.95) -> float:
    """Upper confidence bound of a share of which ``count`` of ``total`` was seen (Clopper and Pearson)."""
    from scipy.stats import beta

    return 1.0 if count >= total else float(beta.ppf(confidence, count + 1, total - count))


def uniform(values: list[float]) -> float:
    """p-value of "these p-values are uniform" (Kolmogorov and Smirnov)."""
    from scipy.stats import kstest

    return float(kstest(values, "uniform").pvalue)


def gates_of(fleet: regimes.Fleet) -> Gates:
    """Defaults of a plan with the fleet's experiment."""
    return Gates(method=fleet.method, block_s=fleet.block_s, washout_s=fleet.washout_s)  # type: ignore[arg-type]


def once(
    fleet: regimes.Fleet, noise: regimes.Noise, harm: regimes.Harm, fleets: int, seed: int, chunk: int = 250
) -> Count:
    """Judge waves at the end of their soak."""
    count, gates = Count(), gates_of(fleet)
    soak = Soak(fleet.soak_s, fleet.soak_s, min_bytes=0)
    for ours, theirs in _drawn(fleet, noise, harm, fleets, seed, chunk):
        count.add(judge_columns(gates, ours, theirs, soak))
    return count


def watched(
    fleet: regimes.Fleet, noise: regimes.Noise, harm: regimes.Harm, fleets: int, seed: int, least_s: float
) -> Count:
    """Judge waves all the time from the first look to the end of their soak; a wave that once failed has failed.

    Between two looks only the E-value moves, and its path tells what it was.
    """
    count, gates = Count(), gates_of(fleet)
    soak = Soak(least_s, fleet.soak_s, min_bytes=0)
    plan = looks.schedule(gates, soak, fleet.wave)
    times = [plan.following(0.0)]
    while times[-1] < fleet.soak_s * 0.999:
        times.append(min(plan.following(times[-1] + 1e-6), fleet.soak_s))
    for ours, theirs in _drawn(fleet, noise, harm, fleets, seed, 250):
        for at_s in times:
            seen = until(ours, at_s)
            verdict = judge_columns(gates, seen, None if theirs is None else until(theirs, at_s), soak)
            if verdict.outcome == "fail" or (verdict.outcome == "pass" and at_s >= least_s):
                break
        ever = max(verdict.e_path, default=1.0) >= looks.e_limit(gates.alpha)
        count.add(replace(verdict, outcome="fail") if ever else verdict)
    return count


def failures(fleet: regimes.Fleet, noise: regimes.Noise, harm: regimes.Harm, fleets: int, seed: int) -> Count:
    """Watch the error test alone, to the end of a long soak: a wave whose E-value was ever at the limit has failed."""
    count, limit = Count(), looks.e_limit(Gates().alpha)
    for ours, theirs in _drawn(fleet, noise, harm, fleets, seed, 50):
        found = errors.test(None, {}, ours, theirs)
        hit = max(found.path, default=1.0) >= limit
        count.add(WaveVerdict("fail" if hit else "pass", ()))
    return count


def until(table: Columns, at_s: float) -> Columns:
    """The rows that are over ``at_s`` seconds into the soak."""
    return power.select(table, np.flatnonzero(table.since <= at_s + 1e-6))


def _drawn(
    fleet: regimes.Fleet, noise: regimes.Noise, harm: regimes.Harm, fleets: int, seed: int, chunk: int
) -> Iterator[tuple[Columns, Columns | None]]:
    """So many at once as memory is used for gladly."""
    for first in range(0, fleets, chunk):
        size = min(chunk, fleets - first)
        drawn = regimes.draw(fleet, noise, harm, seed * 100_003 + first, size)
        for number in range(size):
            yield drawn.columns(number)


def resplit(series: list[HostSeries], block_s: float, washout_s: float, splits: int, seed: int) -> Count:
    """Judge recorded baselines as if a switchback had been run over them: with other draws there is no other truth.

    Each split begins at another time, and each host deals its pairs anew.
    """
    rng = np.random.default_rng(seed)
    gates = Gates(block_s=block_s, washout_s=washout_s)
    whole = columns.of(series, [power.end_of(one) for one in series])
    table = power.select(whole, np.flatnonzero((whole.since <= 0) & (whole.arm == OFF)))
    begin = np.full(table.hosts, np.inf)
    np.minimum.at(begin, table.host, table.since - table.seconds)
    count = Count()
    for _ in range(splits):
        shift = float(rng.uniform(0, 2 * block_s))
        count.add(_resplit(table, begin, shift, gates, rng))
    return count


def _resplit(table: Columns, begin: Array, shift: float, gates: Gates, rng: np.random.Generator) -> WaveVerdict:
    since = table.since - begin[table.host] - shift
    middle = since - table.seconds / 2
    block = np.floor(middle / gates.block_s).astype(int)
    first = rng.integers(0, 2, (table.hosts, max(int(block.max()), 0) // 2 + 1))
    on = (first[table.host, np.maximum(block, 0) // 2] + block) % 2 == 1
    split = replace(
        table,
        since=since,
        arm=np.where((since > 0) & on, ON, OFF),
        washout=(since > 0) & (middle % gates.block_s < gates.washout_s),
        block=np.where(since > 0, np.maximum(block, 0), -1),
    )
    length = float(since.max())
    return judge_columns(gates, split, None, Soak(length, length, min_bytes=0))
