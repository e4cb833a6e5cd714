# SPDX-License-Identifier: Apache-2.0
"""Wake connections when their sockets are ready.

The event loop watches one epoll instance, and this one watches the connections: an event costs a dictionary lookup
and a call, not a handle of the event loop. Edge-triggered (epoll(7)), so a socket is registered once and never
again: who is called must go on until the socket says EAGAIN, or ask for :meth:`Poller.later`.
"""

from __future__ import annotations

import asyncio
import select
import time
from collections import deque
from collections.abc import Callable

HUNG_UP = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
READABLE = select.EPOLLIN | HUNG_UP
WRITABLE = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR
_INTEREST = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_BATCH = 256
_ROUNDS, _TURN_S = 8, 0.01
"""How often in a row events are taken, and for how long, before timers and orders get their turn."""


class Poller:
    """Belongs to one running event loop; :meth:`close` ends it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start to watch. Raises OSError when there is no descriptor left."""
        self._loop = loop
        self._epoll = select.epoll()
        self._ready: dict[int, Callable[[int], None]] = {}
        self._later: deque[Callable[[], None]] = deque()
        self._woken = False
        loop.add_reader(self._epoll.fileno(), self._run)

    def add(self, fd: int, ready: Callable[[int], None]) -> None:
        """Call ``ready`` with the events of ``fd``. It must not raise. Raises OSError."""
        self._epoll.register(fd, _INTEREST)
        self._ready[fd] = ready

    def remove(self, fd: int) -> None:
        """Forget ``fd``, before it is closed; may be called again."""
        if self._ready.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def later(self, call: Callable[[], None]) -> None:
        """Call soon, after the others had their turn: for who could go on but has had its share."""
        self._later.append(call)
        if not self._woken:
            self._woken = True
            self._loop.call_soon(self._run)

    def close(self) -> None:
        """Stop watching; may be called again."""
        if not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
        self._ready.clear()
        self._later.clear()

    def _run(self) -> None:
        self._woken = False
        ready, later, poll = self._ready, self._later, self._epoll.poll
        until = time.monotonic() + _TURN_S
        for _ in range(_ROUNDS):
            if self._epoll.closed:
                return
            events = poll(0, _BATCH)
            for fd, event in events:
                # One of this batch may have ended another.
                call = ready.get(fd)
                if call is not None:
                    call(event)
            for _turn in range(len(later)):
                later.popleft()()
                if time.monotonic() > until:
                    break
            if not events and not later:
                return
            if time.monotonic() > until:
                break
        if later and not self._woken:
            self._woken = True
            self._loop.call_soon(self._run)
