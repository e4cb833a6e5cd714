# SPDX-License-Identifier: Apache-2.0
"""``ktls-sentinel serve``: one thread captures, some download, one runs the command for a leak; asyncio answers.

The latch is written by the thread that captures, so that a leak is on disk before the next frame is looked at; the ring
holds what comes in meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from ktls_host.errors import KtlsError
from ktls_host.jsonsock import JsonObject, Peer, RequestError, serve_unix
from ktls_host.probe_object import PROBE_SIZE, probe_bytes

from . import onleak
from .blocks import BLOCK, Blocks
from .capture import Capture
from .config import SentinelConfig, Target
from .download import Download, DownloadError, fetch
from .latch import Latch
from .notify import notify
from .pace import Schedule
from .state import TargetState, took, why_not_armed, window_s
from .version import VERSION
from .watch import Flow, Leak, Seen, Watch

_LOG = logging.getLogger(__name__)
SETTLE_S = 2.0
"""A frame may be looked at so much later than the download ends."""
CHECK_S = 2.0
STUCK_S = 20.0
TICK_S = 1.0
_NOT_BEGUN = "the capture has not begun"


def boottime_s() -> float:
    """Seconds since boot, suspend included; nobody can set it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Sentinel:
    """Watches the targets of one configuration."""

    def __init__(self, config: SentinelConfig) -> None:
        """Read the latch; nothing runs before :meth:`start`."""
        self._config = config
        self._content = probe_bytes()
        self._targets: dict[str, Target] = {target.name: target for target in config.targets}
        self._ports = sorted({target.port for target in config.targets})
        self._latch = Latch(config.state_dir)
        self._watch = Watch(Blocks(self._content), self._ports, self._leaked)
        self._lock = threading.Lock()
        self._states = {name: TargetState() for name in self._targets}
        self._schedule = Schedule(list(self._targets), config.interval_s, time.monotonic())
        self._problem: str | None = _NOT_BEGUN
        self._opened = threading.Event()
        self._leak_found = threading.Event()
        self._stop = threading.Event()
        self._beat = time.monotonic()
        self._dropped = 0
        self._armed_since: float | None = None
        self._chance = random.SystemRandom()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the threads."""
        jobs: list[tuple[str, Callable[[], None]]] = [("capture", self._capture), ("on_leak", self._on_leak)]
        jobs += [(f"download {number}", self._download) for number in range(self._config.workers)]
        self._threads = [threading.Thread(target=job, name=name, daemon=True) for name, job in jobs]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ask the threads to end, and wait for the one that captures."""
        self._stop.set()
        self._leak_found.set()
        self._threads[0].join(5.0)

    def tick(self) -> None:
        """Once a second. Raises RuntimeError if a thread died or hangs: systemd starts us anew."""
        for thread in self._threads:
            if not thread.is_alive():
                raise RuntimeError(f"the thread {thread.name!r} died")
        if time.monotonic() - self._beat > STUCK_S:
            raise RuntimeError(f"the thread 'capture' has hung for {STUCK_S:g} s")
        self._latch.settle()
        self.armed()

    def armed(self) -> str | None:
        """Return why it is not armed, None if it is; and note since when it is."""
        with self._lock:
            window = window_s(self._config.interval_s, self._config.timeout_s)
            why = why_not_armed([self._latch.problem, self._problem], self._states, boottime_s(), window)
            if (why is None) != (self._armed_since is not None):
                _LOG.log(logging.INFO if why is None else logging.WARNING, "%s", "armed" if why is None else why)
                self._armed_since = boottime_s() if why is None else None
            return why

    def status(self) -> JsonObject:
        """Return what ``ktls-sentinel status --json`` prints."""
        why = self.armed()
        now, now_s = time.time(), boottime_s()
        with self._lock:
            targets = {name: state.as_dict(now, now_s) for name, state in self._states.items()}
            since = None if self._armed_since is None else round(now - (now_s - self._armed_since), 3)
        return {
            "version": VERSION,
            "armed": why is None,
            "why": why,
            "interface": self._config.interface,
            "since": since,
            "now": round(now, 3),
            "interval_s": self._config.interval_s,
            "dropped": self._dropped,
            "targets": targets,
            "leaks": [leak.as_dict() for leak in self._latch.leaks()],
            "leaked_frames": self._latch.frames,
            "on_leak": {"configured": bool(self._config.on_leak), "pending": not self._latch.handled},
        }

    def clear(self, peer: Peer) -> JsonObject:
        """Forget the leaks. For root, or whoever the service runs as."""
        if peer.uid not in (0, os.geteuid()):
            raise RequestError("forbidden", "only root may clear leaks; run it with sudo")
        count = self._latch.clear()
        _LOG.warning("cleared %d leaks for uid %d (pid %d)", count, peer.uid, peer.pid)
        return {"cleared": count}

    def _leaked(self, leak: Leak) -> None:
        known = any(each.src == leak.src for each in self._latch.leaks())
        first = self._latch.record(leak)
        if not known:
            _LOG.error("PLAINTEXT on the wire: block %d of the probe file, %s to %s", leak.block, leak.src, leak.dst)
        if first:
            self._leak_found.set()

    def _capture(self) -> None:
        while not self._stop.is_set():
            try:
                capture = Capture(self._config.interface, self._ports)
            except KtlsError as error:
                self._trouble(error.message)
                self._stop.wait(1.0)
                continue
            self._trouble(None)
            try:
                self._follow(capture)
            except KtlsError as error:
                self._trouble(error.message)
            finally:
                capture.close()

    def _follow(self, capture: Capture) -> None:
        before, checked = self._dropped, time.monotonic()
        while not self._stop.is_set():
            capture.step(0.2, self._watch.frame)
            self._beat = now = time.monotonic()
            if now - checked >= CHECK_S:
                capture.check()
                checked, self._dropped = now, before + capture.dropped

    def _trouble(self, problem: str | None) -> None:
        self._beat = time.monotonic()
        with self._lock:
            self._problem = problem
        self._opened.set()
        self.armed()

    def _download(self) -> None:
        self._opened.wait()
        while not self._stop.is_set():
            with self._lock:
                name, wait_s = self._schedule.take(time.monotonic()), self._schedule.wait_s(time.monotonic())
            if name is None:
                self._stop.wait(min(0.5, 0.5 if wait_s is None else max(0.02, wait_s)))
                continue
            try:
                self._probe(name)
            finally:
                with self._lock:
                    self._schedule.done(name, time.monotonic(), self._chance.random())

    def _probe(self, name: str) -> None:
        problem, seen = self._problem, Seen()
        flows: list[Flow] = []

        def opened(flow: Flow) -> None:
            self._watch.expect(flow)
            flows.append(flow)

        found: Download | str
        try:
            if problem is not None:
                raise DownloadError(problem)
            place = self._chance.randrange((PROBE_SIZE - self._config.bytes) // BLOCK + 1) * BLOCK
            found = fetch(self._targets[name], self._config, self._content, place, opened)
            self._settle(flows[0], found.stream_bytes)
        except DownloadError as error:
            found = str(error)
        finally:
            if flows:
                seen = self._watch.forget(flows[0])
        with self._lock:
            before = self._states[name]
            after = self._states[name] = took(before, boottime_s(), found, seen, self._config.interface)
        if after.error != before.error:
            _LOG.log(logging.WARNING if after.error else logging.INFO, "%s: %s", name, after.error or "is watched")
        self.armed()

    def _settle(self, flow: Flow, expected: int) -> None:
        """Wait until the frames of a download have been looked at."""
        deadline = time.monotonic() + SETTLE_S
        while self._watch.covered(flow) < expected and time.monotonic() < deadline:
            time.sleep(0.01)

    def _on_leak(self) -> None:
        if not self._latch.handled:
            self._leak_found.set()
        while True:
            self._leak_found.wait()
            self._leak_found.clear()
            if self._stop.is_set():
                return
            if not self._latch.handled:
                if self._config.on_leak:
                    onleak.run(self._config.on_leak, self._latch.leaks(), _LOG.warning)
                self._latch.handle()


async def serve(config: SentinelConfig) -> None:
    """Run until SIGTERM or SIGINT. Raises :class:`KtlsError`, and RuntimeError when a part of it died."""
    _keep_capability_from_children()
    sentinel = Sentinel(config)

    def handler(request: JsonObject, peer: Peer) -> JsonObject:
        verb = request.get("verb")
        if verb == "status":
            return sentinel.status()
        if verb == "clear":
            return sentinel.clear(peer)
        raise RequestError("bad_request", f"unknown verb {str(verb)[:40]!r}; use status or clear")

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with await serve_unix(config.socket, handler):
        sentinel.start()
        notify("READY=1")
        try:
            while not stop.is_set():
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(stop.wait(), TICK_S)
                if not stop.is_set():
                    sentinel.tick()
                    notify("WATCHDOG=1")
        finally:
            notify("STOPPING=1")
            sentinel.stop()


def _keep_capability_from_children() -> None:
    """Whatever ``on_leak`` starts has no CAP_NET_RAW of ours (prctl(2), PR_CAP_AMBIENT_CLEAR_ALL)."""
    libc: Any = ctypes.CDLL(None, use_errno=True)
    libc.prctl(47, 4, 0, 0, 0)
