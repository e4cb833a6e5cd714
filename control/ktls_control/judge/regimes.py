# SPDX-License-Identifier: Apache-2.0
"""Fleets with known noise and known harm, to measure how often the judge is wrong. Fixed seeds, same numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .model import Arm, HostSeries, Sample

Array = Any


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


def draw(fleet: Fleet, noise: Noise, harm: Harm, seed: int) -> tuple[list[HostSeries], list[HostSeries]]:
    """:returns: the wave's hosts and the others."""
    rng = np.random.default_rng(seed)
    hosts = fleet.wave + fleet.others
    before, after = (round(span / fleet.period_s) for span in (fleet.baseline_s, fleet.soak_s))
    n = before + after
    since = (np.arange(n) - before + 1) * fleet.period_s
    shared = _memory(rng, (1, n), noise.ar) * noise.shock
    level = rng.normal(0, noise.host, (hosts, 1)) + shared
    cost = level + _memory(rng, (hosts, n), noise.ar) * noise.cpu
    cost += np.where(rng.random((hosts, n)) < noise.spikes, math.log(noise.spike), 0.0)
    traffic = rng.normal(0, noise.host, (hosts, 1)) + shared + _memory(rng, (hosts, n), noise.ar) * noise.traffic
    probe = level + rng.normal(0, noise.probe, (hosts, n))
    on, washout, arms = _arms(rng, fleet, hosts, since)
    hit = on.copy()
    hit[harm.hosts if harm.hosts is not None else hosts :] = False
    seconds = np.full((hosts, n), fleet.period_s)
    sent = fleet.rate * seconds * np.exp(traffic) * np.where(hit, harm.throughput, 1.0)
    cpu = fleet.cpu_per_byte * sent * np.exp(cost) * np.where(hit, harm.cpu, 1.0)
    connections = rng.poisson(fleet.connections * seconds * np.exp(traffic))
    failures = _failures(rng, fleet, noise, hosts, n) + rng.binomial(connections, np.where(hit, harm.failures, 0.0))
    probes = fleet.probe_s * np.exp(probe) * np.where(hit, harm.latency, 1.0)
    start = 1000.0 + fleet.baseline_s
    series = []
    for index in range(hosts):
        rows = zip(
            (start + since).tolist(),
            arms[index],
            washout[index].tolist(),
            cpu[index].tolist(),
            np.rint(sent[index]).astype(int).tolist(),
            connections[index].tolist(),
            failures[index].tolist(),
            probes[index].tolist(),
            strict=True,
        )
        samples = tuple(
            Sample(
                at, fleet.period_s, arm, wash, c, s, s if arm == "on" else 0, k, k, {"io_error": f} if f else {}, (p,)
            )
            for at, arm, wash, c, s, k, f, p in rows
        )
        series.append(HostSeries(f"host{index + 1}", samples, start, "boot", start + fleet.soak_s + 1.0))
    others = [replace(one, ordered_at_s=None) for one in series[fleet.wave :]]
    return series[: fleet.wave], others


def _memory(rng: np.random.Generator, shape: tuple[int, int], ar: float) -> Array:
    """Standard normal numbers, each row an AR(1) process."""
    from scipy.signal import lfilter

    steps = rng.normal(size=shape) * math.sqrt(1 - ar * ar)
    steps[:, 0] = rng.normal(size=shape[0])
    return lfilter([1.0], [1.0, -ar], steps, axis=1) if ar else steps


def _arms(rng: np.random.Generator, fleet: Fleet, hosts: int, since: Array) -> tuple[Array, Array, list[list[Arm]]]:
    """Whether kTLS is on, whether it is washout, and the arm's name, for each host and sample."""
    soak = since > 0
    on = np.zeros((hosts, len(since)), dtype=bool)
    washout = np.zeros_like(on)
    if fleet.method == "switchback":
        block = np.where(soak, ((since - fleet.period_s / 2) // fleet.block_s).astype(int), 0)
        first = rng.integers(0, 2, (hosts, int(block.max()) // 2 + 1))
        on[: fleet.wave] = (soak & ((first[:, block // 2] + block) % 2 == 1))[: fleet.wave]
        washout[: fleet.wave] = soak & ((since - fleet.period_s / 2) % fleet.block_s < fleet.washout_s)
    else:
        on[: fleet.wave] = soak
    return on, washout, [["on" if one else "off" for one in row] for row in on]


def _failures(rng: np.random.Generator, fleet: Fleet, noise: Noise, hosts: int, n: int) -> Array:
    """Failures of each host and sample that have nothing to do with kTLS."""
    minute = max(round(60 / fleet.period_s), 1)
    minutes = -(-n // minute)
    rate = noise.failures * np.exp(rng.normal(0, noise.host_failures, (hosts, 1)))
    bad = rng.random((hosts, minutes)) < rate / max(noise.burst, 1.0)
    if noise.burst:
        going = bad.copy()
        stays = rng.random((hosts, minutes)) < 1 - 1 / max(noise.burst, 1.0)
        for at in range(1, minutes):
            going[:, at] |= going[:, at - 1] & stays[:, at]
        bad = going
    for at in np.flatnonzero(rng.random(minutes) < noise.storms / 60).tolist():
        bad[:, at : at + 3] |= rng.random((hosts, bad[:, at : at + 3].shape[1])) < 0.8
    inside = rng.random((hosts, minutes * minute)) < 0.3
    counts = np.repeat(bad, minute, axis=1) * inside * rng.integers(1, 4, inside.shape)
    return counts[:, :n]
