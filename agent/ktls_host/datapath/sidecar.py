# SPDX-License-Identifier: Apache-2.0
"""The sidecar: switched live, for each connection, over its control socket; it counts for itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import KtlsError
from .model import HW, RX, TX, USERSPACE, About, Draining, Status, Tools, Wish, only, text

UNIT = "ktls-sidecar.service"
SOCKET = "/run/ktls-sidecar/control.sock"
TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Settings:
    """``socket``: the control socket."""

    socket: str = SOCKET


def parse(raw: Mapping[str, Any], source: str) -> Settings:
    """Check the settings. Raises KtlsError: bad_config."""
    left = dict(raw)
    socket = text(left, "socket", source, SOCKET)
    only(left, source)
    return Settings(socket)


def make(settings: Settings, tools: Tools) -> Sidecar:
    """Return the datapath."""
    return Sidecar(settings, tools)


class Sidecar:
    """Over its control socket. What it says of itself is the status."""

    def __init__(self, settings: Settings, tools: Tools) -> None:
        """Nothing is asked yet."""
        self._socket = settings.socket
        self._call = tools.call
        self._version: str | None = None
        self._left: int | None = None

    def switch(self, wish: Wish) -> Status:
        """Order a mode. Raises KtlsError: what the sidecar says, or that it does not answer."""
        request: dict[str, Any] = {"verb": "mode", "mode": wish.mode}
        if wish.share != 1.0:
            request["share"] = wish.share
        if wish.tls12:
            request["tls12"] = True
        return self._ask(request)

    def drain(self) -> Draining | None:
        """Return the connections whose kTLS is no longer ordered, as the sidecar said last."""
        return Draining(0, self._left) if self._left else None

    def observe(self) -> Status:
        """Ask for the status. Raises KtlsError when the sidecar does not answer."""
        return self._ask({"verb": "status"})

    def reload_needed(self) -> bool:
        """Never: it is told."""
        return False

    def restart_needed(self) -> bool:
        """Never: it is told."""
        return False

    def refusal(self, mode: str) -> KtlsError | None:
        """Nothing here: what it cannot do, it says in its fallbacks, and the self-test sees."""
        return None

    def about(self) -> About:
        """Return what it is: the one datapath that takes each connection by lot."""
        return About(
            "sidecar",
            UNIT,
            "ktls-sidecar",
            self._version,
            experiments=True,
            modes=(USERSPACE, TX, RX, HW),
            draining=self.drain(),
        )

    def _ask(self, request: dict[str, Any]) -> Status:
        answer = self._call(self._socket, request, TIMEOUT_S)
        self._version = answer.get("version", self._version)
        drain = answer.get("drain")
        self._left = drain.get("left") if isinstance(drain, dict) else None
        return {key: value for key, value in answer.items() if key != "ok"}
