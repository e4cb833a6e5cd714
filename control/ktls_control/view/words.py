# SPDX-License-Identifier: Apache-2.0
"""Numbers and times in the words that every view uses."""

from __future__ import annotations

import time

#: Metrics of the judge in few words; a name that is not here is shown as it is.
METRICS = {
    "cpu": "CPU/byte",
    "latency": "latency",
    "throughput": "throughput",
    "errors": "errors",
    "latency_tail": "latency, tail",
    "cpu_worst_host": "CPU, worst host",
    "latency_worst_host": "latency, worst host",
    "throughput_worst_host": "throughput, worst host",
}

#: What a wave can wait for, and whether only a person ends it.
WAITS = {
    "approval": ("a person has to promote it", True),
    "paused": ("paused by a person", True),
    "inconclusive": ("the gate cannot tell: a person has to decide", True),
    "freeze": ("a freeze window", False),
}


def metric(name: str) -> str:
    """A metric's short name; of hosts with another datapath it says so: ``CPU/byte (nginx)``."""
    plain, _, kind = name.partition("@")
    return METRICS.get(plain, plain) + (f" ({kind})" if kind else "")


def duration(seconds: float) -> str:
    """``8s``, ``4m10s``, ``2h05m``, ``3d04h``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02}h"


def tick(seconds: float) -> str:
    """A duration on an axis: ``5m``, ``2h``, without a tail of zeros."""
    told = duration(seconds)
    for tail in ("00s", "00m", "00h"):
        told = told.removesuffix(tail)
    return told


def clock(seconds: float) -> str:
    """A countdown: ``14:21``, ``1:02:03``."""
    whole = max(0, int(seconds))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def moment(at: float) -> str:
    """A point in time for people: UTC, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))


def percent(share: float | None, *, sign: bool = False) -> str:
    """``-18.4%``. None is ``?``."""
    return "?" if share is None else f"{share * 100:{'+' if sign else ''}.1f}%"


def floor_percent(share: float | None) -> str:
    """Never more than it is: 99.96% does not read as 100.0%."""
    return "?" if share is None else f"{int(share * 1000) / 10:.1f}%"


def interval(low: float | None, high: float | None) -> str:
    """``[-21.0,-15.2]``, in percent; open ends are ``?``."""
    ends = ("?" if end is None else f"{end * 100:+.1f}" for end in (low, high))
    return f"[{','.join(ends)}]"


def e_value(value: float | None) -> str:
    """Few digits: 0.42, 8.6, 48, 1.2e+06."""
    return (
        "?" if value is None else (f"{value:.2g}" if value < 10 else f"{value:.0f}" if value < 1e5 else f"{value:.1e}")
    )


def count(value: float) -> str:
    """``950``, ``41.2k``, ``3.1M``."""
    for unit in ("", "k", "M", "G"):
        if abs(value) < 1000:
            return f"{value:.0f}{unit}" if not unit else f"{value:.1f}{unit}"
        value /= 1000
    return f"{value:.1f}T"


def size(value: float) -> str:
    """Bytes in decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
