# SPDX-License-Identifier: Apache-2.0
"""Fleets with known noise and known harm, to measure how often the judge is wrong. Fixed seeds, same numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .columns import Array, Columns
from .model import HostSeries, Sample

_START = 10_000.0


@dataclass(frozen=True)
class Noise:
    """How a fleet is when nothing is wrong. Standard deviations are of logarithms, of one sample each.

    :param cpu: of CPU time per byte; ``ar``: what is left of it after one sample; ``host``: between hosts.
    :param traffic: of bytes per second, with the same memory; ``probe``: of a self-probe.
    :param shock: of what all hosts share at a time, with memory ``ar``.
    :param spikes: share of samples that cost ``spike`` times as much.
    :param failures: a minute and host, in bursts of a mean of ``burst`` minutes; ``host_failures``: spread of hosts.
    :param storms: an hour; all hosts fail for a few minutes.
    """

    cpu: float = 0.03
    ar: float = 0.0
    host: float = 0.05
    traffic: float = 0.10
    probe: float = 0.15
    shock: float = 0.0
    spikes: float = 0.0
    spike: float = 2.0
    failures: float = 0.0
    burst: float = 0.0
    host_failures: float = 0.0
    storms: float = 0.0


REGIMES: Mapping[str, Noise] = {
    "clean": Noise(),
    "autocorrelated": Noise(ar=0.95, cpu=0.06, traffic=0.2),
    "host to host": Noise(host=0.25, ar=0.8, host_failures=0.7, failures=0.05),
    "common shocks": Noise(shock=0.08, ar=0.95, storms=1.0),
    "spikes": Noise(spikes=0.03, spike=3.0),
    "bursty failures": Noise(failures=0.05, burst=3.0),
    "all at once": Noise(
        cpu=0.06,
        ar=0.9,
        host=0.2,
        traffic=0.2,
        shock=0.05,
        spikes=0.02,
        failures=0.05,
        burst=3,
        host_failures=0.7,
        storms=0.5,
    ),
}


#: How fleets fail when nothing is wrong: for the error test, whose soaks are longer.
FAILING: Mapping[str, Noise] = {
    "rare": Noise(failures=0.02),
    "bursts of 4 minutes": Noise(failures=0.06, burst=4),
    "hosts differ": Noise(failures=0.05, host_failures=1.0),
    "bursts, and hosts differ": Noise(failures=0.06, burst=4, host_failures=1.0),
    "bursts of 10 minutes, and hosts differ": Noise(failures=0.06, burst=10, host_failures=0.7),
    "storms that hit all hosts": Noise(failures=0.02, storms=1.0),
}


@dataclass(frozen=True)
class Harm:
    """What kTLS does to hosts: multiples on CPU per byte, latency and throughput, and failures by connection.

    :param hosts: how many of the wave it hits, from the first; None all.
    """

    cpu: float = 1.0
    latency: float = 1.0
    throughput: float = 1.0
    failures: float = 0.0
    hosts: int | None = None


@dataclass(frozen=True)
class Fleet:
    """A fleet to be judged: a sample each ``period_s`` with one self-probe, ``connections`` a second and host."""

    wave: int = 1
    others: int = 0
    baseline_s: float = 1200.0
    soak_s: float = 600.0
    period_s: float = 5.0
    block_s: float = 30.0
    washout_s: float = 5.0
    method: str = "switchback"
    connections: float = 40.0
    rate: float = 5e7
    cpu_per_byte: float = 1e-9
    probe_s: float = 0.02


@dataclass(frozen=True)
class Drawn:
    """Many fleets at once, one row a host, one column a sample: the first ``fleet.wave`` hosts of each are the wave."""

    fleet: Fleet
    since: Array
    on: Array
    washout: Array
    block: Array
    cpu: Array
    sent: Array
    connections: Array
    failures: Array
    probes: Array

    def columns(self, number: int) -> tuple[Columns, Columns | None]:
        """Fleet ``number`` as the judge reads it: the wave, and the others."""
        size = self.fleet.wave + self.fleet.others
        first = number * size
        wave = self._table(first, first + self.fleet.wave)
        return wave, self._table(first + self.fleet.wave, first + size) if self.fleet.others else None

    def _table(self, first: int, last: int) -> Columns:
        hosts, n = last - first, len(self.since)

        def flat(values: Array) -> Array:
            return values[first:last].ravel()

        since = np.tile(self.since, hosts)
        return Columns(
            names=tuple(f"host{index + 1}" for index in range(hosts)),
            host=np.repeat(np.arange(hosts), n),
            at=since + _START,
            since=since,
            seconds=np.full(hosts * n, self.fleet.period_s),
            arm=flat(self.on).astype(int),
            washout=flat(self.washout),
            block=flat(self.block),
            cpu=flat(self.cpu),
            sent=flat(self.sent),
            connections=flat(self.connections).astype(float),
            errors=flat(self.failures).astype(float),
            probe_row=np.arange(hosts * n),
            probe=flat(self.probes),
        )

    def series(self, number: int) -> tuple[list[HostSeries], list[HostSeries]]:
        """Fleet ``number`` as hosts tell it: the wave, and the others."""
        size = self.fleet.wave + self.fleet.others
        made = [self._host(number * size + index, index < self.fleet.wave, f"host{index + 1}") for index in range(size)]
        return made[: self.fleet.wave], made[self.fleet.wave :]

    def _host(self, row: int, ordered: bool, name: str) -> HostSeries:
        columns = (self.on, self.washout, self.cpu, self.sent, self.connections, self.failures, self.probes)
        rows = zip((_START + self.since).tolist(), *(column[row].tolist() for column in columns), strict=True)
        samples = tuple(
            Sample(
                at, self.fleet.period_s, "on" if on else "off", wash, cpu, round(sent), round(sent) if on else 0,
                count, count, {"io_error": failures} if failures else {}, (probe,),
            )
            for at, on, wash, cpu, sent, count, failures, probe in rows
        )  # fmt: skip
        ends = _START + float(self.since[-1])
        return HostSeries(name, samples, _START if ordered else None, "boot", ends + 1.0)


def draw(fleet: Fleet, noise: Noise, harm: Harm, seed: int, fleets: int = 1) -> Drawn:
    """Draw ``fleets`` fleets that have nothing in common but their kind."""
    rng = np.random.default_rng(seed)
    size = fleet.wave + fleet.others
    hosts = fleets * size
    before, after = (round(span / fleet.period_s) for span in (fleet.baseline_s, fleet.soak_s))
    n = before + after
    since = (np.arange(n) - before + 1) * fleet.period_s
    shared = np.repeat(_memory(rng, (fleets, n), noise.ar) * noise.shock, size, axis=0)
    level = rng.normal(0, noise.host, (hosts, 1)) + shared
    cost = level + _memory(rng, (hosts, n), noise.ar) * noise.cpu
    cost += np.where(rng.random((hosts, n)) < noise.spikes, math.log(noise.spike), 0.0)
    traffic = rng.normal(0, noise.host, (hosts, 1)) + shared + _memory(rng, (hosts, n), noise.ar) * noise.traffic
    probe = level + rng.normal(0, noise.probe, (hosts, n))
    place = np.tile(np.arange(size), fleets)
    on, washout, block = _arms(rng, fleet, place < fleet.wave, since)
    hit = on.copy()
    hit[place >= (harm.hosts if harm.hosts is not None else size)] = False
    sent = fleet.rate * fleet.period_s * np.exp(traffic) * np.where(hit, harm.throughput, 1.0)
    cpu = fleet.cpu_per_byte * sent * np.exp(cost) * np.where(hit, harm.cpu, 1.0)
    connections = rng.poisson(fleet.connections * fleet.period_s * np.exp(traffic))
    failures = _failures(rng, fleet, noise, fleets, size, n)
    if harm.failures:
        failures = failures + rng.binomial(connections, np.where(hit, harm.failures, 0.0))
    probes = fleet.probe_s * np.exp(probe) * np.where(hit, harm.latency, 1.0)
    return Drawn(fleet, since, on, washout, block, cpu, sent, connections, failures, probes)


def _memory(rng: np.random.Generator, shape: tuple[int, int], ar: float) -> Array:
    """Standard normal numbers, each row an AR(1) process."""
    from scipy.signal import lfilter

    steps = rng.normal(size=shape) * math.sqrt(1 - ar * ar)
    steps[:, 0] = rng.normal(size=shape[0])
    return lfilter([1.0], [1.0, -ar], steps, axis=1) if ar else steps


def _arms(rng: np.random.Generator, fleet: Fleet, ours: Array, since: Array) -> tuple[Array, Array, Array]:
    """Whether kTLS is on, whether it is washout, and the number of the block, for each host and sample."""
    soak = since > 0
    hosts = len(ours)
    mine = ours[:, None] & soak
    if fleet.method != "switchback":
        return mine, np.zeros_like(mine), np.full(mine.shape, -1)
    middle = since - fleet.period_s / 2
    block = np.where(soak, (middle // fleet.block_s).astype(int), -1)
    first = rng.integers(0, 2, (hosts, max(int(block.max()), 0) // 2 + 1))
    on = mine & ((first[:, np.maximum(block, 0) // 2] + block) % 2 == 1)
    return on, mine & (middle % fleet.block_s < fleet.washout_s), np.where(mine, block, -1)


def _failures(rng: np.random.Generator, fleet: Fleet, noise: Noise, fleets: int, size: int, n: int) -> Array:
    """Failures of each host and sample that have nothing to do with kTLS."""
    hosts = fleets * size
    if not (noise.failures or noise.storms):
        return np.zeros((hosts, n), dtype=int)
    each = max(round(60 / fleet.period_s), 1)
    minutes = -(-n // each)
    rate = noise.failures * np.exp(rng.normal(0, noise.host_failures, (hosts, 1)))
    bad = rng.random((hosts, minutes)) < rate / max(noise.burst, 1.0)
    if noise.burst:
        stays = rng.random((hosts, minutes)) < 1 - 1 / max(noise.burst, 1.0)
        for at in range(1, minutes):
            bad[:, at] |= bad[:, at - 1] & stays[:, at]
    storm = rng.random((fleets, minutes)) < noise.storms / 60
    storm[:, 1:] |= storm[:, :-1]
    bad |= np.repeat(storm, size, axis=0) & (rng.random((hosts, minutes)) < 0.8)
    inside = rng.random((hosts, minutes * each)) < 0.3
    return (np.repeat(bad, each, axis=1) * inside * rng.integers(1, 4, inside.shape))[:, :n]
