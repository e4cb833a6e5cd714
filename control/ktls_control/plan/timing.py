# SPDX-License-Identifier: Apache-2.0
"""How long a wave takes, and how long an order has to hold without being confirmed. Pure; seconds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ControlError
from ..judge.model import HostSeries
from ..request import LEASE_MARGIN_S
from .model import Soak

#: Of ansible.cfg: hosts that Ansible works on at a time.
FORKS = 25
#: Longest lease that an agent takes (ktls_agent/orders.py).
LEASE_MAX_S = 86400.0
#: Task executions for each host: order, evidence, confirm.
_TASKS = 3
#: A lease is told to people too.
_LEASE_STEP_S = 10


@dataclass(frozen=True)
class Traffic:
    """What the median host does in a second; None unknown."""

    bytes_s: float | None = None
    connections_s: float | None = None


def traffic(series: Sequence[HostSeries]) -> Traffic:
    """Of the hosts whose series were read."""
    return Traffic(_median(series, "sent"), _median(series, "connections"))


def _median(series: Sequence[HostSeries], name: str) -> float | None:
    rates = []
    for one in series:
        known = [(getattr(sample, name), sample.seconds) for sample in one.samples if getattr(sample, name) is not None]
        seconds = sum(span for _count, span in known)
        if seconds > 0:
            rates.append(sum(count for count, _span in known) / seconds)
    return statistics.median(rates) if rates else None


def task_s(hosts: int, host_s: float) -> float:
    """One task on ``hosts`` hosts."""
    return math.ceil(hosts / FORKS) * host_s


def soak_s(soak: Soak, hosts: int, seen: Traffic) -> float:
    """How long the traffic that the soak asks for takes; ``min_s`` where nobody knows the traffic."""
    least = [soak.min_s]
    if seen.bytes_s is not None and soak.min_bytes:
        least.append(soak.min_bytes / seen.bytes_s if seen.bytes_s else math.inf)
    if seen.connections_s is not None and soak.min_connections:
        rate = seen.connections_s * hosts
        least.append(soak.min_connections / rate if rate else math.inf)
    return min(max(least), soak.max_s)


def expected_s(soak: Soak, hosts: int, host_s: float, seen: Traffic) -> float:
    """A wave that passes, from its order to its confirmation."""
    return round(_TASKS * task_s(hosts, host_s) + soak_s(soak, hosts, seen), 1)


def lease_s(waves: Sequence[tuple[int, Soak]], host_s: float, asked: float | None) -> float:
    """Long enough for every wave: the first host that is ordered may be the last that is confirmed.

    :param waves: hosts and soak of each.
    :param asked: what the policy says.
    :raises ControlError: ``short_lease``, ``long_lease``.
    """
    least = max((_TASKS * task_s(hosts, host_s) + soak.max_s for hosts, soak in waves), default=0.0) + LEASE_MARGIN_S
    if asked is None:
        lease = float(math.ceil(least / _LEASE_STEP_S) * _LEASE_STEP_S)
    elif asked < least:
        raise ControlError(
            "short_lease",
            f"policy lease_s is {asked:g}, but a wave may take {least:g} s until it is confirmed: set it to {least:g} "
            "or more, or leave it out; hosts would revert meanwhile",
        )
    else:
        lease = asked
    if lease > LEASE_MAX_S:
        raise ControlError(
            "long_lease",
            f"a lease of {lease:g} s is longer than the {LEASE_MAX_S:g} s of agents: lower soak.max_s in the policy",
        )
    return lease
