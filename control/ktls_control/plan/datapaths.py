# SPDX-License-Identifier: Apache-2.0
"""Which datapath serves a host, what it can and cannot do, and whom that leaves out of a plan. Pure.

What a datapath does not know it cannot feed to a gate: the plan says so before anything is changed, and the gate then
cannot tell, which is no pass. See docs/datapaths.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ktls_host import datapath_status
from ktls_host.datapath_status import BOTH

from .model import HostDatapath, Plan, Refusal
from .texts import harmless

#: What a gate asks of a host, in the words of a plan.
WORDS: Mapping[str, str] = {
    "errors": "failures",
    "bytes": "bytes sent",
    "connections": "connections",
    "share": "the share of kTLS",
    "probe": "downloads from itself",
    "content": "the content of its own downloads",
    "series": "CPU per byte, throughput and latency over time",
}

CURES: Mapping[str, str] = {
    "tx_means_rx": (
        "consent to it: ktls_tx_rx_consent: true for the host, and ktls deploy; every view then says tx+rx. Or serve "
        "with the sidecar, which transmits alone"
    ),
    "no_restart_consent": (
        "consent to it: ktls_restart_ok: true for the host, and ktls deploy; without, processes keep what they have "
        "until somebody restarts them, also after off"
    ),
    "phase_not_for_datapath": "leave the host out of this phase, or serve with the sidecar",
}


def of_status(status: Mapping[str, Any]) -> HostDatapath:
    """What a plan keeps of a host's datapath."""
    found = datapath_status.of(status)
    if found.is_sidecar:
        return HostDatapath()
    return HostDatapath(
        harmless(found.kind),
        harmless(found.unit),
        harmless(f"{found.program} {found.version}".strip()),
        found.experiments,
        found.means("tx"),
        harmless(found.switch),
        unfed(status),
    )


def unfed(status: Mapping[str, Any]) -> tuple[str, ...]:
    """What no gate will hear from this host; keys of :data:`WORDS`."""
    said = status.get("sidecar")
    said = said if isinstance(said, Mapping) else {}
    evidence = status.get("evidence")
    known = isinstance(evidence, Mapping) and evidence.get("known") is True
    probe, series = status.get("probe"), status.get("series")
    counts = {
        "errors": isinstance(said.get("errors"), Mapping),
        "bytes": _counted(said.get("bytes")),
        "connections": _counted(said.get("connections_total")),
        "share": known or _counted(said.get("bytes")),
        "probe": isinstance(probe, Mapping),
        "content": not isinstance(probe, Mapping) or probe.get("sha256_ok") is not None,
        "series": not isinstance(series, Mapping) or (bool(series.get("samples")) and not series.get("problem")),
    }
    return tuple(name for name in WORDS if not counts[name])


def _counted(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(count, int) for count in value.values())


def refusals(status: Mapping[str, Any], phase: str) -> list[Refusal]:
    """Why the datapath of this host cannot take ``phase``, or may not."""
    found = datapath_status.of(status)
    if found.is_sidecar or phase == "userspace":
        return []
    name = found.unit or found.kind
    if not found.takes(phase):
        can = ", ".join(found.modes) or "nothing that its agent told of"
        return [_refusal("phase_not_for_datapath", f"{name} ({found.kind}) has no phase {phase}: it can do {can}")]
    why = []
    if found.means(phase) == BOTH and not found.tx_rx_consent:
        why.append(
            _refusal(
                "tx_means_rx",
                f"{name} ({found.kind}) hands both directions to the kernel or none: phase tx would be tx+rx, and a "
                "client's new keys (KeyUpdate) may end its connection",
            )
        )
    if found.switch == "restart" and not found.restart_consent:
        why.append(
            _refusal(
                "no_restart_consent",
                f"{name} reads its configuration when it starts: every switch, and every way back, restarts it, and "
                "nobody consented to that",
            )
        )
    return why


def down(status: Mapping[str, Any]) -> str | None:
    """Why the datapath serves nobody; None: it does."""
    found = datapath_status.of(status)
    if not isinstance(status.get("sidecar"), Mapping):
        who = "the sidecar" if found.is_sidecar else found.unit or found.kind
        why = status.get("sidecar_error") or found.problem or "no reason given"
        return f"{who} does not answer the agent: {why}"
    return f"{found.unit or found.kind}: {found.problem}" if found.problem and not found.is_sidecar else None


def there_already(status: Mapping[str, Any], phase: str) -> bool:
    """Phase ``rx`` of a host whose confirmed ``tx`` is both directions."""
    return (
        phase == "rx"
        and datapath_status.of(status).means("tx") == BOTH
        and (status.get("order"), status.get("ordered_phase")) == ("committed", "tx")
    )


def _refusal(code: str, message: str) -> Refusal:
    return Refusal(code, harmless(message), CURES[code])


# In words


def phase_of(plan: Plan | None, host: str, phase: str) -> str:
    """What ``phase`` is on a host of the plan: ``tx+rx`` where that is what it means."""
    planned = plan.hosts.get(host) if plan else None
    return planned.datapath.tx if planned and phase == "tx" else phase


def phase_words(plan: Plan | None, phase: str) -> str:
    """The same for a whole plan: ``tx``, ``tx+rx``, or ``tx (tx+rx on 3 of 12 hosts)``."""
    if plan is None or phase != "tx" or not plan.hosts:
        return phase
    both = sum(host.datapath.tx == BOTH for host in plan.hosts.values())
    if both in (0, len(plan.hosts)):
        return BOTH if both else phase
    return f"{phase} ({BOTH} on {both:,} of {len(plan.hosts):,} hosts)"


def title(found: HostDatapath) -> str:
    """``sidecar``, ``nginx, tx+rx``, ``lighttpd.service, tx+rx, by restart``."""
    if found.kind == datapath_status.SIDECAR:
        return found.kind
    words = [found.unit if found.kind == "service" and found.unit else found.kind]
    words += [found.tx] if found.tx == BOTH else []
    words += ["by restart"] if found.switch == "restart" else []
    return ", ".join(words)


def told(plan: Plan) -> dict[str, Any]:
    """What a journal has of this, in the event of the run's start; nothing where the sidecar serves everywhere."""
    if not mixed(plan):
        return {}
    return {"means": phase_words(plan, plan.phase), "datapaths": dict(counted(plan, plan.hosts))}


def mixed(plan: Plan) -> bool:
    """Something else than the sidecar serves a host."""
    return any(host.datapath.kind != datapath_status.SIDECAR for host in plan.hosts.values())


def counted(plan: Plan, names: Iterable[str]) -> list[tuple[str, int]]:
    """Titles of the datapaths of these hosts, the most frequent first."""
    return Counter(title(plan.hosts[name].datapath) for name in names).most_common()


def silent(plan: Plan) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """What hosts cannot feed to a gate, and which hosts: those that lack the same together."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, host in plan.hosts.items():
        if host.datapath.unfed:
            groups.setdefault(tuple(host.datapath.unfed), []).append(name)
    yield from groups.items()
