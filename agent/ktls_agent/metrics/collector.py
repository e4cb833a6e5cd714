# SPDX-License-Identifier: Apache-2.0
"""Brings together what the agent, its parts and the kernel say, for the exposition and for the report."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Iterator
from typing import Any, Callable

from ..evidence.model import Snapshot
from ..parts import Part, Parts
from .catalogue import family
from .document import document
from .families import collect
from .family import Family, Sample
from .state import SelfUse
from .text import render, unite

_LOG = logging.getLogger(__name__)
FRESH_S = 1.0
"""Whoever asks sooner gets the last answer: many scrapers cost no more than one."""

StatusCall = Callable[[], Awaitable[dict[str, Any]]]


class Collector:
    """Collects on demand, one collection at a time."""

    def __init__(
        self,
        status: StatusCall,
        snapshot: Callable[[], Snapshot | None],
        parts: Callable[[], Parts],
        clock: Callable[[], float],
    ) -> None:
        """``status`` returns the status object, ``snapshot`` the evidence if there is any, ``clock`` CLOCK_BOOTTIME."""
        self._status = status
        self._snapshot = snapshot
        self._parts = parts
        self._clock = clock
        self._started_s = time.time()
        self._lock = asyncio.Lock()
        self._text = ""
        self._text_at = float("-inf")
        self.faults: list[str] = []

    async def text(self) -> str:
        """Return the exposition, at most a second old."""
        async with self._lock:
            if self._clock() - self._text_at >= FRESH_S:
                status = await self._status()
                now = self._clock()
                self._text, self._text_at = self._render(status, now), now
            return self._text

    async def report(self) -> dict[str, Any]:
        """Return the document of ``ktls-agent report``."""
        async with self._lock:
            status = await self._status()
            return document(status, self._snapshot(), self._up(), self_use(self._started_s), self._clock(), time.time())

    def _render(self, status: dict[str, Any], now: float) -> str:
        own = collect(status, self._snapshot(), self_use(self._started_s), self._up(), now)
        united, faults = unite([*own, *self._of_parts()])
        if faults != self.faults:
            for fault in faults:
                _LOG.error("metrics: left out %s", fault)
        self.faults = faults
        count = family("ktls_exposition_faults", [Sample(len(faults))])
        return render(sorted((*united, count), key=lambda found: found.name))

    def _of_parts(self) -> Iterator[Family]:
        for part in self._parts().all:
            yield from _of_part(part)

    def _up(self) -> dict[str, bool]:
        parts = self._parts()
        return {part.name: part.name not in parts.problems for part in parts.all}


def _of_part(part: Part) -> list[Family]:
    try:
        return list(part.metrics())
    except Exception:  # one part's mistake does not blind the operator to everything else
        _LOG.exception("metrics of %s failed", part.name)
        return []


def self_use(started_s: float) -> SelfUse:
    """Return what this process uses (getrusage(2), proc_pid_statm(5))."""
    resident = None
    try:
        with open("/proc/self/statm", encoding="ascii") as handle:
            resident = int(handle.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        pass  # not known is not shown
    return SelfUse(time.process_time(), resident, started_s)
