# SPDX-License-Identifier: Apache-2.0
"""Drawn noise and regressions as the series that the judge reads from real hosts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..judge.model import Arm, ArmTotals, HostSeries, Sample
from ..plan.model import Gates
from .noise import Drawn, Floats, Noise
from .regression import Metric

#: Seconds of baseline before the order that the judge gets.
BASELINE_S = 1800.0
#: Interval of samples outside of a switchback. Agents sample every 5 s; a tenth of the samples carries the same sums.
INTERVAL_S = 30.0
#: Durations of requests that an arm of the experiment by connections keeps.
KEPT = 200


@dataclass(frozen=True)
class Schedule:
    """Intervals of all hosts: their ends (the order takes effect at 0) and lengths in seconds; which are washout."""

    ends_s: Floats
    seconds: Floats
    washout: NDArray[np.bool_]
    #: Number of the switchback's block that an interval lies in, -1: none.
    block: NDArray[np.int64]


@dataclass(frozen=True)
class Effect:
    """Change that the phase makes to each of the hosts drawn; see :class:`.regression.Regression` for units."""

    change: Mapping[Metric, Floats]
    errors_per_s: Floats


def schedule(gates: Gates, soak_s: float) -> Schedule:
    """The intervals of a baseline and a soak of ``soak_s`` seconds under the method of ``gates``."""
    before = np.full(round(BASELINE_S / INTERVAL_S), INTERVAL_S)
    if gates.method == "switchback":
        # Whole pairs of blocks only: what is left over at the end says nothing.
        blocks = int(soak_s / gates.block_s / 2) * 2
        wash = min(gates.washout_s, gates.block_s / 2)
        lengths = np.tile([wash, gates.block_s - wash] if wash else [gates.block_s], blocks)
        parts = 2 if wash else 1
        block = np.repeat(np.arange(blocks), parts)
        washout = np.tile([True, False] if wash else [False], blocks)
    else:
        lengths = np.full(max(1, int(soak_s / INTERVAL_S)), INTERVAL_S)
        block, washout = np.full(lengths.size, -1), np.zeros(lengths.size, dtype=bool)
    seconds = np.concatenate([before, lengths])
    return Schedule(
        np.cumsum(seconds) - before.sum(),
        seconds,
        np.concatenate([np.zeros(before.size, dtype=bool), washout]),
        np.concatenate([np.full(before.size, -1), block]),
    )


def arms(plan: Schedule, gates: Gates, hosts: int, rng: np.random.Generator, *, ordered: bool) -> Floats:
    """Share of connections that draw the phase, by host and interval."""
    on = np.zeros((hosts, plan.ends_s.size))
    after = plan.ends_s > 0
    if not ordered:
        return on
    if gates.method == "connections":
        on[:, after] = 0.5
    elif gates.method == "switchback":
        pairs = int(plan.block.max() + 1) // 2
        first = rng.integers(2, size=(hosts, pairs))
        drawn = np.stack([first, 1 - first], axis=2).reshape(hosts, pairs * 2).astype(float)
        inside = plan.block >= 0
        on[:, inside] = drawn[:, plan.block[inside]]
    else:
        on[:, after] = 1.0
    return on


#: The host's clock at the order.
CLOCK_S = 1_000_000.0


class Drawing:
    """Hosts that were drawn: their series up to any time of the soak, as their agents would give them then.

    Most waves are judged before their soak is as long as it may be, so samples are made when they are asked for.
    """

    def __init__(
        self,
        names: Sequence[str],
        noise: Noise,
        gates: Gates,
        plan: Schedule,
        effect: Effect,
        rng: np.random.Generator,
        *,
        ordered: bool = True,
    ) -> None:
        drawn = noise.draw(len(names), plan.ends_s, plan.seconds, rng)
        self._names = names
        self._plan = plan
        self._ordered_at_s = CLOCK_S if ordered else None
        self._on = arms(plan, gates, len(names), rng, ordered=ordered)
        self._hit = _changed(drawn, self._on, effect, plan.seconds, rng)
        experiment = ordered and gates.method == "connections"
        self._totals = [_totals(plan, drawn, effect, row, rng) if experiment else {} for row in range(len(names))]
        self._made: list[list[Sample]] = [[] for _ in names]

    def until(self, soak_s: float) -> list[HostSeries]:
        """The series ``soak_s`` seconds after the order."""
        end = int(np.searchsorted(self._plan.ends_s, soak_s + 1e-6, side="right"))
        found = []
        for row, name in enumerate(self._names):
            made = self._made[row]
            if len(made) < end:
                made += _samples(self._plan, self._hit, self._on[row], row, len(made), end)
            found.append(
                HostSeries(
                    name,
                    tuple(made[:end]),
                    ordered_at_s=self._ordered_at_s,
                    boot_id=f"boot-{name}",
                    read_at_s=CLOCK_S + soak_s,
                    arms=self._totals[row],
                )
            )
        return found


def _changed(drawn: Drawn, on: Floats, effect: Effect, seconds: Floats, rng: np.random.Generator) -> Drawn:
    throughput = 1 + on * _column(effect, "throughput")
    failing = on * (drawn.requests * _column(effect, "errors") + effect.errors_per_s[:, None] * seconds)
    return Drawn(
        cpu_s=drawn.cpu_s * throughput * (1 + on * _column(effect, "cpu")),
        sent=drawn.sent * throughput,
        requests=np.rint(drawn.requests * throughput).astype(np.int64),
        connections=drawn.connections,
        errors=drawn.errors + rng.poisson(failing),
        # The agent's own download draws its arm like any connection; half of them do under ``connections``.
        probe_s=drawn.probe_s * (1 + (on * _column(effect, "latency"))[:, :, None]),
    )


def _column(effect: Effect, metric: Metric) -> Floats:
    return np.asarray(effect.change[metric])[:, None]


def _samples(plan: Schedule, hit: Drawn, on: Floats, row: int, start: int, end: int) -> Iterator[Sample]:
    part = slice(start, end)
    columns = (
        CLOCK_S + plan.ends_s[part],
        plan.seconds[part],
        plan.washout[part],
        on[part],
        hit.cpu_s[row, part],
        hit.sent[row, part].astype(np.int64),
        (hit.sent[row, part] * on[part]).astype(np.int64),
        hit.connections[row, part],
        hit.requests[row, part],
        hit.errors[row, part],
        hit.probe_s[row, part],
    )
    for at, seconds, washout, share, cpu, sent, ktls, connections, requests, errors, probes in zip(
        *(column.tolist() for column in columns), strict=True
    ):
        arm: Arm = "off" if share == 0 else "on" if share == 1 else "mixed"
        # NaN differs from itself: no probe.
        took = tuple([one for one in probes if one == one])
        failed = {"reset": errors} if errors else _NONE
        yield Sample(at, seconds, arm, washout, cpu, sent, ktls, connections, requests, failed, took)


_NONE: Mapping[str, int] = {}


def _totals(plan: Schedule, drawn: Drawn, effect: Effect, row: int, rng: np.random.Generator) -> dict[str, ArmTotals]:
    """What the connections of each arm amounted to: half of all each, the phase's own with its changes."""
    soak = plan.ends_s > 0
    took = drawn.probe_s[row, soak].ravel()
    took = took[np.isfinite(took)]
    connections, requests = int(drawn.connections[row, soak].sum()), int(drawn.requests[row, soak].sum())
    sent, errors = float(drawn.sent[row, soak].sum()), int(drawn.errors[row, soak].sum())
    change = {metric: float(np.asarray(values)[row]) for metric, values in effect.change.items()}
    failing = (requests * change["errors"] + float(effect.errors_per_s[row]) * float(plan.seconds[soak].sum())) / 2
    found = {}
    for arm, on in (("off", 0), ("on", 1)):
        found[arm] = ArmTotals(
            connections=int(rng.binomial(connections, 0.5)),
            requests=int(rng.binomial(requests, 0.5)),
            sent=int(sent / 2 * (1 + on * change["throughput"])),
            errors=int(rng.binomial(errors, 0.5) + rng.poisson(on * failing)),
            seconds=tuple((rng.choice(took, size=KEPT if took.size else 0) * (1 + on * change["latency"])).tolist()),
        )
    return found
