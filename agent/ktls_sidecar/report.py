# SPDX-License-Identifier: Apache-2.0
"""What the sidecar says of itself, whichever of its processes counted: one report, and views of it. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict

from .merge import Counts, Row, ktls_tx_open, not_ordered, receives_in_kernel, sends_in_kernel

OK = "ok"
_TIMES = 128


class WorkerRow(TypedDict):
    """One worker process. ``started`` is Unix time in seconds; ``serving`` is false until it accepts."""

    pid: int
    connections: int
    started: float
    serving: bool


class Report(TypedDict):
    """Everything at one moment. ``now`` and the times in ``counts`` are seconds of the monotonic clock."""

    now: float
    version: str
    openssl: str
    pid: int
    port: int
    uptime_s: float
    mode: str
    share: float
    tls12: bool
    """Whether connections that draw mode hw are moved to TLS 1.2 with AES-GCM."""
    effective_mode: str
    off_flag: bool
    drain_until: float | None
    """When connections whose kTLS is no longer ordered are cut; None: never."""
    health: str
    """``ok``, or why nobody is served: ``starting``, ``draining``, ``no_worker``."""
    workers: list[WorkerRow]
    counts: Counts


def status(report: Report) -> dict[str, Any]:
    """Return the status object of the control socket."""
    counts, now = report["counts"], report["now"]
    zero_at = None if ktls_tx_open(counts) else counts["ktls_tx_zero_at"]
    return {
        "version": report["version"],
        "pid": report["pid"],
        "mode": report["mode"],
        "share": report["share"],
        "tls12": report["tls12"],
        "effective_mode": report["effective_mode"],
        "off_flag": report["off_flag"],
        "port": report["port"],
        "uptime_s": report["uptime_s"],
        "openssl": report["openssl"],
        "health": report["health"],
        "workers": report["workers"],
        "drain": drain(report),
        "connections": _by_sending(counts, lambda row: row["connections"]),
        "connections_total": _by_sending(counts, lambda row: row["connections_total"]),
        "bytes": _by_sending(counts, lambda row: row["bytes_total"]),
        # A key of its own: the three above add up to a whole.
        "ktls_rx": _receiving(counts),
        "errors": counts["errors"],
        "errors_by_mode": counts["errors_by_mode"],
        "client_aborts": counts["client_aborts"],
        "fallbacks": counts["fallbacks"],
        "limited": counts["limited"],
        "last_ktls_tx_established_age_s": _age(now, counts["ktls_tx_at"]),
        "ktls_tx_zero_age_s": _age(now, zero_at),
        "by": counts["rows"],
        # While connections draw lots, and somebody compares: the newest, so that an answer stays short.
        **({"times": _newest(counts)} if 0 < report["share"] < 1 else {}),
    }


def _newest(counts: Counts) -> dict[str, list[list[float]]]:
    return {mode: sorted(times)[-_TIMES:] for mode, times in counts["times"].items()}


class Drain(TypedDict):
    """Connections whose kTLS is no longer ordered: how many are open, and in how many seconds the rest is cut.

    None: never, or there are none.
    """

    left: int
    deadline_left_s: float | None


def drain(report: Report) -> Drain:
    """Return the countdown after kTLS was left."""
    left, until = not_ordered(report["counts"], report["effective_mode"]), report["drain_until"]
    counting = left > 0 and until is not None
    return {
        "left": left,
        "deadline_left_s": round(max(0.0, until - report["now"]), 3) if counting and until is not None else None,
    }


def _by_sending(counts: Counts, value: Callable[[Row], int]) -> dict[str, int]:
    totals = {"ktls_tx": 0, "userspace": 0}
    for row in counts["rows"]:
        totals["ktls_tx" if sends_in_kernel(row) else "userspace"] += value(row)
    return totals


def _receiving(counts: Counts) -> dict[str, int]:
    rows = [row for row in counts["rows"] if receives_in_kernel(row)]
    return {
        "connections": sum(row["connections"] for row in rows),
        "connections_total": sum(row["connections_total"] for row in rows),
        "bytes": sum(row["received_total"] for row in rows),
    }


def _age(now: float, then: float | None) -> float | None:
    # Never negative: another process may have counted a moment after ``now`` was read.
    return None if then is None else round(max(0.0, now - then), 3)
