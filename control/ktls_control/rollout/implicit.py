# SPDX-License-Identifier: Apache-2.0
"""The plan of a rollout that was asked for without one: every host of the group, waves by size. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ktls_host.drift import facts

from .. import request
from ..errors import ControlError
from ..plan import cards, datapaths
from ..plan import file as plan_file
from ..plan.model import Gates, Plan, PlannedHost, Refusal, Soak, Wave
from ..plan.policy import Policy
from . import store

PREFIX = "implicit-"
#: What the gate of a single host asks, as in :data:`ktls_control.plan.datapaths.WORDS`.
_NEEDED = ("errors", "share", "probe", "content")


@dataclass(frozen=True)
class Settings:
    """What ``playbooks/vars/waves.yml`` says.

    :param sentinels: machines of the inventory that watch the wire; ``without_sentinel``: there need be none.
    """

    waves: Sequence[object]
    soak_s: float
    soak_max_s: float
    min_bytes: int
    min_share: float
    lease_s: float
    sentinels: Sequence[str] = ()
    without_sentinel: bool = False


def make(
    phase: str | None,
    group: str,
    inventory: str,
    hosts: Sequence[str],
    settings: Settings,
    statuses: Mapping[str, Mapping[str, Any]],
    now: float,
) -> Plan:
    """:param statuses: what each host's agent says of itself now.

    :raises ControlError: what :func:`request.check` raises, and for phase ``hw`` what it has been refused for.
    """
    hw = phase == "hw"
    hardware = cards.hardware(str(phase), settings.sentinels, settings.without_sentinel)
    if hw:
        _able(hosts, statuses, lambda status: cards.of_host(status, Policy().hw_min_eligible))
    _able(hosts, statuses, lambda status: _served(status, str(phase)))
    asked = request.Request("rollout", group, hosts, phase, list(settings.waves), settings.soak_max_s, settings.lease_s)
    soak = Soak(settings.soak_s, max(settings.soak_s, settings.soak_max_s), 0, settings.min_bytes)
    waves = tuple(
        Wave(number, "canary" if number == 1 else f"wave {number}", tuple(names), soak)
        for number, names in enumerate(cut(hosts, settings.waves), 1)
    )
    return plan_file.seal(
        Plan(
            version=plan_file.VERSION,
            id=f"{PREFIX}{request.digest(asked)[:12]}",
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)),
            phase=request.check_phase(phase),
            inventory=inventory,
            group=group,
            limit=None,
            fleet=store.fleet_name(inventory, group),
            epoch_floor=max((int(status.get("epoch") or 0) for status in statuses.values()), default=0),
            lease_s=settings.lease_s,
            failure_budget=0,
            hosts={name: _host(statuses.get(name) or {}, hw=hw) for name in hosts},
            refused={},
            waves=waves,
            gates=Gates(min_share=settings.min_share, method="none", on_inconclusive="fail"),
            expected_s=len(waves) * soak.min_s,
            hardware=hardware,
        )
    )


def _host(status: Mapping[str, Any], *, hw: bool) -> PlannedHost:
    return PlannedHost(
        facts(status),
        cards=cards.cards(status) if hw else {},
        consent=hw and cards.consents(status),
        datapath=datapaths.of_status(status),
    )


def _served(status: Mapping[str, Any], phase: str) -> list[Refusal]:
    """What is against a host's datapath. Without a plan there is nobody who would decide what its gate cannot tell."""
    found = datapaths.refusals(status, phase)
    missing = [what for what in datapaths.of_status(status).unfed if what in _NEEDED]
    if missing:
        lacks = ", ".join(datapaths.WORDS[what] for what in missing)
        found.append(
            Refusal(
                "gate_unfed",
                f"nobody counts {lacks}, so its gate cannot tell and nobody is asked",
                "make a plan (ktls plan, ktls apply): then a person decides",
            )
        )
    return found


def _able(
    hosts: Sequence[str],
    statuses: Mapping[str, Mapping[str, Any]],
    refusals: Callable[[Mapping[str, Any]], list[Refusal]],
) -> None:
    """A rollout without a plan leaves nobody out, so one host that cannot is in everybody's way.

    :raises ControlError: with the code of the first refusal.
    """
    found = {name: why for name in hosts if (why := refusals(statuses.get(name) or {}))}
    if found:
        some = "; ".join(f"{name}: {why[0].message}" for name, why in list(found.items())[:5])
        more = f"; and {len(found) - 5} more hosts" if len(found) > 5 else ""
        first = next(iter(found.values()))[0]
        raise ControlError(
            first.code, f"{some}{more}: {first.cure}; or leave them out with --limit, as `ktls plan` would"
        )


def check(phase: str | None, group: str, hosts: Sequence[str], settings: Settings) -> None:
    """Refuse a wrong request before any host is asked anything.

    :raises ControlError: what :func:`request.check` raises, and ``no_sentinel``.
    """
    cards.hardware(str(phase), settings.sentinels, settings.without_sentinel)
    request.check(
        request.Request("rollout", group, hosts, phase, list(settings.waves), settings.soak_max_s, settings.lease_s)
    )


def cut(hosts: Sequence[str], sizes: Sequence[object]) -> list[list[str]]:
    """Hosts by waves, as Ansible's ``serial`` cuts them: percentages of all, the last size again and again."""
    left = list(hosts)
    waves: list[list[str]] = []
    while left:
        size = str(sizes[min(len(waves), len(sizes) - 1)])
        count = int(float(size.rstrip("%")) / 100 * len(hosts)) or 1 if size.endswith("%") else int(size)
        waves.append(left[:count])
        left = left[count:]
    return waves
