# SPDX-License-Identifier: Apache-2.0
"""Builds the status object: what is in force, read back, beside what was asked for."""

from __future__ import annotations

import os
import platform
import ssl
from typing import Any, Callable

from ktls_host.datapath.model import About
from ktls_host.errors import KtlsError

from .core import Agent, boot_id
from .diag import DiagClient
from .version import VERSION


def host_facts() -> dict[str, str]:
    """Return what does not change while the agent runs."""
    return {
        "name": os.uname().nodename,
        "kernel": os.uname().release,
        "openssl": ssl.OPENSSL_VERSION,
        "python": platform.python_version(),
    }


class Observer:
    """Reads the host for one status object after another."""

    def __init__(self, agent: Agent, diag: DiagClient, about: Callable[[], About] | None = None) -> None:
        """Watch ``agent`` and the kernel through ``diag``; ``about`` says what serves."""
        self._about = about
        self._agent = agent
        self._diag = diag
        self._host = host_facts()
        self._boot = boot_id()

    async def status(self, sockets: bool = True) -> dict[str, Any]:
        """Return the status object. Never raises for a part that cannot be read: that part says so itself.

        Without ``sockets`` the kernel is not asked for its connections, which is what costs.
        """
        agent = self._agent
        sidecar: dict[str, Any] | None = None
        try:
            answer = await agent.sidecar_status()
            sidecar = {key: value for key, value in answer.items() if key != "ok"}
        except KtlsError:
            pass  # agent.sidecar_error has it
        stats, counts, sockets_error = await agent.in_thread(self._kernel, sockets)
        now, state, flag = agent.clock(), agent.state, agent.flag_info()
        zero = {"ktls_tx": 0, "userspace": 0}
        lease = state.lease_left_s(now)
        about = self._about() if self._about is not None else None
        if sockets and about is not None and about.kind != "sidecar":
            # The diag helper knows one port; a server that is not ours has its own.
            counts, sockets_error = _sockets_of(sidecar)
        return {
            "schema": 1,
            "version": VERSION,
            "host": self._host,
            "phase": sidecar.get("effective_mode", "userspace") if sidecar else "userspace",
            "order": state.status,
            "order_id": state.order.id if state.order else None,
            "ordered_phase": state.order.phase if state.order else None,
            "epoch": state.epoch,
            "tested": state.tested if state.status == "pending" else None,
            "lease_left_s": None if lease is None else round(lease, 3),
            "boot_id": self._boot,
            "ordered_at_s": None if agent.ordered_at_s is None else round(agent.ordered_at_s, 3),
            "experiment": agent.experiments.as_dict(now),
            "revert_reason": state.reason,
            "revert": agent.revert_steps(),
            "stuck": state.stuck,
            "lapsed": agent.marks.lapsed(),
            "off": {
                "flag": flag.flag or state.latched,
                "age_s": None if flag.age_s is None else round(flag.age_s, 3),
                "reason": flag.reason,
            },
            "tls_stat": stats or {},
            "tls_stat_available": stats is not None,
            "connections": sidecar.get("connections", zero) if sidecar else zero,
            "bytes": sidecar.get("bytes", zero) if sidecar else zero,
            "sockets": counts,
            "sockets_error": sockets_error,
            "sidecar": sidecar,
            "sidecar_error": agent.sidecar_error if sidecar is None else None,
            "datapath": None if about is None else about.as_dict(),
            "probe": agent.probe.as_dict(now) if agent.probe else None,
            "problems": [*agent.problems, *([about.problem] if about is not None and about.problem else [])],
        }

    def _kernel(self, sockets: bool) -> tuple[dict[str, int] | None, dict[str, int], str | None]:
        from ktls_host import tls_stat

        try:
            stats = tls_stat.read()
        except (OSError, KtlsError):
            stats = None
        if not sockets:
            return stats, {}, "not asked for"
        try:
            return stats, self._diag.summary(), None
        except (OSError, KtlsError, ValueError) as error:
            return stats, {}, " ".join(str(error).split())


def _sockets_of(status: dict[str, Any] | None) -> tuple[dict[str, int], str | None]:
    """Return what a datapath knows of its sockets from the kernel, in the words of the diag helper."""
    connections, receiving = (status or {}).get("connections") or {}, (status or {}).get("ktls_rx") or {}
    if {"ktls_tx", "userspace"} - set(connections) or "connections" not in receiving:
        return {}, "the kernel has not been looked at yet"
    return {
        "ktls_tx": connections["ktls_tx"],
        "ktls_rx": receiving["connections"],
        "userspace": connections["userspace"],
    }, None
