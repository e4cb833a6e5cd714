# SPDX-License-Identifier: Apache-2.0
"""What hosts do when nothing is wrong: drawn from a formula, or from series that were recorded. Vectorised.

The formula, for host ``h`` in an interval that ends at ``t``, with every ``z`` a standard normal deviate:

- requests ~ Poisson(``requests_per_s`` · exp(``load_sd`` · z_h) · exp(traffic_t) · seconds);
- bytes = requests · ``bytes_per_request`` · exp(``size_sd`` · z / √(requests + 1));
- CPU per byte = ``cpu_ns_per_byte`` · exp(``host_sd`` · z_h + shock_t + own_ht) · (1 + spike_ht);
- a self-probe takes ``probe_s`` · exp(``probe_host_sd`` · z_h + ``probe_sd`` · z), and slows with CPU shocks;
- failures ~ Poisson(``errors_per_request`` · requests), ``burst`` times as many in a bad minute.

``traffic``, ``shock`` (common to all hosts) and ``own`` are Ornstein-Uhlenbeck processes: normal with standard
deviation ``traffic_sd``, ``shock_sd``, ``own_sd``, and correlated by exp(-Δt / ``memory_s``). A spike hits an interval
with probability ``spike_share`` and adds an exponential with mean ``spike``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import ControlError
from ..judge.model import HostSeries

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]

#: Between two self-probes, and how much that varies either way: ktls_agent.guards, which a test compares.
PROBE_EVERY_S, PROBE_JITTER = 30.0, 0.2
#: While an order's experiment runs (agent, guards/part.py).
TRIAL_PROBE_EVERY_S = 10.0


@dataclass(frozen=True)
class Drawn:
    """Counts of each host (row) in each interval (column); ``probe_s`` has a third axis: one probe each, NaN none."""

    cpu_s: Floats
    sent: Floats
    requests: Ints
    connections: Ints
    errors: Ints
    probe_s: Floats


class Noise(Protocol):
    """A source of series; ``ends_s`` are the ends of the intervals and ``seconds`` their lengths."""

    @property
    def name(self) -> str:
        """What results say of it."""
        ...

    def draw(self, hosts: int, ends_s: Floats, seconds: Floats, rng: np.random.Generator) -> Drawn:
        """Draw hosts that have nothing in common but shocks of the whole fleet."""
        ...

    def rates(self, hosts: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Connections and bytes per second of each of ``hosts`` hosts, on average over a soak."""
        ...


@dataclass(frozen=True)
class Formula:
    """Noise by the formula above. Standard deviations are of natural logarithms."""

    name: str = "usual"
    requests_per_s: float = 40.0
    requests_per_connection: float = 4.0
    bytes_per_request: float = 500_000.0
    cpu_ns_per_byte: float = 1.0
    probe_s: float = 0.02
    probe_every_s: float = PROBE_EVERY_S
    errors_per_request: float = 1e-5
    host_sd: float = 0.12
    load_sd: float = 0.5
    size_sd: float = 0.5
    traffic_sd: float = 0.15
    shock_sd: float = 0.03
    own_sd: float = 0.05
    memory_s: float = 370.0
    spike_share: float = 0.03
    spike: float = 0.5
    probe_host_sd: float = 0.2
    probe_sd: float = 0.15
    burst: float = 20.0
    bad_minutes: float = 0.001

    def draw(self, hosts: int, ends_s: Floats, seconds: Floats, rng: np.random.Generator) -> Drawn:
        """See :class:`Noise`."""
        shape = (hosts, ends_s.size)
        traffic = self.traffic_sd * _wander(1, ends_s, self.memory_s, rng)
        shock = self.shock_sd * _wander(1, ends_s, self.memory_s, rng)
        own = self.own_sd * _wander(hosts, ends_s, self.memory_s, rng)
        rate = self.requests_per_s * np.exp(self.load_sd * rng.standard_normal((hosts, 1)) + traffic)
        requests = rng.poisson(rate * seconds)
        size = np.exp(self.size_sd * rng.standard_normal(shape) / np.sqrt(requests + 1))
        sent = np.asarray(requests * self.bytes_per_request * size, dtype=np.float64)
        spike = (rng.random(shape) < self.spike_share) * rng.exponential(self.spike, shape)
        level = np.exp(self.host_sd * rng.standard_normal((hosts, 1)) + shock + own) * (1 + spike)
        bad = np.where(rng.random(shape) < self.bad_minutes * np.maximum(1.0, seconds / 60), self.burst, 1.0)
        probed = _probed(hosts, ends_s, seconds, self.probe_every_s, rng)
        probe = self.probe_s * np.exp(
            self.probe_host_sd * rng.standard_normal((hosts, 1, 1))
            + self.probe_sd * rng.standard_normal(probed.shape)
            + (shock + own)[:, :, None]
        )
        return Drawn(
            cpu_s=sent * self.cpu_ns_per_byte * 1e-9 * level,
            sent=sent,
            requests=requests,
            connections=rng.poisson(requests / self.requests_per_connection),
            errors=rng.poisson(self.errors_per_request * requests * bad),
            probe_s=np.where(probed, probe, np.nan),
        )

    def rates(self, hosts: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """See :class:`Noise`."""
        requests = self.requests_per_s * np.exp(self.load_sd * rng.standard_normal(hosts))
        return requests / self.requests_per_connection, requests * self.bytes_per_request


#: Noise by name: like hosts under even load; hosts as most fleets have them; a troubled fleet.
LEVELS: Mapping[str, Formula] = {
    "quiet": replace(
        Formula(), name="quiet", host_sd=0.03, own_sd=0.02, shock_sd=0.01, spike_share=0.0, load_sd=0.2, probe_sd=0.05
    ),
    "usual": Formula(),
    "noisy": replace(Formula(), name="noisy", host_sd=0.25, own_sd=0.12, shock_sd=0.06, spike_share=0.06, load_sd=1.0),
}


@dataclass(frozen=True)
class Recorded:
    """Noise from recorded series: each simulated host replays a stretch of a recorded one, from a random place on.

    Its own rhythm, spikes and trends are kept; what hosts that were recorded together have in common is lost, because
    many more hosts than were recorded have to be made of them. A stretch that reaches the end goes on at the start.

    :param rates_per_s: of each recorded host and interval, per second: CPU, bytes, requests, connections, errors.
    :param probes: of each recorded host, all its self-probes.
    """

    name: str
    period_s: float
    rates_per_s: Floats
    probes: tuple[Floats, ...]
    probe_every_s: float = PROBE_EVERY_S

    def draw(self, hosts: int, ends_s: Floats, seconds: Floats, rng: np.random.Generator) -> Drawn:
        """See :class:`Noise`."""
        recorded, length, _ = self.rates_per_s.shape
        which = rng.integers(recorded, size=hosts)
        start = rng.integers(length, size=hosts)
        # Running sums let an interval of any length be read from samples of another one.
        sums = np.concatenate([np.zeros((recorded, 1, 5)), np.cumsum(self.rates_per_s * self.period_s, axis=1)], axis=1)
        begins = ends_s - seconds
        first = begins.min()
        counts = _running(sums, which, start, (ends_s - first) / self.period_s) - _running(
            sums, which, start, (begins - first) / self.period_s
        )
        whole = np.floor(counts[..., 2:] + rng.random(counts[..., 2:].shape)).astype(np.int64)
        probed = _probed(hosts, ends_s, seconds, self.probe_every_s, rng)
        probe = np.stack([rng.choice(self.probes[one], size=probed.shape[1:]) for one in which])
        probe = np.where(probed, probe, np.nan)
        return Drawn(counts[..., 0], counts[..., 1], whole[..., 0], whole[..., 1], whole[..., 2], probe)

    def rates(self, hosts: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """See :class:`Noise`."""
        mean = self.rates_per_s.mean(axis=1)[rng.integers(self.rates_per_s.shape[0], size=hosts)]
        return mean[:, 3], mean[:, 1]


def recorded(series: Sequence[HostSeries], name: str) -> Recorded:
    """Noise of recorded ``series``: of each, the samples before its order, so long as every count is there.

    :raises ControlError: ``no_baseline`` when none has enough of them.
    """
    rows, probes, periods = [], [], []
    for one in series:
        before = [
            sample
            for sample in one.samples
            if sample.arm == "off"
            and (one.ordered_at_s is None or sample.at_s <= one.ordered_at_s)
            and sample.cpu_s is not None
            and sample.sent
        ]
        seen = np.asarray([took for sample in before for took in sample.probe_s])
        if len(before) < 12 or not seen.size:
            continue
        rows.append(
            [
                [
                    (sample.cpu_s or 0.0) / sample.seconds,
                    (sample.sent or 0) / sample.seconds,
                    (sample.requests or 0) / sample.seconds,
                    (sample.connections or 0) / sample.seconds,
                    sum((sample.errors or {}).values()) / sample.seconds,
                ]
                for sample in before
            ]
        )
        probes.append(seen)
        periods += [sample.seconds for sample in before]
    if not rows:
        raise ControlError(
            "no_baseline", f"{name}: no host in it has 12 samples with CPU, bytes and self-probes before its order"
        )
    length = min(len(row) for row in rows)
    array = np.asarray([row[-length:] for row in rows], dtype=float)
    every_s = sum(periods) / sum(one.size for one in probes)
    return Recorded(name, float(np.median(periods)), array, tuple(probes), every_s)


def _wander(rows: int, ends_s: Floats, memory_s: float, rng: np.random.Generator) -> Floats:
    """Ornstein-Uhlenbeck processes with standard deviation 1, read at ``ends_s``; one row each."""
    keep = np.exp(-np.diff(ends_s, prepend=ends_s[:1]) / memory_s)
    draws = rng.standard_normal((rows, ends_s.size))
    found = np.empty_like(draws)
    found[:, 0] = draws[:, 0]
    for column in range(1, ends_s.size):
        kept = keep[column]
        found[:, column] = kept * found[:, column - 1] + np.sqrt(1 - kept * kept) * draws[:, column]
    return found


def _probed(hosts: int, ends_s: Floats, seconds: Floats, every_s: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which probes of which interval there are: each host's go on by themselves, whatever the intervals are."""
    first, last = float(ends_s[0] - seconds[0]), float(ends_s[-1])
    count = int((last - first) / (every_s * (1 - PROBE_JITTER))) + 2
    steps = every_s * rng.uniform(1 - PROBE_JITTER, 1 + PROBE_JITTER, (hosts, count))
    steps[:, 0] *= rng.random(hosts)
    column = np.searchsorted(ends_s, first + np.cumsum(steps, axis=1))
    fresh = np.ones(column.shape, dtype=bool)
    fresh[:, 1:] = column[:, 1:] != column[:, :-1]
    place = np.arange(count)
    number = place - np.maximum.accumulate(np.where(fresh, place, 0), axis=1)
    inside = column < ends_s.size
    found = np.zeros((hosts, ends_s.size, max(1, int(number[inside].max(initial=0)) + 1)), dtype=bool)
    row = np.broadcast_to(np.arange(hosts)[:, None], column.shape)
    found[row[inside], column[inside], number[inside]] = True
    return found


def _running(sums: Floats, which: Ints, start: Ints, at: Floats) -> Floats:
    """Sums up to ``at`` (samples, with fractions) after ``start``, around the recording as often as it takes."""
    length = sums.shape[1] - 1
    place = start[:, None] + at[None, :]
    rounds, within = np.divmod(place, length)
    low = within.astype(np.int64)
    share = (within - low)[..., None]
    rows = which[:, None]
    part = sums[rows, low] * (1 - share) + sums[rows, np.minimum(low + 1, length)] * share
    return np.asarray(part + rounds[..., None] * sums[which, -1][:, None, :])
