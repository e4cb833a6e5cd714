# SPDX-License-Identifier: Apache-2.0
"""What to know before a plan is applied: nothing of it stops it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from ktls_host import datapath_status

from ..judge import kinds as groups
from ..preflight_names import fold
from . import datapaths
from .model import Plan, PlannedHost, Wave
from .policy import Policy
from .texts import harmless
from .timing import Traffic

if TYPE_CHECKING:
    from .build import Seen

_NAMES = 60
#: Waves by which every kind of host should have been seen.
_EARLY = 2
#: What a gate has to be able to tell something of.
_JUDGED = ("cpu", "latency", "throughput")
_WORDS = {"kernel": "kernel", "nic_model": "NIC model"}


def notes(
    plan: Plan,
    seen: Mapping[str, Seen],
    policy: Policy,
    traffic: Traffic,
    now: float,
    sentinels: tuple[str, ...] = (),
) -> tuple[str, ...]:
    """One line each, the weightiest first.

    :param sentinels: what is known of the machines that watch the wire.
    """
    if not plan.waves:
        return ()
    return tuple(
        harmless(line)
        for line in (
            *sentinels,
            *_hardware(plan),
            *_datapaths(plan),
            *_drills(plan, policy),
            *_headroom(plan, policy),
            *_freezes(plan, now),
            *_traffic(plan, traffic),
            *_blind(plan),
            *_late(plan),
            *_labels(plan, policy),
            *_versions(plan),
            *_preflight(plan, seen),
        )
    )


def _hardware(plan: Plan) -> Iterator[str]:
    if plan.hardware is None:
        return
    if plan.hardware.without_sentinel:
        yield "nobody watches the wire, as was said: plaintext that a card or driver leaks is not seen by this rollout"
    consent = [name for name, host in plan.hosts.items() if host.consent]
    if consent:
        yield (
            f"{_hosts(consent, plan)}: new connections negotiate TLS 1.2 while the phase lasts, also of clients that "
            "could do TLS 1.3"
        )


def _datapaths(plan: Plan) -> Iterator[str]:
    """What another server cannot do, before anybody relies on it."""
    if plan.phase == "userspace":
        return
    both = [name for name in plan.hosts if datapaths.phase_of(plan, name, plan.phase) == datapath_status.BOTH]
    if both:
        yield (
            f"{_hosts(both, plan)}: phase tx is tx+rx there, as was consented to: both directions are in the kernel, "
            "and a client's new keys (KeyUpdate) may end its connection"
        )
    restarted = [name for name, host in plan.hosts.items() if host.datapath.switch == "restart"]
    if restarted:
        yield f"{_hosts(restarted, plan)}: the service is restarted to take the phase, and again to give it back"
    does = {"pause": "it will pause", "fail": "it will fail"}[plan.gates.on_inconclusive]
    for missing, names in datapaths.silent(plan):
        lacks = ", ".join(datapaths.WORDS[what] for what in missing)
        waves = [str(wave.number) for wave in plan.waves if set(wave.hosts) & set(names)]
        yield f"{_hosts(names, plan)}: nobody counts {lacks}: the gate of wave {', '.join(waves)} cannot tell: {does}"
    dealt = [name for name, host in plan.hosts.items() if not host.datapath.experiments]
    if dealt and plan.gates.method in ("switchback", "connections") and plan.gates.otherwise == "difference":
        last = {host.datapath.name: wave.number for wave in plan.waves for host in _of(plan, wave)}
        for kind, number in last.items():
            yield (
                f"in wave {number} no host with {kind} is left to compare with: what it changes in CPU, latency and "
                f"throughput cannot be told there: {does} (policy gates.otherwise: none does without)"
            )


def _of(plan: Plan, wave: Wave) -> Iterator[PlannedHost]:
    return (host for name in wave.hosts if not (host := plan.hosts[name]).datapath.experiments)


def _drills(plan: Plan, policy: Policy) -> Iterator[str]:
    if not policy.drill_required:
        yield "the policy asks for no drill: nothing shows that these hosts come back"


def _headroom(plan: Plan, policy: Policy) -> Iterator[str]:
    full = [name for name, host in plan.hosts.items() if host.busy is not None and host.busy > policy.headroom_limit]
    if full and plan.phase != "userspace":
        yield f"{_hosts(full, plan)}: more than {100 * policy.headroom_limit:g} % of CPU is in use now, at a short look"
    if plan.headroom.unknown:
        rest = "" if plan.headroom.unknown == len(plan.hosts) else f" of {plan.headroom.unknown:,} hosts"
        why = (
            ": evidence of hosts in userspace and with kTLS is needed, or policy headroom_ratio"
            if plan.headroom.ratio is None
            else ""
        )
        yield f"headroom{rest} is not known{why}"


def _freezes(plan: Plan, now: float) -> Iterator[str]:
    for freeze in plan.freezes:
        start, end = (datetime.fromisoformat(time).timestamp() for time in (freeze.start, freeze.end))
        if start < now + plan.expected_s and end > now:
            yield f"freeze {freeze.reason or 'without a reason'} is in its way: no wave is started until {freeze.end}"


def _traffic(plan: Plan, traffic: Traffic) -> Iterator[str]:
    soaks = {wave.soak for wave in plan.waves if wave.soak.min_bytes}
    if traffic.bytes_s is not None and any(traffic.bytes_s * soak.max_s < soak.min_bytes for soak in soaks):
        yield (
            f"at {traffic.bytes_s:.0f} bytes a second, as now, a host does not send soak.min_bytes within soak.max_s: "
            "its gate will be inconclusive"
        )


def _compared(plan: Plan, wave: Wave) -> bool:
    """Whether any host of the wave is compared with others, or with itself; the rest is judged by what it shows."""
    return any(
        groups.gates_of(plan.gates, plan.hosts[name].datapath.experiments, 1).method != "none" for name in wave.hosts
    )


def _blind(plan: Plan) -> Iterator[str]:
    blind = [
        str(wave.number)
        for wave in plan.waves
        if wave.detectable and all(wave.detectable.get(name) is None for name in _JUDGED) and _compared(plan, wave)
    ]
    if blind:
        does = {"pause": "it will pause", "fail": "it will fail"}[plan.gates.on_inconclusive]
        yield (
            f"the gate of wave {', '.join(blind)} can tell no effect from noise, with its hosts, its soak and what was "
            f"recorded: {does}"
        )


def _late(plan: Plan) -> Iterator[str]:
    for label, word in _WORDS.items():
        first: dict[str, int] = {}
        for wave in plan.waves:
            for name in wave.hosts:
                first.setdefault(plan.hosts[name].labels.get(label, ""), wave.number)
        for value, number in first.items():
            if value and number > _EARLY:
                yield f"{word} {value} is first seen in wave {number}: raise the size of an earlier one"


def _labels(plan: Plan, policy: Policy) -> Iterator[str]:
    for label, variable in policy.variables.items():
        unknown = [name for name, host in plan.hosts.items() if not host.labels.get(label)]
        if unknown and label in plan.caps:
            hosts = _hosts(unknown, plan)
            yield f"{label} of {hosts} is not known, so no cap holds there: set {variable} in the inventory"


def _versions(plan: Plan) -> Iterator[str]:
    for fact in ("agent", "sidecar", "program"):
        # Each datapath has its own, and many have none.
        of = [host for host in plan.hosts.values() if (host.datapath.kind == "sidecar") == (fact == "sidecar")]
        of = list(plan.hosts.values()) if fact == "agent" else of
        if fact == "program" and len({host.datapath.unit for host in of}) > 1:
            continue
        found = sorted({host.facts.get(fact, "") for host in of})
        if len(found) > 1:
            yield f"hosts run different releases of the {fact}: {', '.join(each or 'unknown' for each in found)}"


def _preflight(plan: Plan, seen: Mapping[str, Seen]) -> Iterator[str]:
    hosts: dict[tuple[str, str], list[str]] = {}
    for name in plan.hosts:
        for note in seen[name].row.phases[plan.phase].notes:
            hosts.setdefault((note.code, note.message), []).append(name)
    for (code, message), names in hosts.items():
        yield f"{code} ({_hosts(names, plan)}): {message}"


def _hosts(names: list[str], plan: Plan) -> str:
    return "every host" if len(names) == len(plan.hosts) > 1 else fold(names, _NAMES)
