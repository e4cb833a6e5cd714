# SPDX-License-Identifier: Apache-2.0
"""Fleets to plan for, as they would have been seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ktls_control.plan.build import Ask, Seen
from ktls_control.plan.drills import Drill
from ktls_control.preflight import Answer, host_row

from ..test_preflight import info

NOW = 1_800_000_000.0  # 2027-01-15 08:00 UTC
ASK = Ask("tx", "/etc/fleet", "ktls_hosts", None, "ktls_hosts-1a2b3c4d", NOW)


def status(**changes: Any) -> dict[str, Any]:
    """An agent of a host that was deployed and never ordered."""
    return {
        "ok": True,
        "version": "0.1.0",
        "host": {"name": "web", "kernel": "6.12.48+deb13-amd64", "openssl": "OpenSSL 3.5.1 1 Jul 2025"},
        "phase": "userspace",
        "order": "none",
        "order_id": None,
        "ordered_phase": None,
        "epoch": 0,
        "stuck": False,
        "off": {"flag": False, "age_s": None, "reason": None},
        "sidecar": {"version": "0.1.0", "pid": 1},
        "sidecar_error": None,
        "evidence": {"known": False, "problem": None},
        **changes,
    }


def seen(
    variables: Mapping[str, Any] | None = None,
    answer: Answer | None = None,
    drill: Drill | None = Drill(NOW - 3600, True),  # noqa: B008 - frozen
    error: str | None = None,
    cpu: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Seen:
    """A host that can take the phase, unless something is changed; ``error``: its agent gives no status."""
    found = {**info(), "cpu": cpu if cpu is not None else {"online": 8, "busy": 0.3}} if answer is None else answer
    return Seen(variables or {}, host_row(found), None if error else status(**changes), error, drill)


def fleet(count: int, **changes: Any) -> dict[str, Seen]:
    """``web1`` and so on, in racks of ten."""
    return {f"web{n}": seen({"ktls_rack": f"r{n // 10}"}, **changes) for n in range(1, count + 1)}
