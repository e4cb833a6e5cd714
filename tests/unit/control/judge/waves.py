# SPDX-License-Identifier: Apache-2.0
"""Waves for tests: a simulated one, and the same one broken in some way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ktls_control.judge import regimes
from ktls_control.judge.model import HostSeries, Sample, WaveVerdict
from ktls_control.judge.regimes import Fleet, Harm
from ktls_control.judge.wave import judge_wave
from ktls_control.plan.model import Gates, Soak

#: Quiet enough that a healthy wave of two hosts passes at its main look.
QUIET = regimes.Noise(cpu=0.02, traffic=0.03, probe=0.04)
SOAK = Soak(600, 900, min_bytes=1)


def wave(harm: Harm | None = None, hosts: int = 2, seed: int = 1, **fleet: object) -> list[HostSeries]:
    """Hosts of a wave that took its order ten minutes ago."""
    drawn = regimes.draw(Fleet(wave=hosts, **fleet), QUIET, harm or Harm(), seed)  # type: ignore[arg-type]
    return drawn.series(0)[0]


def judge(series: Sequence[HostSeries], others: Sequence[HostSeries] = (), method: str = "switchback") -> WaveVerdict:
    """Judge by the gates of a plan's defaults."""
    gates = Gates(method=method)  # type: ignore[arg-type]
    return judge_wave("tx", gates, series, others, soak=SOAK)


def each(series: HostSeries, change: Callable[[Sample], Sample]) -> HostSeries:
    """The series with each sample changed."""
    return replace(series, samples=tuple(change(sample) for sample in series.samples))


def since(series: HostSeries, change: Callable[[Sample], Sample]) -> HostSeries:
    """The series with each sample since the order changed."""
    ordered = series.ordered_at_s or 0.0
    return each(series, lambda sample: change(sample) if sample.at_s > ordered else sample)


def minutes(host: str, errors: Sequence[int], past: Sequence[int], on: bool = True) -> HostSeries:
    """A host with one sample a minute: failures before the order and after it, and steady traffic.

    :param on: False: a host of a later wave.
    """
    samples = [
        Sample(
            60.0 * (index + 1),
            60.0,
            "on" if on and index >= len(past) else "off",
            cpu_s=6.0,
            sent=10**9,
            ktls=10**9 if on and index >= len(past) else 0,
            connections=1000,
            requests=1000,
            errors={"io_error": count} if count else {},
            probe_s=(0.02, 0.02, 0.02),
        )
        for index, count in enumerate([*past, *errors])
    ]
    end = 60.0 * len(samples)
    return HostSeries(host, tuple(samples), 60.0 * len(past) if on else None, "boot", end + 1)
