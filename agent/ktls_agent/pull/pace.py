# SPDX-License-Identifier: Apache-2.0
"""When to ask next. Pure."""

from __future__ import annotations

import hashlib

JITTER = 0.25
BACKOFF_MAX_S = 16.0
"""A server that comes back is asked again within this time, jitter aside: the kill switch must not sleep for long."""


def first_s(host_id: str, url: str, interval_s: float) -> float:
    """Return how long a host waits before its first poll: hosts that start together are spread over an interval."""
    digest = hashlib.sha256(f"{host_id}\0{url}".encode()).digest()
    return interval_s * int.from_bytes(digest[:4], "big") / 2**32


def next_s(interval_s: float, failures: int, chance: float) -> float:
    """Return the seconds to the next poll after ``failures`` polls in a row that found no server.

    One failure changes nothing (a server that was restarted), then the interval doubles each time. ``chance``: a
    random number from 0 to 1.
    """
    doubled = interval_s * 2.0 ** min(10, max(0, failures - 1))
    return min(doubled, max(interval_s, BACKOFF_MAX_S)) * (1.0 + JITTER * (2.0 * chance - 1.0))
