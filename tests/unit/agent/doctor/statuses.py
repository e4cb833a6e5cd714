# SPDX-License-Identifier: Apache-2.0
"""Hosts as evidence: a healthy one, from recorded answers of an agent and a sidecar, and changes to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ktls_agent.doctor.model import Evidence

GIB = 1 << 30
DEBIAN13 = ("6.12.117+deb13-cloud-amd64", "OpenSSL 3.5.7 9 Jun 2026")
BACKPORTS = ("7.2.12+deb13-cloud-amd64", "OpenSSL 3.5.7 9 Jun 2026")
CIPHER = "TLS_AES_256_GCM_SHA384"


def row(
    path: str = "ktls_tx", assigned: str = "tx", now: int = 4, opened: int = 400, sent: int = 40 * GIB
) -> dict[str, Any]:
    return {
        "assigned": assigned, "path": path, "protocol": "TLSv1.3", "cipher": CIPHER,
        "connections": now, "connections_total": opened, "bytes_total": sent, "received_total": opened * 200,
    }  # fmt: skip


def sidecar(*rows: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "version": "0.1.0", "pid": 378, "mode": "tx", "share": 1.0, "effective_mode": "tx", "off_flag": False,
        "port": 8443, "uptime_s": 86000.0, "openssl": DEBIAN13[1], "health": "ok",
        "errors": {}, "client_aborts": {"handshake": 3}, "fallbacks": {}, "limited": {},
        "by": list(rows) or [row()], **more,
    }  # fmt: skip


def kind(tx: str = "sw", sent: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "process": "ktls-sidecar", "version": "TLSv1.3", "cipher": CIPHER, "tx": tx, "rx": "none",
        "connections": 4, "sent": sent, **more,
    }  # fmt: skip


STATS = {
    "TlsCurrTxSw": 4, "TlsCurrRxSw": 0, "TlsCurrTxDevice": 0, "TlsCurrRxDevice": 0, "TlsTxSw": 400, "TlsRxSw": 0,
    "TlsTxDevice": 0, "TlsRxDevice": 0, "TlsDecryptError": 0, "TlsRxDeviceResync": 0, "TlsDecryptRetry": 0,
    "TlsRxNoPadViolation": 0,
}  # fmt: skip
REKEY = {"TlsRxRekeyOk": 3, "TlsRxRekeyError": 0, "TlsTxRekeyOk": 3, "TlsTxRekeyError": 0, "TlsRxRekeyReceived": 3}


def digest(*kinds: dict[str, Any], nic: dict[str, int] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "at_s": 1000.0, "tls_stat": dict(STATS), "kinds": list(kinds), "unattributed": 0, "lost_events": 0,
        "nic": {"eth0": nic} if nic else {}, "processes": [], "kernel_warnings": 0, "kernel_warning": "", **more,
    }  # fmt: skip


def status(order: str = "committed", phase: str = "tx", off: str = "", **more: Any) -> dict[str, Any]:
    return {
        "ok": True, "order": order, "ordered_phase": phase, "revert_reason": None,
        "off": {"flag": bool(off), "age_s": None, "reason": off or None}, **more,
    }  # fmt: skip


HEALTHY = Evidence(
    *DEBIAN13,
    ulp=True,
    status=status(),
    sidecar=sidecar(),
    stats=STATS,
    start=digest(kind(sent=0), kind("none", sent=0, version="", cipher="")),
    now=digest(kind(sent=40 * GIB), kind("none", sent=1 << 20, version="", cipher="", connections=0)),
    cost={
        "userspace": {"cpu_s": 100.0, "sent": 100.0 * GIB, "seconds": 600.0},
        "tx": {"cpu_s": 30.0, "sent": 40.0 * GIB, "seconds": 600.0},
    },
)


def host(**changes: Any) -> Evidence:
    """The healthy host with something else."""
    return replace(HEALTHY, **changes)
