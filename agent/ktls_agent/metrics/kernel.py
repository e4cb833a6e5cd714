# SPDX-License-Identifier: Apache-2.0
"""Families from what the kernel says. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from ktls_host.tls_stat import GAUGE_PREFIX

from ..evidence.model import Kind, Snapshot
from .catalogue import family
from .family import Family, Sample

UNKNOWN = "unknown"
DIRECTIONS = ("sent", "received")
# Both directions of the counters of net/tls/tls_proc.c, and of drivers as tls-offload.rst names them.
_STAT = {"sent": "Tx", "received": "Rx"}
_DRIVER = {"sent": "tx_tls_ctx", "received": "rx_tls_ctx"}


def from_snapshot(snapshot: Snapshot, now_s: float) -> Iterator[Family]:
    """Return what the evidence has. ``now_s`` is CLOCK_BOOTTIME."""
    yield from from_tls_stat(snapshot.namespaces)
    yield family(
        "ktls_connections",
        (
            Sample(count, {**_labels(kind), "tx": kind.tx, "rx": kind.rx})
            for kind, count in snapshot.connections.items()
        ),
    )
    yield family(
        "ktls_bytes_total",
        (Sample(count, dict(zip(_BYTES, key))) for key, count in bytes_by_path(snapshot).items()),
    )
    for name, volume in (
        ("ktls_unattributed_bytes_total", snapshot.unattributed),
        ("ktls_inferred_bytes_total", snapshot.inferred),
        ("ktls_presumed_bytes_total", snapshot.presumed),
        ("ktls_held_bytes", snapshot.held),
    ):
        counts = (("sent", volume.sent), ("received", volume.received))
        yield family(name, (Sample(count, {"direction": direction}) for direction, count in counts))
    yield family("ktls_vanished_connections_total", [Sample(snapshot.vanished)])
    yield family("ktls_evidence_problems", [Sample(len(snapshot.problems))])
    yield family("ktls_evidence_start_boottime_seconds", [Sample(snapshot.since_s)])
    yield family("ktls_destroyed_connections_total", [Sample(snapshot.destroyed)])
    for name, part in (("ktls_ended_connections_total", "number"), ("ktls_cut_connections_total", "cut")):
        yield family(
            name,
            (
                Sample(getattr(found, part), {"port": str(end.port), "process": end.process, "path": end.path})
                for end, found in snapshot.ended.items()
            ),
        )
    yield family(
        "ktls_tcp_total",
        (
            Sample(value, {"name": name, "netns": netns})
            for netns, counters in snapshot.tcp.items()
            for name, value in counters.items()
        ),
    )
    yield family("ktls_lost_events_total", [Sample(snapshot.lost_events)])
    yield family("ktls_kernel_warnings_total", [Sample(snapshot.kernel_warnings)])
    yield family("ktls_evidence_age_seconds", [Sample(max(0.0, round(now_s - snapshot.at_s, 3)))])
    yield family("ktls_scan_cpu_seconds_total", [Sample(round(snapshot.scan_cpu_s, 6))])
    yield family(
        "ktls_process_cpu_seconds_total",
        (Sample(round(use.cpu_s, 6), {"process": use.process}) for use in snapshot.processes),
    )
    yield family("ktls_processes", (Sample(use.processes, {"process": use.process}) for use in snapshot.processes))
    yield family(
        "ktls_nic_tls_total",
        (
            Sample(value, {"interface": interface, "counter": name})
            for interface, counters in snapshot.nic.items()
            for name, value in counters.items()
        ),
    )
    yield offload(snapshot.namespaces, snapshot.nic)


def from_tls_stat(namespaces: Mapping[str, Mapping[str, int]]) -> Iterator[Family]:
    """Return the kernel's TLS counters by network namespace: those that only grow, and those that do not."""
    rows = [(netns, name, value) for netns, stats in namespaces.items() for name, value in stats.items()]
    for name, gauge in (("ktls_tls_stat_total", False), ("ktls_tls_stat_current", True)):
        yield family(
            name,
            (
                Sample(value, {"name": stat, "netns": netns})
                for netns, stat, value in rows
                if stat.startswith(GAUGE_PREFIX) == gauge
            ),
        )


def offload(namespaces: Mapping[str, Mapping[str, int]], nic: Mapping[str, Mapping[str, int]]) -> Family:
    """Return how far TLS contexts came: set up in the kernel, taken by a driver, counted by the driver itself."""
    samples = []
    for direction in DIRECTIONS:
        sw = sum(stats.get(f"Tls{_STAT[direction]}Sw", 0) for stats in namespaces.values())
        device = sum(stats.get(f"Tls{_STAT[direction]}Device", 0) for stats in namespaces.values())
        stages = {"kernel": sw + device, "device": device}
        driver = [counters[_DRIVER[direction]] for counters in nic.values() if _DRIVER[direction] in counters]
        if driver:
            stages["driver"] = sum(driver)
        samples += [Sample(count, {"direction": direction, "stage": stage}) for stage, count in stages.items()]
    return family("ktls_offload_contexts_total", samples)


_BYTES = ("port", "process", "version", "cipher", "path", "direction")


def bytes_by_path(snapshot: Snapshot) -> dict[tuple[str, str, str, str, str, str], int]:
    """Return bytes by port, process, version, cipher, path (``ktls``, ``userspace``) and direction.

    Whether a byte used kTLS depends on its own direction only.
    """
    table: Counter[tuple[str, str, str, str, str, str]] = Counter()
    for kind, volume in snapshot.volumes.items():
        who = (str(kind.port), kind.process, kind.version or UNKNOWN, kind.cipher or UNKNOWN)
        table[(*who, _path(kind.tx), "sent")] += volume.sent
        table[(*who, _path(kind.rx), "received")] += volume.received
    return dict(table)


def _path(mode: str) -> str:
    return "userspace" if mode == "none" else "ktls"


def _labels(kind: Kind) -> dict[str, str]:
    return {
        "port": str(kind.port),
        "process": kind.process,
        "version": kind.version or UNKNOWN,
        "cipher": kind.cipher or UNKNOWN,
    }
