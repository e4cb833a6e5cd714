# SPDX-License-Identifier: Apache-2.0
"""Durations of responses by arm: a fair draw of bounded size from all that were told (Vitter, algorithm R)."""

from __future__ import annotations

import random
from collections.abc import Mapping

from .counts import USERSPACE

SIZE = 500


class Draw:
    """Keeps at most :data:`SIZE` durations of each arm, in seconds."""

    def __init__(self, seed: int = 0) -> None:
        """``seed``: of the draw."""
        self._chance = random.Random(seed)
        self._kept: dict[str, list[float]] = {"off": [], "on": []}
        self._seen = {"off": 0, "on": 0}
        self._looked = False
        self._last = {"off": float("-inf"), "on": float("-inf")}

    def take(self, times: Mapping[str, tuple[tuple[float, float], ...]]) -> None:
        """Take what is new in ``times``: when a response ended, and how long it took, by mode.

        What is there at the first look may be older than the experiment, and does not count.
        """
        first, self._looked = not self._looked, self._looked or bool(times)
        for mode, pairs in times.items():
            arm = "off" if mode == USERSPACE else "on"
            for at, seconds in pairs:
                if at > self._last[arm] and not first:
                    self._add(arm, seconds)
            self._last[arm] = max((at for at, _ in pairs), default=self._last[arm])

    def seconds(self, arm: str) -> list[float]:
        """Return those of ``arm``."""
        return self._kept[arm]

    def _add(self, arm: str, seconds: float) -> None:
        kept = self._kept[arm]
        self._seen[arm] += 1
        if len(kept) < SIZE:
            kept.append(seconds)
            return
        place = self._chance.randrange(self._seen[arm])
        if place < SIZE:
            kept[place] = seconds
