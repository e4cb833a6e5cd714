# SPDX-License-Identifier: Apache-2.0
"""Whether a host's series can be judged at all, in words for the operator. What is missing is never a pass."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from .columns import Array, Columns
from .groups import medians
from .model import HostSeries

#: A last sample older than this many sample periods (and 30 s) is stale.
_STALE_PERIODS, STALE_S = 4, 30.0
#: Clocks further apart than this are wrong: leases and freeze windows go by them (seconds).
MAX_SKEW_S = 30.0
#: Share of the soak that samples have to cover, and share of samples that have to have a number.
MIN_COVER = 0.8


def problems(
    series: Sequence[HostSeries], columns: Columns, unfed: Mapping[str, Sequence[str]] | None = None
) -> list[list[str]]:
    """Why each host's series says too little about its soak. Nothing: it can be judged.

    :param unfed: what is known beforehand to be missing, by host; the metrics that need it cannot be told then.
    """
    soak = columns.since > 0
    facts = _Facts(columns, soak)
    missing = {name: _titles(what) for name, what in (unfed or {}).items()}
    return [list(_of_host(one, facts, index, missing.get(one.host, ()))) for index, one in enumerate(series)]


def _titles(unfed: Sequence[str]) -> tuple[str, ...]:
    return (*(("CPU time", "bytes sent") if "bytes" in unfed else ()), *(("errors",) if "errors" in unfed else ()))


class _Facts:
    """What is counted for all hosts at once."""

    def __init__(self, columns: Columns, soak: Array) -> None:
        host, hosts, seconds = columns.host, columns.hosts, columns.seconds

        def count(rows: Array) -> Array:
            return np.bincount(host[rows], minlength=hosts)

        timed = np.isfinite(columns.at) & np.isfinite(seconds) & (seconds > 0)
        self.samples = count(soak)
        self.untimed = count(~timed)
        step = np.diff(columns.at)
        self.back = count(np.flatnonzero((host[1:] == host[:-1]) & ~(step >= 0.5 * seconds[1:])) + 1)
        self.period = medians(host[soak], seconds[soak], hosts)
        self.covered = np.bincount(host[soak], weights=seconds[soak], minlength=hosts)
        self.last = np.full(hosts, -math.inf)
        with np.errstate(invalid="ignore"):
            np.maximum.at(self.last, host, columns.at)
        numbers = (("CPU time", columns.cpu), ("bytes sent", columns.sent), ("errors", columns.errors))
        self.known = [(title, count(soak & np.isfinite(column))) for title, column in numbers]
        self.reset = [(title, count(soak & (column < 0))) for title, column in numbers]


def _of_host(series: HostSeries, facts: _Facts, index: int, missing: Sequence[str]) -> Iterator[str]:
    if series.ordered_at_s is None:
        yield "its series does not say when the order took effect: it was rebooted, or the agent forgot"
        return
    if not math.isfinite(series.ordered_at_s) or not series.read_at_s >= series.ordered_at_s:
        yield "its clock is before the time of the order: it was rebooted"
        return
    if not abs(series.skew_s) <= MAX_SKEW_S:
        yield f"its clock is {series.skew_s:+.0f} s off the control node's"
    if not facts.samples[index]:
        yield "no sample since the order"
        return
    if facts.untimed[index]:
        yield "samples without a time"
        return
    if facts.back[index]:
        yield "its samples overlap or go back in time: its clock or its agent is wrong"
        return
    period, elapsed = float(facts.period[index]), series.read_at_s - series.ordered_at_s
    age = series.read_at_s - float(facts.last[index])
    if age < -max(period, 1.0):
        yield f"its last sample is {-age:.0f} s in the future: its clock is wrong"
    elif age > max(_STALE_PERIODS * period, STALE_S):
        yield f"its last sample is {age:.0f} s old"
    cover = float(facts.covered[index]) / max(elapsed, 1e-9)
    if cover < MIN_COVER and elapsed > 3 * period:
        yield f"samples cover {100 * cover:.0f} % of the soak, {100 * MIN_COVER:.0f} % needed"
    for title, count in facts.reset:
        if count[index]:
            yield f"{title} went backwards: the sidecar restarted during the soak"
            return
    for title, count in facts.known:
        known = int(count[index]) / int(facts.samples[index])
        if known < MIN_COVER and title not in missing:
            yield f"{title} in {100 * known:.0f} % of the samples, {100 * MIN_COVER:.0f} % needed"
