# SPDX-License-Identifier: Apache-2.0
"""The agent's side of evidence: asks the helper at its interval, and says in a few lines what it learned."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Callable

from ktls_host import jsonsock
from ktls_host.errors import KtlsError

from ..metrics.family import Family
from . import wire
from .config import EvidenceConfig
from .model import Kind, Snapshot, Volume

_TIMEOUT_S = 20.0
_COUNTED = ("sent", "ktls_sent", "received", "ktls_received")
_OLD = 3  # intervals without news until the evidence is called old


def ask(path: str) -> Snapshot:
    """Return the helper's snapshot. Raises :class:`KtlsError`."""
    return wire.decode(jsonsock.call(path, {"verb": "evidence"}, _TIMEOUT_S).get("evidence"))


class EvidencePart:
    """Keeps the last two snapshots. Without news it says so: a number that is not known is no zero."""

    name = "evidence"

    def __init__(
        self,
        config: EvidenceConfig,
        path: str,
        fetch: Callable[[str], Snapshot] = ask,
        clock: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        """``path``: the helper's socket."""
        self.latest: Snapshot | None = None
        self.previous: Snapshot | None = None
        """The one before, of the same observer; None if there is none."""
        self.error: str | None = "not asked yet"
        self.on_news: Callable[[], None] = lambda: None
        """Called after each new snapshot."""
        self._config = config
        self._path = path
        self._fetch = fetch
        self._clock = clock

    async def run(self) -> None:
        """Ask again and again."""
        while True:
            await self.refresh()
            await asyncio.sleep(self._config.interval_s)

    async def refresh(self) -> None:
        """Ask once. A failure is kept as ``error``, and what was known before stays."""
        try:
            found = await asyncio.get_running_loop().run_in_executor(None, self._fetch, self._path)
        except (OSError, KtlsError) as error:
            self.error = f"no evidence: {' '.join(str(error).split())}"
            return
        self.error = None
        # Another start of the observer means that everything counts anew.
        same = self.latest is not None and self.latest.since_s == found.since_s
        self.previous = self.latest if same else None
        self.latest = found
        self.on_news()

    @property
    def problem(self) -> str | None:
        """What is wrong, in one line."""
        if self.error is not None and self.error != "not asked yet":
            return self.error
        if self.latest is not None and self._age_s() > _OLD * self._config.interval_s + _TIMEOUT_S:
            return f"evidence is {self._age_s():.0f} s old"
        return "; ".join(self.latest.problems) or None if self.latest is not None else None

    def status(self) -> dict[str, Any]:
        """Return the summary; ``known`` is false, and there is no number, before the first answer."""
        latest = self.latest
        if latest is None:
            return {"known": False, "problem": self.problem}
        previous = self.previous
        return {
            "known": True,
            "problem": self.problem,
            "age_s": round(self._age_s(), 3),
            "judged_age_s": round(max(0.0, self._clock() - latest.judged_s), 3) if latest.judged_s else None,
            "since_s": round(latest.since_s, 3),
            "namespaces": sorted(latest.namespaces),
            "connections": sum(latest.connections.values()),
            "destroyed": latest.destroyed,
            "lost_events": latest.lost_events,
            "vanished": latest.vanished,
            "kernel_warnings": latest.kernel_warnings,
            "total": summarise(latest),
            "interval": summarise(latest, previous) if previous is not None else None,
        }

    def metrics(self) -> Iterable[Family]:
        """Nothing: the exposition is made of the snapshot itself."""
        return ()

    def _age_s(self) -> float:
        return max(0.0, self._clock() - self.latest.at_s) if self.latest is not None else 0.0


def summarise(latest: Snapshot, before: Snapshot | None = None) -> dict[str, Any]:
    """Return what happened since ``before``, or since the observer began: shares of bytes, CPU per byte.

    Shares are of all bytes, the unattributed among them, so they are never too high; null when there were none.
    """
    volumes = {
        kind: _minus(volume, before.volumes.get(kind) if before else None) for kind, volume in latest.volumes.items()
    }
    unattributed = _minus(latest.unattributed, before.unattributed if before else None)
    inferred = _minus(latest.inferred, before.inferred if before else None)
    presumed = _minus(latest.presumed, before.presumed if before else None)
    sent = sum(volume.sent for volume in volumes.values()) + unattributed.sent
    received = sum(volume.received for volume in volumes.values()) + unattributed.received
    by: dict[str, dict[str, int]] = {"version": defaultdict(int), "cipher": defaultdict(int)}
    ktls_sent = ktls_received = 0
    process_bytes: dict[str, int] = defaultdict(int)
    by_process: dict[str, dict[str, int]] = {}
    for kind, volume in volumes.items():
        process_bytes[kind.process] += volume.sent + volume.received
        row = by_process.setdefault(kind.process, dict.fromkeys(_COUNTED, 0))
        row["sent"] += volume.sent
        row["received"] += volume.received
        row["ktls_sent"] += volume.sent if kind.tx != "none" else 0
        row["ktls_received"] += volume.received if kind.rx != "none" else 0
        ktls_sent += volume.sent if kind.tx != "none" else 0
        ktls_received += volume.received if kind.rx != "none" else 0
        in_kernel = _in_kernel(kind, volume)
        if in_kernel:
            by["version"][kind.version or "unknown"] += in_kernel
            by["cipher"][kind.cipher or "unknown"] += in_kernel
    cpu_before = {use.process: use.cpu_s for use in before.processes} if before else {}
    return {
        "sent": sent,
        "received": received,
        "ktls_sent_share": _share(ktls_sent, sent),
        "ktls_received_share": _share(ktls_received, received),
        "by_process": dict(sorted(by_process.items())),
        "unattributed": {"sent": unattributed.sent, "received": unattributed.received},
        "unattributed_share": _share(unattributed.sent + unattributed.received, sent + received),
        "inferred_share": _share(inferred.sent + inferred.received, sent + received),
        "presumed": {"sent": presumed.sent, "received": presumed.received},
        "clients": {"looked_at": latest.clients, "ktls": latest.ktls_clients},
        "ended": _ended(latest, before),
        "by_version": {name: _share(number, sent + received) for name, number in sorted(by["version"].items())},
        "by_cipher": {name: _share(number, sent + received) for name, number in sorted(by["cipher"].items())},
        "cpu": {
            use.process: _cpu(max(0.0, use.cpu_s - cpu_before.get(use.process, 0.0)), process_bytes[use.process])
            for use in latest.processes
        },
    }


def _ended(latest: Snapshot, before: Snapshot | None) -> dict[str, dict[str, Any]]:
    """Return by path how many connections ended, how many of them were cut under way, and the share of these."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for sign, snapshot in ((1, latest), (-1, before)):
        for end, found in snapshot.ended.items() if snapshot else ():
            counts[end.path][0] += sign * found.number
            counts[end.path][1] += sign * found.cut
    return {
        path: {"number": number, "cut": cut, "cut_share": _share(cut, number)}
        for path, (number, cut) in sorted(counts.items())
    }


def _in_kernel(kind: Kind, volume: Volume) -> int:
    return (volume.sent if kind.tx != "none" else 0) + (volume.received if kind.rx != "none" else 0)


def _cpu(seconds: float, number: int) -> dict[str, Any]:
    """Return CPU seconds, and nanoseconds for each byte that is attributed to the process."""
    return {
        "cpu_s": round(seconds, 3),
        "bytes": number,
        "ns_per_byte": round(seconds * 1e9 / number, 3) if number else None,
    }


def _minus(now: Volume, before: Volume | None) -> Volume:
    return now if before is None else Volume(now.sent - before.sent, now.received - before.received)


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None
