# SPDX-License-Identifier: Apache-2.0
"""Delivers messages beside the rollout: a queue and a thread for each receiver, so that none waits for another."""

from __future__ import annotations

import contextlib
import queue
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .config import Config, Endpoint
from .deliver import Tried, attempt
from .triggers import Context, Message

ATTEMPTS = 4
#: One attempt, all of it. Seconds.
ATTEMPT_S = 10.0
#: Waits between attempts are drawn between 0 and these doubled ones. Seconds.
FIRST_WAIT_S, LONGEST_WAIT_S = 2.0, 30.0
#: What waits for one receiver; more is dropped, and said.
_QUEUE = 1000

Attempt = Callable[[Endpoint, Message, float], Tried]


class Notifier:
    """Fed with the events of a journal by the one thread that writes it.

    :param config: who is told what.
    :param past: events from before a resume. They are not told again, but for those whose outcome the journal lacks.
    """

    def __init__(self, config: Config, past: Iterable[Mapping[str, Any]] = (), *, try_once: Attempt = attempt) -> None:
        self._context = Context()
        self._try_once = try_once
        self._lock = threading.Lock()
        self._done: list[dict[str, Any]] = []
        self._pending: dict[tuple[int, str], Message] = {}
        self._closing = threading.Event()
        self._closed = False
        self._queues: list[tuple[Endpoint, queue.Queue[Message | None]]] = []
        self._threads: list[threading.Thread] = []
        for number, endpoint in enumerate(config.endpoints):
            waiting: queue.Queue[Message | None] = queue.Queue(_QUEUE)
            name = f"notify-{endpoint.name}"
            thread = threading.Thread(target=self._work, args=(number, endpoint, waiting), name=name, daemon=True)
            self._queues.append((endpoint, waiting))
            self._threads.append(thread)
            thread.start()
        self._catch_up(list(past))

    def feed(self, event: Mapping[str, Any]) -> None:
        """Take one event. Returns at once."""
        self._context.learn(event)
        message = self._context.message(event)
        if message is not None:
            self._send(message)

    def outcomes(self) -> list[dict[str, Any]]:
        """Keys of the ``notified`` events to be written: deliveries that have ended since the last call."""
        with self._lock:
            done, self._done = self._done, []
        return done

    def close(self, limit_s: float = 10.0, *, last: bool = True) -> list[dict[str, Any]]:
        """Wait for what is under way, ``limit_s`` seconds at most.

        :param last: give up on the rest, and say so. Else whoever comes next, with this one's events as its ``past``,
            tells what has no outcome by then.
        :returns: as :meth:`outcomes`.
        """
        end = time.monotonic() + limit_s
        self._closing.set()
        for _endpoint, waiting in self._queues:
            with contextlib.suppress(queue.Full):
                waiting.put_nowait(None)
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        with self._lock:
            self._closed = True
            for (number, _id), message in self._pending.items() if last else ():
                why = "the rollout ended before it was delivered"
                self._done.append(_outcome(self._queues[number][0], message, why))
            self._pending.clear()
        return self.outcomes()

    def _catch_up(self, past: list[Mapping[str, Any]]) -> None:
        told = {(event.get("of"), event.get("to")) for event in past if event["event"] == "notified"}
        for event in past:
            self._context.learn(event)
            message = self._context.message(event)
            if message is not None:
                self._send(message, {to for of, to in told if of == message.of})

    def _send(self, message: Message, told: Iterable[Any] = ()) -> None:
        for number, (endpoint, waiting) in enumerate(self._queues):
            if message.trigger not in endpoint.events or endpoint.name in told:
                continue
            with self._lock:
                self._pending[number, message.id] = message
            try:
                waiting.put_nowait(message)
            except queue.Full:
                self._end(number, endpoint, message, f"{_QUEUE} messages wait for this receiver")

    def _work(self, number: int, endpoint: Endpoint, waiting: queue.Queue[Message | None]) -> None:
        while (message := waiting.get()) is not None:
            self._end(number, endpoint, message, self._deliver(endpoint, message))

    def _deliver(self, endpoint: Endpoint, message: Message) -> str | None:
        """Why it could not be delivered; None: it was."""
        error: str | None = None
        for number in range(ATTEMPTS):
            if number:
                wait = random.uniform(0, min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (number - 1)))
                # Near the end there is no time to be polite.
                self._closing.wait(wait)
            try:
                tried = self._try_once(endpoint, message, ATTEMPT_S)
            except Exception as failure:
                # A fault of ours must not end the thread: the journal says what it was.
                tried = Tried(f"{type(failure).__name__}: {failure}"[:200])
            error = tried.error
            if error is None or not tried.again:
                break
            error = f"{error} ({number + 1} attempts)"
        return error

    def _end(self, number: int, endpoint: Endpoint, message: Message, error: str | None) -> None:
        with self._lock:
            if self._closed or self._pending.pop((number, message.id), None) is None:
                return
            self._done.append(_outcome(endpoint, message, error))


def _outcome(endpoint: Endpoint, message: Message, error: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {"trigger": message.trigger, "ok": error is None, "to": endpoint.name, "of": message.of}
    return found if error is None else {**found, "error": f"{endpoint.name}: {error}"}
