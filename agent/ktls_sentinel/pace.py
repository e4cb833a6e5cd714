# SPDX-License-Identifier: Apache-2.0
"""Which target is downloaded from next, and when. Pure: time and chance come from outside."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

JITTER = 0.25


class Schedule:
    """Targets by number, each due once an interval. Several workers take from it; none is taken twice at a time."""

    def __init__(self, names: Sequence[str], interval_s: float, now_s: float) -> None:
        """Spread the first round over a second, or over the interval where there are many: nothing bursts."""
        self._interval_s = interval_s
        step = min(interval_s / max(1, len(names)), 1.0)
        self._due = [(now_s + index * step, name) for index, name in enumerate(names)]
        heapq.heapify(self._due)

    def take(self, now_s: float) -> str | None:
        """Return a target that is due, and do not name it again before :meth:`done`."""
        if self._due and self._due[0][0] <= now_s:
            return heapq.heappop(self._due)[1]
        return None

    def wait_s(self, now_s: float) -> float | None:
        """Return the time until the next is due; None if all are under way."""
        return max(0.0, self._due[0][0] - now_s) if self._due else None

    def done(self, name: str, now_s: float, chance: float) -> None:
        """The download of ``name`` ended. ``chance``: a random number from 0 to 1."""
        delay = self._interval_s * (1.0 + JITTER * (2.0 * chance - 1.0))
        heapq.heappush(self._due, (now_s + delay, name))
