# SPDX-License-Identifier: Apache-2.0
"""Counts of several processes as one. Pure; the values are plain JSON, because they travel between processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TypedDict

from .leave import is_ordered


class Row(TypedDict):
    """One row of the connection table; see :class:`ktls_sidecar.counters.Tally`."""

    assigned: str
    path: str
    protocol: str
    cipher: str
    connections: int
    connections_total: int
    bytes_total: int
    received_total: int
    requests_total: int


class Counts(TypedDict):
    """A snapshot of :class:`ktls_sidecar.counters.Counters`. Times are seconds of the monotonic clock, or null.

    ``times``: when the last responses ended and how long they took, by the mode that their connection drew.
    """

    rows: list[Row]
    errors: dict[str, int]
    errors_by_mode: dict[str, int]
    client_aborts: dict[str, int]
    fallbacks: dict[str, int]
    limited: dict[str, int]
    requests: dict[str, int]
    rejected: int
    times: dict[str, list[list[float]]]
    ktls_tx_at: float | None
    ktls_tx_zero_at: float | None


def empty() -> Counts:
    """Return the counts of a process that did nothing yet."""
    return {
        "rows": [],
        "errors": {},
        "errors_by_mode": {},
        "client_aborts": {},
        "fallbacks": {},
        "limited": {},
        "requests": {},
        "rejected": 0,
        "times": {},
        "ktls_tx_at": None,
        "ktls_tx_zero_at": None,
    }


def merge(several: Iterable[Counts]) -> Counts:
    """Add up. The last handshake is the youngest of all, and so is the moment when the last connection had gone."""
    parts = list(several)
    table: dict[tuple[str, str, str, str], Row] = {}
    for row in (row for part in parts for row in part["rows"]):
        key = (row["assigned"], row["path"], row["protocol"], row["cipher"])
        sum_row = table.get(key)
        if sum_row is None:
            table[key] = row.copy()
            continue
        sum_row["connections"] += row["connections"]
        sum_row["connections_total"] += row["connections_total"]
        sum_row["bytes_total"] += row["bytes_total"]
        sum_row["received_total"] += row["received_total"]
        sum_row["requests_total"] += row["requests_total"]
    return {
        "rows": [table[key] for key in sorted(table)],
        "errors": _sum(part["errors"] for part in parts),
        "errors_by_mode": _sum(part["errors_by_mode"] for part in parts),
        "client_aborts": _sum(part["client_aborts"] for part in parts),
        "fallbacks": _sum(part["fallbacks"] for part in parts),
        "limited": _sum(part["limited"] for part in parts),
        "requests": _sum(part["requests"] for part in parts),
        "rejected": sum(part["rejected"] for part in parts),
        "times": {
            mode: sorted(pair for part in parts for pair in part["times"].get(mode, ()))
            for mode in {mode for part in parts for mode in part["times"]}
        },
        "ktls_tx_at": _latest(part["ktls_tx_at"] for part in parts),
        "ktls_tx_zero_at": _latest(part["ktls_tx_zero_at"] for part in parts),
    }


def ended(counts: Counts, now: float) -> Counts:
    """Return what a process leaves that has ended: its totals, and no open connection. ``now``: monotonic seconds."""
    rows = [row.copy() for row in counts["rows"]]
    for row in rows:
        row["connections"] = 0
    zero_at = now if ktls_tx_open(counts) else counts["ktls_tx_zero_at"]
    left = counts.copy()
    left["rows"], left["ktls_tx_zero_at"], left["times"] = rows, zero_at, {}
    return left


def ktls_tx_open(counts: Counts) -> int:
    """Return the number of open connections that send in the kernel."""
    return sum(row["connections"] for row in counts["rows"] if sends_in_kernel(row))


def not_ordered(counts: Counts, mode: str) -> int:
    """Return the number of open connections whose kTLS is not what ``mode`` orders."""
    return sum(
        row["connections"]
        for row in counts["rows"]
        if not is_ordered(mode, sends_in_kernel(row), receives_in_kernel(row), row["assigned"])
    )


def connections_open(counts: Counts) -> int:
    """Return the number of open connections after their handshake."""
    return sum(row["connections"] for row in counts["rows"])


def sends_in_kernel(row: Row) -> bool:
    """True when the kernel encrypts what is sent."""
    return row["path"] in ("ktls_tx", "ktls_tx_rx")


def receives_in_kernel(row: Row) -> bool:
    """True when the kernel decrypts what is received."""
    return row["path"] in ("ktls_rx", "ktls_tx_rx")


def _sum(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for part in parts:
        for key, count in part.items():
            total[key] += count
    return dict(total)


def _latest(times: Iterable[float | None]) -> float | None:
    return max((time for time in times if time is not None), default=None)
