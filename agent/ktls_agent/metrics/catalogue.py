# SPDX-License-Identifier: Apache-2.0
"""Every metric that the agent itself exposes: name, kind, labels, unit and meaning, once for code, docs and dashboards.

Names and units follow https://prometheus.io/docs/practices/naming/. Where the sidecar's own exposition has the same
series, name and labels are the same here. Nothing imports asyncio or the like from here: the documentation is made
from this page by ``tools/metrics_table.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .family import Family, Sample


@dataclass(frozen=True)
class Metric:
    """One metric. ``help`` is one sentence; ``unit`` is empty for plain counts and states."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    unit: str = ""
    group: str = ""

    def family(self, samples: Iterable[Sample]) -> Family:
        """Return its family. Raises ``ValueError`` for a sample with other labels: a mistake in our own code."""
        found = tuple(samples)
        for sample in found:
            if set(sample.labels) != set(self.labels):
                raise ValueError(f"{self.name} has labels {self.labels}, not {sorted(sample.labels)}")
        return Family(self.name, self.kind, self.help, found)


_COUNTER, _GAUGE = "counter", "gauge"
_KIND = ("port", "process", "version", "cipher")
_ROW = ("assigned", "path", "protocol", "cipher")

_GROUPS: dict[str, tuple[Metric, ...]] = {
    "Kernel": (
        Metric("ktls_tls_stat_total", _COUNTER, "Counters of /proc/net/tls_stat.", ("name", "netns")),
        Metric("ktls_tls_stat_current", _GAUGE, "Gauges of /proc/net/tls_stat: open TLS contexts.", ("name", "netns")),
        Metric(
            "ktls_connections",
            _GAUGE,
            "Open connections to serving ports; tx and rx are none, sw or hw.",
            (*_KIND, "tx", "rx"),
        ),
        Metric(
            "ktls_bytes_total",
            _COUNTER,
            "TCP payload of serving connections, acknowledged by the peer or received.",
            (*_KIND, "path", "direction"),
            "bytes",
        ),
        Metric(
            "ktls_unattributed_bytes_total",
            _COUNTER,
            "TCP payload of connections whose mode nobody saw.",
            ("direction",),
            "bytes",
        ),
        Metric(
            "ktls_inferred_bytes_total",
            _COUNTER,
            "Bytes of ktls_bytes_total whose mode follows from the kernel's counters and was not seen.",
            ("direction",),
            "bytes",
        ),
        Metric(
            "ktls_presumed_bytes_total",
            _COUNTER,
            "Bytes of ktls_inferred_bytes_total that are so only if clients on the host itself have no kernel TLS.",
            ("direction",),
            "bytes",
        ),
        Metric("ktls_held_bytes", _GAUGE, "Bytes whose mode the next full looks will tell.", ("direction",), "bytes"),
        Metric("ktls_vanished_connections_total", _COUNTER, "Connections that went without a report of their end."),
        Metric("ktls_destroyed_connections_total", _COUNTER, "Serving connections whose end the kernel reported."),
        Metric(
            "ktls_ended_connections_total",
            _COUNTER,
            "Serving connections that ended, by how they sent; unknown: too short to be seen.",
            ("port", "process", "path"),
        ),
        Metric(
            "ktls_cut_connections_total",
            _COUNTER,
            "Those of them whose peer never acknowledged all data: reset or timed out under way, by either side.",
            ("port", "process", "path"),
        ),
        Metric(
            "ktls_tcp_total",
            _COUNTER,
            "Resets and timeouts of all TCP in the namespace, TLS or not (nstat names).",
            ("name", "netns"),
        ),
        Metric("ktls_lost_events_total", _COUNTER, "Times that the kernel dropped reports of ended connections."),
        Metric("ktls_kernel_warnings_total", _COUNTER, "Kernel log lines that warn and name tls."),
        Metric(
            "ktls_evidence_age_seconds", _GAUGE, "Age of the evidence that these metrics are made from.", (), "seconds"
        ),
        Metric("ktls_evidence_problems", _GAUGE, "Things that the evidence could not look at."),
        Metric(
            "ktls_evidence_start_boottime_seconds",
            _GAUGE,
            "When the observer started, on CLOCK_BOOTTIME; its counters begin there.",
            (),
            "seconds",
        ),
        Metric("ktls_scan_cpu_seconds_total", _COUNTER, "CPU time spent looking at connections.", (), "seconds"),
    ),
    "Cost": (
        Metric(
            "ktls_process_cpu_seconds_total",
            _COUNTER,
            "CPU time, user and system, of a serving process group.",
            ("process",),
            "seconds",
        ),
        Metric("ktls_processes", _GAUGE, "Processes of a serving process group.", ("process",)),
        Metric("ktls_agent_cpu_seconds_total", _COUNTER, "CPU time of the agent itself.", (), "seconds"),
        Metric("ktls_agent_resident_memory_bytes", _GAUGE, "Resident memory of the agent itself.", (), "bytes"),
        Metric("ktls_agent_start_time_seconds", _GAUGE, "When the agent started, Unix time.", (), "seconds"),
    ),
    "Offload": (
        Metric("ktls_nic_tls_total", _COUNTER, "TLS counters of the driver (ethtool -S).", ("interface", "counter")),
        Metric(
            "ktls_offload_contexts_total",
            _COUNTER,
            "TLS contexts by how far they came: kernel, device (a driver took it), driver (the driver's own count).",
            ("direction", "stage"),
        ),
    ),
    "Activation": (
        Metric(
            "ktls_activation_attempted_total",
            _COUNTER,
            "Connections of the sidecar that were to use kTLS in this direction.",
            ("direction", "protocol", "cipher"),
        ),
        Metric(
            "ktls_activation_active_total",
            _COUNTER,
            "Connections of the sidecar that were to use kTLS in this direction, and did.",
            ("direction", "protocol", "cipher"),
        ),
    ),
    "Sidecar": (
        Metric("ktls_sidecar_up", _GAUGE, "1 while the sidecar answers and serves."),
        Metric("ktls_sidecar_connections", _GAUGE, "Open connections, handshake done.", _ROW),
        Metric("ktls_sidecar_connections_total", _COUNTER, "Finished handshakes.", _ROW),
        Metric("ktls_sidecar_bytes_total", _COUNTER, "HTTP bytes handed to TLS for sending.", _ROW, "bytes"),
        Metric("ktls_sidecar_received_bytes_total", _COUNTER, "HTTP bytes received through TLS.", _ROW, "bytes"),
        Metric("ktls_sidecar_errors_total", _COUNTER, "Faults of the server, TLS or the kernel.", ("kind",)),
        Metric("ktls_sidecar_client_aborts_total", _COUNTER, "Connections that the client broke.", ("kind",)),
        Metric("ktls_sidecar_fallbacks_total", _COUNTER, "kTLS was wanted and not had.", ("reason",)),
        Metric("ktls_sidecar_drain_connections", _GAUGE, "Open connections whose kTLS is no longer ordered."),
        Metric(
            "ktls_sidecar_drain_deadline_seconds",
            _GAUGE,
            "Until the rest of those is cut; absent where there is no deadline.",
            (),
            "seconds",
        ),
        Metric("ktls_sidecar_limited_total", _COUNTER, "kTLS connections ended early by a limit.", ("cause",)),
    ),
    "Orders": (
        Metric("ktls_order_state", _GAUGE, "1 for the state of the order machine.", ("state",)),
        Metric("ktls_stuck", _GAUGE, "1 while a revert has given up; the host takes no order."),
        Metric("ktls_lapsed", _GAUGE, "1 while an unconfirmed order stands reverted without the agent."),
        Metric("ktls_epoch", _GAUGE, "Highest epoch seen; older orders are refused."),
        Metric(
            "ktls_lease_seconds_left",
            _GAUGE,
            "Time until the pending order reverts; absent when none is pending.",
            (),
            "seconds",
        ),
        Metric(
            "ktls_phase",
            _GAUGE,
            "1 for the phase; of=ordered is what must be in force, of=observed what the sidecar does.",
            ("phase", "of"),
        ),
        Metric("ktls_drift", _GAUGE, "1 while ordered and observed phase differ; absent while the sidecar is silent."),
        Metric("ktls_off_flag", _GAUGE, "1 while the kill switch is latched."),
        Metric("ktls_off_flag_age_seconds", _GAUGE, "Age of the off flag; absent without one.", (), "seconds"),
    ),
    "Self-probe": (
        Metric("ktls_probe_success", _GAUGE, "1 when the last self-probe got intact content over verified TLS."),
        Metric(
            "ktls_probe_ktls",
            _GAUGE,
            "1 when the kernel encrypted (sent) or decrypted (received) for the last self-probe; absent if not known.",
            ("direction",),
        ),
        Metric("ktls_probe_age_seconds", _GAUGE, "Age of the last self-probe.", (), "seconds"),
        Metric("ktls_probe_duration_seconds", _GAUGE, "Duration of the last self-probe.", (), "seconds"),
    ),
    "Agent": (
        Metric(
            "ktls_build_info",
            _GAUGE,
            "Always 1; what runs, and on what.",
            ("version", "kernel", "openssl", "python"),
        ),
        Metric("ktls_problems", _GAUGE, "Problems that `ktls-agent status` lists."),
        Metric("ktls_part_up", _GAUGE, "1 while a part of the agent runs.", ("part",)),
        Metric("ktls_audit_ok", _GAUGE, "1 while the audit trail's chain holds and the disk takes its records."),
        Metric("ktls_exposition_faults", _GAUGE, "Series left out of this exposition because they break the format."),
    ),
}

# What parts expose by themselves, so that documentation and dashboards know it too.
_OF_PARTS: dict[str, tuple[Metric, ...]] = {
    "Offload": (
        Metric(
            "ktls_hw_feature_on",
            _GAUGE,
            "1 while a card's TLS feature is on; all ktls_hw are absent on hosts without a card that can encrypt.",
            ("interface", "driver", "direction"),
        ),
        Metric("ktls_hw_consent", _GAUGE, "1 where phase hw may move new connections to TLS 1.2."),
        Metric(
            "ktls_hw_connections",
            _GAUGE,
            "Connections that the kernel calls hw; stale: those of them that no card works for.",
            ("state",),
        ),
        Metric(
            "ktls_hw_sent_bytes_total",
            _COUNTER,
            "Bytes sent: by connections called hw, with TLS 1.2 and AES-GCM (what a card could take), and all.",
            ("kind",),
            "bytes",
        ),
        Metric(
            "ktls_hw_anomalies_total",
            _COUNTER,
            "What cards and kernel could not do: resync, drops, ooo (sent again by software), decrypt.",
            ("kind",),
        ),
    ),
    "Self-probe": (
        Metric("ktls_probe_total", _COUNTER, "Self-probes by result.", ("result",)),
        Metric(
            "ktls_probe_handshake_seconds",
            "histogram",
            "TLS handshake of the self-probe over loopback.",
            ("path",),
            "seconds",
        ),
        Metric(
            "ktls_probe_transfer_seconds",
            "histogram",
            "From the self-probe's request to the last byte of the probe object.",
            ("path",),
            "seconds",
        ),
    ),
    "Guards": (
        Metric("ktls_guard_state", _GAUGE, "1 for the state that a guard is in.", ("guard", "state")),
        Metric("ktls_guard_trips_total", _COUNTER, "Times that a guard tripped.", ("guard",)),
        Metric("ktls_guards_armed", _GAUGE, "1 while guards act: an order for kTLS is in force."),
    ),
    "Audit": (
        Metric("ktls_audit_records_total", _COUNTER, "Records in the audit trail."),
        Metric("ktls_audit_waiting", _GAUGE, "Records not on disk yet."),
        Metric("ktls_audit_lost_total", _COUNTER, "Records lost because the disk took nothing for too long."),
    ),
    "Drill": (
        Metric(
            "ktls_drill_last_success_timestamp_seconds",
            _GAUGE,
            "When a drill of this host last passed; absent before the first.",
            (),
            "seconds",
        ),
        Metric("ktls_drill_success", _GAUGE, "1 when the last drill of this host passed; absent before the first."),
    ),
    "Flag": (
        Metric("ktls_flag_fetcher_age_seconds", _GAUGE, "Time since the fetcher last showed life.", (), "seconds"),
        Metric("ktls_flag_serial", _GAUGE, "Highest serial of a valid flag that was seen."),
        Metric("ktls_flag_raised_total", _COUNTER, "Off flags raised for a signed flag."),
        Metric(
            "ktls_flag_age_seconds",
            _GAUGE,
            "Time since an endpoint last served a valid flag.",
            ("endpoint",),
            "seconds",
        ),
        Metric("ktls_flag_valid", _GAUGE, "1 if the last poll of the endpoint found a valid flag.", ("endpoint",)),
        Metric(
            "ktls_flag_off",
            _GAUGE,
            "1 if the last poll of the endpoint found a valid flag that says off.",
            ("endpoint",),
        ),
        Metric(
            "ktls_flag_issued_timestamp_seconds",
            _GAUGE,
            "When the last valid flag of an endpoint was signed, by its signer.",
            ("endpoint",),
            "seconds",
        ),
        Metric("ktls_flag_polls_total", _COUNTER, "Polls of an endpoint by result.", ("endpoint", "result")),
        Metric(
            "ktls_flag_not_modified_total",
            _COUNTER,
            "Polls that an endpoint answered with 'not modified'.",
            ("endpoint",),
        ),
        Metric(
            "ktls_flag_old_total",
            _COUNTER,
            "Polls that found a valid flag with a lower serial than one seen before.",
            ("endpoint",),
        ),
    ),
}


def _in_groups(groups: dict[str, tuple[Metric, ...]]) -> tuple[Metric, ...]:
    return tuple(
        Metric(metric.name, metric.kind, metric.help, metric.labels, metric.unit, group)
        for group, metrics in groups.items()
        for metric in metrics
    )


OWN: tuple[Metric, ...] = _in_groups(_GROUPS)
METRICS: tuple[Metric, ...] = (*OWN, *_in_groups(_OF_PARTS))
CATALOGUE: dict[str, Metric] = {metric.name: metric for metric in METRICS}


def family(name: str, samples: Iterable[Sample]) -> Family:
    """Return the family ``name`` of the catalogue."""
    return CATALOGUE[name].family(samples)
