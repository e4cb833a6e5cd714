# SPDX-License-Identifier: Apache-2.0
"""Reads what a diagnosis needs: from the agent where it answers, else from the host itself."""

from __future__ import annotations

import argparse
import json
import os
import ssl
from typing import Any

from ktls_host import jsonsock, tls_stat
from ktls_host.errors import KtlsError

from ..core import ktls_available
from .diagnose import as_dict, diagnose, ill, text
from .model import Evidence

_TIMEOUT_S = 15.0
SIDECAR_SOCKET = "/run/ktls-sidecar/control.sock"


def gather(agent_socket: str, sidecar_socket: str = SIDECAR_SOCKET) -> Evidence:
    """Return everything that can be read here. Never raises for a part that cannot: ``unseen`` names it."""
    unseen: list[str] = []
    status: dict[str, Any] | None = None
    sidecar: dict[str, Any] | None = None
    try:
        status = jsonsock.call(agent_socket, {"verb": "doctor"}, _TIMEOUT_S)
        sidecar = status.get("sidecar")
        if sidecar is None:
            unseen.append(f"the sidecar: {status.get('sidecar_error')}")
    except KtlsError as error:
        unseen.append(f"the agent, and with it orders, evidence and probes: {error.message}")
        try:
            sidecar = jsonsock.call(sidecar_socket, {"verb": "status"}, _TIMEOUT_S)
        except KtlsError as problem:
            unseen.append(f"the sidecar: {problem.message}")
    evidence = (status or {}).get("digest") or {}
    now = evidence.get("now")
    if status is not None and now is None:
        unseen.append("connections and bytes by program, cipher and mode, CPU and cards: the agent has no snapshot yet")
    stats = (now or {}).get("tls_stat") or tls_stat.read()
    if stats is None:
        unseen.append("/proc/net/tls_stat: the kernel shows none before module tls is loaded")
    if status is not None and status.get("sockets_error"):
        unseen.append(f"the kernel's view of each connection: {status['sockets_error']}")
    return Evidence(
        kernel=os.uname().release,
        openssl=ssl.OPENSSL_VERSION,
        ulp=ktls_available(),
        status=status,
        sidecar=sidecar,
        stats=stats,
        start=evidence.get("start"),
        now=now,
        cost=evidence.get("cost") or {},
        unseen=tuple(unseen),
    )


def main(arguments: argparse.Namespace) -> int:
    """``ktls-agent doctor``: 0 when nothing is confirmed or likely, 1 when something is."""
    evidence = gather(arguments.socket, arguments.sidecar_socket)
    findings = diagnose(evidence)
    host = os.uname().nodename
    if arguments.json:
        print(json.dumps(as_dict(host, evidence, findings), sort_keys=True))
    else:
        print(text(host, evidence, findings))
    return 1 if ill(findings) else 0
