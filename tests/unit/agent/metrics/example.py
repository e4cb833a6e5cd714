# SPDX-License-Identifier: Apache-2.0
"""One host as its agent knows it: a status object as the service gives it, and a snapshot of the evidence."""

from __future__ import annotations

import copy
from typing import Any

from ktls_agent.evidence.model import End, Ended, Kind, ProcessUse, Snapshot, Volume
from ktls_agent.metrics.state import SelfUse

NOW_S = 5000.0
AES = "AES-128-GCM"
SENT = Kind(8443, "ktls-sidecar", "TLSv1.3", AES, "sw", "none")
BOTH = Kind(8443, "ktls-sidecar", "TLSv1.2", AES, "hw", "sw")
PLAIN = Kind(8443, "ktls-sidecar", "", "", "none", "none")

SNAPSHOT = Snapshot(
    at_s=NOW_S - 3,
    namespaces={
        "host": {"TlsCurrTxSw": 2, "TlsTxSw": 90, "TlsTxDevice": 10, "TlsRxSw": 7, "TlsDecryptError": 1},
        "4026532": {"TlsCurrTxSw": 0, "TlsTxSw": 5, "TlsRxDevice": 3},
    },
    connections={SENT: 40, BOTH: 2, PLAIN: 8},
    volumes={SENT: Volume(9_000, 300), BOTH: Volume(500, 200), PLAIN: Volume(500, 500)},
    unattributed=Volume(12, 3),
    inferred=Volume(700, 70),
    presumed=Volume(50, 5),
    processes=(ProcessUse("ktls-sidecar", 3, 2.5), ProcessUse("idle", 1, 0.0)),
    nic={"eth0": {"tx_tls_ctx": 9, "tx_tls_ooo": 0}},
    destroyed=77,
    ended={End(8443, "ktls-sidecar", "ktls"): Ended(70, 2), End(8443, "ktls-sidecar", "unknown"): Ended(7, 0)},
    tcp={"host": {"TcpEstabResets": 3, "TcpExtTCPAbortOnTimeout": 1}},
    lost_events=1,
    scan_cpu_s=0.25,
    kernel_warnings=0,
)

USE = SelfUse(1.5, 30 * 2**20, 1_790_000_000.0)


def row(assigned: str, path: str, total: int, sent: int, received: int, protocol: str = "TLSv1.3") -> dict[str, Any]:
    return {
        "assigned": assigned, "path": path, "protocol": protocol, "cipher": "TLS_AES_128_GCM_SHA256",
        "connections": 1, "connections_total": total, "bytes_total": sent, "received_total": received,
    }  # fmt: skip


_STATUS: dict[str, Any] = {
    "schema": 1, "version": "0.1.0+gabc",
    "host": {"name": "web1", "kernel": "6.12.1", "openssl": "OpenSSL 3.5.1", "python": "3.13.5"},
    "phase": "tx", "order": "committed", "order_id": "wave-1", "ordered_phase": "tx", "epoch": 42, "tested": None,
    "lease_left_s": None, "revert_reason": None, "off": {"flag": False, "age_s": None, "reason": None},
    "tls_stat": {"TlsTxSw": 4, "TlsCurrTxSw": 1}, "tls_stat_available": True,
    "connections": {"ktls_tx": 2, "userspace": 1}, "bytes": {"ktls_tx": 900, "userspace": 100},
    "sockets": {}, "sockets_error": "not asked for",
    "sidecar": {
        "health": "ok", "mode": "tx", "effective_mode": "tx",
        "connections": {"ktls_tx": 2, "userspace": 1},
        "by": [
            row("tx", "ktls_tx", 90, 900, 40),
            row("tx", "userspace", 10, 60, 4),
            row("rx", "ktls_tx_rx", 5, 0, 6, "TLSv1.2"),
            row("userspace", "userspace", 7, 40, 5),
        ],
        "errors": {"ssl_error": 2}, "client_aborts": {"reset": 3}, "fallbacks": {"cipher": 10}, "limited": {},
    },
    "sidecar_error": None,
    "probe": {
        "ok": True, "at_age_s": 4.0, "sha256_ok": True, "ktls_tx": True, "protocol": "TLSv1.3",
        "cipher": "TLS_AES_128_GCM_SHA256", "duration_s": 0.02, "error": None,
    },
    "problems": [],
}  # fmt: skip


def status(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(_STATUS), **changes}
