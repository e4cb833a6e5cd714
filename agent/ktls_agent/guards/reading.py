# SPDX-License-Identifier: Apache-2.0
"""One reading of a host: totals that never go down, whatever is reset below them.

Counters come from several sources: the kernel's ``tls_stat`` of each network namespace, the sidecar, the self-probe. A
source starts anew when the module is loaded again or a process restarts; then what it shows is all new. A namespace may
go, and come. So growth is taken by source, and only the sum of growths is a total.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ktls_host.tls_stat import GAUGE_PREFIX

from ..evidence.model import Snapshot
from ..hw import measure
from ..metrics.serving import UNKNOWN
from ..probe_log import Tally
from .model import KERNEL, LOG, NIC, PROBE, SIDECAR, Reading

#: What the sidecar may call the same thing: an error of its own by what it means, or by errno(3).
ERROR_KINDS = {
    "bad_record": ("bad_record", "bad_record_mac", "ebadmsg"),
    "key_expired": ("key_expired", "ekeyexpired"),
    "too_big": ("too_big", "emsgsize"),
    "key_update": ("key_update",),
}


class Totals:
    """Adds up the growth of counters by source."""

    def __init__(self) -> None:
        """Start at nothing: the first look at a source is only where its growth is counted from."""
        self._last: dict[str, dict[str, float]] = {}
        self._totals: dict[str, float] = {}
        self._seen: dict[str, float] = {}

    def add(self, source: str, counters: Mapping[str, float], *, fresh: bool = False) -> None:
        """Take the counters of ``source`` as they are now. ``fresh``: it surely started anew since the last time."""
        last = self._last.get(source)
        for name, value in counters.items():
            before = 0.0 if fresh else (last or {}).get(name, 0.0)
            grown = 0.0 if last is None else value if value < before else value - before
            self._totals[name] = self._totals.get(name, 0.0) + grown
        # A counter that is not shown now may come back: its last value stays known, unless the source is new.
        self._last[source] = {**({} if fresh else last or {}), **counters}

    def saw(self, group: str, at_s: float) -> None:
        """Note that ``group`` was read, at ``at_s``."""
        self._seen[group] = max(at_s, self._seen.get(group, at_s))

    def reading(self, at_s: float, gauges: Mapping[str, float] | None = None) -> Reading:
        """Return the totals now, with ``gauges`` as they are."""
        return Reading(at_s, {**self._totals, **(gauges or {})}, dict(self._seen))


class Reader:
    """Makes readings of what the parts of the agent know."""

    def __init__(self) -> None:
        """Start with no source."""
        self._totals = Totals()
        self._snapshot_s: float | None = None
        self._since_s: float | None = None
        self._pid: object = None
        self._in_row = 0
        # Our own counts begin with us: the first probe may be the damaged one.
        self._totals.add("probe", {"probe_good": 0, "probe_failed": 0, "probe_damaged": 0})

    def snapshot(self, snapshot: Snapshot) -> None:
        """Take a snapshot; one that was taken before says nothing new."""
        if snapshot.at_s == self._snapshot_s:
            return
        self._snapshot_s = snapshot.at_s
        since = snapshot.since_s
        fresh, self._since_s = self._since_s is not None and since != self._since_s, since
        for namespace, counters in snapshot.namespaces.items():
            self.tls_stat(namespace, counters, snapshot.at_s)
        sent = {"kernel_ktls_bytes": 0.0, "kernel_userspace_bytes": 0.0}
        for kind, volume in snapshot.volumes.items():
            sent["kernel_userspace_bytes" if kind.tx == "none" else "kernel_ktls_bytes"] += volume.sent
        sent["hw_sent_bytes"] = measure.sent(snapshot)["hw"]
        self._totals.add("volumes", sent, fresh=fresh)
        for interface, driver in snapshot.nic.items():
            self._nic(interface, driver, snapshot.at_s)
        self._totals.add("kernel log", {"kernel_warnings": snapshot.kernel_warnings}, fresh=fresh)
        self._totals.saw(LOG, snapshot.at_s)

    def _nic(self, interface: str, counters: Mapping[str, int], at_s: float) -> None:
        """Take the TLS counters of one interface; a driver that is loaded again starts them anew."""
        known = {
            "nic_encrypted_bytes": (measure.ENCRYPTED,),
            "nic_encrypted_packets": (measure.PACKETS,),
            "nic_ooo": (measure.OUT_OF_ORDER,),
            "nic_drops": measure.DROPS,
        }
        found = {
            name: float(sum(counters.get(one, 0) for one in names))
            for name, names in known.items()
            if any(one in counters for one in names)
        }
        self._totals.add(f"nic {interface}", found)
        if found:
            self._totals.saw(NIC, at_s)

    def tls_stat(self, namespace: str, counters: Mapping[str, int], at_s: float) -> None:
        """Take the ``tls_stat`` of one network namespace."""
        grown = {name: float(value) for name, value in counters.items() if not name.startswith(GAUGE_PREFIX)}
        # A namespace that is seen for the first time was there before: its past is not news.
        self._totals.add(f"namespace {namespace}", grown)
        if counters:
            self._totals.saw(KERNEL, at_s)

    def sidecar(self, status: Mapping[str, Any], at_s: float) -> None:
        """Take the status object of what serves."""
        if "errors" not in status and "by" not in status:
            self._totals.saw(SIDECAR, at_s)  # nobody counts there: the rules about it have nothing to look at
            return
        counters: dict[str, float] = {}
        errors = _numbers(status.get("errors"))
        for name, kinds in ERROR_KINDS.items():
            counters[f"sidecar_{name}"] = sum(errors.get(kind, 0.0) for kind in kinds)
        ktls = fallback = opened = eligible = 0.0
        for row in status.get("by") or ():
            # What was never meant to be kTLS says nothing about it: a share below 1, and what is older than the order.
            if not isinstance(row, dict) or row.get("assigned") in (None, "userspace"):
                continue
            volume, total = _number(row.get("bytes_total")), _number(row.get("connections_total"))
            if row.get("path") in ("ktls_tx", "ktls_tx_rx"):
                ktls, opened = ktls + volume, opened + total
                gcm = row.get("protocol") == "TLSv1.2" and measure.is_gcm(str(row.get("cipher")))
                eligible += total if gcm and row["assigned"] == "hw" else 0.0
            elif row.get("path") != UNKNOWN:
                fallback += volume
        counters.update(ordered_ktls_bytes=ktls, ordered_fallback_bytes=fallback, ktls_connections=opened)
        counters["hw_eligible_connections"] = eligible
        pid = status.get("pid")
        self._totals.add("sidecar", counters, fresh=self._pid is not None and pid != self._pid)
        self._pid = pid
        self._totals.saw(SIDECAR, at_s)

    def probe(self, tally: Tally) -> None:
        """Take the counts of the self-probe."""
        if tally.at_s is None:
            return
        self._totals.add(
            "probe", {"probe_good": tally.good, "probe_failed": tally.failed, "probe_damaged": tally.damaged}
        )
        self._totals.saw(PROBE, tally.at_s)
        self._in_row = tally.failed_in_row

    def read(self, at_s: float) -> Reading:
        """Return the reading of this moment."""
        return self._totals.reading(at_s, {"probe_failed_in_row": float(self._in_row)})


def _numbers(raw: object) -> dict[str, float]:
    return {str(key): _number(value) for key, value in raw.items()} if isinstance(raw, dict) else {}


def _number(raw: object) -> float:
    return float(raw) if isinstance(raw, (int, float)) and not isinstance(raw, bool) else 0.0
