# SPDX-License-Identifier: Apache-2.0
"""Snapshots as small plain JSON, and what serving cost in each phase. Pure.

A diagnosis wants to know how things were when the order came into force and how they are now; and CPU for each byte
under userspace TLS beside that under kTLS. Both have a fixed bound, so that they fit one line of the agent's socket.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..evidence.model import Snapshot

_KINDS = 25
_NIC_COUNTERS = 24
_INTERFACES = 2
_PROCESSES = 10
_PER_RING = re.compile(r"(tx|rx|ch)_?\d+_")


def digest(snapshot: Snapshot) -> dict[str, Any]:
    """Return what a diagnosis needs of ``snapshot``: the largest kinds, sums of counters, no more."""
    kinds = sorted(
        set(snapshot.connections) | set(snapshot.volumes),
        key=lambda kind: (-_sent(snapshot, kind), -snapshot.connections.get(kind, 0), kind),
    )
    return {
        "at_s": snapshot.at_s,
        "tls_stat": _summed(snapshot.namespaces),
        "kinds": [
            {
                "process": kind.process[:64],
                "version": kind.version[:16],
                "cipher": kind.cipher[:64],
                "tx": kind.tx,
                "rx": kind.rx,
                "connections": snapshot.connections.get(kind, 0),
                "sent": _sent(snapshot, kind),
            }
            for kind in kinds[:_KINDS]
        ],
        "unattributed": snapshot.unattributed.sent,
        "lost_events": snapshot.lost_events,
        "nic": {
            interface[:32]: dict(
                [
                    (name, value)
                    for name, value in sorted(counters.items())
                    if "tls" in name and not _PER_RING.match(name)
                ][:_NIC_COUNTERS]
            )
            for interface, counters in sorted(snapshot.nic.items())[:_INTERFACES]
        },
        "processes": [
            {"process": use.process[:64], "cpu_s": round(use.cpu_s, 3)} for use in snapshot.processes[:_PROCESSES]
        ],
        "kernel_warnings": snapshot.kernel_warnings,
        "kernel_warning": snapshot.kernel_warning[:300],
    }


class History:
    """Follows snapshots: the first under the present phase, the newest, and the cost of each phase."""

    def __init__(self) -> None:
        """Start with none."""
        self._phase: str | None = None
        self._start: Snapshot | None = None
        self._last: Snapshot | None = None
        self._cost: dict[str, dict[str, float]] = {}

    def take(self, snapshot: Snapshot, phase: str) -> None:
        """Take the newest snapshot, while ``phase`` is in force."""
        last = self._last
        if last is not None and snapshot.at_s == last.at_s:
            return
        if phase != self._phase:
            # The first stretch under a new phase has something of both: it counts for neither.
            self._phase, self._start = phase, snapshot
        elif last is not None and snapshot.since_s == last.since_s:
            cost = self._cost.setdefault(phase, {"cpu_s": 0.0, "sent": 0.0, "seconds": 0.0})
            before = {use.process: use.cpu_s for use in last.processes}
            cost["cpu_s"] += sum(max(0.0, use.cpu_s - before.get(use.process, use.cpu_s)) for use in snapshot.processes)
            cost["sent"] += sum(
                max(0, volume.sent - last.volumes[kind].sent) if kind in last.volumes else volume.sent
                for kind, volume in snapshot.volumes.items()
            )
            cost["seconds"] += max(0.0, snapshot.at_s - last.at_s)
        self._last = snapshot

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {
            "start": digest(self._start) if self._start else None,
            "now": digest(self._last) if self._last else None,
            "cost": {
                phase: {name: round(value, 3) for name, value in cost.items()} for phase, cost in self._cost.items()
            },
        }


def _sent(snapshot: Snapshot, kind: Any) -> int:
    volume = snapshot.volumes.get(kind)
    return volume.sent if volume else 0


def _summed(namespaces: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    summed: dict[str, int] = {}
    for counters in namespaces.values():
        for name, value in counters.items():
            summed[name] = summed.get(name, 0) + value
    return summed
