# SPDX-License-Identifier: Apache-2.0
"""The hosts of a plan, or more of the same: which wave takes each, and which a regression hits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..errors import ControlError
from ..plan.model import Plan
from .regression import LABELS, Regression

#: A first wave of at most so many hosts is a canary, which stays that small in a larger fleet; see :func:`sizes`.
CANARY = 20


@dataclass(frozen=True)
class Fleet:
    """Hosts by number.

    :param wave: index of the wave of each host.
    :param like: index, among the plan's hosts, of the one that each stands for.
    :param labels: for each key, the value of each of the plan's hosts.
    """

    hosts: int
    waves: int
    wave: NDArray[np.int64]
    like: NDArray[np.int64]
    labels: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)

    def members(self, wave: int) -> NDArray[np.int64]:
        """Numbers of the hosts of a wave."""
        return np.flatnonzero(self.wave == wave)


def sizes(planned: Sequence[int], hosts: int) -> list[int]:
    """How many hosts each wave has in a fleet of ``hosts``, by the same policy.

    The first wave, if it is a canary, is a number; every later one is a share of the hosts that it leaves.
    """
    if hosts == sum(planned):
        return list(planned)
    head = list(planned[:1]) if len(planned) > 1 and planned[0] <= min(CANARY, hosts - len(planned) + 1) else []
    rest, shares = hosts - sum(head), np.asarray(planned[len(head) :], dtype=float)
    # One host for each wave first, so that none is empty.
    spare = rest - shares.size
    ends = [round(float(end)) for end in np.cumsum(shares) / shares.sum() * spare]
    return head + [end - start + 1 for start, end in zip([0, *ends], ends, strict=False)]


def build(plan: Plan, hosts: int | None = None) -> Fleet:
    """The fleet of ``plan``, or one of ``hosts`` hosts of which each is like one of the plan's.

    :raises ControlError: ``bad_hosts`` when there are fewer than waves.
    """
    names = [name for wave in plan.waves for name in wave.hosts]
    if not names:
        raise ControlError("no_hosts", f"plan {plan.id} has no host in any wave: nothing to simulate")
    hosts = len(names) if hosts is None else hosts
    if hosts < len(plan.waves):
        raise ControlError("bad_hosts", f"{hosts} hosts are too few for the {len(plan.waves)} waves of the plan")
    counts = sizes([len(wave.hosts) for wave in plan.waves], hosts)
    wave = np.repeat(np.arange(len(counts)), counts)
    first = np.cumsum([0] + [len(one.hosts) for one in plan.waves])
    # Within a wave the plan's hosts of that wave are repeated, so that its caps by label hold as shares.
    like = np.concatenate(
        [
            first[number] + np.arange(count) % max(1, len(plan.waves[number].hosts))
            for number, count in enumerate(counts)
        ]
    )
    labels = {key: np.asarray([plan.hosts[name].labels.get(key, "") for name in names]) for key in LABELS}
    return Fleet(hosts, len(counts), wave, like, labels)


def affected(fleet: Fleet, regression: Regression, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which hosts the regression hits; those that no label names are drawn.

    :raises ControlError: ``nobody`` when no host has the label, ``bad_hosts`` when more are asked for than there are.
    """
    where = regression.where
    if where.label:
        key, value = where.label
        known = fleet.labels[key]
        if value not in known:
            values = ", ".join(sorted(set(known.tolist()) - {""})) or "none at all"
            raise ControlError("nobody", f"no host of the plan has {key}={value}; the plan knows {values}")
        return np.asarray((known == value)[fleet.like])
    if where.hosts is None and where.share is None:
        return np.ones(fleet.hosts, dtype=bool)
    count = where.hosts if where.hosts is not None else round((where.share or 0.0) * fleet.hosts)
    if count > fleet.hosts:
        raise ControlError("bad_hosts", f"{count:,} hosts to be hit, and the fleet has {fleet.hosts:,}")
    hit = np.zeros(fleet.hosts, dtype=bool)
    hit[rng.choice(fleet.hosts, size=count, replace=False)] = True
    return hit
