# SPDX-License-Identifier: Apache-2.0
"""How the self-probes went, added up in memory: counts by outcome, and latency histograms by path.

A histogram has fixed buckets (https://prometheus.io/docs/practices/histograms/), so that hosts and times can be added.
The label ``path`` is what the kernel said of that very connection: ``ktls``, ``userspace``, or ``unknown``.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter, deque
from dataclasses import dataclass, field, replace

from .metrics.family import Family, Sample
from .probe import BUSY, CERTIFICATE, CONNECT, CONTENT, FAILURES, KERNEL_VIEW, RECORD, REFUSED, ProbeResult

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds in seconds, from loopback on a fast machine to the probe's own time limit."""
PATHS = ("ktls", "userspace", "unknown")
OK = "ok"
NOT_OURS = (CONNECT, CERTIFICATE, BUSY, REFUSED)
"""Failures that kTLS cannot cause: the service is down or full, its certificate is not accepted, the object is gone."""


class Histogram:
    """Cumulative counts of values below each of :data:`BUCKETS_S`."""

    def __init__(self) -> None:
        """Start empty."""
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.total_s = 0.0

    def add(self, value_s: float) -> None:
        """Count one value."""
        self.counts[bisect_left(BUCKETS_S, value_s)] += 1
        self.total_s += value_s

    def samples(self, path: str) -> list[Sample]:
        """Return the lines of one histogram; a bucket holds all values up to its bound."""
        found, below = [], 0
        for bound, count in zip((*(f"{bound:g}" for bound in BUCKETS_S), "+Inf"), self.counts):
            below += count
            found.append(Sample(below, {"path": path, "le": bound}, "_bucket"))
        found.append(Sample(self.total_s, {"path": path}, "_sum"))
        found.append(Sample(below, {"path": path}, "_count"))
        return found


@dataclass(frozen=True)
class Tally:
    """What guards count. ``good`` and ``failed``: probes; ``failed_in_row``: since the last good one.

    A failure that kTLS cannot cause is in neither, does not end a row, and leaves ``at_s`` (CLOCK_BOOTTIME of the last
    probe that says anything) as it was. ``damaged``: what came was not what was
    sent.
    """

    at_s: float | None = None
    good: int = 0
    failed: int = 0
    failed_in_row: int = 0
    damaged: int = 0
    last_error: str = ""


@dataclass
class ProbeLog:
    """Takes results from any thread."""

    _results: Counter[str] = field(default_factory=Counter)
    _handshake: dict[str, Histogram] = field(default_factory=lambda: {path: Histogram() for path in PATHS})
    _transfer: dict[str, Histogram] = field(default_factory=lambda: {path: Histogram() for path in PATHS})
    _tally: Tally = field(default_factory=Tally)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _recent: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=64))
    _noted: int = 0

    def note(self, result: ProbeResult) -> ProbeResult:
        """Count ``result`` and return it."""
        path = {True: "ktls", False: "userspace", None: "unknown"}[result.ktls_tx]
        with self._lock:
            self._results[result.failure or OK] += 1
            if result.timings.handshake_s is not None:
                self._handshake[path].add(result.timings.handshake_s)
            if result.timings.transfer_s is not None:
                self._transfer[path].add(result.timings.transfer_s)
            self._tally = _next(self._tally, result)
            seconds = (result.timings.connect_s, result.timings.handshake_s, result.timings.transfer_s)
            if result.ok and None not in seconds:
                self._noted += 1
                self._recent.append((self._noted, sum(one for one in seconds if one is not None)))
        return result

    def after(self, serial: int) -> tuple[tuple[float, ...], int]:
        """Return how long good probes took, in seconds, those since ``serial``, and the serial to ask with next."""
        with self._lock:
            return tuple(round(seconds, 6) for number, seconds in self._recent if number > serial), self._noted

    def tally(self) -> Tally:
        """Return the counts for guards."""
        return self._tally

    def families(self) -> list[Family]:
        """Return the exposition."""
        with self._lock:
            results = [Sample(self._results[name], {"result": name}) for name in (OK, *FAILURES)]
            handshake = [line for path in PATHS for line in self._handshake[path].samples(path)]
            transfer = [line for path in PATHS for line in self._transfer[path].samples(path)]
        return [
            Family("ktls_probe_total", "counter", "Self-probes by result.", tuple(results)),
            Family(
                "ktls_probe_handshake_seconds",
                "histogram",
                "TLS handshake of the self-probe over loopback.",
                tuple(handshake),
            ),
            Family(
                "ktls_probe_transfer_seconds",
                "histogram",
                "From the self-probe's request to the last byte of the probe object.",
                tuple(transfer),
            ),
        ]


def _next(before: Tally, result: ProbeResult) -> Tally:
    if result.failure in (None, KERNEL_VIEW):
        return Tally(result.at_s, before.good + 1, before.failed, 0, before.damaged, "")
    if result.failure in NOT_OURS:
        return replace(before, last_error=result.error or "")
    return Tally(
        result.at_s,
        before.good,
        before.failed + 1,
        before.failed_in_row + 1,
        before.damaged + (result.failure in (CONTENT, RECORD)),
        result.error or "",
    )
