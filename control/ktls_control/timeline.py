# SPDX-License-Identifier: Apache-2.0
"""The samples of all hosts as one picture's worth of numbers. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from .sampler import PATHS, Sample


@dataclass(frozen=True)
class Mark:
    """Something that happened, to be drawn over the picture.

    :param start: seconds since the beginning of the picture.
    :param end: same for a span, None for a moment.
    """

    label: str
    start: float
    end: float | None
    kind: str


@dataclass(frozen=True)
class Timeline:
    """Sums over the fleet on a regular grid.

    :param seconds: grid, seconds since the first sample.
    :param connections: open connections by path, one value for each grid point.
    :param rates: bytes per second by path, over the step that ends at the grid point.
    """

    seconds: list[float]
    connections: dict[str, list[float]]
    rates: dict[str, list[float]]


def build(samples: Sequence[Sample], step_s: float = 1.0) -> tuple[float, Timeline]:
    """:returns: the time of the first sample (seconds since the epoch), and the sums."""
    if not samples:
        return 0.0, Timeline([], {path: [] for path in PATHS}, {path: [] for path in PATHS})
    origin, last = samples[0].at, samples[-1].at
    by_host: dict[str, list[Sample]] = {}
    for sample in samples:
        by_host.setdefault(sample.host, []).append(sample)
    seconds = [step * step_s for step in range(int((last - origin) / step_s) + 1)]
    connections: dict[str, list[float]] = {path: [0.0] * len(seconds) for path in PATHS}
    carried: dict[str, list[float]] = {path: [0.0] * len(seconds) for path in PATHS}
    for series in by_host.values():
        times = [sample.at - origin for sample in series]
        for index, moment in enumerate(seconds):
            for path in PATHS:
                carried[path][index] += _at(times, [sample.bytes[path] for sample in series], moment)
                seen = series[max(0, bisect_right(times, moment) - 1)]
                connections[path][index] += seen.connections[path]
    rates = {
        path: [0.0] + [max(0.0, (b - a) / step_s) for a, b in zip(totals, totals[1:], strict=False)]
        for path, totals in carried.items()
    }
    return origin, Timeline(seconds, connections, rates)


def _at(times: Sequence[float], values: Sequence[int], moment: float) -> float:
    """Value at a moment, on a straight line between the samples around it."""
    right = bisect_right(times, moment)
    if right == 0:
        return float(values[0])
    if right == len(times):
        return float(values[-1])
    before, after = times[right - 1], times[right]
    share = (moment - before) / (after - before) if after > before else 1.0
    return values[right - 1] + share * (values[right] - values[right - 1])
