# SPDX-License-Identifier: Apache-2.0
"""When the judge looks at continuous metrics, and how much of its error rate each look may spend.

A test that is read again and again until it says something lies (peeking each five minutes at 5 % is wrong in 15 %
of the cases). So looks are at fixed times of the soak, and all of them together keep the error rate. Which look is due
follows from the data alone: whoever asks between two looks gets the answer of the earlier one from the same data, and
whoever asks more often gains nothing.

The looks from the least to the longest soak have one level each, by the group sequential method (Pocock 1977; level by
the recursion of Armitage, McPherson and Rowe 1969): estimates at two looks go together by the data that they share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from ..plan.model import Gates, Soak

#: Gates that share alpha: half of it is the error test's, the rest is split by the metrics.
GATING = ("cpu", "latency", "throughput")
#: Two looks are at most so far apart, and there are at most so many after the main one.
_RATIO, _MOST = 1.5, 4
#: Share of alpha of a look in the middle of the least soak, which may only fail; and of all looks after the longest.
_EARLY, _EXTENDED = 0.05, 0.05
#: What is left of alpha for one look of a long soak, at least: sets how many pairs a switchback has to wait for.
_LEAST_LEVEL = 0.24


@dataclass(frozen=True)
class Look:
    """One look: data up to ``at_s`` of the soak. Number -1 is the early one, 0 the main one.

    :param planned: how many looks there are from the least to the longest soak, ``ratio`` apart; 0: the look is none of
        them and has ``share`` of alpha for itself.
    """

    number: int
    at_s: float
    planned: int
    ratio: float
    share: float

    def level(self, alpha: float) -> float:
        """Error rate of this look, such that all looks together have ``alpha``."""
        if not self.planned:
            return alpha * self.share
        return _level(alpha * self.share, self.planned, round(self.ratio, 6))


@dataclass(frozen=True)
class Schedule:
    """All looks of a wave; ``main_s`` is the first that may pass it, ``max_s`` the last one planned."""

    main_s: float
    max_s: float

    @property
    def main(self) -> Look:
        """The first look that may pass."""
        return self._look(0)

    def due(self, elapsed_s: float) -> Look | None:
        """The latest look that ``elapsed_s`` seconds of data are enough for; None when it is too early for any.

        A look is also due when only the last sample of its time is missing.
        """
        reached = elapsed_s + min(10.0, 0.05 * elapsed_s)
        if reached < self.main_s:
            return Look(-1, self.main_s / 2, 0, 1.0, _EARLY) if reached >= self.main_s / 2 else None
        ratio, _ = self._steps()
        number = int(math.log(reached / self.main_s) / math.log(ratio) + 1e-9)
        return self._look(number)

    def following(self, elapsed_s: float) -> float:
        """When the next look is due, in seconds of the soak."""
        look = self.due(elapsed_s)
        if look is None:
            return self.main_s / 2
        return self._look(look.number + 1).at_s

    def _look(self, number: int) -> Look:
        ratio, steps = self._steps()
        at_s = self.main_s * ratio**number
        if number <= steps:
            return Look(number, at_s, steps + 1, ratio, 1 - _EARLY - _EXTENDED)
        # Half of what is left, however often the soak is extended.
        return Look(number, at_s, 0, ratio, _EXTENDED / 2 ** (number - steps))

    def _steps(self) -> tuple[float, int]:
        """How far apart looks are, and how many follow the main one until ``max_s``, which is the last of them."""
        if self.max_s <= self.main_s * 1.05:
            return _RATIO, 0
        steps = min(math.ceil(math.log(self.max_s / self.main_s) / math.log(_RATIO)), _MOST)
        return float((self.max_s / self.main_s) ** (1 / steps)), steps


def schedule(gates: Gates, soak: Soak | None, hosts: int) -> Schedule:
    """The looks of a wave of ``hosts`` hosts. They depend on the plan and never on what was seen.

    The main look of a switchback is not before its blocks could show anything, if the longest soak allows: a sign-flip
    test of n pairs has no p-value below 1/2^n.
    """
    needed = 10 * gates.block_s
    if gates.method == "switchback":
        needed = 2 * gates.block_s * math.ceil(pairs_needed(gates.alpha, hosts) / max(hosts, 1))
    if soak is None:
        return Schedule(needed, 6 * needed)
    longest = max(soak.min_s, soak.max_s, 1.0)
    main = min(max(soak.min_s, needed), longest) if gates.method == "switchback" else soak.min_s
    return Schedule(max(main, 1.0), longest)


def alpha_fail(alpha: float, halved: bool = False) -> float:
    """Error rate of one metric, over all looks, for "there is harm": any of them stops the wave.

    :param halved: it fails by the mean of all hosts or by the worst of them, each with half of it.
    """
    return alpha / 2 / len(GATING) / (2 if halved else 1)


def alpha_pass(alpha: float) -> float:
    """Error rate of one metric, over all looks, for "no harm above the margin": all of them have to say it."""
    return alpha


def pairs_needed(alpha: float, hosts: int = 1) -> int:
    """Fewest pairs, of all hosts, for which a sign-flip test can fail a wave at any of its looks."""
    return math.ceil(math.log2(1 / (_LEAST_LEVEL * alpha_fail(alpha, hosts > 1))) - 1e-9)


def e_limit(alpha: float) -> float:
    """E-value at which the error test stops a wave: half of alpha is its own."""
    return 2 / alpha


@lru_cache(maxsize=1024)
def _level(alpha: float, looks: int, ratio: float) -> float:
    """One-sided level of each of ``looks`` looks whose times are ``ratio`` apart, all together ``alpha``."""
    from scipy.optimize import brentq
    from scipy.special import ndtr, ndtri

    if looks == 1:
        return alpha
    low, high = -float(ndtri(alpha)), -float(ndtri(alpha / looks))
    bound = brentq(lambda z: _crossing(z, looks, ratio) - alpha, low, high, xtol=1e-4)
    return float(ndtr(-bound))


def _crossing(bound: float, looks: int, ratio: float) -> float:
    """Chance that a standardised sum exceeds ``bound`` at any of the looks, when nothing is wrong."""
    import numpy as np

    # Sums at times that are a ratio apart are, standardised, a first-order autoregression.
    memory = ratio**-0.5
    grid = np.linspace(-6.0, bound, 301)
    step = grid[1] - grid[0]
    weight = np.full(grid.size, step)
    weight[[0, -1]] = step / 2
    density = np.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi)
    spread = math.sqrt(1 - memory**2)
    move = np.exp(-(((grid[:, None] - memory * grid[None, :]) / spread) ** 2) / 2) / (spread * math.sqrt(2 * math.pi))
    for _ in range(looks - 1):
        density = move @ (density * weight)
    return 1 - float(density @ weight)
