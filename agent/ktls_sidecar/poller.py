# SPDX-License-Identifier: Apache-2.0
"""Wake connections when their sockets are ready: the event loop's selector, which calls connections by itself.

One epoll instance serves the event loop and the connections. What the loop watches (listeners, the channel, its own
pipe) is reported to it, as by any selector; the event of a connection costs a dictionary lookup and a call, not a
handle of the loop, and there is one system call for each batch of events. Connections are watched edge-triggered
(epoll(7)), so a socket is registered once and never again: who is called must go on until the socket says EAGAIN, or
ask for :meth:`Poller.later`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import select
import selectors
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

HUNG_UP = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
READABLE = select.EPOLLIN | HUNG_UP
WRITABLE = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR
_INTEREST = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_BATCH = 64
_TURN_S = 0.01
"""How many events are taken, and for how long those who asked are called, before timers and orders get their turn."""


class Poller(selectors.BaseSelector):
    """The selector of one event loop: see :func:`new_loop`."""

    def __init__(self) -> None:
        """Watch nothing yet. Raises OSError when there is no descriptor left."""
        self._epoll = select.epoll()
        self._keys: dict[int, selectors.SelectorKey] = {}
        self._ready: dict[int, Callable[[int], None]] = {}
        self._later: deque[Callable[[], None]] = deque()

    # --- for connections ------------------------------------------------------------------------------------

    def add(self, fd: int, ready: Callable[[int], None]) -> None:
        """Call ``ready`` with the events of ``fd``. It should not raise: nobody answers for it. Raises OSError."""
        self._epoll.register(fd, _INTEREST)
        self._ready[fd] = ready

    def remove(self, fd: int) -> None:
        """Forget ``fd``, before it is closed; may be called again."""
        if self._ready.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def later(self, call: Callable[[], None]) -> None:
        """Call soon, after the others had their turn: for who could go on but has had its share."""
        self._later.append(call)

    def forget(self) -> None:
        """Call no connection any more; may be called again."""
        for fd in list(self._ready):
            self.remove(fd)
        self._later.clear()

    # --- for the event loop: selectors.BaseSelector ---------------------------------------------------------

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Watch ``fileobj``, level-triggered."""
        fd = _number(fileobj)
        if fd in self._keys:
            raise KeyError(f"descriptor {fd} is registered")
        key = selectors.SelectorKey(fileobj, fd, events, data)
        self._epoll.register(fd, _mask(events))
        self._keys[fd] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """Watch it no more. Raises KeyError."""
        key = self._keys.pop(_number(fileobj))
        with contextlib.suppress(OSError):  # closed before it was unregistered, as the standard selectors allow
            self._epoll.unregister(key.fd)
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Watch for other events. Raises KeyError."""
        before = self._keys[_number(fileobj)]
        key = before._replace(events=events, data=data)
        if events != before.events:
            self._epoll.modify(key.fd, _mask(events))
        self._keys[key.fd] = key
        return key

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        """Return what ``fileobj`` was registered with. Raises KeyError."""
        return self._keys[_number(fileobj)]

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """Return keys by descriptor."""
        return self._keys

    def close(self) -> None:
        """End it."""
        self._epoll.close()
        self._keys.clear()
        self._ready.clear()
        self._later.clear()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait at most ``timeout`` seconds (None: for ever), call connections, return what is for the loop."""
        later = self._later
        if later:
            wait = 0.0
        elif timeout is None:
            wait = -1.0
        else:
            # Not less than asked for: epoll counts milliseconds.
            wait = math.ceil(timeout * 1e3) * 1e-3 if timeout > 0 else 0.0
        ready, found = self._ready, []
        for fd, event in self._epoll.poll(wait, _BATCH):
            # One of this batch may have ended another.
            call = ready.get(fd)
            if call is not None:
                try:
                    call(event)
                except Exception as error:
                    _report(error)
            elif fd in self._keys:
                key = self._keys[fd]
                seen = (selectors.EVENT_READ if event & ~select.EPOLLOUT else 0) | (
                    selectors.EVENT_WRITE if event & ~select.EPOLLIN else 0
                )
                if seen & key.events:
                    found.append((key, seen & key.events))
        if later:
            until = time.monotonic() + _TURN_S
            for _turn in range(len(later)):
                try:
                    later.popleft()()
                except Exception as error:
                    _report(error)
                if not later or time.monotonic() > until:
                    break
        return found


def _report(error: Exception) -> None:
    # As the loop does with its own callbacks: one that fails ends nobody else.
    asyncio.get_running_loop().call_exception_handler({"message": "a connection failed", "exception": error})


def new_loop() -> tuple[asyncio.AbstractEventLoop, Poller]:
    """Return an event loop and its selector. The owner closes the loop. Raises OSError."""
    poller = Poller()
    return asyncio.SelectorEventLoop(poller), poller


def _mask(events: int) -> int:
    return (select.EPOLLIN if events & selectors.EVENT_READ else 0) | (
        select.EPOLLOUT if events & selectors.EVENT_WRITE else 0
    )


def _number(fileobj: Any) -> int:
    return fileobj if isinstance(fileobj, int) else int(fileobj.fileno())
