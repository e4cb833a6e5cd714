# SPDX-License-Identifier: Apache-2.0
"""The part named ``series``: listens to what the sidecar tells the agent anyway, and keeps one sample an interval.

It asks nobody by itself. An interval in which the sidecar started anew, or was not heard for long, is not kept. The
ring is in memory: an agent that starts begins anew, and says since when (``began_s``).
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any, Callable

from ktls_host.jsonsock import MAX_LINE, RequestError

from ..core import Agent, boot_id
from ..metrics.family import Family
from ..probe_log import ProbeLog
from . import cpu
from .config import SeriesConfig
from .counts import Totals, arm_of, between, by_arm, totals
from .draw import Draw
from .ring import Ring, Sample

_LOG = logging.getLogger(__name__)
_LATE = 4  # periods without news after which an interval says nothing
_EARLY_S = 0.5  # half the time between two answers of the sidecar
_PAGE = 1024
_ROOM = 1024  # for what is around a page in its answer


class SeriesPart:
    """Keeps samples, and hands them out in pages."""

    name = "series"

    def __init__(
        self,
        config: SeriesConfig,
        agent: Agent,
        probes: ProbeLog,
        cpu_us: Callable[[Mapping[str, Any]], int | None] = cpu.read,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """``probes`` is told of every self-probe; ``cpu_us`` reads the CPU time of a sidecar from its status."""
        self._config = config
        self._agent = agent
        self._probes = probes
        self._cpu_us = cpu_us
        self._wall = wall
        self._boot = boot_id()
        self._ring = Ring(config.size)
        self._began_s = agent.clock()
        self._last: Totals | None = None
        self._heard: Totals | None = None
        self._in_force: set[str] = set()  # arms, as often as the sidecar was heard in this interval
        self._probed = 0
        self._problem: str | None = None
        self._run_of_arms: object = None
        self._arms_from: Totals | None = None
        self._arms: dict[str, dict[str, Any]] = {}
        self._draw = Draw()
        agent.hear(self.heard)

    async def run(self) -> None:
        """Nothing: :meth:`heard` does it."""
        await asyncio.Event().wait()

    def heard(self, at_s: float, status: Mapping[str, Any], cut: bool) -> None:
        """Take what the sidecar said at ``at_s`` (CLOCK_BOOTTIME). ``cut``: an interval ends here, however short."""
        if "by" not in status:
            return  # nobody counts there, so there is no series
        last = self._last
        due = last is None or at_s - last.at_s >= self._config.period_s - _EARLY_S or last.pid != status.get("pid")
        try:
            now = totals(at_s, status, self._cpu_us(status) if cut or due else None)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self._problem = f"series: the sidecar's status cannot be read ({type(error).__name__}: {error})"
            return
        self._problem = None
        self._count_arms(now)
        self._heard = now
        self._in_force.add(arm_of(now.state))
        if not (cut or due):
            return
        if last is not None and at_s > last.at_s:
            self._keep(last, now)
        self._last = now
        # A cut comes right before a change: what was in force at it is of the past.
        self._in_force = set() if cut else {arm_of(now.state)}

    def _keep(self, before: Totals, now: Totals) -> None:
        at_ms, ms = round(now.at_s * 1000), round((now.at_s - before.at_s) * 1000)
        last_ms = self._ring.last_ms
        if ms < 1 or ms > _LATE * self._config.period_s * 1000 or (last_ms is not None and at_ms <= last_ms):
            return
        counts = between(before, now)
        if counts is None:
            return
        probed, self._probed = self._probes.after(self._probed)
        washout = self._agent.experiments.in_washout(before.at_s, now.at_s)
        arm = next(iter(self._in_force)) if len(self._in_force) == 1 else "mixed"
        self._ring.add(Sample(at_ms, ms, arm, washout=washout, probe_s=probed, **counts))

    def _count_arms(self, now: Totals) -> None:
        """Add up by arm from the start of an experiment to its end; what is older than it does not count."""
        key = self._agent.experiments.running
        before = self._heard
        if key is None:
            if self._agent.experiments.current is None:
                self._arms = {}
            self._run_of_arms = self._arms_from = None
            return
        if key != self._run_of_arms or before is None or before.pid != now.pid or self._arms_from is None:
            same = before is not None and before.pid == now.pid
            self._run_of_arms, self._arms_from, self._draw = key, before if same else now, Draw()
        if self._arms_from is not None:
            self._draw.take(now.times)
            found = by_arm(self._arms_from, now)
            self._arms = {arm: {**counts, "seconds": self._draw.seconds(arm)} for arm, counts in found.items()}

    def page(self, since_s: object = None) -> dict[str, Any]:
        """Return the samples that end after ``since_s``, oldest first, as many as go into one answer.

        ``more``: there are newer ones; ask again from ``next_since_s``. Raises :class:`RequestError`: bad_request.
        """
        if since_s is None:
            since_s = -1.0
        if isinstance(since_s, bool) or not isinstance(since_s, (int, float)) or not abs(since_s) < 1e12:
            raise RequestError("bad_request", "series since_s: use seconds of CLOCK_BOOTTIME, as in samples")
        after_ms, most = round(since_s * 1000), _PAGE
        room = MAX_LINE - _ROOM - len(json.dumps(self._arms))
        while True:
            samples = self._ring.page(after_ms, most)
            if most <= 1 or len(json.dumps(samples, separators=(",", ":"))) <= room:
                break
            most //= 2
        times = samples["at_ms"]
        return {
            "schema": 1,
            "boot_id": self._boot,
            "now_s": round(self._agent.clock(), 3),
            "wall_s": round(self._wall(), 3),
            "period_s": self._config.period_s,
            "began_s": round(self._began_s, 3),
            "ordered_at_s": _rounded(self._agent.ordered_at_s),
            "experiment": self._agent.experiments.as_dict(self._agent.clock()),
            "samples": samples,
            "arms": self._arms,
            "more": bool(times) and times[-1] != self._ring.last_ms,
            "next_since_s": times[-1] / 1000 if times else max(since_s, 0),
        }

    def status(self) -> dict[str, Any]:
        """Return how much there is."""
        return {
            "samples": len(self._ring),
            "began_s": round(self._began_s, 3),
            "period_s": self._config.period_s,
            "problem": self._problem,
        }

    def metrics(self) -> Iterable[Family]:
        """Nothing: everything in it is exposed where it comes from."""
        return ()


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
