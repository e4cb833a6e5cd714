# SPDX-License-Identifier: Apache-2.0
"""When the judge looks at continuous metrics, and how much of its error rate each look may spend.

A test that is read again and again until it says something lies (peeking each five minutes at 5 % is wrong in 15 %
of the cases). So looks are at fixed times of the soak, each has its own share of alpha, and the shares add up to one.
Which look is due follows from the data alone. Whoever asks between two looks gets the answer of the earlier one from
the same data, and whoever asks more often gains nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..plan.model import Gates, Soak

#: Gates that share alpha: half of it is the error test's, the rest is split by the metrics.
GATING = ("cpu", "latency", "throughput")
_RATIO = 1.5
#: Share of alpha of a look in the middle of the soak, which may only fail; and of the look at its end.
_EARLY, _MAIN = 0.1, 0.55


@dataclass(frozen=True)
class Look:
    """One look: data up to ``at_s`` of the soak, with ``share`` of the error rate; number -1 is the early one."""

    number: int
    at_s: float
    share: float


@dataclass(frozen=True)
class Schedule:
    """All looks of a wave; ``main_s`` is the first that may pass it, ``max_s`` the last one planned."""

    main_s: float
    max_s: float

    def due(self, elapsed_s: float) -> Look | None:
        """The latest look that ``elapsed_s`` seconds of data are enough for; None when it is too early for any.

        A look is also due when only the last sample of its time is missing.
        """
        reached = elapsed_s + min(10.0, 0.05 * elapsed_s)
        if reached < self.main_s:
            return Look(-1, self.main_s / 2, _EARLY) if reached >= self.main_s / 2 else None
        ratio, number = self._ratio(), 0
        while self.main_s * ratio ** (number + 1) <= reached:
            number += 1
        # 0.55, then 0.175, 0.0875, ...: with the early 0.1 they add up to one, however often the soak is extended.
        share = _MAIN if number == 0 else (1 - _MAIN - _EARLY) / 2**number
        return Look(number, self.main_s * ratio**number, share)

    def following(self, elapsed_s: float) -> float:
        """When the next look is due, in seconds of the soak."""
        look = self.due(elapsed_s)
        if look is None:
            return self.main_s / 2
        return self.main_s if look.number < 0 else self.main_s * self._ratio() ** (look.number + 1)

    def _ratio(self) -> float:
        """Between two looks; such that one of them is at ``max_s``."""
        if self.max_s <= self.main_s * 1.05:
            return _RATIO
        steps = math.ceil(math.log(self.max_s / self.main_s) / math.log(_RATIO))
        return float((self.max_s / self.main_s) ** (1 / steps))


def schedule(gates: Gates, soak: Soak | None, hosts: int) -> Schedule:
    """The looks of a wave of ``hosts`` hosts. They depend on the plan and never on what was seen.

    The main look of a switchback is not before its blocks could show anything: a sign-flip test of n pairs has no
    p-value below 1/2^n.
    """
    soak = soak if soak is not None else Soak(min_s=20 * gates.block_s, max_s=60 * gates.block_s)
    main = soak.min_s
    if gates.method == "switchback":
        main = max(main, 2 * gates.block_s * math.ceil(pairs_needed(gates.alpha) / max(hosts, 1)))
    return Schedule(main, max(soak.max_s, main))


def alpha_fail(alpha: float, share: float = _MAIN) -> float:
    """Error rate of one metric at a look of ``share`` for "there is harm": any of them stops the wave."""
    return alpha / 2 / len(GATING) * share


def alpha_pass(alpha: float, share: float = _MAIN) -> float:
    """Error rate of one metric at a look for "no harm above the margin": all of them have to say it."""
    return alpha * share


def pairs_needed(alpha: float) -> int:
    """Fewest pairs for which a sign-flip test can fail a wave at its main look."""
    return math.ceil(math.log2(1 / alpha_fail(alpha)) - 1e-9)


def e_limit(alpha: float) -> float:
    """E-value at which the error test stops a wave: half of alpha is its own."""
    return 2 / alpha
