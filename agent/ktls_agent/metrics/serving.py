# SPDX-License-Identifier: Apache-2.0
"""Families from the sidecar's status object. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .catalogue import family
from .family import Family, Sample

_ROW = ("assigned", "path", "protocol", "cipher")
_ACTIVATION = ("direction", "protocol", "cipher")
_VALUES = {
    "ktls_sidecar_connections": "connections",
    "ktls_sidecar_connections_total": "connections_total",
    "ktls_sidecar_bytes_total": "bytes_total",
    "ktls_sidecar_received_bytes_total": "received_total",
}
_COUNTED = {
    "ktls_sidecar_errors_total": ("errors", "kind"),
    "ktls_sidecar_client_aborts_total": ("client_aborts", "kind"),
    "ktls_sidecar_fallbacks_total": ("fallbacks", "reason"),
    "ktls_sidecar_limited_total": ("limited", "cause"),
}
# Which modes want kTLS in a direction, and which paths have it there.
_WANT = {"sent": ("tx", "rx", "hw"), "received": ("rx",)}
UNKNOWN = "unknown"
"""The path of connections of which nobody knows whether they got kernel TLS: they are in no share."""
HAVE = {"sent": ("ktls_tx", "ktls_tx_rx"), "received": ("ktls_rx", "ktls_tx_rx")}


def from_sidecar(sidecar: Mapping[str, Any] | None) -> Iterator[Family]:
    """Return what the sidecar counted; ``None``: it did not answer."""
    healthy = sidecar is not None and sidecar.get("health", "ok") == "ok"
    yield family("ktls_sidecar_up", [Sample(int(healthy))])
    if sidecar is None:
        return
    table = rows(sidecar)
    for name, key in _VALUES.items():
        # A datapath that does not know a number leaves it out.
        yield family(name, (Sample(row[key], {k: str(row[k]) for k in _ROW}) for row in table if key in row))
    for name, (key, label) in _COUNTED.items():
        counts = sidecar.get(key)
        if isinstance(counts, Mapping):
            yield family(name, (Sample(value, {label: str(kind)}) for kind, value in counts.items()))
    drain = sidecar.get("drain")
    if isinstance(drain, Mapping):
        yield family("ktls_sidecar_drain_connections", [Sample(drain["left"])])
        deadline = drain.get("deadline_left_s")
        yield family("ktls_sidecar_drain_deadline_seconds", [] if deadline is None else [Sample(deadline)])
    attempted, active = activation(sidecar)
    for name, counted in (("ktls_activation_attempted_total", attempted), ("ktls_activation_active_total", active)):
        yield family(name, (Sample(count, dict(zip(_ACTIVATION, key))) for key, count in counted.items()))


def activation(sidecar: Mapping[str, Any]) -> tuple[dict[tuple[str, str, str], int], dict[tuple[str, str, str], int]]:
    """Return connections that were to use kTLS, and those of them that did, by direction, protocol and cipher."""
    attempted: Counter[tuple[str, str, str]] = Counter()
    active: Counter[tuple[str, str, str]] = Counter()
    for row in rows(sidecar):
        if row["path"] == UNKNOWN:
            continue
        for direction, modes in _WANT.items():
            if row["assigned"] in modes:
                key = (direction, str(row["protocol"]), str(row["cipher"]))
                attempted[key] += row["connections_total"]
                active[key] += row["connections_total"] if row["path"] in HAVE[direction] else 0
    return dict(attempted), dict(active)


def rows(sidecar: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the sidecar's table of connections; a sidecar that has none counted nothing."""
    found = sidecar.get("by")
    return found if isinstance(found, list) else []
