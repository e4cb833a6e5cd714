# SPDX-License-Identifier: Apache-2.0
"""Off for hosts whose agent answers on a socket of this machine, in threads beside the sessions."""

from __future__ import annotations

import json
import queue
import threading
import time
from typing import Any

from ktls_host.errors import KtlsError
from ktls_host.jsonsock import call

from ..inventory import Host
from .hear import Hearing
from .model import OffResult, unreached

AGENT_SOCKET = "/run/ktls-agent/agent.sock"
_THREADS = 16
_ANSWER_S = 20.0
_LOOK_AGAIN_S = 0.5


def socket_of(host: Host) -> str | None:
    """The agent's socket on this machine, for a host that is asked there; None: it is asked by a command."""
    path = host.vars.get("ktls_agent_socket")
    here = host.vars.get("ktls_reach") == "socket" or (host.vars.get("ansible_connection") == "local" and path)
    return str(path or AGENT_SOCKET) if here else None


class LocalHosts:
    """Asks them, some at a time. Times as in :class:`.run.OffRun`."""

    def __init__(self, reason: str, started: float, drain_until: float) -> None:
        self._reason, self._started, self._drain_until = reason, started, drain_until
        self._todo: queue.SimpleQueue[Host | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[OffResult] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._pending = 0
        self.flags_up = 0

    @property
    def busy(self) -> bool:
        """Somebody is still being asked."""
        return self._pending > 0

    def add(self, host: Host) -> None:
        """Ask one more."""
        self._pending += 1
        self._todo.put(host)
        if len(self._threads) < min(_THREADS, self._pending):
            thread = threading.Thread(target=self._work, daemon=True)
            self._threads.append(thread)
            thread.start()

    def finished(self) -> list[OffResult]:
        """Results that have come in since the last call."""
        done: list[OffResult] = []
        while not self._results.empty():
            done.append(self._results.get())
        self._pending -= len(done)
        return done

    def close(self) -> None:
        """Let the threads end."""
        for _thread in self._threads:
            self._todo.put(None)

    def _work(self) -> None:
        while (host := self._todo.get()) is not None:
            self._results.put(self._off(host))

    def _off(self, host: Host) -> OffResult:
        path, hearing = str(socket_of(host)), Hearing(host.name)
        try:
            self._hear(hearing, call(path, {"verb": "off", "reason": self._reason}, _ANSWER_S))
            self.flags_up += 1
            while not hearing.settled and time.time() < self._drain_until:
                time.sleep(_LOOK_AGAIN_S)
                self._hear(hearing, call(path, {"verb": "status"}, _ANSWER_S))
            return hearing.result()
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            return unreached(host.name, f"its answer makes no sense: {type(error).__name__}: {error}")
        except KtlsError as error:
            if hearing.flag_s is None:
                return unreached(host.name, error.message)
            return hearing.result()

    def _hear(self, hearing: Hearing, status: dict[str, Any]) -> None:
        """Say it as a host over SSH would, so that there is one way to understand it."""
        at = time.time() - self._started
        if hearing.flag_s is None:
            hearing.feed(f"@off {at} 0 ", at)
        if (status.get("off") or {}).get("flag"):
            hearing.feed(f"@flag {at} run", at)
        hearing.feed(f"@agent {at} 0 {json.dumps(status)}", at)
