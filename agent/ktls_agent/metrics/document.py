# SPDX-License-Identifier: Apache-2.0
"""The evidence of one host as one JSON document, for ``ktls-agent report``. Pure.

Ratios are from 0 to 1, or null where there is nothing to divide by. ``shares`` has two witnesses: ``kernel`` counts TCP
payload of every serving process, and does not know protocol and cipher of userspace TLS; ``sidecar`` counts HTTP
bytes, its own only, and knows both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from ..evidence.model import Kind, Snapshot, Volume
from .kernel import DIRECTIONS, bytes_by_path
from .serving import HAVE, UNKNOWN, activation, rows
from .state import SelfUse, drift, observed_phase, ordered_phase

SCHEMA = 1
_NS = 1e9
# Direction, protocol, cipher, path (ktls, userspace), bytes.
_Bytes = tuple[str, str, str, str, int]


def document(
    status: Mapping[str, Any],
    snapshot: Snapshot | None,
    parts: Mapping[str, bool],
    use: SelfUse,
    now_s: float,
    wall_s: float,
) -> dict[str, Any]:
    """Return the document. ``now_s`` is CLOCK_BOOTTIME, ``wall_s`` Unix time."""
    sidecar = status["sidecar"]
    keys = ("order", "order_id", "epoch", "lease_left_s", "revert_reason")
    return {
        "schema": SCHEMA,
        "at": round(wall_s, 3),
        "host": dict(status["host"]),
        "version": status["version"],
        "phase": {"ordered": ordered_phase(status), "observed": observed_phase(status), "drift": drift(status)},
        "order": {key: status[key] for key in keys},
        "off": dict(status["off"]),
        "shares": {
            "kernel": None if snapshot is None else _shares(_kernel_bytes(snapshot), snapshot),
            "sidecar": None if sidecar is None else _shares(_sidecar_bytes(sidecar), None),
        },
        "cpu": [] if snapshot is None else _cpu(snapshot),
        "activation": [] if sidecar is None else _activation(sidecar),
        "sidecar": _sidecar(status),
        "probe": status["probe"],
        "tls_stat": status["tls_stat"] if status["tls_stat_available"] else None,
        "evidence": None if snapshot is None else _evidence(snapshot, now_s),
        "parts": {name: {"up": up, **_of_part(status, name)} for name, up in parts.items()},
        "agent": {
            "cpu_s": round(use.cpu_s, 3),
            "resident_bytes": use.resident_bytes,
            "uptime_s": round(max(0.0, wall_s - use.started_s), 1),
        },
        "problems": list(status["problems"]),
    }


def _kernel_bytes(snapshot: Snapshot) -> Iterable[_Bytes]:
    for (_, _, version, cipher, path, direction), count in bytes_by_path(snapshot).items():
        yield direction, version, cipher, path, count


def _sidecar_bytes(sidecar: Mapping[str, Any]) -> Iterable[_Bytes]:
    for row in (row for row in rows(sidecar) if row["path"] != UNKNOWN):
        for direction, key in (("sent", "bytes_total"), ("received", "received_total")):
            path = "ktls" if row["path"] in HAVE[direction] else "userspace"
            yield direction, str(row["protocol"]), str(row["cipher"]), path, row.get(key, 0)


def _shares(counts: Iterable[_Bytes], snapshot: Snapshot | None) -> dict[str, Any]:
    table: dict[str, dict[tuple[str, str], Counter[str]]] = {direction: {} for direction in DIRECTIONS}
    for direction, protocol, cipher, path, count in counts:
        table[direction].setdefault((protocol, cipher), Counter())[path] += count
    shares: dict[str, Any] = {}
    for direction, by in table.items():
        lost = 0
        if snapshot is not None:
            lost = snapshot.unattributed.sent if direction == "sent" else snapshot.unattributed.received
        shares[direction] = {
            **_share(sum(by.values(), Counter()), lost),
            "by": [
                {"protocol": protocol, "cipher": cipher, **_share(by[protocol, cipher])}
                for protocol, cipher in sorted(by)
                if sum(by[protocol, cipher].values())
            ],
        }
        if snapshot is not None:
            shares[direction]["unattributed_bytes"] = lost
    return shares


def _share(counts: Mapping[str, int], lost: int = 0) -> dict[str, Any]:
    """Bytes that nobody could attribute count as bytes and not as kTLS: the share is never too high."""
    ktls, userspace = counts.get("ktls", 0), counts.get("userspace", 0)
    return {"ktls_bytes": ktls, "userspace_bytes": userspace, "ktls_ratio": ratio(ktls, ktls + userspace + lost)}


def _cpu(snapshot: Snapshot) -> list[dict[str, Any]]:
    """CPU seconds, bytes both ways and their quotient in nanoseconds a byte, by process."""
    moved: Counter[str] = Counter()
    for kind, volume in snapshot.volumes.items():
        moved[kind.process] += volume.sent + volume.received
    return [
        {
            "process": use.process,
            "processes": use.processes,
            "cpu_s": round(use.cpu_s, 6),
            "bytes": moved[use.process],
            "ns_per_byte": ratio(use.cpu_s * _NS, moved[use.process]),
        }
        for use in snapshot.processes
    ]


def _activation(sidecar: Mapping[str, Any]) -> list[dict[str, Any]]:
    attempted, active = activation(sidecar)
    return [
        {
            "direction": direction,
            "protocol": protocol,
            "cipher": cipher,
            "attempted": attempted[direction, protocol, cipher],
            "active": active[direction, protocol, cipher],
            "ratio": ratio(active[direction, protocol, cipher], attempted[direction, protocol, cipher]),
        }
        for direction, protocol, cipher in sorted(attempted)
    ]


def _sidecar(status: Mapping[str, Any]) -> dict[str, Any]:
    sidecar = status["sidecar"]
    if sidecar is None:
        return {"up": False, "error": status["sidecar_error"]}
    keys = ("health", "connections", "errors", "client_aborts", "fallbacks", "limited")
    return {"up": sidecar.get("health", "ok") == "ok", **{key: sidecar.get(key) for key in keys}}


def _evidence(snapshot: Snapshot, now_s: float) -> dict[str, Any]:
    """The snapshot as plain JSON; a kind becomes keys beside its numbers."""
    return {
        "age_s": round(max(0.0, now_s - snapshot.at_s), 3),
        "namespaces": {name: dict(stats) for name, stats in snapshot.namespaces.items()},
        "connections": [{**_kind(kind), "connections": count} for kind, count in sorted(snapshot.connections.items())],
        "bytes": [
            {**_kind(kind), "sent": volume.sent, "received": volume.received}
            for kind, volume in sorted(snapshot.volumes.items())
        ],
        "since_s": snapshot.since_s,
        "unattributed": _both(snapshot.unattributed),
        "inferred": _both(snapshot.inferred),
        "presumed": _both(snapshot.presumed),
        "held": _both(snapshot.held),
        "vanished": snapshot.vanished,
        "problems": list(snapshot.problems),
        "nic": {interface: dict(counters) for interface, counters in snapshot.nic.items()},
        "destroyed": snapshot.destroyed,
        "ended": [
            {"port": end.port, "process": end.process, "path": end.path, "ended": found.number, "cut": found.cut}
            for end, found in sorted(snapshot.ended.items())
        ],
        "tcp": {name: dict(counters) for name, counters in snapshot.tcp.items()},
        "lost_events": snapshot.lost_events,
        "scan_cpu_s": round(snapshot.scan_cpu_s, 6),
        "kernel_warnings": snapshot.kernel_warnings,
        "kernel_warning": snapshot.kernel_warning,
    }


def _both(volume: Volume) -> dict[str, int]:
    return {"sent": volume.sent, "received": volume.received}


def _kind(kind: Kind) -> dict[str, Any]:
    names = ("port", "process", "version", "cipher", "tx", "rx")
    return {name: getattr(kind, name) for name in names}


def _of_part(status: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = status.get(name)
    return dict(found) if isinstance(found, Mapping) else {}


def ratio(part: float, whole: float) -> float | None:
    """Return ``part`` of ``whole``, or None."""
    return part / whole if whole else None
