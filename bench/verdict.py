# SPDX-License-Identifier: Apache-2.0
"""From rounds to ratios with their spread, and from those to whether a target is met. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Round = dict[str, dict[str, float]]
"""Contestant -> metric -> value."""

MET, MISSED, UNCLEAR = "met", "missed", "unclear"
_CLIENT_FULL, _SERVER_FREE = 0.9, 0.85
_DISTURBED = 0.25
_BY_THE_CLOCK = frozenset({"bytes_per_s", "p99_ms"})


@dataclass(frozen=True)
class Target:
    """A bound for the median, of the ratio of the contestants or, where ``absolute``, of the second one's value."""

    metric: str
    text: str
    at_least: float | None = None
    at_most: float | None = None
    absolute: bool = False

    def holds(self, value: float) -> bool:
        """True when ``value`` is within the bound."""
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def bound(self) -> str:
        """Return the bound as text."""
        return f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"


@dataclass(frozen=True)
class Spread:
    """Median of all rounds and their extremes."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Raises statistics.StatisticsError without values."""
    return Spread(statistics.median(values), min(values), max(values))


def ratios(rounds: Sequence[Round], base: str, other: str, metric: str) -> list[float]:
    """Return ``other`` divided by ``base``, each round by itself, so that slow drift of the machine cancels out."""
    return [item[other][metric] / item[base][metric] for item in rounds]


def client_bound(rounds: Sequence[Round], contestants: Sequence[str]) -> bool:
    """True when in the middle round the load generator had no CPU left while a server had."""
    for name in contestants:
        client = statistics.median(item[name].get("client_busy", 0.0) for item in rounds)
        server = statistics.median(item[name].get("server_busy", 1.0) for item in rounds)
        if client > _CLIENT_FULL and server < _SERVER_FREE:
            return True
    return False


def disturbed(rounds: Sequence[Round], contestants: Sequence[str]) -> bool:
    """True when in the middle round other processes took a quarter of a CPU or more."""
    return any(
        statistics.median(item[name].get("others_busy", 0.0) for item in rounds) >= _DISTURBED for name in contestants
    )


def judge(
    rounds: Sequence[Round], base: str, other: str, targets: Sequence[Target], shared_cpu: bool
) -> list[dict[str, Any]]:
    """Return each target with its ratio, spread and verdict.

    What goes by the clock proves nothing where other processes took the CPU, and throughput nothing where the load
    generator had none left: ``unclear``. On one shared CPU the load generator always competes, and throughput is that
    of both together; that is said, and judged.
    """
    found = []
    for target in targets:
        values = (
            [item[other][target.metric] for item in rounds]
            if target.absolute
            else ratios(rounds, base, other, target.metric)
        )
        seen = spread(values)
        verdict = MET if target.holds(seen.median) else MISSED
        limited = target.metric == "bytes_per_s" and not shared_cpu and client_bound(rounds, (base, other))
        if limited or (target.metric in _BY_THE_CLOCK and disturbed(rounds, (base, other))):
            verdict = UNCLEAR
        found.append(
            {
                "metric": target.metric,
                "text": target.text,
                "absolute": target.absolute,
                "bound": target.bound(),
                "limit": target.at_least if target.at_least is not None else target.at_most,
                "at_least": target.at_least is not None,
                "median": seen.median,
                "low": seen.low,
                "high": seen.high,
                "verdict": verdict,
            }
        )
    return found


def medians(rounds: Sequence[Round], contestants: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the median of each metric of each contestant."""
    return {
        name: {metric: statistics.median(item[name][metric] for item in rounds) for metric in rounds[0][name]}
        for name in contestants
        if rounds and name in rounds[0]
    }


def all_met(scenarios: Sequence[dict[str, Any]]) -> bool:
    """True when every target of every scenario is met, and there is one."""
    judged = [item for scenario in scenarios for item in scenario["judged"]]
    return bool(judged) and all(item["verdict"] == MET for item in judged)
