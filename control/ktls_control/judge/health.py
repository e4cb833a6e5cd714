# SPDX-License-Identifier: Apache-2.0
"""Whether a host's series can be judged at all, in words for the operator. What is missing is never a pass."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from .columns import MIXED, Array, Columns
from .model import HostSeries

#: A last sample older than this many sample periods (and 30 s) is stale.
_STALE_PERIODS, STALE_S = 4, 30.0
#: Clocks further apart than this are wrong: leases and freeze windows go by them (seconds).
MAX_SKEW_S = 30.0
#: Share of the soak that samples have to cover, and share of samples that have to have a number.
MIN_COVER = 0.8


def problems(series: HostSeries, columns: Columns, index: int) -> Iterator[str]:
    """Why the series of host ``index`` says too little about its soak. Nothing: it can be judged."""
    if series.ordered_at_s is None:
        yield "its series does not say when the order took effect: it was rebooted, or the agent forgot"
        return
    if not math.isfinite(series.ordered_at_s) or series.read_at_s < series.ordered_at_s:
        yield "its clock is before the time of the order: it was rebooted"
        return
    if abs(series.skew_s) > MAX_SKEW_S or not math.isfinite(series.skew_s):
        yield f"its clock is {series.skew_s:+.0f} s off the control node's"
    first, last = np.searchsorted(columns.host, [index, index + 1])
    rows = slice(int(first), int(last))
    at, seconds = columns.at[rows], columns.seconds[rows]
    soak = columns.since[rows] > 0
    if not soak.any():
        yield "no sample since the order"
        return
    if not (np.isfinite(at).all() and np.isfinite(seconds).all() and (seconds > 0).all()):
        yield "samples without a time"
        return
    if (np.diff(at) < 0.5 * seconds[1:]).any():
        yield "its samples overlap or go back in time: its clock or its agent is wrong"
        return
    period = float(np.median(seconds[soak]))
    age = series.read_at_s - float(at[-1])
    if age < -max(period, 1.0):
        yield f"its last sample is {-age:.0f} s in the future: its clock is wrong"
    elif age > max(_STALE_PERIODS * period, STALE_S):
        yield f"its last sample is {age:.0f} s old"
    yield from _covered(columns, rows, soak, series.read_at_s - series.ordered_at_s)


def _covered(columns: Columns, rows: slice, soak: Array, elapsed_s: float) -> Iterator[str]:
    """Holes, and counters that could not be read or began anew."""
    seconds = columns.seconds[rows][soak]
    cover = float(seconds.sum()) / max(elapsed_s, 1e-9)
    if cover < MIN_COVER and elapsed_s > 3 * float(np.median(seconds)):
        yield f"samples cover {100 * cover:.0f} % of the soak, {100 * MIN_COVER:.0f} % needed"
    for title, column in (("CPU time", columns.cpu), ("bytes sent", columns.sent), ("errors", columns.errors)):
        values = column[rows][soak]
        if (values < 0).any():
            yield f"{title} went backwards: the sidecar restarted during the soak"
            return
        known = float(np.isfinite(values).mean())
        if known < MIN_COVER:
            yield f"{title} in {100 * known:.0f} % of the samples, {100 * MIN_COVER:.0f} % needed"


def all_mixed(columns: Columns) -> bool:
    """Whether no sample of the soak knows which arm it is of."""
    soak = columns.since > 0
    return bool(soak.any() and (columns.arm[soak] == MIXED).all())
