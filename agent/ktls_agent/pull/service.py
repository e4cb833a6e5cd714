# SPDX-License-Identifier: Apache-2.0
"""``ktls-agent pull``: a thread for each endpoint, so that none waits for another, and one that tells and watches."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from ..flags import OffFlags
from ..notify import notify
from ..version import VERSION
from .config import Endpoint, PullConfig
from .fetch import Fetcher
from .pace import first_s, next_s
from .raiser import Raiser
from .state import PullState, serial_of
from .verify import Verdict, Verifier
from .watch import Poll, Watch

_LOG = logging.getLogger(__name__)
STATUS_EVERY_S = 2.0
SLACK_S = 60.0
"""A thread may be this much later than its pace and its timeout explain (name resolution has no deadline of ours)."""
_STATUS_MAX = 64 * 1024


def boottime_s() -> float:
    """Seconds since boot, suspend included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Puller:
    """The fetcher of one host."""

    def __init__(
        self, config: PullConfig, raiser: Raiser, watch: Callable[[Endpoint], Watch], host_id: str, boot_id: str
    ) -> None:
        """Nothing runs before :meth:`run`."""
        self._config = config
        self._raiser = raiser
        self._watch = watch
        self._host_id = host_id
        self._boot_id = boot_id
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._chance = random.SystemRandom().random
        self._due_s: dict[str, float] = {}
        self._status_failed = False
        urls = [endpoint.url for endpoint in config.endpoints]
        self._state = PullState(config.fleet, urls, serial_of(_read_json(config.status), config.fleet))

    def stop(self) -> None:
        """Ask :meth:`run` to end."""
        self._stop.set()
        self._wake.set()

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Poll until :meth:`stop`. Raises RuntimeError if a thread hangs or dies: systemd starts us anew."""
        self._raiser.recover()
        threads = [
            threading.Thread(target=self._endpoint, args=(endpoint,), name=endpoint.url, daemon=True)
            for endpoint in self._config.endpoints
        ]
        # As threads wait, which a suspended host does not count.
        now = time.monotonic()
        self._due_s = {endpoint.url: now + self._config.interval_s for endpoint in self._config.endpoints}
        for thread in threads:
            thread.start()
        # Before ready: whoever waits for us must not read what the process before us wrote.
        self._write_status()
        ready()
        written = boottime_s()
        while not self._stop.is_set():
            woken = self._wake.wait(0.5)
            self._wake.clear()
            self._raiser.settle()
            if woken or boottime_s() - written >= STATUS_EVERY_S:
                written = boottime_s()
                self._write_status()
            if not self._stop.is_set():
                self._check(threads)
            notify("WATCHDOG=1")
        notify("STOPPING=1")

    def poll(self, endpoint: Endpoint, watch: Watch) -> int:
        """Poll once and act on it. Returns the failures in a row."""
        try:
            poll = watch.poll()
        except Exception as error:  # a fault of ours must not end the kill switch
            _LOG.exception("poll of %s", endpoint.url)
            poll = Poll(Verdict("internal", f"{type(error).__name__}: {error}"))
        with self._lock:
            before = self._state.endpoints[endpoint.url].result
            outcome = self._state.took(endpoint.url, poll, boottime_s())
            failures = self._state.endpoints[endpoint.url].failures
            changed = before != poll.verdict.result
            # Before the log: journald may be slow, the switch must not.
            if outcome.off is not None and self._raiser.raise_off(outcome.off):
                self._state.raised += 1
                changed = True
        for level, line in outcome.lines:
            getattr(_LOG, level)("%s", line)
        if changed:
            self._wake.set()
        return failures

    def _endpoint(self, endpoint: Endpoint) -> None:
        interval, watch = self._config.interval_s, self._watch(endpoint)
        delay = first_s(self._host_id, endpoint.url, interval)
        while not self._stop.wait(delay):
            delay = next_s(interval, self.poll(endpoint, watch), self._chance())
            self._due_s[endpoint.url] = time.monotonic() + delay

    def _check(self, threads: list[threading.Thread]) -> None:
        now = time.monotonic()
        for thread in threads:
            late = now - self._due_s[thread.name]
            if not thread.is_alive() or late > self._config.timeout_s + SLACK_S:
                raise RuntimeError(f"the thread of {thread.name} is {'late' if thread.is_alive() else 'dead'}")

    def status(self) -> dict[str, Any]:
        """Return what the status file holds."""
        with self._lock:
            state = self._state.as_dict()
            problems = self._state.problems()
        if self._raiser.problem:
            problems.insert(0, self._raiser.problem)
        head = {
            "schema": 1,
            "version": VERSION,
            "pid": os.getpid(),
            "boot_id": self._boot_id,
            "written_s": round(boottime_s(), 3),
        }
        return {**head, "interval_s": self._config.interval_s, **state, "problems": problems}

    def _write_status(self) -> None:
        """Write the status file; for the reader it is whole, and it need not outlive a boot."""
        path = self._config.status
        try:
            with open(f"{path}.new", "w", encoding="utf-8") as stream:
                stream.write(json.dumps(self.status()) + "\n")
            os.rename(f"{path}.new", path)
        except OSError as error:
            if not self._status_failed:
                _LOG.error("%s cannot be written (%s); polling goes on", path, error.strerror)
            self._status_failed = True
            return
        self._status_failed = False


def build(config: PullConfig, host_id: str = "") -> Puller:
    """Make the fetcher of this host. ``host_id``: what its first polls are spread by; the machine's own if empty."""
    boot_id = _text("/proc/sys/kernel/random/boot_id")
    host_id = host_id or _text("/etc/machine-id") or os.uname().nodename
    verifier = Verifier(config.fleet, config.allowed_signers)
    raiser = Raiser(OffFlags(config.run_flag, config.durable_flag), config.agent_socket, config.owed, boot_id)

    def watch(endpoint: Endpoint) -> Watch:
        return Watch(Fetcher(endpoint, config.ca, config.timeout_s), verifier, f"ktls-pull/{VERSION}")

    return Puller(config, raiser, watch, host_id, boot_id)


def main(config: PullConfig, host_id: str = "") -> None:
    """Run the service until SIGTERM or SIGINT."""
    puller = build(config, host_id)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: puller.stop())
    puller.run(lambda: notify("READY=1"))


def _text(path: str) -> str:
    with contextlib.suppress(OSError), open(path, encoding="ascii", errors="replace") as stream:
        return stream.read().strip()
    return ""


def _read_json(path: str) -> object:
    with contextlib.suppress(OSError, ValueError, RecursionError), open(path, encoding="utf-8") as stream:
        return json.loads(stream.read(_STATUS_MAX))
    return None
