# SPDX-License-Identifier: Apache-2.0
"""One systemd unit whose program leaves its sockets to OpenSSL or GnuTLS, switched by configuration and restart.

A helper does root's part (:mod:`ktls_host.service`) and tells by which configuration the processes run. It is not asked
each second: what the agent can see by itself, the main process in the unit's control group and the drop-in on disk,
says when an answer is old.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import textfile
from ..errors import KtlsError
from ..service import refusals
from ..service.programs import AUTO, BACKENDS, directions
from ..service.refusals import RefusedError
from . import outside
from .model import (
    RX,
    TX,
    TX_RX,
    USERSPACE,
    About,
    Consent,
    Draining,
    Status,
    Tools,
    Wish,
    bad_config,
    flag,
    only,
    text,
)

SOCKET = "/run/ktls-service.sock"
LOOK_TIMEOUT_S = 30.0
SWITCH_TIMEOUT_S = 150.0  # systemd gives a service 90 s to stop and 90 s to start, and kills it then
LOOK_AGAIN_S = 60.0
LISTEN_WAIT_S = 15.0
AGAIN_S = 15.0
"""After a switch to kernel TLS that failed, it is not tried again for so long: each try may restart the unit."""
_POLL_S = 0.1


@dataclass(frozen=True)
class Settings:
    """``unit`` with its suffix; ``backend``: what it is switched by; ``host`` and ``port``: where it serves TLS."""

    unit: str
    backend: str = AUTO
    socket: str = SOCKET
    consent: Consent = field(default_factory=Consent)
    host: str = "127.0.0.1"
    port: int | None = None


def parse(raw: Mapping[str, Any], source: str) -> Settings:
    """Check the settings. Raises KtlsError: bad_config."""
    left = dict(raw)
    unit = text(left, "unit", source)
    if not unit.endswith(".service"):
        raise bad_config(source, ".unit is not the full name of a service")
    backend = text(left, "backend", source, AUTO)
    if backend not in (AUTO, *BACKENDS):
        raise bad_config(source, f".backend is not one of {', '.join((AUTO, *BACKENDS))}")
    path = text(left, "socket", source, SOCKET)
    consent = Consent(flag(left, "tx_rx_consent", source), flag(left, "restart_ok", source))
    host = text(left, "host", source, "127.0.0.1")
    port = left.pop("port", None)
    if port is not None and (isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535):
        raise bad_config(source, ".port is not a port number")
    only(left, source)
    return Settings(unit, backend, path, consent, host, port)


def make(settings: Settings, tools: Tools) -> Service:
    """Return the datapath."""
    return Service(settings, tools)


class Service:
    """As the helper sees it, and what the kernel shows of its connections."""

    def __init__(self, settings: Settings, tools: Tools) -> None:
        """Nothing is asked yet."""
        self._settings = settings
        self._tools = tools
        self._lock = threading.Lock()
        self._answer: dict[str, Any] = {}
        self._at_s = float("-inf")
        self._failed: tuple[float, KtlsError] | None = None
        self._wish: str | None = None
        """What it is being switched to."""
        self._mode = TX
        """The phase that was last ordered here; a configuration on disk does not tell tx from rx."""

    def switch(self, wish: Wish) -> Status:
        """Change the configuration, and restart by consent. Raises KtlsError: the helper's, and ``not_listening``."""
        self._wish = wish.mode
        try:
            return self._switch(wish)
        finally:
            self._wish = None

    def _switch(self, wish: Wish) -> Status:
        if wish.mode == USERSPACE:
            self._failed = None
            self._ask("off", SWITCH_TIMEOUT_S)
            return self._status(self._ordered())
        if self._failed is not None and time.monotonic() - self._failed[0] < AGAIN_S:
            raise self._failed[1]
        try:
            answer = self._ask("on", SWITCH_TIMEOUT_S)
            self._mode = wish.mode
            if answer.get("restarted"):
                self._wait_until_it_listens()
        except KtlsError as error:
            self._failed = (time.monotonic(), error)
            raise
        return self._status(self._ordered())

    def drain(self) -> Draining | None:
        """Return what is left of an earlier configuration: its processes, and connections in the kernel."""
        answer = self._answer
        stale = int(answer.get("stale") or 0)
        if not answer or answer.get("configured") or (not self._in_kernel() and not stale):
            return Draining(stale, None) if stale else None
        return Draining(stale, self._in_kernel())

    def observe(self) -> Status:
        """Return the status. Raises KtlsError when the helper does not answer."""
        if self._still_true():
            return self._status()
        # While it is switched, which may take long, what was known before has to do.
        if self._lock.acquire(blocking=not self._answer):
            try:
                if not self._still_true():
                    self._ask_held("look", LOOK_TIMEOUT_S)
            finally:
                self._lock.release()
        return self._status()

    def reload_needed(self) -> bool:
        """Never: both libraries read their file when a process starts, so a reload would change nothing."""
        return False

    def restart_needed(self) -> bool:
        """Return whether a process runs by another configuration than the one on disk."""
        return bool(self._answer.get("stale"))

    def refusal(self, mode: str) -> KtlsError | None:
        """Return what the program, its library or a missing consent has against ``mode``."""
        self._failed = None
        try:
            answer = self._ask("look", LOOK_TIMEOUT_S)
        except KtlsError as error:
            return error
        ours = self._settings.consent
        consent = Consent(ours.tx_rx, ours.restart and answer.get("restart_ok") is not False)  # root's word counts
        reason = refusals.of_phase(mode, {**answer, "unit": self._settings.unit}, self._means(), consent)
        return None if reason is None else RefusedError(reason)

    def about(self) -> About:
        """Return what it is; what has not been asked yet is not known."""
        answer = self._answer
        return About(
            "service",
            self._settings.unit,
            answer.get("program"),
            answer.get("version"),
            modes=self._modes(),
            consent=self._settings.consent,
            draining=self.drain(),
            switch="restart",
            problem=answer.get("problem"),
        )

    def _ask(self, verb: str, timeout_s: float) -> dict[str, Any]:
        """Ask the helper, one question at a time. What it says last is what is known."""
        with self._lock:
            return self._ask_held(verb, timeout_s)

    def _ask_held(self, verb: str, timeout_s: float) -> dict[str, Any]:
        at_s = time.monotonic()
        try:
            answer = self._tools.call(self._settings.socket, {"verb": verb}, timeout_s)
        except KtlsError:
            self._at_s = float("-inf")  # whatever it was doing, it may have done
            raise
        self._answer, self._at_s = answer, at_s
        return answer

    def _still_true(self) -> bool:
        answer = self._answer
        if not answer or time.monotonic() - self._at_s >= LOOK_AGAIN_S:
            return False
        there = os.path.lexists(textfile.under(self._tools.root, str(answer.get("drop_in"))))
        pids = outside.pids(self._settings.unit, self._tools.root)
        main = answer.get("main_pid")
        return there == bool(answer.get("configured")) and (main in pids if main else not pids)

    def _ordered(self) -> str:
        return self._mode if self._answer.get("configured") else USERSPACE

    def _status(self, mode: str | None = None) -> Status:
        """``mode``: what was ordered; while that is under way, it is not on disk yet."""
        answer, unit = self._answer, self._settings.unit
        asks, configured = bool(answer.get("asks")), bool(answer.get("configured"))
        means = self._means() if self._mode == TX or not configured else self._mode
        return {
            "mode": mode or self._wish or self._ordered(),
            "effective_mode": means if asks else USERSPACE,
            "share": 1.0,
            "pid": answer.get("main_pid"),
            "openssl": answer.get("library"),
            "port": self._settings.port,
            "health": "ok" if answer.get("active") else "not_running",
            "restart_needed": self.restart_needed(),
            "problem": answer.get("problem"),
            **outside.counted(self._tools.seen(), unit.removesuffix(".service")),
        }

    def _modes(self) -> tuple[str, ...]:
        if not self._answer:
            return (USERSPACE,)
        return (USERSPACE, TX_RX, RX) if self._means() == TX_RX else (USERSPACE, TX)

    def _means(self) -> str:
        answer = self._answer
        return directions(str(answer.get("backend")), [int(number) for number in answer.get("release") or (0, 0)])

    def _in_kernel(self) -> int | None:
        counted = outside.counted(self._tools.seen(), self._settings.unit.removesuffix(".service"))
        return int(counted["connections"]["ktls_tx"]) if counted else None

    def _wait_until_it_listens(self) -> None:
        if self._settings.port is None:
            return
        address = (self._settings.host, self._settings.port)
        deadline = time.monotonic() + LISTEN_WAIT_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(address, 1.0):
                return
            time.sleep(_POLL_S)
        message = f"{self._settings.unit} was restarted, but does not listen on port {address[1]}; see its journal"
        raise KtlsError("not_listening", message)
