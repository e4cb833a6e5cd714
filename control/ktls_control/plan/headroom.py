# SPDX-License-Identifier: Apache-2.0
"""CPU of hosts if all of them went back to userspace TLS at once. Pure. CPU is in shares of a host's CPUs."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..judge.model import HostSeries

#: Bytes of a host below which its CPU per byte says nothing.
_LEAST_BYTES = 10_000_000
#: Shorter peaks are no load.
_WINDOW_S = 300.0


@dataclass(frozen=True)
class Load:
    """What a host spends now.

    :param busy: of all CPUs; None unknown.
    :param serving: CPU seconds a second of the serving processes; None unknown.
    :param ktls_share: of the bytes that they send; None unknown.
    """

    cpus: int | None
    busy: float | None
    serving: float | None
    ktls_share: float | None


def after_off(load: Load, peak: float, ratio: float | None) -> float | None:
    """Share of its CPUs that a host needs in its busiest hour with everything in userspace; may be over 1.

    Where it is not known what serving takes, all that is busy counts as serving: that errs on the dear side.

    :param peak: how many times what it serves now it serves then.
    :param ratio: CPU per byte of userspace TLS by that of the kernel's.
    :returns: None when it cannot be known.
    """
    if load.busy is None or load.ktls_share is None or (load.ktls_share and ratio is None):
        return None
    serving = load.busy if load.serving is None or not load.cpus else min(load.busy, load.serving / load.cpus)
    # kTLS that costs more than userspace is no reserve.
    dearer = load.ktls_share * max(0.0, (ratio or 1.0) - 1.0)
    return load.busy - serving + serving * peak * (1.0 + dearer)


def ratio(statuses: Iterable[Mapping[str, Any]]) -> float | None:
    """CPU per byte of hosts in userspace by that of hosts with kTLS, medians; None unless there are both."""
    userspace, kernel = [], []
    for status in statuses:
        for found in (_part(status, "interval"), _part(status, "total")):
            cost = _cost(found)
            share = found.get("ktls_sent_share")
            if cost is None or share is None:
                continue
            if share <= 0.05:
                userspace.append(cost)
            elif share >= 0.95:
                kernel.append(cost)
            break
    return statistics.median(userspace) / statistics.median(kernel) if userspace and kernel else None


def ktls_share(status: Mapping[str, Any]) -> float | None:
    """Share of kTLS in the bytes sent lately; 0 for a host in userspace that sends nothing."""
    share = _part(status, "interval").get("ktls_sent_share")
    if share is not None:
        return float(share)
    return 0.0 if status.get("phase") == "userspace" else None


def _cost(found: Mapping[str, Any]) -> float | None:
    """Nanoseconds per byte of the process that moved most."""
    rows = [row for row in (found.get("cpu") or {}).values() if row.get("ns_per_byte")]
    most = max(rows, key=lambda row: row["bytes"], default=None)
    return float(most["ns_per_byte"]) if most and most["bytes"] >= _LEAST_BYTES else None


def _part(status: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    evidence = status.get("evidence")
    found = evidence.get(name) if isinstance(evidence, dict) else None
    return found if isinstance(found, dict) else {}


def serving(series: HostSeries) -> float | None:
    """CPU seconds a second of the serving processes over the last minutes; None when nobody knows."""
    windows = _windows(series)
    return windows[-1] if windows else None


def peak(series: Iterable[HostSeries]) -> float | None:
    """How many times what it serves now the median host served in its busiest minutes on record; at least 1."""
    found = []
    for one in series:
        windows = _windows(one)
        if len(windows) > 1 and windows[-1] > 0:
            found.append(max(windows) / windows[-1])
    return statistics.median(found) if found else None


def _windows(series: HostSeries) -> list[float]:
    """Mean use of CPU in each :data:`_WINDOW_S` on record, the newest last."""
    windows: list[float] = []
    spent = seconds = 0.0
    for sample in reversed(series.samples):
        if sample.cpu_s is None:
            continue
        spent, seconds = spent + sample.cpu_s, seconds + sample.seconds
        if seconds >= _WINDOW_S:
            windows.append(spent / seconds)
            spent = seconds = 0.0
    return windows[::-1]
