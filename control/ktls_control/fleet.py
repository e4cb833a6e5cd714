# SPDX-License-Identifier: Apache-2.0
"""Status of a fleet, and the kill switch by push (:mod:`.off`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .inventory import Host
from .off.model import OffResult as OffResult
from .off.run import switch_off as switch_off
from .reach import AGENT as AGENT
from .reach import DEFAULT_POOL, Reach, Reply


def read_status(hosts: Sequence[Host], pool: int = DEFAULT_POOL) -> dict[str, Any]:
    """The fleet as one object, keyed by host name in the order given (see ``ktls status --json``)."""
    names = [host.name for host in hosts]
    with Reach(hosts, pool=pool, keep=0) as reach:
        replies = {reply.host: reply for reply in reach.ask(names, "status")}
    return {"hosts": {name: host_status(replies[name]) for name in names}}


def host_status(reply: Reply) -> dict[str, Any]:
    """One host's entry: what its agent said, or ``reachable: false`` and why."""
    status = reply.data
    if not reply.reached:
        return {"reachable": False, "error": reply.error}
    if status is None:
        return {"reachable": True, "error": reply.error}
    keep = ("phase", "order", "epoch", "tls_stat", "connections", "bytes")
    more = (
        "order_id",
        "ordered_phase",
        "lease_left_s",
        "revert_reason",
        "off",
        "sockets",
        "probe",
        "host",
        "version",
        "datapath",
    )
    entry = {"reachable": True, **{key: status.get(key) for key in keep + more}}
    if status.get("sidecar_error"):
        entry["error"] = f"{reply.host}: {status['sidecar_error']}"
    return entry
