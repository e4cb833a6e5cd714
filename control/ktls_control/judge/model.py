# SPDX-License-Identifier: Apache-2.0
"""What the judge reads and says, as plain data. Units: seconds, bytes; effects are shares (0.03 is 3 %)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["pass", "fail", "inconclusive"]
Arm = Literal["off", "on", "mixed"]


@dataclass(frozen=True)
class Sample:
    """One interval on one host; all counts are of this interval alone.

    :param at_s: its end, on the host's CLOCK_BOOTTIME.
    :param seconds: its length.
    :param arm: what new connections got during it: userspace (``off``), the phase (``on``), both (``mixed``).
    :param washout: it lies in the washout of a block of a switchback.
    :param cpu_s: CPU time of the serving processes; None when it could not be read, as for all that follow.
    :param sent: bytes that they sent; ``ktls``: those of them that the kernel encrypted.
    :param connections: accepted; ``requests``: answered.
    :param errors: failures by taxonomy, those of clients left out.
    :param probe_s: how long each self-probe of the interval took.
    :param block: number of its block of a switchback, from 0: blocks 2k and 2k+1 are a pair, one of each arm. None: the
        judge finds the blocks by their arms and washouts.
    """

    at_s: float
    seconds: float
    arm: Arm = "off"
    washout: bool = False
    cpu_s: float | None = None
    sent: int | None = None
    ktls: int | None = None
    connections: int | None = None
    requests: int | None = None
    errors: Mapping[str, int] | None = None
    probe_s: tuple[float, ...] = ()
    block: int | None = None


@dataclass(frozen=True)
class ArmTotals:
    """What the connections that drew one arm amounted to over a soak (experiment ``connections``)."""

    connections: int
    requests: int
    sent: int
    errors: int
    seconds: tuple[float, ...] = ()


@dataclass(frozen=True)
class HostSeries:
    """One host's samples, oldest first, all of one boot.

    :param ordered_at_s: when the order took effect, on the same clock; samples before it are the baseline.
    :param boot_id: of the host; samples of two boots are never in one series.
    :param read_at_s: the host's clock when it was read: shows how old the last sample is.
    :param skew_s: the host's wall clock less the control node's, when it was read.
    """

    host: str
    samples: tuple[Sample, ...]
    ordered_at_s: float | None = None
    boot_id: str = ""
    read_at_s: float = 0.0
    skew_s: float = 0.0
    arms: Mapping[str, ArmTotals] = field(default_factory=dict)


@dataclass(frozen=True)
class MetricVerdict:
    """One metric of a wave.

    :param effect: estimated change, positive is worse; ``low`` and ``high``: its confidence interval.
    :param margin: harm that is accepted: passes when ``high`` is below it, fails when ``low`` is above 0 and the
        effect above it.
    :param test: name of the test; ``p``: its p-value for "no harm"; ``n``: pairs, blocks or hosts behind it.
    :param gating: it has to pass; what is not gating can fail a wave and never holds one up.
    """

    name: str
    outcome: Outcome
    effect: float | None
    low: float | None
    high: float | None
    margin: float
    test: str
    p: float | None
    n: int
    detail: str = ""
    gating: bool = True


@dataclass(frozen=True)
class WaveVerdict:
    """The gate's answer for a wave, and every number behind it.

    :param e_path: E-value of the error test after each thing that it saw, oldest first; ``e_limit``: it fails there.
    :param hosts: what a host alone failed by or could not say, by host; hosts that are well are not in it.
    """

    outcome: Outcome
    reasons: tuple[str, ...]
    metrics: tuple[MetricVerdict, ...] = ()
    e_value: float | None = None
    e_path: tuple[float, ...] = ()
    e_limit: float | None = None
    hosts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
