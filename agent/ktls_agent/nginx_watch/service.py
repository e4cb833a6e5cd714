# SPDX-License-Identifier: Apache-2.0
"""The service: datagrams of nginx's log in, counts out on a Unix socket.

systemd holds the log's socket (``ktls-nginx-log.socket``), so that it is there whether we are or not: a socket that
nobody holds would make nginx write a line into its error log for each request. What comes while we are away waits, as
far as it goes, and then nginx drops it: it never waits. Each datagram is believed only if its sender, as the kernel
names it (SCM_CREDENTIALS, unix(7)), is a process of nginx's unit.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from typing import Any

from ktls_host import jsonsock, tls_stat
from ktls_host.datapath import outside
from ktls_host.errors import KtlsError
from ktls_host.jsonsock import Peer, RequestError
from ktls_host.nginx import build, settings, workers
from ktls_host.nginx.build import Build
from ktls_host.nginx.settings import Settings
from ktls_host.nginx.workers import Processes

from ..notify import notify
from ..version import VERSION
from .counts import Counts
from .kernel import Sessions

SOCKET = "/run/ktls-nginx/watch.sock"
GROUP = "ktls"
LOOK_S = 0.25
IDLE_LOOK_S = 1.0
"""While the kernel has no session, and had none for a while."""
_ALIVE_S = 5.0
_LISTEN_FD = 3  # sd_listen_fds(3)
_BATCH = 256
_CREDENTIALS = struct.Struct("3i")
_TIMEOUT_S = 10.0
_LOG = logging.getLogger(__name__)


class Watch:
    """What is known of one nginx. ``pids`` returns the processes of its unit."""

    def __init__(
        self,
        config: Settings,
        pids: Callable[[], tuple[int, ...]] | None = None,
        say: Callable[[str], str] | None = None,
        stat: Callable[[], dict[str, int] | None] = tls_stat.read,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``say`` returns what ``nginx -V`` prints."""
        self._config = config
        self._pids = pids or (lambda: outside.pids(config.unit))
        self._say = say or _nginx_says
        self._stat = stat
        self._clock = clock
        self._since_s = clock()
        self._known: frozenset[int] = frozenset()
        self._seen: frozenset[int] = frozenset()
        self._strangers: dict[int, float] = {}
        self._built_for: int | None = None
        self._build = Build()
        self.counts = Counts()
        self.sessions = Sessions()
        self.foreign = 0
        """Datagrams of processes that are none of nginx's."""

    def step(self) -> None:
        """Look at the kernel's counters; called every :data:`LOOK_S` seconds, or :data:`IDLE_LOOK_S`."""
        try:
            counters = self._stat()
        except (OSError, KtlsError):
            counters = None
        self.sessions.look(self._clock(), counters)

    @property
    def lively(self) -> bool:
        """Whether to look often."""
        return self.sessions.lively(self._clock())

    def take(self, datagram: bytes, pid: int) -> None:
        """Count one log line of process ``pid``, if that is nginx."""
        if pid not in self._known and not self._is_ours(pid):
            self.foreign += 1
            return
        self.counts.take(datagram)

    def _is_ours(self, pid: int) -> bool:
        now = self._clock()
        if now - self._strangers.get(pid, float("-inf")) < 1.0:
            return False
        fresh = frozenset(self._pids())
        if pid in fresh:
            self._known |= fresh
            return True
        self._strangers = {one: at for one, at in self._strangers.items() if now - at < 1.0}
        self._strangers[pid] = now
        return False

    def status(self) -> dict[str, Any]:
        """Return everything."""
        found = workers.read(self._pids())
        # Those of the last time too: what a worker logged before it ended may be read after it.
        self._known, self._seen = found.all | self._seen, found.all
        self._ask_build(found)
        return {
            "version": VERSION,
            "since_s": round(self._clock() - self._since_s, 3),
            "unit": self._config.unit,
            "program": self._config.program,
            "nginx": self._build.version or None,
            "openssl": self._build.openssl or None,
            "library": self._build.library or None,
            "master": found.master,
            "workers": sorted(found.workers),
            "leaving": sorted(found.leaving),
            "foreign": self.foreign,
            **self.counts.as_dict(),
            **self.sessions.ages(self._clock()),
        }

    def _ask_build(self, found: Processes) -> None:
        """Ask the program once for each master: a package may have been updated between two."""
        if found.master != self._built_for or not self._build.version:
            self._built_for = found.master
            self._build = build.parse(self._say(self._config.program))


def _nginx_says(program: str) -> str:
    try:
        done = subprocess.run(
            [program, "-V"], capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stderr + done.stdout


def receive(log: socket.socket, take: Callable[[bytes, int], None], most: int = _BATCH) -> None:
    """Take what waits on ``log``, at most ``most`` datagrams."""
    for _ in range(most):
        try:
            data, ancillary, _, _ = log.recvmsg(8192, socket.CMSG_SPACE(_CREDENTIALS.size))
        except (BlockingIOError, InterruptedError):
            return
        pid = 0
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS and len(content) >= _CREDENTIALS.size:
                pid = _CREDENTIALS.unpack_from(content)[0]
        take(data, pid)


async def serve(watch: Watch, log: socket.socket, path: str = SOCKET, group: str | None = GROUP) -> None:
    """Serve until SIGTERM. Raises :class:`KtlsError` if the socket cannot be had."""

    async def handle(request: dict[str, Any], peer: Peer) -> dict[str, Any]:
        if request != {"verb": "status"}:
            raise RequestError("bad_verb", "the watch answers status and nothing else")
        receive(log, watch.take, 10 * _BATCH)
        return watch.status()

    loop = asyncio.get_running_loop()
    log.setblocking(False)
    log.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await jsonsock.serve_unix(path, handle, 0o660, group)
    loop.add_reader(log.fileno(), receive, log, watch.take)
    notify("READY=1")
    alive_s = loop.time()
    try:
        while not stop.is_set():
            watch.step()
            if loop.time() - alive_s >= _ALIVE_S:
                alive_s = loop.time()
                notify("WATCHDOG=1")
            try:
                await asyncio.wait_for(stop.wait(), LOOK_S if watch.lively else IDLE_LOOK_S)
            except asyncio.TimeoutError:
                continue
    finally:
        loop.remove_reader(log.fileno())
        await server.close()


def main(config: str) -> int:
    """Run on the socket that systemd passed. Raises :class:`KtlsError`: bad_request, bad_config."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        raise KtlsError("bad_request", "this service is started by ktls-nginx-log.socket, not by hand")
    with socket.socket(fileno=_LISTEN_FD) as log:
        asyncio.run(serve(Watch(settings.load(config)), log))
    return 0
