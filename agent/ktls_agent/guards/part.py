# SPDX-License-Identifier: Apache-2.0
"""The guards at work: they look every few seconds, and pull the kill switch by themselves.

They act only while an order for kTLS is in force; otherwise they watch. What they pulled stays pulled until an
operator clears the off flag, and kTLS comes back only by a new order. Switching off comes first; evidence, audit and
words after.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any, Callable

from ktls_host import tls_stat
from ktls_host.errors import KtlsError

from ..core import Agent, boot_id
from ..doctor.digest import History
from ..evidence.model import Snapshot
from ..machine import USERSPACE
from ..metrics.family import Family, Sample
from ..probe_log import ProbeLog
from .config import GuardsConfig
from .keep import Keep
from .model import Reading
from .reading import Reader
from .rules import STATES, TRIPPED, Trip, Watch

_LOG = logging.getLogger(__name__)
_SERIES = 120
"""Readings kept for the evidence: at the default interval, ten minutes."""
_JITTER = 0.2
TRIAL_PROBE_S = 10.0
_OLD_S = 30.0
_PREFIX = "guard "


def _no_snapshot() -> Snapshot | None:
    """No evidence: only what the agent itself can read."""
    return None


class GuardPart:
    """The part named ``guards``."""

    name = "guards"

    def __init__(
        self,
        config: GuardsConfig,
        agent: Agent,
        probes: ProbeLog,
        keep: Keep,
        latest: Callable[[], Snapshot | None] = _no_snapshot,
        stat_path: str = tls_stat.PATH,
        history: History | None = None,
    ) -> None:
        """``probes`` is told of every self-probe of ``agent`` by whoever runs it; ``history`` of every snapshot.

        ``latest`` returns the newest evidence, or None before the first.
        """
        self._config = config
        self._agent = agent
        self._probes = probes
        self._keep = keep
        self._latest = latest
        self._stat_path = stat_path
        self._history = history or History()
        self._watch = Watch(config.rules)
        self._reader = Reader()
        self._series: deque[Reading] = deque(maxlen=_SERIES)
        self._order: object = None
        self._trips: Counter[str] = Counter()
        self._last: dict[str, Any] | None = None
        self._unwritten: list[tuple[dict[str, Any], float]] = []
        self._problem: str | None = None
        self._news = asyncio.Event()

    # Life

    async def run(self) -> None:
        """Look and probe until cancelled."""
        if self._last is None:
            self._last = await self._agent.in_thread(self._keep.last)
        probing = asyncio.ensure_future(self._probe())
        try:
            while True:
                await self.look()
                await self._pause(probing)
                if probing.done():
                    probing.result()
        finally:
            probing.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await probing

    async def _pause(self, probing: asyncio.Future[None]) -> None:
        """Wait for the next look: a probe has ended (it may be the damaged one), a snapshot came, or time is up."""
        news = asyncio.ensure_future(self._news.wait())
        both: set[asyncio.Future[Any]] = {news, probing}
        try:
            await asyncio.wait(both, timeout=self._config.interval_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()
        self._news.clear()

    def wake(self) -> None:
        """Look now: there is something new to see."""
        self._news.set()

    async def _probe(self) -> None:
        while True:
            # Spread, so that hosts that started together do not stay together.
            await asyncio.sleep(self._probe_interval_s() * random.uniform(1 - _JITTER, 1 + _JITTER))
            await self._agent.run_probe()
            self._news.set()

    def _probe_interval_s(self) -> float:
        """An experiment compares the durations of probes, block by block, and needs several of them in each."""
        interval = self._config.probe_interval_s
        return min(interval, TRIAL_PROBE_S) if self._agent.experiments.running else interval

    @property
    def armed(self) -> bool:
        """Whether an order for kTLS is in force: only then is there anything to switch off."""
        return self._agent.state.wanted != USERSPACE

    async def look(self) -> None:
        """Read everything once, and act on it."""
        await self._read()
        reading = self._reader.read(self._agent.clock())
        order = self._agent.state.order.key if self.armed and self._agent.state.order else None
        if order != self._order:
            # What happened before this order is not its doing.
            self._order = order
            self._watch.restart()
            self._series.clear()
        self._series.append(reading)
        trips = self._watch.look(reading, self._agent.state.wanted)
        for trip in trips if self.armed else ():
            await self._act(trip)
        if self._unwritten:
            await self._write()

    async def _read(self) -> None:
        try:
            snapshot = self._latest()
            if snapshot is not None:
                self._reader.snapshot(snapshot)
                self._history.take(snapshot, self._agent.state.wanted)
            if snapshot is None or not snapshot.namespaces or self._agent.clock() - snapshot.at_s > _OLD_S:
                # Without the observer we still see our own network namespace.
                counters = await self._agent.in_thread(tls_stat.read, self._stat_path)
                self._reader.tls_stat("host", counters or {}, self._agent.clock())
        except KtlsError as error:
            _LOG.warning("guards: %s", error.message)
        with contextlib.suppress(KtlsError):  # agent.sidecar_error has it; the rules that need it are blind
            self._reader.sidecar(await self._agent.sidecar_status(), self._agent.clock())
        self._reader.probe(self._probes.tally())

    async def _act(self, trip: Trip) -> None:
        order = self._agent.state.order
        reason = f"{_PREFIX}{trip.rule.name}: {trip.detail}"
        if self._config.dry_run:
            _LOG.warning("dry run, nothing is switched: %s", reason)
        else:
            await self._agent.off(reason)
        self._trips[trip.rule.name] += 1
        now = time.time()
        snapshot = self._latest()
        evidence = {
            "schema": 1,
            "guard": trip.rule.name,
            "detail": trip.detail,
            "dry_run": self._config.dry_run,
            "at": now,
            "boottime_s": trip.at_s,
            "boot_id": boot_id(),
            "order": order.as_dict() if order else None,
            "setting": dict(vars(trip.setting)),
            "probe_error": self._probes.tally().last_error,
            "kernel_warning": snapshot.kernel_warning if snapshot else "",
            "readings": [
                {"at_s": reading.at_s, "values": dict(reading.values), "seen_s": dict(reading.seen_s)}
                for reading in self._series
            ],
        }
        self._last = evidence
        self._agent.audit.record(
            "guard_trip",
            guard=trip.rule.name,
            detail=trip.detail,
            dry_run=self._config.dry_run,
            order=order.id if order else None,
        )
        self._unwritten = [*self._unwritten, (evidence, now)][-self._config.keep :]

    async def _write(self) -> None:
        """Write what is not on disk yet; what fails is tried again at the next look."""
        while self._unwritten:
            evidence, at = self._unwritten[0]
            try:
                path = await self._agent.in_thread(self._keep.put, evidence, at)
            except (OSError, KtlsError) as error:
                why = error.message if isinstance(error, KtlsError) else error.strerror
                problem = f"the evidence of guard {evidence['guard']} is not on disk yet ({why})"
                if problem != self._problem:
                    _LOG.error("%s", problem)
                self._problem = problem
                return
            self._unwritten.pop(0)
            if self._last is evidence:
                self._last = {**evidence, "file": path}
            _LOG.warning("evidence of guard %s: %s", evidence["guard"], path)
        self._problem = None

    # Words

    def status(self) -> dict[str, Any]:
        """Return what the guards see."""
        tripped = self._tripped()
        last = self._last
        return {
            "armed": self.armed,
            "dry_run": self._config.dry_run,
            "tripped": tripped,
            "problem": self._problem,
            "last_trip": None
            if last is None
            else {name: last.get(name) for name in ("guard", "detail", "at", "dry_run", "file")},
            "rules": {
                watcher.rule.name: {
                    "state": TRIPPED if watcher.rule.name == tripped else watcher.judgement.state,
                    "events": watcher.judgement.events,
                    "ratio": None if watcher.judgement.ratio is None else round(watcher.judgement.ratio, 4),
                    "limit_events": watcher.setting.events,
                    "limit_ratio": watcher.setting.ratio,
                    "window_s": watcher.setting.window_s,
                    "windows": watcher.setting.windows,
                }
                for watcher in self._watch.watchers
            },
        }

    def metrics(self) -> Iterable[Family]:
        """Return what the guards and the self-probe add to the exposition."""
        tripped = self._tripped()
        states: list[Sample] = []
        trips: list[Sample] = []
        for watcher in self._watch.watchers:
            name = watcher.rule.name
            now = TRIPPED if name == tripped else watcher.judgement.state
            states.extend(Sample(float(state == now), {"guard": name, "state": state}) for state in STATES)
            trips.append(Sample(self._trips[name], {"guard": name}))
        return [
            Family("ktls_guard_state", "gauge", "1 for the state that a guard is in.", tuple(states)),
            Family("ktls_guard_trips_total", "counter", "Times that a guard tripped.", tuple(trips)),
            Family(
                "ktls_guards_armed",
                "gauge",
                "1 while guards act: an order for kTLS is in force.",
                (Sample(float(self.armed)),),
            ),
            *self._probes.families(),
        ]

    def _tripped(self) -> str | None:
        """The guard whose trip is latched now, also after a restart of the agent: the flag's reason says so."""
        if not self._agent.state.latched:
            return None
        reason = self._agent.flag_info().reason or ""
        name = reason[len(_PREFIX) :].partition(":")[0] if reason.startswith(_PREFIX) else ""
        return name if any(watcher.rule.name == name for watcher in self._watch.watchers) else None
