# SPDX-License-Identifier: Apache-2.0
"""Many child processes, read line by line in one thread: what a fan-out over ssh is made of.

A thread for each process would cost more than the process; an event loop with callbacks for each pipe costs little.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import math
import os
import resource
import selectors
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

#: Too many files or processes for now: what was refused can be tried again when a child has ended.
FULL = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)
#: A line that is longer than this ends its process: no answer of an agent is (bytes).
MAX_LINE = 1 << 20
_MAX_STDERR = 8192
_REAP_S = 0.02
_FILES = 8192
_KILL_AFTER_S = 2.0


@dataclass(eq=False)
class Child:
    """One process.

    :param deadline: of the monotonic clock; then it is ended, and ``timed_out`` is true.
    :param status: exit status, negative for a signal; None while it runs.
    """

    name: str
    pid: int
    stdin: int | None
    deadline: float
    timed_out: bool = False
    status: int | None = None
    pending: bytes = b""
    errors: bytearray = field(default_factory=bytearray)
    pipes: set[int] = field(default_factory=set)
    stopped_at: float | None = None

    @property
    def stderr(self) -> str:
        """What it wrote to standard error, its beginning if it is long."""
        return self.errors.decode("utf-8", "replace")


class Children:
    """Starts, reads and ends processes. Use as a context manager: at its end none is left.

    :param on_line: called with each line of a child's standard output, without its line feed.
    :param on_end: called once for each child when it has been waited for.
    """

    def __init__(self, on_line: Callable[[Child, str], None], on_end: Callable[[Child], None]) -> None:
        self._on_line, self._on_end = on_line, on_end
        _raise_file_limit()
        self._selector = selectors.DefaultSelector()
        self._running: set[Child] = set()
        self._ending: list[Child] = []
        self._due: list[tuple[float, int, Child]] = []
        self._count = 0

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_exc: object) -> None:
        for child in list(self._running):
            self._signal(child, signal.SIGKILL)
            self._close(child)
        for child in list(self._running):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child.pid, 0)
        self._running.clear()
        self._selector.close()

    def __len__(self) -> int:
        return len(self._running)

    def start(self, name: str, argv: Sequence[str], deadline: float, stdin: int | None = None) -> Child:
        """Start a process.

        :param stdin: an open file that it reads; None makes a pipe for :meth:`write`.
        :raises OSError: when it cannot be started.
        """
        mine: int | None = None
        theirs: list[int] = []
        reading: list[int] = []
        try:
            for _pipe in ("stdout", "stderr"):
                read, write = os.pipe2(os.O_CLOEXEC)
                reading.append(read)
                theirs.append(write)
            if stdin is None:
                stdin, mine = os.pipe2(os.O_CLOEXEC)
                theirs.append(stdin)
                os.set_blocking(mine, False)
            pid = os.posix_spawnp(
                argv[0],
                list(argv),
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, stdin, 0),
                    (os.POSIX_SPAWN_DUP2, theirs[0], 1),
                    (os.POSIX_SPAWN_DUP2, theirs[1], 2),
                ],
                # A group of its own, so that Ctrl-C is ours to pass on; and Python's own way with these is undone.
                setpgroup=0,
                setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
            )
        except OSError:
            for handle in (*reading, *([mine] if mine is not None else ())):
                os.close(handle)
            raise
        finally:
            for handle in theirs:
                os.close(handle)
        child = Child(name, pid, mine, deadline)
        self._running.add(child)
        for handle, take in zip(reading, (self._take_line, self._take_error), strict=True):
            os.set_blocking(handle, False)
            child.pipes.add(handle)
            self._selector.register(handle, selectors.EVENT_READ, (child, take))
        self.set_deadline(child, deadline)
        return child

    def set_deadline(self, child: Child, deadline: float) -> None:
        """Change when it is ended; infinity: not by the clock."""
        child.deadline = deadline
        if deadline == math.inf:
            return
        self._count += 1
        heapq.heappush(self._due, (deadline, self._count, child))

    def write(self, child: Child, data: bytes) -> bool:
        """Write to its standard input; False when it does not take it (it is about to end)."""
        if child.stdin is None:
            return False
        try:
            return os.write(child.stdin, data) == len(data)
        except OSError:
            return False

    def stop(self, child: Child) -> None:
        """Ask it to end; ``on_end`` follows."""
        if child in self._running and child.stopped_at is None:
            child.stopped_at = time.monotonic()
            self._signal(child, signal.SIGTERM)
            self.set_deadline(child, child.stopped_at + _KILL_AFTER_S)

    def step(self, timeout_s: float) -> None:
        """Wait at most ``timeout_s`` seconds for something to happen, and deal with all that has."""
        now = time.monotonic()
        while self._due and (self._due[0][2] not in self._running or self._due[0][2].deadline != self._due[0][0]):
            heapq.heappop(self._due)
        if self._due:
            timeout_s = min(timeout_s, max(0.0, self._due[0][0] - now))
        if self._ending:
            timeout_s = min(timeout_s, _REAP_S)
        if not self._selector.get_map():
            time.sleep(timeout_s)
        else:
            for key, _events in self._selector.select(timeout_s):
                child, take = key.data
                take(child, int(key.fd))
        self._reap()
        self._expire(time.monotonic())

    def _take_line(self, child: Child, handle: int) -> None:
        data = self._read(child, handle)
        if not data:
            return
        *lines, child.pending = (child.pending + data).split(b"\n")
        if len(child.pending) > MAX_LINE:
            child.pending = b""
            self.stop(child)
        for line in lines:
            self._on_line(child, line.decode("utf-8", "replace"))

    def _take_error(self, child: Child, handle: int) -> None:
        data = self._read(child, handle)
        child.errors += data[: max(0, _MAX_STDERR - len(child.errors))]

    def _read(self, child: Child, handle: int) -> bytes:
        if handle not in child.pipes:
            return b""
        try:
            data = os.read(handle, 65536)
        except BlockingIOError:
            return b""
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(handle)
            os.close(handle)
            child.pipes.discard(handle)
            if not child.pipes:
                self._ending.append(child)
        return data

    def _reap(self) -> None:
        for child in list(self._ending):
            try:
                pid, status = os.waitpid(child.pid, os.WNOHANG)
            except ChildProcessError:
                pid, status = child.pid, 0
            if pid:
                self._ending.remove(child)
                self._running.discard(child)
                child.status = os.waitstatus_to_exitcode(status)
                self._close(child)
                self._on_end(child)

    def _expire(self, now: float) -> None:
        while self._due and self._due[0][0] <= now:
            deadline, _count, child = heapq.heappop(self._due)
            if child not in self._running or child.deadline != deadline:
                continue
            child.timed_out = child.timed_out or child.stopped_at is None
            self._signal(child, signal.SIGKILL)
            # Somebody may hold its pipes (a ProxyCommand that stays): they are ours to give up.
            for handle in list(child.pipes):
                self._selector.unregister(handle)
                os.close(handle)
            child.pipes.clear()
            if child not in self._ending:
                self._ending.append(child)

    def _close(self, child: Child) -> None:
        for handle in list(child.pipes):
            self._selector.unregister(handle)
            os.close(handle)
        child.pipes.clear()
        if child.stdin is not None:
            os.close(child.stdin)
            child.stdin = None

    def _signal(self, child: Child, number: signal.Signals) -> None:
        # The group: a ProxyCommand or ProxyJump goes with its ssh. Not yet waited for, so the number is still its own.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, number)


def _raise_file_limit() -> None:
    """Three pipes a child: the usual soft limit of 1024 files would be reached with a few hundred of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
