# SPDX-License-Identifier: Apache-2.0
"""The selector of a worker's event loop."""

from __future__ import annotations

import asyncio
import selectors
import socket
import time
from collections.abc import Iterator

import pytest

from ktls_sidecar.poller import READABLE, WRITABLE, Poller, new_loop

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def poller() -> Iterator[Poller]:
    made = Poller()
    yield made
    made.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def test_it_is_a_selector_like_the_standard_one(poller: Poller, pair: Pair) -> None:
    ours, theirs = pair
    standard = selectors.EpollSelector()
    for one in (poller, standard):
        key = one.register(ours, selectors.EVENT_READ, "data")
        assert (key.fd, key.events, key.data) == (ours.fileno(), selectors.EVENT_READ, "data")
        assert one.get_key(ours) == key == one.get_map()[ours.fileno()]
        assert one.select(0) == []
        with pytest.raises(KeyError):
            one.register(ours, selectors.EVENT_WRITE)
    theirs.send(b"x")
    for events in (selectors.EVENT_READ, selectors.EVENT_WRITE, selectors.EVENT_READ | selectors.EVENT_WRITE):
        for one in (poller, standard):
            one.modify(ours, events)
        # Level-triggered: as long as it is so.
        assert poller.select(0) == poller.select(0) == standard.select(0)
        assert poller.select(0)[0][1] == events
    theirs.close()
    assert poller.select(0) == standard.select(0)
    for one in (poller, standard):
        one.unregister(ours)
        assert one.select(0) == []
        with pytest.raises(KeyError):
            one.get_key(ours)
    standard.close()


def test_a_descriptor_that_was_closed_can_be_unregistered(poller: Poller) -> None:
    ours, theirs = socket.socketpair()
    poller.register(ours.fileno(), selectors.EVENT_READ)
    number = ours.fileno()
    ours.close()
    theirs.close()
    assert poller.unregister(number).fd == number


def test_timeouts(poller: Poller) -> None:
    for timeout in (0.0, -1.0, 0.0105):
        start = time.monotonic()
        assert poller.select(timeout) == []
        assert time.monotonic() - start >= timeout


def test_a_connection_is_called_once_for_each_edge(poller: Poller, pair: Pair) -> None:
    ours, theirs = pair
    seen: list[int] = []
    poller.add(ours.fileno(), seen.append)
    assert poller.select(0) == []
    assert (len(seen), seen[0] & WRITABLE > 0, seen[0] & READABLE) == (1, True, 0)
    theirs.send(b"x")
    for _ in range(3):
        poller.select(0)
    assert len(seen) == 2
    assert seen[1] & READABLE
    poller.remove(ours.fileno())
    poller.remove(ours.fileno())
    theirs.send(b"x")
    assert poller.select(0) == []
    assert len(seen) == 2


def test_who_ends_another_of_the_same_batch(poller: Poller) -> None:
    pairs = [socket.socketpair() for _ in range(4)]
    called: list[int] = []

    def end_all(_events: int) -> None:
        called.append(1)
        for ours, _ in pairs:
            poller.remove(ours.fileno())

    for ours, theirs in pairs:
        poller.add(ours.fileno(), end_all)
        theirs.send(b"x")
    poller.select(0)
    assert len(called) == 1
    for ours, theirs in pairs:
        ours.close()
        theirs.close()


def test_later_is_after_the_events_and_once_a_round(poller: Poller, pair: Pair) -> None:
    ours, theirs = pair
    order: list[str] = []

    def again() -> None:
        order.append("later")
        if len(order) < 6:
            poller.later(again)

    poller.later(again)
    poller.add(ours.fileno(), lambda _events: order.append("event"))
    theirs.send(b"x")
    poller.select(None)  # waits for nothing, since somebody wants to go on
    assert order == ["event", "later"]
    for _ in range(9):
        poller.select(0)
    assert order == ["event", *["later"] * 5]
    poller.later(again)
    poller.forget()
    poller.select(0)
    assert len(order) == 6


def test_one_that_fails_ends_nobody_else(pair: Pair) -> None:
    ours, _theirs = pair
    loop, poller = new_loop()
    said: list[str] = []
    loop.set_exception_handler(lambda _loop, context: said.append(str(context["exception"])))

    def fail(*_: object) -> None:
        raise RuntimeError("no")

    poller.add(ours.fileno(), fail)
    poller.later(fail)
    try:
        loop.run_until_complete(asyncio.sleep(0.02))
    finally:
        loop.close()
    assert said == ["no", "no"]


def test_an_event_loop_runs_on_it(pair: Pair) -> None:
    ours, theirs = pair
    loop, poller = new_loop()
    seen: list[int] = []
    poller.add(ours.fileno(), seen.append)

    async def run() -> bytes:
        # A connection that calls into the loop from within, timers, tasks, transports, and a thread that wakes it.
        poller.later(lambda: done.set_result(b"called"))
        done: asyncio.Future[bytes] = loop.create_future()
        assert await asyncio.wait_for(done, 5) == b"called"
        await asyncio.sleep(0.01)
        server = await asyncio.start_server(_echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello\n")
        line = await reader.readline()
        await loop.run_in_executor(None, theirs.send, b"x")
        await asyncio.sleep(0.05)
        writer.close()
        server.close()
        return line

    async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    try:
        assert loop.run_until_complete(run()) == b"hello\n"
        assert any(events & READABLE for events in seen)
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
