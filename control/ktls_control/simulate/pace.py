# SPDX-License-Identifier: Apache-2.0
"""How long a rollout's own work takes, waiting apart. Pure.

A task on ``n`` hosts takes ``host_s · ceil(n / forks)``, which is what hosts take one fork-full after the other, or
``n · controller_s / slices``, which is what the control node's CPU takes, whichever is longer. The defaults are
figures of docs/scale.md with a plausible network; a journal of one's own fleet gives better ones (:func:`fit`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .phases import Phases


@dataclass(frozen=True)
class Pace:
    """Seconds that the parts of a wave take.

    :param order_s: one host's order, the agent's own test included; ``evidence_s``, ``confirm_s``: so.
    :param controller_s: wall time of the control node for one task on one host when nothing else is waited for.
    :param wave_s: of each wave, however small.
    :param start_s: from the command to the first wave.
    :param forks: hosts that one control node works on at a time; ``slices``: control nodes that share the work.
    """

    order_s: float = 3.0
    evidence_s: float = 1.5
    confirm_s: float = 1.5
    controller_s: float = 0.1
    wave_s: float = 2.0
    start_s: float = 5.0
    forks: int = 25
    slices: int = 1

    def ordering_s(self, hosts: int) -> float:
        """From the opening of a wave to its soak."""
        return self.wave_s + self._task(hosts, self.order_s)

    def judging_s(self, hosts: int) -> float:
        """From the end of the soak to the verdict."""
        return self._task(hosts, self.evidence_s)

    def confirming_s(self, hosts: int) -> float:
        """From the verdict to the promotion, or to the last host that was taken back."""
        return self._task(hosts, self.confirm_s)

    def _task(self, hosts: int, host_s: float) -> float:
        return max(host_s * math.ceil(hosts / (self.forks * self.slices)), hosts * self.controller_s / self.slices)


def fit(pace: Pace, seen: Sequence[Phases]) -> Pace:
    """The pace with what hosts take set to the medians of waves that were seen."""

    def host_s(took: Sequence[tuple[int, float]], known: float, less: float = 0.0) -> float:
        each = [max(0.0, took_s - less) / math.ceil(hosts / (pace.forks * pace.slices)) for hosts, took_s in took]
        return statistics.median(each) if each else known

    return replace(
        pace,
        order_s=host_s([(wave.hosts, wave.ordering_s) for wave in seen], pace.order_s, pace.wave_s),
        evidence_s=host_s([(one.hosts, one.judging_s) for one in seen if one.judging_s is not None], pace.evidence_s),
        confirm_s=host_s(
            [(one.hosts, one.confirming_s) for one in seen if one.confirming_s is not None], pace.confirm_s
        ),
    )
