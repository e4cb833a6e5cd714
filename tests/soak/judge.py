# SPDX-License-Identifier: Apache-2.0
"""What a soak must show. Pure: it looks at what was recorded."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Any

from .load import Broken, Tally

FLAP_GRACE_S = 30.0
"""A transfer that broke so long after a flap may still be its victim: TCP has backed off by then."""
FD_MARGIN = 8
RSS_MARGIN = 0.05
RSS_MARGIN_KIB = 2048
"""Growth of memory that is allowed: this part of it, and this for each process."""


@dataclass
class Record:
    """Everything that was seen. Times are Unix time, in seconds, of this machine."""

    tally: Tally
    flaps: list[tuple[float, float]] = field(default_factory=list)
    modes: list[tuple[float, str]] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    before: list[dict[str, Any]] = field(default_factory=list)
    """Samples without load, after the warm-up."""
    samples: list[dict[str, Any]] = field(default_factory=list)
    """Samples under load."""
    after: list[dict[str, Any]] = field(default_factory=list)
    """Samples without load, at the end."""
    status: dict[str, Any] = field(default_factory=dict)


def explained(broken: Broken, flaps: list[tuple[float, float]]) -> bool:
    """True when a flap lies in the transfer, or shortly before its end."""
    return any(down <= broken.ended and broken.began <= up + FLAP_GRACE_S for down, up in flaps)


def judge(record: Record, modes: tuple[str, ...]) -> list[str]:
    """Return what is wrong, one line each; nothing when the soak passed."""
    found = [f"a wrong body: {text}" for text in record.tally.wrong]
    found += [
        f"a transfer broke without a flap: {broken.what}"
        for broken in record.tally.broken
        if not explained(broken, record.flaps)
    ]
    found += [f"mode {mode} was refused: {why}" for mode, why in record.refused.items()]
    found += _exercised(record, modes)
    found += [f"the sidecar counted {count} errors {name!r}" for name, count in record.status.get("errors", {}).items()]
    if not record.before or not record.after:
        return [*found, "there are no samples without load"]
    return found + _leaks(record)


def _exercised(record: Record, modes: tuple[str, ...]) -> list[str]:
    """A soak in which nothing happened proves nothing."""
    found = []
    if record.tally.right < 100:
        found.append(f"only {record.tally.right} transfers")
    if not record.flaps:
        found.append("the link was never cut")
    found += [f"mode {mode} was never taken" for mode in modes if mode not in {taken for _, taken in record.modes}]
    for name, mode in (("TlsTxSw", "tx"), ("TlsRxSw", "rx")):
        tls = [sample["tls"][name] for sample in record.after if "tls" in sample]
        if mode in modes and (not tls or tls[-1] == 0):
            found.append(f"{name} never rose: no kernel TLS")
    return found


def _leaks(record: Record) -> list[str]:
    found = []
    last = record.after[-1]
    found += [
        f"{name} is {last['tls'][name]} at the end"
        for name in ("TlsCurrTxSw", "TlsCurrRxSw", "TlsCurrTxDevice", "TlsCurrRxDevice", "TlsDecryptError")
        if last["tls"].get(name, 0)
    ]
    if last["connections"]:
        found.append(f"{last['connections']} connections are left")
    if last["processes"] != record.before[0]["processes"]:
        found.append(f"{record.before[0]['processes']} processes became {last['processes']}")
    for name, margin in (("fds", FD_MARGIN), ("rss_kib", allowed_growth_kib(record.before))):
        first, end = (median(sample[name] for sample in samples) for samples in (record.before, record.after))
        if end > first + margin:
            found.append(f"{name} grew from {first:.0f} to {end:.0f}; {margin:.0f} more are allowed")
    return found


def allowed_growth_kib(before: list[dict[str, Any]]) -> float:
    """How much resident memory may grow, in KiB."""
    return float(median(sample["rss_kib"] for sample in before) * RSS_MARGIN + before[0]["processes"] * RSS_MARGIN_KIB)
