# SPDX-License-Identifier: Apache-2.0
"""What a sidecar's status says of an interval: totals now, less totals before. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

USERSPACE = "userspace"


@dataclass(frozen=True)
class Totals:
    """The sidecar's totals at one moment. ``state``: its mode and share; ``pid``: another one counts anew.

    ``times``: when the last responses ended, on the sidecar's clock, and how long they took, by mode.

    ``by_mode``: connections, requests and bytes sent of the connections that drew a mode; ``failed``: their errors.
    ``requests`` is None from a sidecar that does not tell.
    """

    at_s: float
    pid: object
    state: tuple[str, float]
    cpu_us: int | None = None
    sent: int = 0
    ktls: int = 0
    connections: int = 0
    requests: int | None = None
    errors: Mapping[str, int] = field(default_factory=dict)
    by_mode: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    failed: Mapping[str, int] = field(default_factory=dict)
    times: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)


def totals(at_s: float, status: Mapping[str, Any], cpu_us: int | None) -> Totals:
    """Read ``status``. Raises KeyError, TypeError or ValueError where it is not as the sidecar says it."""
    volume, opened = status["bytes"], status["connections_total"]
    by_mode: dict[str, tuple[int, int, int]] = {}
    requests: int | None = 0
    for row in status["by"]:
        answered = row.get("requests_total")
        requests = None if answered is None or requests is None else requests + int(answered)
        before = by_mode.get(row["assigned"], (0, 0, 0))
        here = (int(row["connections_total"]), int(answered or 0), int(row["bytes_total"]))
        by_mode[row["assigned"]] = (before[0] + here[0], before[1] + here[1], before[2] + here[2])
    return Totals(
        at_s,
        status["pid"],
        (str(status["effective_mode"]), float(status["share"])),
        cpu_us,
        int(volume["ktls_tx"]) + int(volume["userspace"]),
        int(volume["ktls_tx"]),
        int(opened["ktls_tx"]) + int(opened["userspace"]),
        requests,
        {str(kind): int(count) for kind, count in status["errors"].items()},
        by_mode,
        {str(mode): int(count) for mode, count in (status.get("errors_by_mode") or {}).items()},
        {
            str(mode): tuple((float(at), float(seconds)) for at, seconds in pairs)
            for mode, pairs in (status.get("times") or {}).items()
        },
    )


def arm_of(state: tuple[str, float]) -> str:
    """Return what new connections get in ``state``: ``off``, ``on``, or by lot ``mixed``."""
    mode, share = state
    if mode == USERSPACE or share <= 0:
        return "off"
    return "on" if share >= 1 else "mixed"


def between(before: Totals, now: Totals) -> dict[str, Any] | None:
    """Return the counts of the interval; None when they did not go on: another process counts, or one went down."""
    grown = {name: _less(getattr(before, name), getattr(now, name)) for name in ("sent", "ktls", "connections")}
    if before.pid != now.pid or any(count is None or count < 0 for count in grown.values()):
        return None
    errors = Counter(now.errors)
    errors.subtract(before.errors)
    optional = {name: _less(getattr(before, name), getattr(now, name)) for name in ("cpu_us", "requests")}
    return {
        **grown,
        **{name: None if count is None or count < 0 else count for name, count in optional.items()},
        "errors": {kind: count for kind, count in errors.items() if count > 0},
    }


def _less(before: int | None, now: int | None) -> int | None:
    return None if before is None or now is None else now - before


def by_arm(before: Totals, now: Totals) -> dict[str, dict[str, int]]:
    """Return connections, requests, bytes and errors of each arm since ``before``, by what the connections drew."""
    found = {arm: {"connections": 0, "requests": 0, "sent": 0, "errors": 0} for arm in ("off", "on")}
    for mode in {*now.by_mode, *now.failed}:
        arm = found["off" if mode == USERSPACE else "on"]
        first, last = before.by_mode.get(mode, (0, 0, 0)), now.by_mode.get(mode, (0, 0, 0))
        for name, start, end in zip(("connections", "requests", "sent"), first, last):
            arm[name] += max(0, end - start)
        arm["errors"] += max(0, now.failed.get(mode, 0) - before.failed.get(mode, 0))
    return found
