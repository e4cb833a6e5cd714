# SPDX-License-Identifier: Apache-2.0
"""The supervisor: it binds, forks the workers, answers the control socket for all of them, and serves no client.

Workers are forked from this process and never executed anew, so that one that has to be replaced runs the same code,
with certificates that were checked, whatever lies on the disk by then. A fork happens only between two runs of the
event loop. Sockets stay open here: clients that wait in the queue of a worker that crashed get the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from base64 import b64encode
from collections.abc import Callable
from typing import TextIO

from ktls_host.errors import KtlsError
from ktls_host.jsonserver import JsonServer

from . import certificates
from .channel import Message
from .config import Config
from .control import serve_control
from .counters import Counters
from .crew import WorkerProcess, fork_worker
from .health import HttpServer, serve_http
from .leave import USUAL, Leave, seconds_of
from .listeners import Listeners, open_listeners
from .merge import empty, ended, merge
from .mode import USERSPACE, ModeSwitch
from .notify import notify
from .openssl import Library
from .page import OrderPage
from .process import cpu_count
from .report import OK, Report
from .server import check_root
from .version import VERSION
from .worker import Job, part_of

_COUNT_S = 0.5
_RELOAD_S = 10.0
_LOOK_S = 1.0
"""How often the supervisor looks around. Workers look for flags themselves, at each connection."""
_HANG_TICKS = round(30 / _LOOK_S)
_KILL_AFTER_DRAIN_S = 2.0
_HURRY_S = 0.5
_END_S = 5.0  # from the last worker's end to our own
_STEADY_S = 10.0
_BACKOFF_S, _BACKOFF_MAX_S = 0.1, 2.0


class Supervisor:
    """The sidecar as a whole. :meth:`run` returns when it has stopped."""

    def __init__(self, config: Config, lib: Library, log: TextIO | None, complain: Callable[[str], None]) -> None:
        """Read certificates and keys, and bind. Raises KtlsError with the cure."""
        self._config, self._lib, self._log, self._complain = config, lib, log, complain
        self._context = certificates.load(lib, config, certificates.new_ticket_keys())
        check_root(config.root)
        self._size = config.workers or cpu_count()
        self._listeners: Listeners = open_listeners(config.listen, self._size, complain)
        self._port = self._listeners.port
        self._started = time.monotonic()
        self._counters = Counters()
        self._gone = empty()
        self._workers: dict[int, WorkerProcess] = {}
        self._due = set(range(self._size))
        self._crashes = [0] * self._size
        self._page = OrderPage()
        self.mode = ModeSwitch(config.off_flags, self._mode_changed, page=self._page)
        self._before = self.mode.ordered
        self._leave = Leave(config.ktls_drain_s)
        self._ready = self._stopping = self._broken = False
        self._reloading = self._reload_wanted = False
        self._loop = asyncio.new_event_loop()
        self._wake: asyncio.Event | None = None
        self._control: JsonServer | None = None
        self._http: HttpServer | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self) -> None:
        """Serve until SIGTERM. Raises KtlsError: those of the control socket, and ``worker_failed``."""
        try:
            self._loop.run_until_complete(self._open())
            while not (self._stopping and not self._workers):
                self._fork_due()
                self._loop.run_until_complete(self._until_due())
        finally:
            self._listeners.close()
            for worker in self._workers.values():  # only after an error of our own
                worker.signal(signal.SIGKILL)
                os.waitpid(worker.pid, 0)
            self._loop.run_until_complete(self._close())
            self._loop.close()
        if self._broken:
            raise KtlsError("worker_failed", "a worker ended before it served; the lines before this one say why")

    async def _open(self) -> None:
        self._wake = asyncio.Event()
        self._control = await serve_control(self, self._config.control_socket, self._config.control_group)
        if self._config.http_socket is not None:
            self._http = await serve_http(self, self._config.http_socket, self._config.control_group)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop)
        self._loop.add_signal_handler(signal.SIGHUP, lambda: self._start(self._reload()))
        self._loop.add_signal_handler(signal.SIGCHLD, self._reap)
        self._start(self._tick())

    async def _close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._http is not None:
            await self._http.close()
        if self._control is not None:
            await self._control.close()

    async def _until_due(self) -> None:
        assert self._wake is not None  # _open() made it
        await self._wake.wait()
        self._wake.clear()

    def _wake_up(self) -> None:
        assert self._wake is not None  # _open() made it
        self._wake.set()

    # --- the control socket -----------------------------------------------------------------------------------------

    async def order(self, mode: object, share: object, drain_s: object = USUAL, tls12: object = False) -> None:
        """Change the mode: what any worker accepts after this has it, however busy that worker is.

        Raises RequestError: those of :meth:`ModeSwitch.order`, and ``bad_drain``.
        """
        seconds = None if drain_s is USUAL else seconds_of(drain_s)
        self.mode.order(mode, share, tls12)
        if drain_s is not USUAL:
            self._leave.begin(seconds, time.monotonic())
            self._tell()

    async def report(self, fresh: bool = True) -> Report:
        """Return everything. A worker that does not answer in time counts with what it said last, a second ago.

        Without ``fresh`` none is asked, so that nobody waits for one that is busy.
        """
        if fresh:
            asked = [worker.ask(self._loop, {"verb": "counts"}) for worker in self._workers.values() if worker.serving]
            if asked:
                await asyncio.wait(asked, timeout=_COUNT_S)
        effective, now = self.mode.effective(), time.monotonic()
        workers = [self._workers[slot] for slot in sorted(self._workers)]
        return {
            "now": now,
            "version": VERSION,
            "openssl": self._lib.version_text,
            "pid": os.getpid(),
            "port": self._port,
            "uptime_s": round(now - self._started, 3),
            "mode": self.mode.ordered,
            "share": self.mode.share,
            "tls12": self.mode.tls12,
            "effective_mode": effective,
            "off_flag": self.mode.off_flag(),
            "drain_until": self._leave.until,
            "health": self._health(),
            "workers": [worker.row() for worker in workers],
            "counts": merge([self._gone, self._counters.snapshot(), *(worker.counts for worker in workers)]),
        }

    def _health(self) -> str:
        if self._stopping:
            return "draining"
        if any(worker.serving for worker in self._workers.values()):
            return OK
        return "no_worker" if self._ready else "starting"

    # --- mode -------------------------------------------------------------------------------------------------------

    def _order_message(self) -> Message:
        return {"verb": "mode", "generation": self.mode.generation, "drain_until": self._leave.until}

    def _tell(self) -> None:
        for worker in self._workers.values():
            worker.ask(self._loop, self._order_message())

    def _mode_changed(self, mode: str) -> None:
        before, self._before = self._before, mode
        self._leave.moved(before, mode, time.monotonic())
        self._tell()
        self._complain(
            f"mode is now {mode}"
            + (", TLS 1.2 by consent" if self.mode.tls12 else "")
            + (f" for {self.mode.share:g} of connections" if self.mode.share < 1 else "")
        )
        notify(f"STATUS=mode {mode}, port {self._port}")

    def _off_seen(self, generation: int) -> None:
        """A worker met the off flag under the order ``generation``: it ends for all, though the flag may be gone."""
        if generation == self.mode.generation and self.mode.ordered != USERSPACE:
            self.mode.order(USERSPACE)

    # --- workers ----------------------------------------------------------------------------------------------------

    def _fork_due(self) -> None:
        if self._stopping or self._reloading:
            return
        for slot in sorted(self._due):
            self._due.discard(slot)
            worker = fork_worker(slot, lambda slot=slot: self._job(slot))  # type: ignore[misc]
            # From here on it hears of every change.
            self._workers[slot] = worker
            worker.ask(self._loop, self._order_message())
            worker.channel.attach(
                self._loop,
                lambda message, worker=worker: self._heard(worker, message),  # type: ignore[misc]
                lambda worker=worker: worker.signal(signal.SIGKILL),  # type: ignore[misc]
            )

    def _job(self, slot: int) -> Job:
        config, sockets = part_of(self._config, self._size), self._listeners.of_worker[slot]
        shared = self._listeners.shared
        return Job(config, self._lib, self._context, sockets, shared, self._log, self._complain, self._page)

    def _heard(self, worker: WorkerProcess, message: Message) -> None:
        worker.heard(message)
        if message.get("event") == "off":
            self._off_seen(message["generation"])
        serving = sum(worker.serving for worker in self._workers.values())
        if not self._ready and serving == self._size:
            self._ready = True
            notify("READY=1", f"STATUS=mode {self.mode.effective()}, port {self._port}")

    def _reap(self) -> None:
        for worker in list(self._workers.values()):
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                self._ended(worker, os.waitstatus_to_exitcode(status))

    def _ended(self, worker: WorkerProcess, code: int) -> None:
        worker.forget()
        del self._workers[worker.slot]
        now = time.monotonic()
        self._gone = merge([self._gone, ended(worker.counts, now)])
        if self._stopping:
            self._wake_up()
            return
        if code:
            self._counters.errors["worker_died"] += 1
        how = f"by signal {-code}" if code < 0 else f"with status {code}"
        if not self._ready:
            self._complain(f"worker {worker.pid} ended {how}")
            self._broken = True
            self._stop()
            return
        self._complain(f"worker {worker.pid} ended {how}; starting another")
        steady = now - worker.started >= _STEADY_S
        crashes = self._crashes[worker.slot] = 0 if steady else self._crashes[worker.slot] + 1
        # Short, because clients are waiting in this worker's queue.
        delay = min(_BACKOFF_MAX_S, _BACKOFF_S * 2 ** (crashes - 1)) if crashes else 0.0
        self._loop.call_later(delay, self._make_due, worker.slot)

    def _make_due(self, slot: int) -> None:
        self._due.add(slot)
        self._wake_up()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            self.mode.effective()
            self._reap()
            for worker in self._workers.values():
                # Ticks and not seconds: after the whole machine was frozen nobody is to blame.
                worker.silent_ticks += 1
                if worker.silent_ticks == _HANG_TICKS:
                    self._complain(f"worker {worker.pid} has not answered for 30 s; killing it")
                    worker.signal(signal.SIGKILL)

    # --- signals ----------------------------------------------------------------------------------------------------

    def _start(self, work: object) -> None:
        task: asyncio.Task[None] = self._loop.create_task(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _stop(self) -> None:
        hurry, self._stopping = self._stopping, True
        seconds = 0.0 if hurry or self._broken else self._config.drain_s
        if not hurry:
            # The unit's TimeoutStopSec may be shorter than the configuration wants to wait (sd_notify(3)).
            wanted_s = seconds + _KILL_AFTER_DRAIN_S + _END_S
            more = f"EXTEND_TIMEOUT_USEC={wanted_s * 1e6:.0f}"
            notify("STOPPING=1", f"STATUS=draining for up to {seconds:g} s", more)
            # The last copies are those of the workers, which close them when they have emptied the queues.
            self._listeners.close()
        for worker in self._workers.values():
            worker.ask(self._loop, {"verb": "drain", "seconds": seconds})
        self._loop.call_later(seconds + (_KILL_AFTER_DRAIN_S if seconds else _HURRY_S), self._kill)
        self._wake_up()

    def _kill(self) -> None:
        for worker in self._workers.values():
            worker.signal(signal.SIGKILL)

    async def _reload(self) -> None:
        self._reload_wanted = True
        if self._reloading:
            return
        self._reloading = True
        try:
            while self._reload_wanted and not self._stopping:
                self._reload_wanted = False
                await self._reload_once()
        finally:
            self._reloading = False
            self._wake_up()

    async def _reload_once(self) -> None:
        try:
            await self._reload_all()
        except KtlsError as error:
            self._counters.errors["reload_failed"] += 1
            self._complain(f"keeping the old certificate: {error.message}")
        else:
            self._complain("certificate and key read again")

    async def _reload_all(self) -> None:
        """Check here, have every worker load the same, and only then let all use it. Raises KtlsError."""
        keys = certificates.new_ticket_keys()
        before = certificates.digest(self._config)
        context = certificates.load(self._lib, self._config, keys)
        workers = list(self._workers.values())
        order = {"verb": "prepare", "digest": before, "ticket_keys": b64encode(keys).decode()}
        for answer in await self._all(workers, order):
            # An empty answer is that of a worker that ended: its successor gets the new context.
            if answer and not answer["ok"]:
                raise KtlsError(answer["code"], answer["message"])
        self._context = context
        await self._all(workers, {"verb": "commit"})

    async def _all(self, workers: list[WorkerProcess], message: Message) -> list[Message]:
        asked = [worker.ask(self._loop, message) for worker in workers]
        if asked:
            _, late = await asyncio.wait(asked, timeout=_RELOAD_S)
            if late:
                silent = f"{len(late)} workers did not answer; look for slow disks, and reload"
                raise KtlsError("reload_failed", silent)
        return [future.result() for future in asked]


def stderr_line(line: str) -> None:
    """Write one line for the operator: the journal, or the terminal."""
    with contextlib.suppress(OSError):
        os.write(2, f"ktls-sidecar: {line}\n".encode())
