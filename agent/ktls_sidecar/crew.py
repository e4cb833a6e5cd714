# SPDX-License-Identifier: Apache-2.0
"""The supervisor's side of one worker: its process, its channel, and what it last reported."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

from . import process
from .channel import Channel, Message
from .merge import Counts, connections_open, empty
from .report import WorkerRow
from .worker import Job, work


@dataclass
class WorkerProcess:
    """A worker that was forked and has not been waited for yet. Times: monotonic, and Unix seconds."""

    slot: int
    pid: int
    channel: Channel
    started: float
    started_at: float
    serving: bool = False
    counts: Counts = field(default_factory=empty)
    silent_ticks: int = 0
    _asked: int = 0
    _waiting: dict[int, asyncio.Future[Message]] = field(default_factory=dict)

    def ask(self, loop: asyncio.AbstractEventLoop, message: Message) -> asyncio.Future[Message]:
        """Send ``message``; the future gets the answer, or an empty one when the worker ends."""
        self._asked += 1
        future: asyncio.Future[Message] = loop.create_future()
        self._waiting[self._asked] = future
        self.channel.send({"id": self._asked, **message})
        return future

    def heard(self, message: Message) -> None:
        """Take note of a message."""
        self.silent_ticks = 0
        if "counts" in message:
            self.counts = message["counts"]
        if message.get("event") == "serving":
            self.serving = True
        future = self._waiting.pop(message.get("id", 0), None)
        if future is not None and not future.done():
            future.set_result(message)

    def forget(self) -> None:
        """Take what it said last and close the channel; whoever waits for an answer gets an empty one."""
        self.channel.read_rest()
        self.channel.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_result({})
        self._waiting.clear()

    def signal(self, number: int) -> None:
        """Send a signal. The process exists, perhaps as a zombie, until it is waited for."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def row(self) -> WorkerRow:
        """Return its line in the status."""
        return {
            "pid": self.pid,
            "connections": connections_open(self.counts),
            "started": round(self.started_at, 3),
            "serving": self.serving,
        }


def fork_worker(slot: int, make_job: Callable[[], Job]) -> WorkerProcess:
    """Fork a worker. To be called while no event loop runs in this thread, and with no other thread.

    The child never returns from here. ``make_job`` is called in it.
    """
    ours, theirs = socket.socketpair()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    # A signal for us must not run our handlers in the child, which would write into our loop's self-pipe.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, process.OURS)
    try:
        pid = os.fork()
        if pid == 0:
            _be_worker(make_job, theirs, before)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    return WorkerProcess(slot, pid, Channel(ours), time.monotonic(), time.time())


def _be_worker(make_job: Callable[[], Job], sock: socket.socket, signals: set[int | signal.Signals]) -> None:
    code = 1
    try:
        job = make_job()
        process.become_child([sock.fileno(), *(listener.fileno() for listener in job.sockets)])
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)
        code = work(job, Channel(sock))
    except BaseException:  # nothing of the parent's may run here, whatever happened
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)
